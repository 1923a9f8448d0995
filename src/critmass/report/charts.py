"""Curves -> charts: one Altair definition each, from a table that the user can also get.

Needs the `report` extra. Colours are Okabe and Ito's, told apart by colour-blind readers and in print. Where
there are more lines than colours, dashes tell the next ones apart, and bands, which would cover one another,
are left out. Legends stand below the plot, in as many columns as fit its width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from critmass.curves.curve import Curve
from critmass.errors import InputError, require
from critmass.io.files import write_atomic
from critmass.parts.families import units_of

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A900")
"""Okabe and Ito's, their yellow darkened: it is drawn on white."""
DASHES = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3), (14, 4), (5, 2, 1, 2, 1, 2))
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
WIDTH, HEIGHT = 640, 420
LABEL = 280
"""Pixels of a legend's label at most."""
SCORE_LABELS = {
    "ridge": "ridge probe",
    "logistic": "logistic probe",
    "sgd": "SGD probe",
    "knn": "nearest neighbours",
    "centroid": "nearest class mean",
    "neighbour-overlap": "neighbour overlap",
    "cka": "CKA",
    "cka-biased": "CKA (biased)",
    "cka-minibatch": "CKA (minibatch)",
}
_PURPOSE = "drawing charts"


def curve_table(curves: Iterable[Curve]) -> pl.DataFrame:
    """Return, for each curve and size, the mean, lowest and highest share of the whole's score."""
    frames = [
        by_size(curve.frame, "ratio").select(pl.lit(label).alias("curve"), pl.all())
        for label, curve in labelled(curves)
    ]
    return pl.concat(frames)


def by_size(frame: pl.DataFrame, value: str) -> pl.DataFrame:
    """Return the mean, lowest and highest of a column at each size."""
    column = pl.col(value)
    sizes = frame.group_by("size", "fraction", maintain_order=True)
    return sizes.agg(mean=column.mean(), low=column.min(), high=column.max())


def redundancy_table(curves: Iterable[Curve], deltas: Sequence[float]) -> pl.DataFrame:
    """Return the headline DR, its interval and its critical mass for each curve and δ."""
    rows = [
        {
            "curve": label,
            "delta": delta,
            "dr": r.headline,
            "low": bracket.dr_low,
            "high": bracket.dr_high,
            "critical_mass": r.headline_mass,
        }
        for label, curve in labelled(curves)
        for delta in deltas
        for r in [curve.redundancy(delta)]
        for bracket in [curve.bracket(r)]
    ]
    return pl.DataFrame(rows, schema_overrides={"low": pl.Float64, "high": pl.Float64})


def labelled(curves: Iterable[Curve]) -> list[tuple[str, Curve]]:
    """Return each curve with the shortest label that tells it from the others; its name where it has one."""
    curves = list(curves)
    parts = {
        "features": [curve.features for curve in curves],
        "score": [SCORE_LABELS.get(curve.score, curve.score) for curve in curves],
        "parts": [curve.parts.family for curve in curves],
        "metric": [curve.metric or "" for curve in curves],
        "regularisation": [_penalty(curve) for curve in curves],
        "seed": [f"seed {curve.spec['seed']}" for curve in curves],
        "cell": [curve.id for curve in curves],
    }
    keys = ["score", *(key for key in ("features", "parts") if len(set(parts[key])) > 1)]
    for key in ("metric", "regularisation", "seed", "cell"):
        if len(set(_joined(parts, keys))) < len(curves) and len(set(parts[key])) > 1:
            keys.append(key)
    found = [curve.name or label for curve, label in zip(curves, _joined(parts, keys), strict=True)]
    if len(set(found)) < len(curves):
        found = [
            f"{label}, {curve.id}" if found.count(label) > 1 else label
            for label, curve in zip(found, curves, strict=True)
        ]
    return list(zip(found, curves, strict=True))


def _penalty(curve: Curve) -> str:
    penalty = curve.spec["settings"].get("regularisation")
    return "λ chosen" if penalty is None else f"λ = {penalty:g}"


def _joined(parts: dict[str, list[str]], keys: Sequence[str]) -> list[str]:
    return [", ".join(filter(None, values)) for values in zip(*(parts[key] for key in keys), strict=True)]


def curve_chart(curves: Sequence[Curve], *, delta: float = 0.9) -> Any:
    """Return the chart of the share of the whole's score against the number of neurons, with DR(δ) marked."""
    alt = altair()
    table, marks = curve_table(curves), redundancy_table(curves, [delta])
    domain = [min(table["size"]), max(table["size"])]
    units = units_of(curve.unit for curve in curves)
    axis = {"scale": alt.Scale(type="log", domain=domain, nice=False), "title": f"{units} kept"}
    look = lines_of("curve", table["curve"].unique(maintain_order=True).to_list())
    base = alt.Chart(values(table)).encode(x=alt.X("size:Q", **axis), color=look["color"])
    top, bottom = max(1.0, *table["high"]), min(0.0, *table["low"])
    unit, percent = alt.Scale(domain=[bottom, top], nice=False), alt.Axis(format=".0%")
    shown = ["curve:N", "size:Q", "mean:Q", "low:Q", "high:Q"]
    tooltip = [alt.Tooltip(name, format=".4~g" if name.endswith("Q") else "") for name in shown]
    band = base.mark_area(opacity=0.22).encode(y=alt.Y("low:Q"), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("mean:Q", title="share of the whole's score", axis=percent, scale=unit),
        tooltip=tooltip,
        **look,
    )
    threshold = (
        alt.Chart(alt.InlineData(values=[{"delta": delta}]))
        .mark_rule(strokeDash=[4, 4], color="#666666")
        .encode(y="delta:Q")
    )
    points = (
        alt.Chart(values(marks))
        .mark_point(filled=True, size=90, opacity=1)
        .encode(x=alt.X("critical_mass:Q", **axis), y="delta:Q", color=look["color"])
    )
    title = f"Score of parts of a layer, as a share of the whole's; points: critical mass at δ = {delta:g}"
    bands = [band] if len(curves) <= len(COLOURS) else []
    return styled(_sized(alt.layer(*bands, line, threshold, points)), title)


