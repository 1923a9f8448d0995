"""What a study's YAML file may say: models, datasets, features, scores and pairs, each entry one record.

A key that is misspelt, or a name that the file itself does not give, is named with what is near it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from critmass.curves.request import MeasureOptions
from critmass.errors import InputError, unknown, verbatim
from critmass.io.yamls import read_yaml


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_listed)]
"""A list of names; one name alone is a list of one."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelEntry(_Entry):
    """A model, by a name that the study gives it."""

    model: str = Field(description="such as timm:resnet50.tv_in1k (critmass list models)")
    image_size: int | None = Field(
        default=None, description="side of the images it is given; its own by default"
    )
    pooling: str = Field(default="auto", description="of layers that have positions")
    labels: dict[str, str] = Field(
        default={}, description="what figures group models by, such as architecture, data, loss"
    )


class DatasetEntry(_Entry):
    """A dataset, by a name that the study gives it."""

    dataset: str = Field(description="such as torchvision:CIFAR10; {data} stands for the study's data folder")
    splits: dict[str, str] | None = Field(default=None, description="our splits from the dataset's own")
    classes: list[str | int] | None = Field(default=None, description="only these classes")
    limit: int | dict[str, int] | None = Field(default=None, description="at most so many samples a split")
    tests: dict[str, str] = Field(default={}, description="further test splits from other datasets")
    columns: dict[str, str] = Field(default={}, description="columns of a table by role")
    root: str | None = Field(default=None, description="folder of downloaded datasets")
    views: int = Field(default=0, ge=0, description="augmented copies of the training images")


class FeaturesEntry(_Entry):
    """Which models on which datasets, at which layers."""

    models: Names = Field(min_length=1, description="names from models")
    datasets: Names = Field(min_length=1, description="names from datasets")
    layers: Names = Field(default=["penultimate"], min_length=1, description="layers by their full names")


class MeasureEntry(MeasureOptions):
    """Scores x families to measure on the features."""

    scores: Names = Field(min_length=1, description="critmass list scores")
    parts: Names = Field(default=["random"], min_length=1, description="critmass list parts")
    models: Names | None = Field(default=None, description="only of these models")
    datasets: Names | None = Field(default=None, description="only on these datasets")
    layers: Names | None = Field(default=None, description="only of these layers")


class PairsEntry(_Entry):
    """CKA of pairs of random parts."""

    sizes: str | list[int | float] = "paper"
    pairs: int = Field(default=10, ge=1, description="pairs of each size")
    disjoint: bool = Field(default=False, description="whether the parts of a pair share no neuron")
    estimator: Literal["debiased", "biased"] = "debiased"
    seed: int = Field(default=0, ge=0)
    models: Names | None = Field(default=None, description="only of these models")
    datasets: Names | None = Field(default=None, description="only on these datasets")
    layers: Names | None = Field(default=None, description="only of these layers")


class PublishedEntry(_Entry):
    """A published value: DR(δ), or the performance of parts of a size."""

    model: str
    dataset: str
    parts: str = "random"
    delta: float | None = Field(default=None, description="of a DR")
    size: int | None = Field(default=None, description="of a performance")
    value: float
    source: str


class Study(_Entry):
    """What a study's YAML file may say."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = ""
    data: str = Field(default=".", description="folder that {data} stands for, from the study file's folder")
    results: str | None = Field(
        default=None, description="folder of the results, from the study file's folder; results/NAME"
    )
    models: dict[str, ModelEntry] = Field(min_length=1)
    datasets: dict[str, DatasetEntry] = Field(min_length=1)
    features: list[FeaturesEntry] = Field(min_length=1)
    measure: list[MeasureEntry] = []
    pairs: list[PairsEntry] = []
    published: list[PublishedEntry] = Field(default=[], description="values to stand beside ours")

    @property
    def folder(self) -> Path:
        """Where results lie, unless the caller says otherwise."""
        return Path(self.results or f"results/{self.name}")


def load_study(path: str | os.PathLike[str]) -> Study:
    """Return the study that a YAML file describes; its relative folders are taken from that of the file.

    Raises
    ------
    InputError
        If it is no YAML, or has a key or value that a study has not; unknown keys with near matches.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("study", str(path), "a YAML file that exists", "see studies/ for examples")
    content = read_yaml(path)
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise _invalid(path, error) from None
    for block in study.features:
        _check_names(path, "features", study, block.models, block.datasets)
    for layer in (layer for block in study.features for layer in block.layers):
        if set(layer) & set("*?["):
            raise InputError(
                f"{path}: layer", layer, "a layer by its full name", "critmass list layers MODEL"
            )
    for entry in study.published:
        _check_names(path, "published", study, [entry.model], [entry.dataset])
    for kind, entries in (("measure", study.measure), ("pairs", study.pairs)):
        for asked in entries:
            _check_names(path, kind, study, asked.models or (), asked.datasets or ())
    if not study.measure and not study.pairs:
        raise InputError(f"{path}: measure", verbatim("nothing"), "scores and parts to measure, or pairs")
    here: dict[str, str | Path] = {"data": study.data, "results": study.folder}
    return study.model_copy(
        update={name: os.path.normpath(path.parent / folder) for name, folder in here.items()}
    )


def _check_names(path: Path, kind: str, study: Study, models: Sequence[str], datasets: Sequence[str]) -> None:
    for what, names, known in (("model", models, study.models), ("dataset", datasets, study.datasets)):
        for name in names:
            if name not in known:
                raise unknown(f"{path}: {what} of {kind}", name, known)


def _invalid(path: Path, error: ValidationError) -> InputError:
    # A key that is misspelt is two errors: one missing, one unknown; the unknown one says what to mend.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    where = ".".join(map(str, first["loc"]))
    if first["type"] != "extra_forbidden":
        return InputError(f"{path}: {where}", first["input"], first["msg"].lower())
    return unknown(
        f"{path}: key of {where.rpartition('.')[0] or 'the study'}",
        str(first["loc"][-1]),
        _keys(first["loc"]),
    )


def _keys(where: Sequence[str | int]) -> list[str]:
    """Return the keys that are allowed beside the last of a path."""
    entries: dict[str, type[BaseModel]] = {
        "models": ModelEntry,
        "datasets": DatasetEntry,
        "features": FeaturesEntry,
        "measure": MeasureEntry,
        "pairs": PairsEntry,
        "published": PublishedEntry,
    }
    record = entries[str(where[0])] if len(where) > 1 else Study
    return list(record.model_fields)
