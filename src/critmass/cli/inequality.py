"""The command inequality."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from critmass.cli.options import Json
from critmass.cli.printing import shown
from critmass.errors import InputError, said


def inequality(path: Path, *, out: Path | None = None, json: Json = False) -> None:
    """Show how unevenly accuracy is shared among classes and groups as neurons are dropped.

    Example: critmass inequality results --out inequality.csv

    Parameters
    ----------
    path
        A folder that measure --out wrote, whose probes on classes are shown; or features, which are measured
        with the defaults of measure.
    out
        Table over all curves and test splits to write, .csv or .parquet.
    json
        Print one JSON object.
    """
    from critmass import inequalities, measuring
    from critmass.files import create_atomic
    from critmass.results import CELLS, load_curves

    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise InputError("--out", str(out), "a file name that ends in .csv or .parquet")
    if (path / CELLS).is_dir():
        curves = load_curves(path)
    else:
        with shown() as progress:
            curves = [measuring.measure(path, progress=progress)]
    shared = [curve for curve in curves if curve.measurement.by_class is not None]
    if not shared:
        found = said(", ".join(sorted({curve.score for curve in curves})) + " without accuracies by class")
        advice = "measure ridge, logistic or another probe of features with classes into it"
        raise InputError("path", found, "curves of probes on classes", advice)
    frame = inequalities.table(shared)
    if out is not None:
        create_atomic(out, frame.write_csv if out.suffix == ".csv" else frame.write_parquet)
    written = [] if out is None else [out]
    if json:
        splits = [curve.on(split) for curve in shared for split in (curve.split, *curve.others)]
        records = [
            {
                "features": curve.features,
                "score": curve.score,
                "described": curve.described,
                "parts": curve.parts.family,
                "split": curve.split,
                "sizes": found.frame.to_dicts(),
                "trade_off": found.trade_off.to_dicts(),
            }
            for curve, found in zip(splits, map(inequalities.inequality, splits), strict=True)
        ]
        print(
            jsonlib.dumps(
                {"inequality": records, "files": [str(file) for file in written]}, ensure_ascii=False
            )
        )
        return
    _print_inequality(shared, written)


def _print_inequality(curves: Sequence[Any], written: Sequence[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    from critmass.inequalities import inequality

    console = Console(width=None if sys.stdout.isatty() else 120)
    caption = (
        "means over repeats; corr.: corrected for finite test rows; null: had every {} lost the same share; "
        "worst: the one of lowest accuracy"
    )
    for curve in curves:
        for split in (curve.split, *curve.others):
            frame = inequality(curve.on(split)).frame
            for by in frame["by"].unique(maintain_order=True):
                title = f"{curve.features}: {curve.described}, {curve.parts.family} parts, {split}, by {by}"
                table = Table(
                    title=title, title_justify="left", caption=caption.format(by), caption_justify="left"
                )
                for name in ("size", "accuracy", "Gini", "null", "CoV", "corr.", "95% interval", "null"):
                    table.add_column(name, justify="right")
                for name in ("worst", "accuracy"):
                    table.add_column(name, justify="right")
                for row in frame.filter(by=by).iter_rows(named=True):
                    interval = [_three(row["cov_low"]), _three(row["cov_high"])]
                    table.add_row(
                        str(row["size"]),
                        *(
                            _three(row[name])
                            for name in ("accuracy", "gini", "gini_null", "cov", "cov_corrected")
                        ),
                        " to ".join(interval) if "none" not in interval else "none",
                        _three(row["cov_null"]),
                        row["worst"],
                        _three(row["worst_accuracy"]),
                    )
                console.print(table)
    for path in written:
        print(f"wrote {path}")


def _three(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
