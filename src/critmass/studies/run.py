"""A study: models x datasets x layers x families x scores, planned, run cell by cell, resumed.

A YAML file says what is compared. Each cell (one curve, or one set of pairs of parts) is finished or
absent on disk; a run computes what is missing, in any number of processes at once, and a cell that fails
is noted with its reason and stops no other. Features are extracted once for each model and dataset. What
is in the table and in the cells depends on the study alone, never on the history of its runs; reasons and
timings are kept beside them.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from critmass.curves import cells
from critmass.curves.curve import Curve
from critmass.curves.measure import MEMORY_GIB, measure
from critmass.curves.similarity import similarity
from critmass.errors import CritmassError, InputError, StoreError, verbatim
from critmass.extraction.extract import extract
from critmass.features.features import Features
from critmass.features.store import holds, open_store
from critmass.io.files import file_name, locked, write_atomic
from critmass.io.ids import content_id
from critmass.io.parquet import write_table
from critmass.io.records import read_record, write_record
from critmass.io.stamps import described_files
from critmass.progress import Progress, silent
from critmass.studies.config import MeasureEntry, PairsEntry, Study

FEATURES, LOCKS = "features", "locks"
PAIRS = "pairs.parquet"
CLAIM, MADE_FROM = "study", ".features.json"
"""Names, among the states, of whose results these are, and of what features were made from."""
CELL_FILE = re.compile(rf"{cells.CELLS}/[0-9a-f]{{16}}\.safetensors")
WAIT = 0.2  # seconds between looks at cells that another process holds


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


@dataclass(frozen=True)
class State:
    """What is known of a cell: "done", "failed" with a reason, or "missing".

    Attributes
    ----------
    state : str
    file : str
        The cell, from the results folder; of one that is done.
    features : str
        What the features were made from that it was computed on.
    reason : str
    """

    state: Literal["done", "failed", "missing"]
    file: str = ""
    features: str = ""
    reason: str = ""


def plan(study: Study, *, only: Sequence[str] = ()) -> list[Cell]:
    """Return the cells of a study, in order; where `only` has globs, of those whose labels match one."""
    layers: dict[tuple[str, str], dict[str, None]] = {}
    for block in study.features:
        for model in block.models:
            for dataset in block.datasets:
                layers.setdefault((model, dataset), {}).update(dict.fromkeys(block.layers))
    jobs = [
        Job(model, dataset, tuple(names), content_id(_request(study, model, dataset)))
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


def run(
    study: Study,
    *,
    out: Path | None = None,
    data: str | None = None,
    only: Sequence[str] = (),
    device: str = "cpu",
    memory_gib: float = MEMORY_GIB,
    progress: Progress | None = None,
) -> list[tuple[Cell, State]]:
    """Compute the cells that are missing, and write the tables; return the state of every cell.

    Several processes may run the same study on one folder: each cell is computed by one of them. A cell
    that failed before is tried again.

    Parameters
    ----------
    out, data : optional
        Folder of the results, and the folder that ``{data}`` stands for, other than the study says.
    only : sequence of str
        Globs of cells' labels, such as ``lite0/*``.
    device : str
        Where networks and products run.
    """
    folder, tell = out or study.folder, progress or silent
    cells = plan(study, only=only)
    _claim(study, folder)
    worker = _Worker(study, folder, data or study.data, device, memory_gib, tell)
    pending = [cell for cell in cells if not worker.is_done(cell)]
    while pending:
        tell("study", len(cells) - len(pending), len(cells))
        left: list[Cell] = []
        settled = len(cells) - len(pending)
        for cell in pending:
            if worker.settle(cell):
                settled += 1
                tell("study", settled, len(cells))
            else:
                left.append(cell)
        if len(left) == len(pending):
            time.sleep(WAIT)
        pending = left
    tell("study", len(cells), len(cells))
    write_tables(study, folder)
    return status(study, out=folder, only=only)


def _claim(study: Study, folder: Path) -> None:
    """Note whose results these are, or raise InputError where they are another study's."""
    path = folder / cells.STATES / f"{CLAIM}.json"
    try:
        found = read_record(path).get("study")
    except (FileNotFoundError, StoreError):
        write_record(path, {"study": study.name})
        return
    if found != study.name:
        raise InputError(
            "out", str(folder), f"a folder for study {study.name!r}", f"it has those of {found!r}"
        )


def status(study: Study, *, out: Path | None = None, only: Sequence[str] = ()) -> list[tuple[Cell, State]]:
    """Return the state of every cell, as its last run left it; computes nothing, and looks at no data."""
    return [(cell, state_of(out or study.folder, cell)) for cell in plan(study, only=only)]


