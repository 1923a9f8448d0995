"""Models of timm: ``timm:NAME.TAG`` in timm's own form; without a tag, its default one.

The transform is the one timm evaluates the weights with. The penultimate layer is what the classifier
takes in; of distilled models with a token for each of two classifiers, the mean of these tokens (timm's
own pre-logits).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, Literal

from critmass.errors import InputError, first_line, require, unknown, verbatim
from critmass.sources.hub import hub_folder, hub_or_cache
from critmass.sources.inputs.transforms import ImageTransform
from critmass.sources.models.networks import Images, Point, TorchNetwork, fitting, frozen
from critmass.sources.models.weights import torch_folder, unavailable
from critmass.sources.protocols import ModelRequest, Network


def load(rest: str, request: ModelRequest) -> Network:
    """Return a pretrained network."""
    module = build(rest, image_size=request.image_size, pretrained=True)
    config = module.pretrained_cfg
    name = ".".join(part for part in (config["architecture"], config["tag"]) if part)
    network = network_of(module, f"timm:{name}", request.image_size)
    return replace(network, about={**network.about, "origin": _origin(config)})


def build(name: str, *, image_size: int | None = None, pretrained: bool = False) -> Any:
    """Return a module of timm; where its weights fix a size, built for square images of `image_size`."""
    timm = _timm()
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown("architecture of timm", architecture, timm.list_models())
    try:
        found = timm.get_pretrained_cfg(name)
    except RuntimeError:
        found = None
    if (tag and found is None) or (pretrained and not (found and found.has_weights)):
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        raise unknown(f"weights of timm:{architecture}", tag, tags)
    sized = {"img_size": image_size} if image_size and found and found.fixed_input_size else {}
    hub = found.hf_hub_id if pretrained else None
    with hub_or_cache(hub) if hub else contextlib.nullcontext():
        try:
            return timm.create_model(name, pretrained=pretrained, **sized)
        except OSError as error:
            config = found.to_dict()
            folder = hub_folder() if config.get("hf_hub_id") else torch_folder()
            raise unavailable(f"timm:{name}", _origin(config), folder, error) from error
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            if not sized:
                raise
            raise InputError(
                "image_size", image_size, f"a size that timm:{name} takes", first_line(error)
            ) from error


def network_of(module: Any, name: str, image_size: int | None) -> TorchNetwork:
    """Return a network of any module that timm made, whatever its weights."""
    config = _timm().data.resolve_model_data_config(module)
    network = TorchNetwork(
        name,
        frozen(module),
        Images(transform_of(config, name).at(image_size)),
        _penultimate(module, name),
        tokens=_tokens(module),
        channels_first=getattr(module, "output_fmt", "NCHW") != "NHWC",
        about={"versions": ("timm",)},
    )
    return fitting(network, image_size)


def transform_of(config: dict[str, Any], name: str) -> ImageTransform:
    """Return timm's evaluation transform of a data configuration."""
    channels, height, width = config["input_size"]
    if channels != 3:
        raise InputError(name, verbatim(f"{channels} channels"), "3 channels: RGB images")
    scaled = int(height / config["crop_pct"]), int(width / config["crop_pct"])
    mode = config["crop_mode"]
    if mode == "border" or (mode == "center" and height != width):
        raise InputError(
            name, verbatim(f"crop_mode {mode!r} at {height} x {width}"), "center on squares, or squash"
        )
    return ImageTransform(
        crop=(height, width),
        resize=scaled if mode == "squash" else scaled[0],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _penultimate(module: Any, name: str) -> Point:
    if not getattr(module, "num_classes", 0):
        return Point("")
    classifier = module.get_classifier()
    if isinstance(classifier, tuple | list):
        if hasattr(module, "cls_token"):
            return Point("norm", select=lambda tokens: tokens[:, :2].mean(dim=1))
        classifier = classifier[0]
    if type(classifier).__name__ == "ModuleList":
        raise InputError(
            name,
            verbatim(f"{len(classifier)} classifiers, of features of their own"),
            "one penultimate layer",
        )
    return Point(next(path for path, part in module.named_modules() if part is classifier), "in")


def _tokens(module: Any) -> Literal["cls", "avg"]:
    """Return "cls" for the transformers that carry a class token from their first block and end in it."""
    models = _timm().models
    relative = models.vision_transformer_relpos.VisionTransformerRelPos
    carriers = (models.VisionTransformer, models.Beit, models.Eva, relative)
    ends_in_it = getattr(module, "global_pool", "") == "token"
    carries = isinstance(module, carriers) and getattr(module, "cls_token", None) is not None
    return "cls" if carries and ends_in_it else "avg"


def _origin(config: dict[str, Any]) -> str:
    hub = config.get("hf_hub_id")
    return f"huggingface.co/{hub}" if hub else str(config.get("url"))


def _timm() -> Any:
    return require("timm", package="timm", extra="vision", purpose="models of timm")
