"""The command inequality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from critmass.cli.options import Json, Reading, Tokens, sizes_of
from critmass.cli.printing import in_json, shown, tables, visible
from critmass.errors import InputError, verbatim

if TYPE_CHECKING:
    from critmass.curves.curve import Curve

Shown = Mapping[str, Sequence[int]]
"""Sizes to show of a curve, by its id."""

FEW = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Fractions whose nearest measured sizes are shown where none are asked for."""


def inequality(
    path: Path,
    *,
    sizes: Tokens = (),
    out: Path | None = None,
    reading: Reading = Reading(),
    json: Json = False,
) -> None:
    """Show how unevenly accuracy is shared among classes and groups as neurons are dropped.

    Example: critmass inequality results --sizes .05 .1 .5 --out inequality.csv

    Parameters
    ----------
    path
        A folder that measure --out wrote, whose probes on classes are shown; or features, which are measured
        with the defaults of measure.
    sizes
        all, paper, or numbers: 128 is 128 neurons, .1 a tenth of them; of features, the sizes to measure. By
        default a few rows are printed, and all are written to --out and --json.
    out
        Table over all curves and test splits to write, .csv or .parquet.
    json
        Print one JSON object.
    """
    import polars as pl

    from critmass.curves import inequality as inequalities
    from critmass.io.files import create_atomic

    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise InputError("--out", str(out), "a file name that ends in .csv or .parquet")
    curves = _curves(path, sizes, reading)
    wanted = _wanted(curves, sizes)
    frame = pl.concat(
        inequalities.table([curve]).filter(pl.col("size").is_in(wanted[curve.id])) for curve in curves
    )
    if out is not None:
        create_atomic(out, frame.write_csv if out.suffix == ".csv" else frame.write_parquet)
    written = [] if out is None else [out]
    if json:
        _print_json(curves, wanted, written)
        return
    few = {curve.id: _few(curve) for curve in curves}
    _print_tables(curves, wanted if sizes else few)
    for file in written:
        print(visible(f"wrote {file}"))


def _curves(path: Path, sizes: Sequence[str], reading: Reading) -> list[Curve]:
    """Return the curves with accuracies by class in a results folder, or of features."""
    from critmass.curves import measure as measuring
    from critmass.curves.cells import CELLS, load_curves

    if not (path / CELLS).is_dir():
        with shown() as progress:
            asked = sizes_of(sizes) if sizes else "paper"
            curves = [measuring.measure(reading.open(path), sizes=asked, progress=progress)]
    elif reading == Reading():
        curves = load_curves(path)
    else:
        given = verbatim("options that say how features are read")
        raise InputError(
            "path", given, "these with features", "leave them out: results are of features that were read"
        )
    shared = [curve for curve in curves if curve.measurement.by_class is not None]
    if not shared:
        found = verbatim(
            ", ".join(sorted({curve.score for curve in curves})) + " without accuracies by class"
        )
        advice = "measure ridge, logistic or another probe of features with classes into it"
        raise InputError("path", found, "curves of probes on classes", advice)
    return shared


def _wanted(curves: Sequence[Curve], sizes: Sequence[str]) -> Shown:
    """Return the measured sizes among those asked for, all of them where none are; the whole among them."""
    from critmass.parts.sizes import resolve_sizes

    if not sizes:
        return {curve.id: curve.sizes.tolist() for curve in curves}
    asked, found = sizes_of(sizes), {}
    for curve in curves:
        measured = curve.sizes.tolist()
        found[curve.id] = [
            size for size in resolve_sizes(asked, curve.n_neurons).tolist() if size in measured
        ]
        if found[curve.id] == [curve.n_neurons] and curve.n_neurons > 1 and not isinstance(asked, str):
            known = ", ".join(map(str, _few(curve)))
            raise InputError(
                "sizes",
                asked,
                f"measured ones, such as {known}",
                f"{len(measured)} sizes of it were measured",
            )
    return found


def _few(curve: Curve) -> list[int]:
    """Return the measured sizes nearest to a few fractions of the layer."""
    sizes = curve.sizes
    return sorted({int(sizes[abs(sizes - share * curve.n_neurons).argmin()]) for share in FEW})


def _print_json(curves: Sequence[Curve], wanted: Shown, written: Sequence[Path]) -> None:
    import polars as pl

    from critmass.curves.inequality import inequality

    records = []
    for curve in curves:
        rows = pl.col("size").is_in(wanted[curve.id])
        for split in (curve.split, *curve.others):
            found = inequality(curve.on(split))
            records.append(
                {
                    "name": curve.name,
                    "features": curve.features,
                    "score": curve.score,
                    "described": curve.described,
                    "parts": curve.parts.family,
                    "split": split,
                    "rows": curve.rows.get(split),
                    "sizes": found.frame.filter(rows).to_dicts(),
                    "trade_off": found.trade_off.filter(rows).to_dicts(),
                }
            )
    files = [str(file) for file in written]
    print(in_json({"inequality": records, "files": files}))


def _print_tables(curves: Sequence[Curve], wanted: Shown) -> None:
    import polars as pl
    from rich.table import Table

    from critmass.curves.inequality import inequality

    console = tables()
    for curve in curves:
        rows, count = pl.col("size").is_in(wanted[curve.id]), len(curve.sizes)
        left = (
            ""
            if len(wanted[curve.id]) == count
            else f"{len(wanted[curve.id])} of {count} sizes (--sizes all); "
        )
        for split in (curve.split, *curve.others):
            frame = inequality(curve.on(split)).frame.filter(rows)
            for by in frame["by"].unique(maintain_order=True):
                caption = (
                    f"{left}means over repeats; corrected: for finite test rows, with its 95% interval; "
                    f"null: what it would be had every {by} lost the same share"
                )
                table = Table(
                    title=visible(
                        f"{curve.title}, {split} ({curve.rows.get(split, 'unknown')} rows), by {by}"
                    ),
                    title_justify="left",
                    caption=caption,
                    caption_justify="left",
                )
                names = ("accuracy", "Gini", "Gini null", "CoV", "CoV corrected", "95% interval", "CoV null")
                for name in (curve.unit, *names, f"worst {by}", "its accuracy"):
                    table.add_column(name, justify="right", no_wrap=name == "95% interval")
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
                        visible(row["worst"]),
                        _three(row["worst_accuracy"]),
                    )
                console.print(table)


def _three(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
