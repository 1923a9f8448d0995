"""A study's finished cells, and the tidy tables over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from critmass.curves import cells
from critmass.curves.curve import Curve
from critmass.errors import StoreError
from critmass.io.files import locked
from critmass.io.parquet import write_table
from critmass.studies.config import Study
from critmass.studies.plan import Cell, plan
from critmass.studies.states import State, note, state_of

PAIRS = "pairs.parquet"


def load(study: Study, *, out: Path | None = None) -> list[tuple[Cell, Curve | pl.DataFrame]]:
    """Return every finished cell of a study with its curve, or with its pairs.

    Of questions that are the same in other words, such as sizes as fractions or numbers, the first.

    Raises
    ------
    StoreError
        For a cell that is damaged.
    """
    folder = out or study.folder
    return [(cell, load_answer(folder / state.file, cell)) for cell, state in finished(study, folder)]


def finished(study: Study, folder: Path) -> Iterator[tuple[Cell, State]]:
    """Give the cells that are done, each answer once."""
    seen = set()
    for cell in plan(study):
        state = state_of(folder, cell)
        if state.state == "done" and (found := (cell.job.id, cell.layer, state.file)) not in seen:
            seen.add(found)
            yield cell, state


def load_answer(path: Path, cell: Cell) -> Curve | pl.DataFrame:
    """Return the curve or the pairs in the file of a cell."""
    return cells.load_cell(path) if cell.kind == "curve" else cells.load_pairs(path)


def write_tables(study: Study, folder: Path) -> list[Path]:
    """Write the tidy tables over all finished cells: cells.parquet and, of pairs, pairs.parquet.

    A cell that is damaged is left out, and is from now on one that failed.
    """
    tables: dict[str, list[pl.DataFrame]] = {cells.TABLE: [], PAIRS: []}
    with locked(folder / cells.LOCK, wait=True):
        for cell, state in finished(study, folder):
            try:
                found = load_answer(folder / state.file, cell)
            except StoreError as error:
                note(folder, cell, state="failed", reason=str(error))
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
