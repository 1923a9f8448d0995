"""What a study asks for: models x datasets x layers x families x scores -> cells, known by their content."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from critmass.errors import InputError
from critmass.io.files import file_name
from critmass.io.ids import content_id
from critmass.studies.config import MeasureEntry, PairsEntry, Study


@dataclass(frozen=True)
class Job:
    """One extraction: a model on a dataset."""

    model: str
    dataset: str
    layers: tuple[str, ...]
    id: str

    @property
    def folder(self) -> str:
        """Name of the folder of its stores."""
        return file_name(f"{self.model}-{self.dataset}-{self.id}")


@dataclass(frozen=True)
class Cell:
    """One piece of work whose result is one file.

    Attributes
    ----------
    kind : "curve" or "pairs"
    asked : mapping
        Keyword arguments of `measure` or `similarity`.
    """

    job: Job
    layer: str
    kind: Literal["curve", "pairs"]
    asked: Mapping[str, Any]

    @property
    def question(self) -> list[Any]:
        """What is asked, whatever it is called in the study."""
        return [self.job.id, self.layer, self.kind, dict(self.asked)]

    @property
    def id(self) -> str:
        """Content id of the question."""
        return content_id(self.question)

    @property
    def pairs(self) -> Literal["independent", "disjoint"]:
        """How the two parts of a pair are drawn; of a cell of pairs."""
        return "disjoint" if self.asked["disjoint"] else "independent"

    @property
    def label(self) -> str:
        """Model/dataset/layer/score/parts, which ``--only`` is matched with."""
        if self.kind == "pairs":
            what = "pairs-disjoint" if self.pairs == "disjoint" else "pairs"
        else:
            what = f"{self.asked['score']}/{self.asked['parts']}"
        return f"{self.job.model}/{self.job.dataset}/{self.layer}/{what}"


def plan(study: Study, *, only: Sequence[str] = ()) -> list[Cell]:
    """Return the cells of a study, in order; where `only` has globs, of those whose labels match one."""
    layers: dict[tuple[str, str], dict[str, None]] = {}
    for block in study.features:
        for model in block.models:
            for dataset in block.datasets:
                layers.setdefault((model, dataset), {}).update(dict.fromkeys(block.layers))
    jobs = [
        Job(model, dataset, tuple(names), content_id(request_of(study, model, dataset)))
        for (model, dataset), names in layers.items()
    ]
    cells = [
        Cell(job, layer, kind, asked)
        for job in jobs
        for layer in job.layers
        for kind, asked in _asked(study, job, layer)
    ]
    distinct = list({cell.id: cell for cell in cells}.values())
    chosen = [
        cell for cell in distinct if not only or any(fnmatch.fnmatch(cell.label, glob) for glob in only)
    ]
    if not chosen:
        raise InputError(
            "only", list(only), f"globs of labels such as {cells[0].label!r}" if cells else "cells"
        )
    return chosen


def request_of(study: Study, model: str, dataset: str) -> dict[str, Any]:
    """Return the arguments of `extract` that say what is extracted, layers aside."""
    chosen = study.models[model].model_dump(exclude={"labels"})
    return {**chosen, **study.datasets[dataset].model_dump(mode="json")}


def filled(request: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Return a request with {data} filled in."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{data}", data.rstrip("/"))
        return {key: fill(item) for key, item in value.items()} if isinstance(value, dict) else value

    return {key: fill(value) for key, value in request.items()}


def _asked(study: Study, job: Job, layer: str) -> Iterator[tuple[Literal["curve", "pairs"], dict[str, Any]]]:
    """Give what is asked of the features of a layer."""
    here = (("models", job.model), ("datasets", job.dataset), ("layers", layer))

    def applies(entry: MeasureEntry | PairsEntry) -> bool:
        return all(getattr(entry, kind) is None or name in getattr(entry, kind) for kind, name in here)

    for measured in filter(applies, study.measure):
        shared = measured.model_dump(exclude={"scores", "parts", "models", "datasets", "layers"})
        for score, parts in itertools.product(measured.scores, measured.parts):
            yield "curve", {"score": score, "parts": parts, **shared}
    for paired in filter(applies, study.pairs):
        yield "pairs", paired.model_dump(exclude={"models", "datasets", "layers"})