def redundancy_chart(curves: Sequence[Curve], *, deltas: Sequence[float] | None = None) -> Any:
    """Return the chart of DR against δ, its 95% interval shaded where there is one."""
    alt = altair()
    grid = [round(float(value), 4) for value in np.linspace(0.8, 1.0, 41)] if deltas is None else deltas
    table = redundancy_table(curves, grid)
    look = lines_of("curve", table["curve"].unique(maintain_order=True).to_list())
    base = alt.Chart(values(table)).encode(
        x=alt.X(
            "delta:Q", title="share of the score to keep, δ", scale=alt.Scale(domain=[min(grid), max(grid)])
        ),
        color=look["color"],
    )
    band = base.mark_area(opacity=0.22).encode(y=alt.Y("low:Q"), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("dr:Q", title="diffused redundancy DR(δ)", scale=alt.Scale(domain=[0, 1])),
        tooltip=["curve:N", "delta:Q", "dr:Q", "low:Q", "high:Q"],
        **look,
    )
    bands = [band] if len(curves) <= len(COLOURS) else []
    units = units_of(curve.unit for curve in curves)
    return styled(_sized(alt.layer(*bands, line)), f"Share of {units} that can be dropped")


def write_chart(chart: Any, path: Path) -> None:
    """Write a chart as .svg, .png, .pdf, or .json (its Vega-Lite definition), by the path's suffix."""
    converter = require("vl_convert", package="vl-convert-python", extra="report", purpose=_PURPOSE)
    text = chart.to_json(indent=None)
    if path.suffix == ".svg":
        data = converter.vegalite_to_svg(text).encode()
    elif path.suffix == ".png":
        data = converter.vegalite_to_png(text, scale=2)
    elif path.suffix == ".pdf":
        data = converter.vegalite_to_pdf(text)
    elif path.suffix == ".json":
        data = text.encode()
    else:
        raise InputError("chart file", path.name, ".svg, .png, .pdf or .json")
    write_atomic(path, data)


def altair() -> Any:
    """Return the altair module, or raise MissingExtraError."""
    return require("altair", package="altair", extra="report", purpose=_PURPOSE)


def values(table: pl.DataFrame) -> Any:
    """Return a table as the data of a chart."""
    return altair().InlineData(values=table.to_dicts())


def lines_of(
    column: str, names: Sequence[str], *, width: int = WIDTH, shapes: bool = False
) -> dict[str, Any]:
    """Return the encodings, by channel, that tell the lines of these names apart, with one legend below.

    Each name has a pair of its own: of a colour and a dash; with `shapes`, where dashes mean something else,
    of a colour and a shape of points. Up to as many names as colours, colours alone tell them apart.
    """
    alt = altair()
    longest = max(map(len, names), default=0)
    columns = max(1, int(width / (min(6 * longest, LABEL) + 30)))
    legend = alt.Legend(
        title=None,
        orient="bottom",
        columns=min(columns, 4),
        labelLimit=LABEL,
        symbolOpacity=1,
        symbolSize=80 if shapes else 300,
        rowPadding=0,
        **({} if shapes else {"symbolType": "stroke"}),
    )
    marks = SHAPES if shapes else [*DASHES, *((20 + 8 * i, 4) for i in range(len(names)))]
    pairs = list(itertools.islice(itertools.product(marks, COLOURS), len(names)))
    colours, others = [colour for _, colour in pairs], [mark for mark, _ in pairs]
    found = {"color": alt.Color(f"{column}:N", scale=alt.Scale(domain=names, range=colours), legend=legend)}
    if len(names) > len(COLOURS):
        channel, encoding = ("shape", alt.Shape) if shapes else ("strokeDash", alt.StrokeDash)
        found[channel] = encoding(f"{column}:N", scale=alt.Scale(domain=names, range=others), legend=legend)
    return found


def _sized(chart: Any) -> Any:
    return chart.properties(width=WIDTH, height=HEIGHT)


def styled(chart: Any, title: str) -> Any:
    """Return a chart in the style of all of ours, with its title."""
    return (
        chart.properties(title=title, background="white")
        .configure_title(anchor="start", fontSize=14, fontWeight=600)
        .configure_axis(labelFontSize=12, titleFontSize=12, gridColor="#e6e6e6")
        .configure_legend(labelFontSize=12, symbolStrokeWidth=3)
        .configure_view(strokeWidth=0)
    )
