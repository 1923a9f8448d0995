"""A study run: cells that are missing are computed, in any number of processes at once, and noted.

Each cell (one curve, or one set of pairs of parts) is finished or absent on disk; a cell that fails is noted
with its reason and stops no other. Features are extracted once for each model and dataset. What is in the
table and in the cells depends on the study alone, never on the history of its runs; reasons and timings are
kept beside them.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from critmass.curves import cells
from critmass.curves.measure import MEMORY_GIB, measure
from critmass.curves.similarity import similarity
from critmass.errors import CritmassError, InputError, StoreError
from critmass.extraction.extract import extract_layers
from critmass.features.features import Features
from critmass.features.store import holds, open_store
from critmass.io.files import file_name, locked, write_atomic
from critmass.io.ids import content_id
from critmass.io.records import read_record, write_record
from critmass.io.stamps import described_files
from critmass.progress import Progress, silent
from critmass.studies.config import Study
from critmass.studies.plan import Cell, Job, filled, plan, request_of
from critmass.studies.states import CLAIM, MADE_FROM, State, note, state_of
from critmass.studies.tables import write_tables

FEATURES, LOCKS = "features", "locks"
WAIT = 0.2  # seconds between looks at cells that another process holds


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
                note(self.folder, cell, state="failed", reason=self._reason(cell, error))
            else:
                file, seconds = path.relative_to(self.folder).as_posix(), round(time.monotonic() - started, 1)
                note(self.folder, cell, state="done", file=file, features=made_from, seconds=seconds)
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
        extract_layers(
            **self._request(job),
            layers=job.layers,
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
        return filled(request_of(self.study, job.model, job.dataset), self.data)

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
