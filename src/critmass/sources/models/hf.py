"""Transformers of the Hugging Face hub, or of a folder: ``hf:ORG/NAME``, without their task's head.

The penultimate layer is what a linear probe reads.

- Images: what the model's pooler gives, where that is a rule or was trained with the model (CLIP's
  normalised class token, DINOv2's, the means of ResNet, ConvNeXt, Swin). BERT's kind of pooler, a dense
  layer and tanh (ViT, DeiT), belongs to a head that most checkpoints lack: there, and where there is no
  pooler, the last hidden state, its class token or, without one, the mean. Of CLIP and its like, the
  vision tower, before the projection, as its authors probed it.
- Texts: the mean of the last hidden state over a text's tokens; pooling "cls" or "last" takes one token.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np

from critmass.errors import InputError, require, verbatim
from critmass.sources.hub import hub_or_cache
from critmass.sources.inputs.texts import Texts, tokenizer_digest
from critmass.sources.inputs.transforms import ImageTransform
from critmass.sources.models.networks import Images, Point, TorchNetwork, fitting, frozen, torch_library
from critmass.sources.models.weights import from_hub, safely, short_name, transformers_library
from critmass.sources.protocols import ModelRequest, Network


def load(rest: str, request: ModelRequest) -> Network:
    """Return a vision or text network."""
    with hub_or_cache(rest):
        return _load(rest, request)


def _load(rest: str, request: ModelRequest) -> Network:
    module = _module(rest)
    name = f"hf:{short_name(rest)}"
    if module.main_input_name == "input_ids":
        if request.image_size is not None:
            raise InputError("image_size", request.image_size, f"none for {name}, which reads texts")
        return _text(rest, name, module)
    if module.main_input_name == "pixel_values":
        return _vision(rest, name, module, request.image_size)
    raise InputError(name, verbatim(f"a model of {module.main_input_name}"), "a model of images or texts")


def _vision(rest: str, name: str, module: Any, image_size: int | None) -> TorchNetwork:
    transformers = _transformers()
    opener = functools.partial(transformers.AutoImageProcessor.from_pretrained, backend="pil")
    processor = from_hub(rest, opener)
    dense = hasattr(getattr(module, "pooler", None), "dense")
    embeddings = getattr(module, "embeddings", None)
    tokens = any(hasattr(embeddings, token) for token in ("cls_token", "class_embedding"))
    network = TorchNetwork(
        name,
        module,
        Images(transform_of(processor, name).at(image_size)),
        Point("", select=_last_hidden if dense else _pooled_or_last_hidden),
        tokens="cls" if tokens else "avg",
        about={"versions": ("transformers",)},
    )
    return fitting(network, image_size)


def _text(rest: str, name: str, module: Any) -> TorchNetwork:
    tokenizer = from_hub(rest, _transformers().AutoTokenizer.from_pretrained)
    # Padding after the text: the first token is then the text's, and positions count from it.
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    limit = _longest(tokenizer, module)
    accepted = set(inspect.signature(module.forward).parameters)

    def encode(texts: list[str]) -> dict[str, Any]:
        tokens = tokenizer(
            texts, padding=True, truncation=limit is not None, max_length=limit, return_tensors="pt"
        )
        return {argument: value for argument, value in tokens.items() if argument in accepted}

    about = {"tokenizer": tokenizer_digest(tokenizer), "max_length": limit}
    point = Point("", select=_last_hidden)
    return TorchNetwork(name, module, Texts(encode, about), point, about={"versions": ("transformers",)})


def _module(rest: str) -> Any:
    """Return the model, or of several towers the one to read from; every weight of it from the file."""
    transformers = _transformers()
    torch = torch_library()
    config = from_hub(rest, transformers.AutoConfig.from_pretrained)
    opener = functools.partial(
        transformers.AutoModel.from_pretrained, config=config, dtype=torch.float32, output_loading_info=True
    )
    model, found = from_hub(rest, safely(opener))
    missing = set(found["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):
        model.pooler = None
    elif missing:
        raise InputError(
            f"weights of hf:{rest}",
            verbatim(f"none for {', '.join(sorted(missing))}"),
            "all that the model has",
        )
    if hasattr(config, "vision_config"):
        model = model.vision_model
    elif config.is_encoder_decoder:
        model = model.get_encoder()
    return frozen(model)


def transform_of(processor: Any, name: str) -> ImageTransform:
    """Return an image processor as a record that gives the same pixels, or refuse it."""
    crop, resize = _sizes(processor, name)
    mean, std = processor.image_mean, processor.image_std
    pillow = require("PIL.Image", package="pillow", extra="vision", purpose="resizing images")
    transform = ImageTransform(
        crop=crop,
        resize=resize,
        interpolation=pillow.Resampling(int(processor.resample)).name.lower(),
        mean=tuple(mean) if processor.do_normalize else (0.0,) * 3,
        std=tuple(std) if processor.do_normalize else (1.0,) * 3,
        halves="down",
    )
    _check(processor, transform, name)
    return transform


def _sizes(processor: Any, name: str) -> tuple[tuple[int, int], int | tuple[int, int] | None]:
    """Return a processor's crop and resize."""
    size = _given(processor, "size") if processor.do_resize else {}
    crop = _given(processor, "crop_size") if getattr(processor, "do_center_crop", False) else {}
    shortest = size.get("shortest_edge")
    if set(crop) == {"height", "width"} and not (set(size) - {"shortest_edge", "height", "width"}):
        resize = shortest or ((size["height"], size["width"]) if size else None)
        return (crop["height"], crop["width"]), resize
    if set(size) == {"height", "width"} and not crop:
        return (size["height"], size["width"]), (size["height"], size["width"])
    fraction = getattr(processor, "crop_pct", None)
    if shortest and set(size) == {"shortest_edge"} and fraction and not crop:
        # ConvNeXt's rule: below 384 pixels the centre, above the whole image.
        square = (shortest, shortest)
        return square, (int(shortest / fraction) if shortest < 384 else square)
    raise InputError(
        name, verbatim(f"image processor with size {size}, crop {crop}"), "a resize and a crop of the centre"
    )