def state_of(folder: Path, cell: Cell) -> State:
    """Return what is known of a cell: missing where its file is gone, failed where its state is damaged."""
    try:
        state = read_state(_state_path(folder, cell))
    except FileNotFoundError:
        return State("missing")
    except StoreError as error:
        return State("failed", reason=str(error))
    return State("missing") if state.state == "done" and not (folder / state.file).exists() else state


def read_state(path: Path) -> State:
    """Return the state in a file.

    Raises
    ------
    FileNotFoundError
    StoreError
        If it is damaged, or not the state of the cell that the file is named after.
    """
    record = read_record(path)
    state = State(**{key: record.get(key, "") for key in ("state", "file", "features", "reason")})
    known = state.state == "failed" or (state.state == "done" and CELL_FILE.fullmatch(state.file))
    if record.get("cell") != path.stem or not known:
        raise StoreError(
            str(path), verbatim("another state"), "that of the cell in its name", "delete the file"
        )
    return state


def load(study: Study, *, out: Path | None = None) -> list[tuple[Cell, Curve | pl.DataFrame]]:
    """Return every finished cell of a study with its curve, or with its pairs.

    Of questions that are the same in other words, such as sizes as fractions or numbers, the first.

    Raises
    ------
    StoreError
        For a cell that is damaged.
    """
    folder = out or study.folder
    return [(cell, _loaded(folder / state.file, cell)) for cell, state in _finished(study, folder)]


def _finished(study: Study, folder: Path) -> Iterator[tuple[Cell, State]]:
    """Give the cells that are done, each answer once."""
    seen = set()
    for cell in plan(study):
        state = state_of(folder, cell)
        if state.state == "done" and (found := (cell.job.id, cell.layer, state.file)) not in seen:
            seen.add(found)
            yield cell, state


def _loaded(path: Path, cell: Cell) -> Curve | pl.DataFrame:
    return cells.load_cell(path) if cell.kind == "curve" else cells.load_pairs(path)


def _note(folder: Path, cell: Cell, **record: Any) -> None:
    write_record(_state_path(folder, cell), {"cell": cell.id, **record})


def _state_path(folder: Path, cell: Cell) -> Path:
    return folder / cells.STATES / f"{cell.id}.json"


def write_tables(study: Study, folder: Path) -> list[Path]:
    """Write the tidy tables over all finished cells: cells.parquet and, of pairs, pairs.parquet.

    A cell that is damaged is left out, and is from now on one that failed.
    """
    tables: dict[str, list[pl.DataFrame]] = {cells.TABLE: [], PAIRS: []}
    with locked(folder / cells.LOCK, wait=True):
        for cell, state in _finished(study, folder):
            try:
                found = _loaded(folder / state.file, cell)
            except StoreError as error:
                _note(folder, cell, state="failed", reason=str(error))
                continue
            names: dict[str, Any] = {
                "model": cell.job.model,
                "dataset": cell.job.dataset,
                "layer": cell.layer,
            }
            if isinstance(found, Curve):
                frame = cells.table([found])
            else:
                frame = found
                asked = {key: cell.asked[key] for key in ("estimator", "seed")}
                names |= {"pairs": cell.pairs, **asked, "cell": cell.id}
            columns = (pl.lit(value).alias(name) for name, value in names.items())
            home = tables[cells.TABLE if cell.kind == "curve" else PAIRS]
            home.append(frame.select(*columns, pl.all()))
        written = []
        for name, frames in tables.items():
            if frames:
                write_table(folder / name, pl.concat(frames, how="diagonal"))
                written.append(folder / name)
    return written


