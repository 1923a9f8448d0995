"""Every file below a folder that critmass wrote, held against the checksums that it was written with."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from critmass.curves import cells
from critmass.errors import CritmassError, StoreError, verbatim
from critmass.features.store import MANIFEST, is_store, open_store
from critmass.io.parquet import read_table
from critmass.io.records import read_record
from critmass.studies.states import CLAIM, MADE_FROM, read_state
from critmass.studies.tables import PAIRS

KINDS = ("shards", "cells", "states", "tables")


@dataclass(frozen=True)
class Verified:
    """What was checked below a folder.

    Attributes
    ----------
    checked : Counter of str
        How many shards, cells, states and tables.
    faults : list of str
        A line for each file that is damaged or missing, naming it.
    unchecked : list of Path
        Files that are not ours, or have no checksum: pictures, reports, logs, what a killed run left over.
    """

    checked: Counter[str]
    faults: list[str] = field(default_factory=list)
    unchecked: list[Path] = field(default_factory=list)


def verify(folder: Path) -> Verified:
    """Check all stores, cells, states and tables below `folder`; one damaged file hides no other."""
    found = Verified(Counter(dict.fromkeys(KINDS, 0)))
    for path in (folder, *sorted(below for below in folder.rglob("*") if below.is_dir())):
        files = sorted(file for file in path.iterdir() if not file.is_dir())
        if is_store(path):
            _try(found, "shards", functools.partial(_store, path))
            known = _named_by(path)
            found.unchecked.extend(file for file in files if file.name not in known)
            continue
        for file in files:
            kind, check = _check_of(file)
            if check is not None:
                _try(found, kind, check)
            elif file.suffix != ".lock":
                found.unchecked.append(file)
    return found


def _try(found: Verified, kind: str, check: Callable[[], int]) -> None:
    try:
        found.checked[kind] += check()
    except (CritmassError, OSError) as error:
        found.faults.append(str(error))


def _check_of(file: Path) -> tuple[str, Callable[[], int] | None]:
    """Return what a file is one of, and what checks it; None where nothing can."""
    home = file.parent.name
    if home == cells.CELLS and file.suffix == ".safetensors":
        return "cells", lambda: _cell(file)
    if home == cells.STATES and file.suffix == ".json":
        return "states", lambda: _state(file)
    if file.name in (cells.TABLE, PAIRS):
        return "tables", lambda: _table(file)
    return "", None


def _named_by(store: Path) -> set[str]:
    """Return the files that a store's manifest names, and itself."""
    try:
        manifest = open_store(store).manifest
    except CritmassError:
        return {file.name for file in store.iterdir()}  # which is a fault of its own
    return {MANIFEST, *(shard.file for split in manifest.splits.values() for shard in split.shards)}


def _store(folder: Path) -> int:
    return open_store(folder).verify()


def _cell(file: Path) -> int:
    load = cells.load_pairs if cells.is_cell_of_pairs(file) else cells.load_cell
    load(file)
    return 1


def _state(file: Path) -> int:
    if file.stem == CLAIM or file.name.endswith(MADE_FROM):
        read_record(file)
        return 1
    state = read_state(file)
    if state.state == "done" and not (file.parents[1] / state.file).exists():
        raise StoreError(
            str(file), verbatim(f"no {state.file}"), "the cell that is done", "run the study again"
        )
    return 1


def _table(file: Path) -> int:
    frame = read_table(file)
    if file.name == cells.TABLE:
        try:
            curves = cells.load_curves(file.parent)
        except StoreError:  # a damaged cell is a fault of its own
            return 1
        cells.check_table(file.parent, frame, curves)
    return 1
