"""Curves -> charts: one Altair definition each, from a table that the user can also get.

Needs the `report` extra. Colours are Okabe and Ito's, told apart by colour-blind readers and in print.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from critmass.curve import Curve
from critmass.errors import InputError, require
from critmass.files import write_atomic

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
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
            "low": r.low,
            "high": r.high,
            "critical_mass": r.headline_mass,
        }
        for label, curve in labelled(curves)
        for delta in deltas
        for r in [curve.redundancy(delta)]
    ]
    return pl.DataFrame(rows, schema_overrides={"low": pl.Float64, "high": pl.Float64})


def labelled(curves: Iterable[Curve]) -> list[tuple[str, Curve]]:
    """Return each curve with the shortest label that tells it from the others."""
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
    return list(zip(_joined(parts, keys), curves, strict=True))


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
    axis = {"scale": alt.Scale(type="log", domain=domain, nice=False), "title": "neurons kept"}
    colour = _colour(alt, table)
    base = alt.Chart(values(table)).encode(x=alt.X("size:Q", **axis), color=colour)
    top, bottom = max(1.0, *table["high"]), min(0.0, *table["low"])
    unit, percent = alt.Scale(domain=[bottom, top], nice=False), alt.Axis(format=".0%")
    shown = ["curve:N", "size:Q", "mean:Q", "low:Q", "high:Q"]
    tooltip = [alt.Tooltip(name, format=".4~g" if name.endswith("Q") else "") for name in shown]
    band = base.mark_area(opacity=0.22).encode(y=alt.Y("low:Q"), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("mean:Q", title="share of the whole's score", axis=percent, scale=unit), tooltip=tooltip
    )
    threshold = (
        alt.Chart(alt.InlineData(values=[{"delta": delta}]))
        .mark_rule(strokeDash=[4, 4], color="#666666")
        .encode(y="delta:Q")
    )
    points = (
        alt.Chart(values(marks))
        .mark_point(filled=True, size=90, opacity=1)
        .encode(x=alt.X("critical_mass:Q", **axis), y="delta:Q", color=colour)
    )
    title = f"Score of parts of a layer, as a share of the whole's; points: critical mass at δ = {delta:g}"
    return styled(_sized(alt.layer(band, line, threshold, points)), title)


def redundancy_chart(curves: Sequence[Curve], *, deltas: Sequence[float] | None = None) -> Any:
    """Return the chart of DR against δ, its 95% interval shaded where there is one."""
    alt = altair()
    grid = [round(float(value), 4) for value in np.linspace(0.8, 1.0, 41)] if deltas is None else deltas
    table = redundancy_table(curves, grid)
    base = alt.Chart(values(table)).encode(
        x=alt.X(
            "delta:Q", title="share of the score to keep, δ", scale=alt.Scale(domain=[min(grid), max(grid)])
        ),
        color=_colour(alt, table),
    )
    band = base.mark_area(opacity=0.22).encode(y=alt.Y("low:Q"), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("dr:Q", title="diffused redundancy DR(δ)", scale=alt.Scale(domain=[0, 1])),
        tooltip=["curve:N", "delta:Q", "dr:Q", "low:Q", "high:Q"],
    )
    return styled(_sized(alt.layer(band, line)), "Share of neurons that can be dropped")


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


def _colour(alt: Any, table: pl.DataFrame) -> Any:
    names = table["curve"].unique(maintain_order=True).to_list()
    scale = alt.Scale(domain=names, range=[COLOURS[i % len(COLOURS)] for i in range(len(names))])
    return alt.Color("curve:N", scale=scale, legend=alt.Legend(title=None, orient="top", symbolOpacity=1))


def _sized(chart: Any) -> Any:
    return chart.properties(width=560, height=320)


def styled(chart: Any, title: str) -> Any:
    """Return a chart in the style of all of ours, with its title."""
    return (
        chart.properties(title=title, background="white")
        .configure_title(anchor="start", fontSize=14, fontWeight=600)
        .configure_axis(labelFontSize=12, titleFontSize=12, gridColor="#e6e6e6")
        .configure_legend(labelFontSize=12, symbolStrokeWidth=3)
        .configure_view(strokeWidth=0)
    )
