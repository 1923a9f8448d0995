"""The figures and tables of a study: the paper's, and anyone's, drawn from the study's own tables.

Each figure is a table first (`figure_table`), which is written beside its chart. Lines are means over
repeats, bands their lowest and highest; facets are datasets. Models are grouped by the labels that the
study gives them: architecture, data, loss, width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from critmass.errors import InputError, unknown, verbatim
from critmass.io.files import create_atomic
from critmass.parts.families import units_of
from critmass.parts.making import make_family
from critmass.report.charts import COLOURS, altair, lines_of, styled, values, write_chart
from critmass.report.study_tables import (
    Results,
    _accuracy,
    _cka,
    _families,
    _grouped,
    _inequality,
    _layers,
    _pairs,
    _redundancy,
    _shift,
    published_rows,
    redundancy_rows,
)
from critmass.studies.config import Study
from critmass.studies.tables import load

PANELS = ((600, 380), (370, 260), (260, 200))
"""Width and height of a panel where there are one, two or more of them side by side, in pixels."""


@dataclass(frozen=True)
class Figure:
    """A figure: where its numbers come from, and what is on which axis.

    Attributes
    ----------
    rows : callable (Results) -> DataFrame
        The table that is drawn: a column for each of `x`, `y`, `colour` and `facet`; low and high where there
        is a band.
    detail : str, optional
        Column of which each value is a line of its own, in its group's colour.
    dash : str, optional
        Column told apart by dashes.
    """

    description: str
    rows: Callable[[Results], pl.DataFrame]
    x: str
    y: str
    colour: str
    titles: tuple[str, str]
    facet: str = "dataset"
    detail: str | None = None
    dash: str | None = None
    log: bool = False


_SCORE, _SHARE = "test performance of the probe", "share of the whole's performance"
_FRACTION, _NEURONS = "fraction of neurons kept", "neurons kept"
FIGURES = {
    "accuracy": Figure(
        "performance against the fraction kept", _accuracy, "fraction", "mean", "model", (_FRACTION, _SCORE)
    ),
    "accuracy-neurons": Figure(
        "performance against the number kept",
        _accuracy,
        "size",
        "mean",
        "model",
        (_NEURONS, _SCORE),
        log=True,
    ),
    "cka": Figure(
        "CKA with the whole against the fraction kept", _cka, "fraction", "mean", "model", (_FRACTION, "CKA")
    ),
    "cka-neurons": Figure(
        "CKA with the whole against the number kept",
        _cka,
        "size",
        "mean",
        "model",
        (_NEURONS, "CKA"),
        log=True,
    ),
    "redundancy": Figure(
        "DR against δ",
        _redundancy,
        "delta",
        "dr",
        "model",
        ("share of the performance to keep, δ", "diffused redundancy DR(δ)"),
        dash="kind",
    ),
    "pairs": Figure(
        "CKA of pairs of random parts",
        _pairs,
        "fraction",
        "mean",
        "model",
        (_FRACTION, "CKA of two parts"),
        dash="pairs",
    ),
    **{
        name: Figure(
            f"share kept, models grouped by {label}",
            _grouped(label),
            x,
            "mean",
            label,
            (_FRACTION if x == "fraction" else _NEURONS, _SHARE),
            detail="model",
            log=x == "size",
        )
        for name, label, x in (
            ("architectures", "architecture", "fraction"),
            ("upstream-data", "data", "fraction"),
            ("upstream-loss", "loss", "fraction"),
            ("widths", "width", "fraction"),
            ("widths-neurons", "width", "size"),
        )
    },
    "families": Figure(
        "families of parts on one axis", _families, "size", "mean", "parts", (_NEURONS, _SCORE), log=True
    ),
    "gini": Figure(
        "Gini index of the classes' accuracies against accuracy",
        _inequality("gini"),
        "accuracy",
        "mean",
        "model",
        ("accuracy", "Gini index over classes"),
        dash="kind",
    ),
    "variation": Figure(
        "coefficient of variation of the classes' accuracies against accuracy",
        _inequality("cov"),
        "accuracy",
        "mean",
        "model",
        ("accuracy", "coefficient of variation over classes"),
        dash="kind",
    ),
    "shift": Figure(
        "performance on the test split and on shifted ones",
        _shift,
        "fraction",
        "mean",
        "split",
        (_FRACTION, _SCORE),
    ),
    "layers": Figure(
        "performance of several layers", _layers, "fraction", "mean", "layer", (_FRACTION, _SCORE)
    ),
}
TABLES = {
    "table1": "DR(0.9) of each model on each dataset",
    "published": "published values, and ours beside them",
}


def figure_table(name: str, study: Study, *, out: Path | None = None) -> pl.DataFrame:
    """Return the table behind a figure of a study, or a table that is one.

    Raises
    ------
    InputError
        For an unknown name, or a study that has not measured what the figure shows.
    """
    if name not in {**FIGURES, **TABLES}:
        raise unknown("figure", name, {**FIGURES, **TABLES})
    results = Results(study, load(study, out=out))
    table = TABLE_ROWS[name](results) if name in TABLE_ROWS else FIGURES[name].rows(results)
    if not len(table):
        what = TABLES.get(name) or FIGURES[name].description
        raise InputError(
            f"figure {name}",
            verbatim(f"no finished cells for it in study {study.name!r}"),
            what,
            "critmass study run",
        )
    return table


def drawable(study: Study, *, out: Path | None = None) -> list[str]:
    """Return the names of the figures and tables for which a study has finished cells."""
    results = Results(study, load(study, out=out))
    makers = {**{name: figure.rows for name, figure in FIGURES.items()}, **TABLE_ROWS}
    return [name for name, rows in makers.items() if len(rows(results))]


TABLE_ROWS = {"table1": redundancy_rows, "published": published_rows}


def figure_chart(name: str, table: pl.DataFrame) -> Any:
    """Return the chart of a figure's table."""
    alt, figure = altair(), FIGURES[name]
    if figure.colour not in table.columns:
        raise InputError(
            f"figure {name}", verbatim(f"no {figure.colour}"), f"models with a label {figure.colour!r}"
        )
    groups = sorted(table[figure.colour].unique().to_list(), key=natural)
    facets = table[figure.facet].n_unique()
    columns = min(len(PANELS), facets)
    width, height = PANELS[columns - 1]
    look = lines_of(figure.colour, groups, width=columns * width, shapes=figure.dash is not None)
    kept = figure.titles[0]
    if "parts" in table.columns:
        families = table["parts"].unique(maintain_order=True)
        kept = kept.replace("neurons", units_of(make_family(family).unit for family in families))
    scale = alt.Scale(zero=False) if figure.y == "mean" else alt.Scale(domain=[0, 1])
    lower, upper = table[figure.x].min(), table[figure.x].max()
    x = alt.X(
        f"{figure.x}:Q",
        title=kept,
        scale=alt.Scale(
            type="log" if figure.log else "linear", domain=[lower, upper], nice=False, zero=False
        ),
    )
    shape = look.pop("shape", None)
    shared: dict[str, Any] = {"x": x, **look}
    if figure.detail:
        shared["detail"] = f"{figure.detail}:N"
    if figure.dash:
        kinds = table[figure.dash].unique(maintain_order=True).to_list()
        dashes = [[1, 0], [5, 3], [2, 2]][: len(kinds)]
        shared["strokeDash"] = alt.StrokeDash(
            f"{figure.dash}:N",
            scale=alt.Scale(domain=kinds, range=dashes),
            legend=alt.Legend(title=None, orient="top", symbolStrokeColor="#333333", labelLimit=400),
        )
    base = alt.Chart().encode(**shared)
    y = alt.Y(f"{figure.y}:Q", title=figure.titles[1], scale=scale)
    layers = [base.mark_line(strokeWidth=2).encode(y=y, order=f"{figure.x}:Q")]
    if shape is not None:
        layers.append(base.mark_point(filled=True, size=30, opacity=1).encode(y=y, shape=shape))
    if "low" in table.columns and len(groups) <= len(COLOURS):
        band = {key: value for key, value in shared.items() if key != "strokeDash"}
        if figure.dash:
            band["detail"] = f"{figure.dash}:N"
        layers.insert(0, alt.Chart().mark_area(opacity=0.15).encode(y=alt.Y("low:Q"), y2="high:Q", **band))
    chart = alt.layer(*layers, data=values(table)).properties(width=width, height=height)
    chart = chart.facet(
        facet=alt.Facet(
            f"{figure.facet}:N", title=None, header=alt.Header(labelFontSize=12, labelFontWeight=600)
        ),
        columns=columns,
    ).resolve_scale(x="independent", y="independent")
    return styled(chart, figure.description[0].upper() + figure.description[1:])


def write_figure(name: str, study: Study, *, out: Path | None = None, into: Path | None = None) -> list[Path]:
    """Write a figure of a study as NAME.csv, NAME.svg and NAME.png; a table as NAME.csv."""
    table = figure_table(name, study, out=out)
    folder = into or (out or study.folder) / "figures"
    written = [folder / f"{name}.csv"]
    create_atomic(written[0], table.write_csv)
    if name in FIGURES:
        chart = figure_chart(name, table)
        for suffix in (".svg", ".png"):
            written.append(folder / f"{name}{suffix}")
            write_chart(chart, written[-1])
    return written


def natural(text: str) -> tuple[int, str]:
    """Return a key that puts numbers in numerical order, before words."""
    return (int(text), "") if text.isdigit() else (10**9, text)
