"""Finished cells on disk: one atomic file each, named by what was asked; and one tidy table over all.

A cell holds a curve whole: spec, provenance, arrays, checksum. Its name is the id of its spec, so the
same question finds its answer; timings and dates stay outside, so the same work gives the same bytes.
The layout is written down in docs/format.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from critmass.curves.curve import Curve
from critmass.errors import StoreError, verbatim
from critmass.io import parquet
from critmass.io.files import locked
from critmass.io.ids import content_id
from critmass.io.tensors import DamagedError, load_sealed, safetensors_label, save_sealed
from critmass.parts.parts import stored
from critmass.scores.protocols import Measurement

VERSION = 1
CELL, PAIRS_CELL = "critmass-cell", "critmass-pairs"
CELLS = "cells"
TABLE = "results.parquet"
STATES = "states"
"""Folder that a study keeps beside its cells."""
LOCK = "tables.lock"
"""Held by whoever writes tables, so that the last one written is over all cells."""
CHOSEN = "chosen."
_ARRAYS = (
    "scores",
    "covariance",
    "converged",
    "by_class",
    "whole_by_class",
    "class_rows",
    "by_group",
    "whole_by_group",
    "group_rows",
)


def cell_path(folder: Path, spec: Mapping[str, Any]) -> Path:
    """Return where the cell that answers `spec` is or would be."""
    return folder / CELLS / f"{content_id(dict(spec))}.safetensors"


def save_cell(folder: Path, curve: Curve) -> Path:
    """Write a curve as a cell of the results in `folder`, whole or not at all."""
    arrays: dict[str, NDArray[Any]] = {"sizes": curve.sizes, **curve.parts.arrays()}
    splits = {curve.split: curve.measurement, **curve.others}
    for index, measurement in enumerate(splits.values()):
        for key in _ARRAYS:
            if (value := getattr(measurement, key)) is not None:
                arrays[f"{index}.{key}"] = np.asarray(value)
        arrays |= {f"{index}.{CHOSEN}{key}": values for key, values in measurement.chosen.items()}
    header = {
        "format": CELL,
        "version": VERSION,
        "spec": dict(curve.spec),
        "provenance": dict(curve.provenance),
        "name": curve.name,
        "features": curve.features,
        "score": curve.score,
        "metric": curve.metric,
        "parts": {"family": curve.parts.family, "unit": curve.parts.unit, "columns": curve.parts.n_columns},
        "classes": curve.classes,
        "groups": curve.groups,
        "splits": [
            {"name": name, "whole": measurement.whole, "n_units": measurement.n_units}
            for name, measurement in splits.items()
        ],
    }
    path = cell_path(folder, curve.spec)
    save_sealed(path, header, arrays)
    return path


def save_pairs(folder: Path, asked: Sequence[Any], frame: pl.DataFrame) -> Path:
    """Write a table of pairs of parts as the cell that answers `asked`, whole or not at all."""
    path = folder / CELLS / f"{content_id(list(asked))}.safetensors"
    header = {"format": PAIRS_CELL, "version": VERSION, "asked": list(asked), "columns": frame.columns}
    save_sealed(path, header, {name: frame[name].to_numpy() for name in frame.columns})
    return path


def load_pairs(path: Path) -> pl.DataFrame:
    """Return the table of a cell of pairs, its checksum verified.

    Raises
    ------
    StoreError
        If the file is damaged, the answer to something else, or of a newer version.
    """
    header, arrays = _opened(path, PAIRS_CELL, "asked")
    return pl.DataFrame({name: np.array(arrays[name]) for name in header["columns"]})


def is_cell_of_pairs(path: Path) -> bool:
    """Return whether a cell holds pairs of parts; StoreError if it is damaged."""
    try:
        return safetensors_label(path).get("format") == PAIRS_CELL
    except DamagedError as error:
        raise _damaged(path, str(error.found)) from None


def load_cell(path: Path) -> Curve:
    """Return the curve of a cell, its checksum verified.

    Raises
    ------
    StoreError
        If the file is damaged, the answer to something else, or of a newer version.
    """
    header, arrays = _opened(path, CELL, "spec")
    try:
        return _curve(header, arrays)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _damaged(path, f"no whole cell ({type(error).__name__}: {error})") from None


def _opened(path: Path, kind: str, asked: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return header and arrays of a cell of this kind, whose name is the id of header[asked]."""
    try:
        label = safetensors_label(path)
        if label.get("format") != kind:
            raise _damaged(path, f"format {label.get('format')!r}, not {kind!r}")
        version = label.get("version")
        if not isinstance(version, int) or version > VERSION:
            allowed, advice = f"version {VERSION} or lower", "upgrade critmass"
            raise StoreError(str(path), verbatim(f"cell version {version}"), allowed, advice)
        header, arrays = load_sealed(path)
    except DamagedError as error:
        raise _damaged(path, str(error.found)) from None
    if content_id(header.get(asked)) != path.stem:
        raise _damaged(path, "the answer to another question than its name says")
    return header, arrays