@dataclass(frozen=True)
class _Worker:
    """What one process does.

    Attributes
    ----------
    failed : dict of str to Exception
        Extractions that cannot be done, by job, so that each fails once.
    stamps : dict of str to str
        What the jobs' files are like now, by job.
    """

    study: Study
    folder: Path
    data: str
    device: str
    memory_gib: float
    tell: Progress
    failed: dict[str, Exception] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)

    def is_done(self, cell: Cell) -> bool:
        """Return whether a cell is computed, and on features of the files that are there now."""
        state, (stamp, made_from) = state_of(self.folder, cell), self._known(cell.job)
        current = stamp == self._stamp(cell.job) and state.features == made_from.get(cell.layer)
        return state.state == "done" and current

    def settle(self, cell: Cell) -> bool:
        """Compute a cell, or note why it cannot be; False where another process is at it."""
        with locked(self.folder / LOCKS / f"{cell.id}.lock") as mine:
            if not mine:
                return False
            if self.is_done(cell):
                return True
            started = time.monotonic()
            try:
                found = self._features(cell)
                if found is None:
                    return False
                if self.is_done(cell):  # its files were touched, and are what they were
                    return True
                features, made_from = found
                path = self._result(cell, features)
            except Exception as error:  # noqa: BLE001  whatever it is, the other cells go on
                _note(self.folder, cell, state="failed", reason=self._reason(cell, error))
            else:
                file, seconds = path.relative_to(self.folder).as_posix(), round(time.monotonic() - started, 1)
                _note(self.folder, cell, state="done", file=file, features=made_from, seconds=seconds)
            return True

    def _features(self, cell: Cell) -> tuple[Features, str] | None:
        """Return the features of a cell, and what they were made from; None where another process is at that.

        Features that are there are used as long as the files they came from are untouched: same paths,
        sizes and times. Else `extract` compares what they are made from, and refuses to mix.
        """
        job, folder = cell.job, self.folder / FEATURES / cell.job.folder
        if job.id in self.failed:
            raise self.failed[job.id]
        if not self._are_there(job, folder):
            with locked(self.folder / LOCKS / f"{job.folder}.lock") as mine:
                if not mine:
                    return None
                try:
                    if not self._are_there(job, folder):
                        self._extract(job, folder)
                except Exception as error:
                    self.failed[job.id] = error
                    raise
        store = folder / file_name(cell.layer)
        made_from = open_store(store).manifest.spec_id
        return Features.open(store, name=f"{job.model}/{job.dataset}/{cell.layer}"), made_from

    def _are_there(self, job: Job, folder: Path) -> bool:
        stamp, made_from = self._known(job)
        stores = {layer: folder / file_name(layer) for layer in job.layers}
        return stamp == self._stamp(job) and all(
            layer in made_from and holds(store, made_from[layer]) for layer, store in stores.items()
        )

    def _extract(self, job: Job, folder: Path) -> None:
        stamp = self._stamp(job)
        extract(
            **self._request(job),
            layer=list(job.layers),
            out=folder,
            device=self.device,
            on_bad="list",
            progress=self.tell,
        )
        made_from = {layer: open_store(folder / file_name(layer)).manifest.spec_id for layer in job.layers}
        before, others = self._known(job)  # layers that another run asked for
        if before == stamp:
            made_from = {**others, **made_from}
        write_record(self._record(job), {"files": stamp, "features": made_from})

    def _known(self, job: Job) -> tuple[str, Mapping[str, str]]:
        """Return the stamp of a job's files when its features were made, and what these are made from."""
        try:
            record = read_record(self._record(job))
        except (FileNotFoundError, StoreError):  # then they are compared anew
            return "", {}
        return record["files"], record["features"]

    def _record(self, job: Job) -> Path:
        return self.folder / cells.STATES / f"{job.folder}{MADE_FROM}"

    def _request(self, job: Job) -> dict[str, Any]:
        return _filled(_request(self.study, job.model, job.dataset), self.data)

    def _stamp(self, job: Job) -> str:
        if job.id not in self.stamps:
            # Not the request as it is filled in: ../data and /home/me/data may be one folder.
            self.stamps[job.id] = content_id([job.id, described_files(self._request(job))])
        return self.stamps[job.id]

    def _result(self, cell: Cell, features: Features) -> Path:
        asked: dict[str, Any] = {**cell.asked, "memory_gib": self.memory_gib}
        if cell.kind == "pairs":
            frame = similarity(features, **asked).frame
            # Sizes as numbers of neurons, so that the same question in other words has the same file.
            sizes = frame["size"].unique().sort().to_list()
            return cells.save_pairs(self.folder, [*cell.question[:-1], {**cell.asked, "sizes": sizes}], frame)
        asked |= {"device": self.device, "progress": self.tell, "out": self.folder, "table": False}
        try:
            curve = measure(features, **asked)
        except StoreError:  # most likely a damaged cell; if it is the features, they fail again
            curve = measure(features, existing="replace", **asked)
        return cells.cell_path(self.folder, curve.spec)

    def _reason(self, cell: Cell, error: Exception) -> str:
        reason = " ".join(str(error).split())
        if isinstance(error, CritmassError):
            return reason
        log = self.folder / cells.STATES / f"{cell.id}.log"
        write_atomic(log, "".join(traceback.format_exception(error)).encode())
        return f"{type(error).__name__}: {reason}; the traceback is in {log}"


def _request(study: Study, model: str, dataset: str) -> dict[str, Any]:
    """Return the arguments of `extract` that say what is extracted, layers aside."""
    chosen = study.models[model].model_dump(exclude={"labels"})
    return {**chosen, **study.datasets[dataset].model_dump(mode="json")}


def _filled(request: Mapping[str, Any], data: str) -> dict[str, Any]:
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
