"""What is known of a study's cells on disk: done, failed with a reason, or missing; one file for each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from critmass.curves import cells
from critmass.errors import StoreError, verbatim
from critmass.io.records import read_record, write_record
from critmass.studies.plan import Cell

CLAIM, MADE_FROM = "study", ".features.json"
"""Names, among the states, of whose results these are, and of what features were made from."""
CELL_FILE = re.compile(rf"{cells.CELLS}/[0-9a-f]{{16}}\.safetensors")


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


def state_of(folder: Path, cell: Cell) -> State:
    """Return what is known of a cell: missing where its file is gone, failed where its state is damaged."""
    try:
        state = read_state(state_path(folder, cell))
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


def note(folder: Path, cell: Cell, **record: Any) -> None:
    """Write the state of a cell."""
    write_record(state_path(folder, cell), {"cell": cell.id, **record})


def state_path(folder: Path, cell: Cell) -> Path:
    """Return where the state of a cell is or would be."""
    return folder / cells.STATES / f"{cell.id}.json"
