"""The page: a summary and charts in one HTML file that needs nothing else. Two runs give the same bytes."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path

from critmass.curves.cells import load_curves
from critmass.curves.curve import Curve
from critmass.curves.redundancy import check_deltas
from critmass.errors import require
from critmass.io.files import write_atomic
from critmass.report import charts
from critmass.report.summary import COARSE, COLUMNS, DELTAS, NOTE, row, rows_in_words, summary


def write_report(folder: Path, *, deltas: Sequence[float] = DELTAS) -> list[Path]:
    """Write curve.svg, curve.png, redundancy.svg, redundancy.png and report.html from a results folder.

    Raises
    ------
    InputError
        If `folder` holds no results.
    """
    check_deltas(deltas)
    curves = load_curves(folder)
    headline = deltas[min(1, len(deltas) - 1)]
    drawn = {
        "curve": charts.curve_chart(curves, delta=headline),
        "redundancy": charts.redundancy_chart(curves),
    }
    written = []
    for name, chart in drawn.items():
        for suffix in (".svg", ".png"):
            written.append(folder / f"{name}{suffix}")
            charts.write_chart(chart, written[-1])
    svgs = {name: (folder / f"{name}.svg").read_text() for name in drawn}
    written.append(folder / "report.html")
    write_atomic(written[-1], _page(curves, deltas, headline, svgs).encode())
    return written


def _page(curves: Sequence[Curve], deltas: Sequence[float], headline: float, svgs: dict[str, str]) -> str:
    jinja = require("jinja2", package="jinja2", extra="report", purpose="writing a report")
    text = importlib.resources.files("critmass.report").joinpath("page.html.j2").read_text()
    environment = jinja.Environment(autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True)
    page: str = environment.from_string(text).render(
        curves=charts.labelled(curves),
        records=summary(curves, deltas)["redundancy"],
        headline=headline,
        columns=COLUMNS,
        row=row,
        note=NOTE,
        coarse=COARSE if any(len(curve.sizes) < curve.n_neurons for curve in curves) else "",
        bands=len(curves) <= len(charts.COLOURS),
        rows_in_words=rows_in_words,
        svgs=svgs,
    )
    return page