def _given(processor: Any, field: str) -> dict[str, int]:
    return {key: value for key, value in dict(getattr(processor, field, None) or {}).items() if value}


def _check(processor: Any, transform: ImageTransform, name: str) -> None:
    """Raise InputError where the record and the processor differ by two grey levels on a test image."""
    pillow = require("PIL.Image", package="pillow", extra="vision", purpose="resizing images")
    height, width = transform.crop
    pixels = np.random.default_rng(0).integers(0, 256, (height + 37, 2 * width + 11, 3), dtype=np.uint8)
    image = pillow.fromarray(pixels)
    theirs = np.asarray(processor(images=image, return_tensors="np")["pixel_values"])[0]
    mean, std = (np.reshape(value, (3, 1, 1)) for value in (transform.mean, transform.std))
    ours = (transform.evaluate(image).transpose(2, 0, 1) / 255 - mean) / std
    if theirs.shape != ours.shape or (np.abs(theirs - ours) * std * 255).max() > 2:
        raise InputError(
            name,
            verbatim(f"{type(processor).__name__}, which does more than this"),
            "resize, crop of the centre, normalisation",
        )


def _last_hidden(output: Any) -> Any:
    return output.last_hidden_state


def _pooled_or_last_hidden(output: Any) -> Any:
    pooled = getattr(output, "pooler_output", None)
    return output.last_hidden_state if pooled is None else pooled


def _longest(tokenizer: Any, module: Any) -> int | None:
    """Return the number of tokens that tokenizer and model both take, or None where neither has a limit."""
    limits = []
    if tokenizer.model_max_length < 10**9:
        limits.append(tokenizer.model_max_length)
    positions = getattr(module.config, "max_position_embeddings", None)
    if positions:
        table = getattr(getattr(module, "embeddings", None), "position_embeddings", None)
        # RoBERTa counts positions from the one after the padding's.
        padding = getattr(table, "padding_idx", None)
        limits.append(positions if padding is None else positions - padding - 1)
    return min(limits) if limits else None


def _transformers() -> Any:
    return transformers_library(extra="hf", purpose="models of the Hugging Face hub")
