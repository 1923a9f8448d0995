"""Finished cells on disk: one atomic file each, named by what was asked; and one tidy table over all.

A cell holds a curve whole: spec, provenance, arrays, checksum. Its name is the id of its spec, so the
same question finds its answer; timings and dates stay outside, so the same work gives the same bytes.
The layout is written down in docs/format.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import save as safetensors_bytes

from critmass.curve import Curve
from critmass.errors import StoreError, said
from critmass.files import create_atomic, write_atomic
from critmass.parts import stored
from critmass.scores.base import Measurement
from critmass.specs import canonical_json, content_id
from critmass.tensors import map_tensors, safetensors_label

VERSION = 1
CELLS = "cells"
TABLE = "results.parquet"
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
    arrays = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    header = {
        "format": "critmass-cell",
        "version": VERSION,
        "spec": dict(curve.spec),
        "provenance": dict(curve.provenance),
        "name": curve.name,
        "features": curve.features,
        "score": curve.score,
        "metric": curve.metric,
        "parts": curve.parts.family,
        "classes": curve.classes,
        "groups": curve.groups,
        "splits": [
            {"name": name, "whole": measurement.whole, "n_units": measurement.n_units}
            for name, measurement in splits.items()
        ],
    }
    header["sha256"] = _digest(header, arrays)
    path = cell_path(folder, curve.spec)
    write_atomic(path, safetensors_bytes(arrays, metadata={"critmass": canonical_json(header)}))
    return path


def load_cell(path: Path) -> Curve:
    """Return the curve of a cell, its checksum verified.

    Raises
    ------
    StoreError
        If the file is damaged, or of a newer version.
    """
    header, arrays = safetensors_label(path), map_tensors(path)
    if header.get("format") != "critmass-cell":
        raise _damaged(path, "no cell")
    version = header.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise StoreError(
            str(path),
            said(f"cell version {version}"),
            f"version {VERSION} or lower",
            "upgrade critmass",
        )
    if _digest({key: value for key, value in header.items() if key != "sha256"}, arrays) != header.get(
        "sha256"
    ):
        raise _damaged(path, "a checksum that does not match")
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
    sizes, repeats = arrays["sizes"], header["spec"]["repeats"]
    return Curve(
        features=header["features"],
        score=header["score"],
        split=first,
        metric=header["metric"],
        sizes=sizes,
        parts=stored(header["parts"], arrays, repeats, int(sizes[-1])),
        measurement=measurements.pop(first),
        classes=None if header["classes"] is None else tuple(header["classes"]),
        groups=None if header["groups"] is None else tuple(header["groups"]),
        spec=header["spec"],
        provenance=header["provenance"],
        others=measurements,
        name=header.get("name"),
    )


def load_curves(folder: Path) -> list[Curve]:
    """Return the curves of all cells in `folder`, in a fixed order: by features, score, parts, cell."""
    paths = sorted((folder / CELLS).glob("*.safetensors"))
    if not paths:
        raise StoreError(
            str(folder), said(f"no {CELLS}/*.safetensors"), "a results folder", "make one with measure --out"
        )
    curves = [(load_cell(path), path.name) for path in paths]
    curves.sort(key=lambda pair: (pair[0].features, pair[0].score, pair[0].parts.family, pair[1]))
    return [curve for curve, _ in curves]


def table(curves: list[Curve]) -> pl.DataFrame:
    """Return one tidy table: a row for each curve, test split, size and repeat."""
    splits = [curve.on(split) for curve in curves for split in (curve.split, *curve.others)]
    return pl.concat([curve.named(curve.frame) for curve in splits], how="diagonal")


def write_table(folder: Path) -> Path:
    """Write the tidy table over all cells of `folder` as results.parquet."""
    frame = table(load_curves(folder))
    create_atomic(folder / TABLE, frame.write_parquet)
    return folder / TABLE


def verify_results(folder: Path) -> int:
    """Check every cell, and that results.parquet is the table over them; return the number of cells."""
    curves = load_curves(folder)
    path = folder / TABLE
    if path.exists():
        try:
            same = pl.read_parquet(path).equals(table(curves))
        except (OSError, pl.exceptions.PolarsError):
            same = False
        if not same:
            advice = "delete it: the next measurement writes it again"
            raise StoreError(str(path), said("not the table over the cells"), "that table", advice)
    return len(curves)


def _digest(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(canonical_json(header).encode())
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].dtype.str} {arrays[key].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()


def _damaged(path: Path, found: str) -> StoreError:
    return StoreError(str(path), said(found), "a cell of results", "delete the file and measure again")
