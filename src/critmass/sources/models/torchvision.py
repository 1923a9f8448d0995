"""Classifiers of torchvision: ``torchvision:NAME@WEIGHTS``, such as resnet50@IMAGENET1K_V2.

Without WEIGHTS, torchvision's default ones. The transform is the one that comes with the weights; the
penultimate layer is what the last linear layer takes in.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

from critmass.errors import InputError, require, unknown, verbatim
from critmass.sources.inputs.transforms import ImageTransform
from critmass.sources.models.networks import Images, Point, TorchNetwork, classifier_input, fitting, frozen
from critmass.sources.models.weights import torch_folder, unavailable
from critmass.sources.protocols import ModelRequest, Network


def load(rest: str, request: ModelRequest) -> Network:
    """Return a pretrained network."""
    models = _torchvision().models
    architecture, _, choice = rest.partition("@")
    classifiers = models.list_models(module=models)
    if architecture not in classifiers:
        raise unknown("model of torchvision", architecture, classifiers)
    known = models.get_model_weights(architecture).__members__
    if choice and choice not in known:
        raise unknown(f"weights of torchvision:{architecture}", choice, known)
    weights = known[choice or "DEFAULT"]
    name = f"torchvision:{architecture}@{weights.name}"
    try:
        # Checked against the hash in its name, and read without running code, before the builder reads it.
        weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise unavailable(name, weights.url, torch_folder(), error) from error
    module = models.get_model(architecture, weights=weights)
    network = network_of(module, name, request.image_size, preset=weights.transforms())
    return replace(network, about={**network.about, "origin": weights.url})


def network_of(module: Any, name: str, image_size: int | None, preset: Any = None) -> TorchNetwork:
    """Return a network of any classifier that torchvision made, whatever its weights.

    Parameters
    ----------
    preset : callable, optional
        The transform that comes with the weights; ImageNet's usual one by default.
    """
    built_for = getattr(module, "image_size", None)
    transform = ImageTransform() if preset is None else transform_of(preset, name)
    architecture = type(module).__name__
    network = TorchNetwork(
        name,
        frozen(module),
        Images(transform.at(image_size or built_for)),
        Point("classifier.1", "in") if architecture == "SqueezeNet" else classifier_input(module, name),
        tokens="cls" if hasattr(module, "class_token") else "avg",
        channels_first=architecture != "SwinTransformer",
        about={"versions": ("torchvision",)},
    )
    return fitting(network, image_size)


def transform_of(preset: Any, name: str) -> ImageTransform:
    """Return torchvision's preset as a record; of images, Pillow's resizing always smooths."""
    if type(preset).__name__ != "ImageClassification":
        raise InputError(name, verbatim(f"transform {type(preset).__name__}"), "that of an image classifier")
    (crop,), (resize,) = preset.crop_size, preset.resize_size
    return ImageTransform(
        crop=(crop, crop),
        resize=resize,
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _torchvision() -> Any:
    return require("torchvision", package="torchvision", extra="vision", purpose="models of torchvision")
