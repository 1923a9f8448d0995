"""Architectures by name, without weights: critmass's own, torchvision's, timm's.

``torchvision/NAME`` and ``timm/NAME`` say whose; a bare NAME is the first of: critmass's own, torchvision's,
timm's. Own ones are those that the paper's studies need and neither package has:

- ``resnet20-cifar`` ... ``resnet110-cifar``: He et al. 2016 (arXiv 1512.03385), section 4.2, with shortcuts
  that pad with zeros; modules named as in akamaster/pytorch_resnet_cifar10.
- ``mrl-resnet50``: the ResNet50 of Kusupati et al. 2022 (arXiv 2205.13147), whose strided convolutions read
  a blurred map (Zhang 2019, arXiv 1904.11486), modules named as in libffcv/ffcv-imagenet; and
  ``mrl-resnet50-ff8`` ... ``-ff2048``: the same, its classifier trained on the first 8 ... 2048 features.
- ``wide_resnet50_4``: Zagoruyko & Komodakis 2016 (arXiv 1605.07146), four times as wide as ResNet50, as in
  microsoft/robust-models-transfer.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from critmass.errors import InputError, require
from critmass.sources.inputs.transforms import ImageTransform
from critmass.sources.models import timm as timm_models
from critmass.sources.models import torchvision as torchvision_models
from critmass.sources.models.networks import Images, Point, TorchNetwork, fitting, frozen

CIFAR = ImageTransform(crop=(32, 32), resize=(32, 32))
CIFAR_DEPTHS = (20, 32, 44, 56, 110)
FIXED_FEATURES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)


def architecture(name: str, *, image_size: int | None = None) -> TorchNetwork:
    """Return a network of the architecture called `name`, with random weights.

    Its transform is the one its package evaluates its default weights with, or that of the studies it comes
    from; its name has its owner before the slash.

    Raises
    ------
    InputError
        If nobody has an architecture of that name.
    """
    owner, slash, rest = name.partition("/")
    for each, (_, build) in _OWNERS.items():
        found = build(rest if slash else name, image_size) if owner == each or not slash else None
        if found is not None:
            return found
    raise _unknown(name)


def architectures() -> dict[str, tuple[str, ...]]:
    """Return the names that `architecture` knows, by whose they are, the first of an ambiguous name first."""
    return {owner: tuple(names()) for owner, (names, _) in _OWNERS.items()}


def _own(name: str, image_size: int | None) -> TorchNetwork | None:
    if name not in _OWN:
        return None
    module, classifier, width, transform = _OWN[name]()
    first = None if width is None else (lambda tensor: tensor[:, :width])
    network = TorchNetwork(
        f"critmass/{name}",
        frozen(module),
        Images(transform.at(image_size)),
        Point(classifier, "in", first),
        about={"versions": () if transform is CIFAR else ("torchvision",)},
    )
    return fitting(network, image_size)


def _torchvision(name: str, image_size: int | None) -> TorchNetwork | None:
    if name not in _torchvision_names():
        return None
    models = _package("torchvision.models")
    settings = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module = models.get_model(name, weights=None, **settings)
    preset = next(iter(models.get_model_weights(name))).transforms()
    return torchvision_models.network_of(module, f"torchvision/{name}", image_size, preset=preset)


def _timm(name: str, image_size: int | None) -> TorchNetwork | None:
    if not _package("timm").is_model(name):
        return None
    module = timm_models.build(name, image_size=image_size)
    return timm_models.network_of(module, f"timm/{name}", image_size)


def _own_names() -> list[str]:
    return list(_OWN)


def _torchvision_names() -> list[str]:
    """Return the classifiers, which torchvision keeps apart from its other networks."""
    models = _package("torchvision.models")
    names: list[str] = models.list_models(module=models)
    return names


def _timm_names() -> list[str]:
    names: list[str] = _package("timm").list_models()
    return names


_OWNERS: dict[str, tuple[Callable[[], list[str]], Callable[[str, int | None], TorchNetwork | None]]] = {
    "critmass": (_own_names, _own),
    "torchvision": (_torchvision_names, _torchvision),
    "timm": (_timm_names, _timm),
}


def _unknown(name: str) -> InputError:
    known = architectures()
    bare = [each for owner, names in known.items() for each in names if owner != "timm"]
    near = difflib.get_close_matches(
        name, [*bare, *(f"timm/{each}" for each in known["timm"])], n=2, cutoff=0.5
    )
    return InputError(
        "architecture",
        name,
        f"{', '.join(list(_OWN)[:2])}, ..., {list(_OWN)[-1]}, or a name of torchvision's or timm's",
        f"did you mean {' or '.join(map(repr, near))}?" if near else "",
    )


def _package(module: str) -> Any:
    return require(module, package=module.partition(".")[0], extra="vision", purpose="this architecture")


class CifarResNet(nn.Module):  # type: ignore[misc]
    """ResNet of 6n + 2 layers for images of 32 x 32, d = 64."""

    def __init__(self, depth: int, n_classes: int = 10) -> None:
        super().__init__()
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(CifarBlock(16, 16) for _ in range(n)))
        self.layer2 = nn.Sequential(*(CifarBlock(16 if i == 0 else 32, 32) for i in range(n)))
        self.layer3 = nn.Sequential(*(CifarBlock(32 if i == 0 else 64, 64) for i in range(n)))
        self.linear = nn.Linear(64, n_classes)

    def forward(self, x: Any) -> Any:
        """Return the logits of images of shape (n_samples, 3, height, width)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