def _curve(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Curve:
    measurements = {}
    for index, split in enumerate(header["splits"]):
        found = {key: arrays.get(f"{index}.{key}") for key in _ARRAYS}
        prefix = f"{index}.{CHOSEN}"
        measurements[split["name"]] = Measurement(
            whole=split["whole"],
            n_units=split["n_units"],
            chosen={key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)},
            **found,  # type: ignore[arg-type]
        )
    first, *_ = measurements
    sizes, repeats, taken = arrays["sizes"], header["spec"]["repeats"], header["parts"]
    d = int(sizes[-1])
    shape = (repeats, d, (taken["columns"] - d) // repeats)
    return Curve(
        features=header["features"],
        score=header["score"],
        split=first,
        metric=header["metric"],
        sizes=sizes,
        parts=stored(taken["family"], taken["unit"], arrays, shape),
        measurement=measurements.pop(first),
        classes=None if header["classes"] is None else tuple(header["classes"]),
        groups=None if header["groups"] is None else tuple(header["groups"]),
        spec=header["spec"],
        provenance=header["provenance"],
        others=measurements,
        name=header.get("name"),
    )


def cells_in(folder: Path) -> list[Path]:
    """Return the files of all cells in `folder`, by name."""
    return sorted((folder / CELLS).glob("*.safetensors"))


def load_curves(folder: Path) -> list[Curve]:
    """Return the curves of all cells in `folder`, in a fixed order: by features, score, parts, cell."""
    paths = [path for path in cells_in(folder) if not is_cell_of_pairs(path)]
    if not paths:
        raise StoreError(
            str(folder),
            verbatim(f"no {CELLS}/*.safetensors"),
            "a results folder",
            "make one with measure --out",
        )
    curves = [(load_cell(path), path.name) for path in paths]
    curves.sort(key=lambda pair: (pair[0].features, pair[0].score, pair[0].parts.family, pair[1]))
    return [curve for curve, _ in curves]


def table(curves: list[Curve]) -> pl.DataFrame:
    """Return one tidy table: a row for each curve, test split, size and repeat."""
    splits = [curve.on(split) for curve in curves for split in (curve.split, *curve.others)]
    return pl.concat([curve.named(curve.frame) for curve in splits], how="diagonal")


def write_table(folder: Path) -> Path:
    """Write the tidy table over all cells of `folder` as results.parquet.

    Raises
    ------
    StoreError
        If these are the results of a study, whose table says more.
    """
    if (folder / STATES).exists():
        advice = "choose another folder for single measurements"
        raise StoreError(str(folder), verbatim("the results of a study"), "a folder of your own", advice)
    with locked(folder / LOCK, wait=True):
        parquet.write_table(folder / TABLE, table(load_curves(folder)))
    return folder / TABLE


def check_table(folder: Path, frame: pl.DataFrame, curves: list[Curve]) -> None:
    """Raise StoreError unless `frame`, which results.parquet holds, is the table over these curves.

    A study's says of each row what the study calls it, and may leave out cells that it no longer asks for.
    """
    expected = table(curves)
    if (folder / STATES).exists():
        shared = [name for name in frame.columns if name in expected.columns]
        same = frame.join(expected, on=shared, how="anti", nulls_equal=True).is_empty()
    else:
        same = frame.equals(expected)
    if not same:
        advice = "delete it: the next measurement writes it again"
        raise StoreError(str(folder / TABLE), verbatim("not the table over the cells"), "that table", advice)


def _damaged(path: Path, found: str) -> StoreError:
    return StoreError(str(path), verbatim(found), "a cell of results", "delete the file and measure again")