class CifarBlock(nn.Module):  # type: ignore[misc]
    """Two convolutions beside a shortcut that takes every second place and pads channels with zeros."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.stride, self.padding = (1, 0) if n_in == n_out else (2, (n_out - n_in) // 2)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)

    def forward(self, x: Any) -> Any:
        """Return the map of the next block."""
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(inner + shortcut)


class BlurredConvolution(nn.Module):  # type: ignore[misc]
    """A strided convolution of a map blurred by the 3 x 3 binomial filter."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        self.conv = conv
        self.register_buffer("blur_filter", (row[:, None] * row / 16).repeat(conv.in_channels, 1, 1, 1))

    def forward(self, x: Any) -> Any:
        """Return the convolved map."""
        return self.conv(functional.conv2d(x, self.blur_filter, padding=1, groups=self.conv.in_channels))


def blurred(module: Any) -> Any:
    """Return the module, every strided convolution of 16 channels or more reading a blurred map."""
    for name, part in list(module.named_children()):
        if isinstance(part, nn.Conv2d) and max(part.stride) > 1 and part.in_channels >= 16:
            setattr(module, name, BlurredConvolution(part))
        else:
            blurred(part)
    return module


class FirstFeatures(nn.Linear):  # type: ignore[misc]
    """A linear classifier that reads the first `in_features` of what it is given."""

    def forward(self, x: Any) -> Any:
        """Return the logits."""
        return super().forward(x[:, : self.in_features])


_Own = tuple[Any, str, int | None, ImageTransform]


def _cifar(depth: int) -> _Own:
    return CifarResNet(depth), "linear", None, CIFAR


def _mrl(width: int | None) -> _Own:
    models = _package("torchvision.models")
    module = blurred(models.resnet50(weights=None))
    if width is not None:
        module.fc = FirstFeatures(width, module.fc.out_features)
    return module, "fc", width, ImageTransform()


def _wide() -> _Own:
    resnet = _package("torchvision.models.resnet")
    module = resnet.ResNet(resnet.Bottleneck, [3, 4, 6, 3], width_per_group=256)
    return module, "fc", None, ImageTransform()


_OWN: dict[str, Callable[[], _Own]] = {
    **{f"resnet{depth}-cifar": functools.partial(_cifar, depth) for depth in CIFAR_DEPTHS},
    "mrl-resnet50": functools.partial(_mrl, None),
    **{f"mrl-resnet50-ff{width}": functools.partial(_mrl, width) for width in FIXED_FEATURES},
    "wide_resnet50_4": _wide,
}
