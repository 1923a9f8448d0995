"""The figures and tables of a study: the paper's, and anyone's, drawn from the study's own tables.

Each figure is a table first (`figure_table`), which is written beside its chart. Lines are means over
repeats, bands their lowest and highest; facets are datasets. Models are grouped by the labels that the
study gives them: architecture, data, loss, width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from critmass.curves.curve import Curve
from critmass.curves.inequality import inequality
from critmass.curves.redundancy import Redundancy
from critmass.errors import InputError, unknown, verbatim
from critmass.io.files import create_atomic
from critmass.parts.families import units_of
from critmass.parts.making import make_family
from critmass.report.charts import COLOURS, altair, by_size, lines_of, styled, values, write_chart
from critmass.studies.config import Study
from critmass.studies.run import Cell, load

PANELS = ((600, 380), (370, 260), (260, 200))
"""Width and height of a panel where there are one, two or more of them side by side, in pixels."""
DELTAS = tuple(round(0.8 + 0.005 * step, 3) for step in range(41))


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


@dataclass(frozen=True)
class Results:
    """Finished cells of a study."""

    study: Study
    cells: Sequence[tuple[Cell, Curve | pl.DataFrame]]

    def curves(self, **wanted: str) -> list[tuple[dict[str, str], Curve]]:
        """Return the curves whose names (model, dataset, layer, score, parts) are those wanted."""
        found = []
        for cell, curve in self.cells:
            if not isinstance(curve, Curve):
                continue
            labels = self.study.models[cell.job.model].labels
            names = {
                **labels,
                "model": cell.job.model,
                "dataset": cell.job.dataset,
                "layer": cell.layer,
                "score": curve.described,
                "parts": curve.parts.family,
            }
            if all(names.get(key) == value for key, value in wanted.items()):
                found.append((names, curve))
        return found


def probes(results: Results, **wanted: str) -> list[tuple[dict[str, str], Curve]]:
    """Return the curves of trained probes, of one score: the first that the study names."""
    curves = [(names, curve) for names, curve in results.curves(**wanted) if curve.metric is not None]
    return [(names, curve) for names, curve in curves if names["score"] == curves[0][0]["score"]]


def similar(results: Results) -> list[tuple[dict[str, str], Curve]]:
    """Return the curves of random parts' CKA with the whole."""
    return [(names, curve) for names, curve in results.curves(parts="random") if curve.score == "cka"]


def penultimate(curves: Sequence[tuple[dict[str, str], Curve]]) -> list[tuple[dict[str, str], Curve]]:
    """Return the curves of penultimate layers."""
    return [(names, curve) for names, curve in curves if names["layer"] == "penultimate"]


def summarised(curves: Sequence[tuple[Mapping[str, str], Curve]], value: str) -> pl.DataFrame:
    """Return the mean, lowest and highest of a column of each curve's frame over its repeats."""
    frames = [
        by_size(curve.frame, value).select(
            *(pl.lit(name).alias(key) for key, name in names.items()), pl.all()
        )
        for names, curve in curves
    ]
    return pl.concat(frames, how="diagonal") if frames else pl.DataFrame()


def _accuracy(results: Results) -> pl.DataFrame:
    return summarised(penultimate(probes(results, parts="random")), "score")


def _cka(results: Results) -> pl.DataFrame:
    return summarised(penultimate(similar(results)), "score")


def _redundancy(results: Results) -> pl.DataFrame:
    rows = []
    for names, curve in penultimate([*probes(results, parts="random"), *similar(results)]):
        for delta in DELTAS:
            r = curve.redundancy(delta)
            kind = "CKA" if curve.metric is None else "probe"
            rows.append({**names, "kind": kind, "delta": delta, "dr": r.headline, **_interval(curve, r)})
    return pl.DataFrame(rows, infer_schema_length=None)


def _interval(curve: Curve, found: Redundancy) -> dict[str, float | None]:
    """Return the ends of the interval of a DR, as far as the measured sizes tell."""
    bracket = curve.bracket(found)
    return {"low": bracket.dr_low, "high": bracket.dr_high}


def _pairs(results: Results) -> pl.DataFrame:
    frames = []
    for cell, frame in results.cells:
        if isinstance(frame, pl.DataFrame) and cell.layer == "penultimate":
            frames.append(
                by_size(frame, "cka").select(
                    pl.lit(cell.job.model).alias("model"),
                    pl.lit(cell.job.dataset).alias("dataset"),
                    pl.lit(cell.pairs).alias("pairs"),
                    pl.all(),
                )
            )
    return pl.concat(frames) if frames else pl.DataFrame()


def _grouped(label: str) -> Callable[[Results], pl.DataFrame]:
    def rows(results: Results) -> pl.DataFrame:
        curves = penultimate(probes(results, parts="random"))
        return summarised([(names, curve) for names, curve in curves if label in names], "ratio")

    return rows


def _apart(curves: Sequence[tuple[dict[str, str], Curve]], by: str) -> pl.DataFrame:
    """Return the curves of each model on each dataset where they differ in `by`, a facet for each."""
    seen: dict[tuple[str, str], set[str]] = {}
    for names, _ in curves:
        seen.setdefault((names["model"], names["dataset"]), set()).add(names[by])
    chosen = [
        ({**names, "dataset": f"{names['model']}, {names['dataset']}"}, curve)
        for names, curve in curves
        if len(seen[names["model"], names["dataset"]]) > 1
    ]
    return summarised(chosen, "score")


def _families(results: Results) -> pl.DataFrame:
    return _apart(penultimate(probes(results)), "parts")


def _inequality(index: str) -> Callable[[Results], pl.DataFrame]:
    def rows(results: Results) -> pl.DataFrame:
        frames = []
        for names, curve in penultimate(probes(results, parts="random")):
            if curve.classes is None:
                continue
            frame = inequality(curve).frame.filter(pl.col("by") == "class")
            for kind, column in (("measured", index), ("same loss, shared proportionally", f"{index}_null")):
                frames.append(
                    frame.select(
                        *(pl.lit(name).alias(key) for key, name in names.items()),
                        pl.lit(kind).alias("kind"),
                        "size",
                        "fraction",
                        "accuracy",
                        pl.col(column).alias("mean"),
                    )
                )
        return pl.concat(frames, how="diagonal") if frames else pl.DataFrame()

    return rows


def _shift(results: Results) -> pl.DataFrame:
    frames = []
    for names, curve in penultimate(probes(results, parts="random")):
        for split in (curve.split, *curve.others) if curve.others else ():
            labelled = {**names, "dataset": f"{names['model']}, {names['dataset']}", "split": split}
            frames.append(summarised([(labelled, curve.on(split))], "score"))
    return pl.concat(frames, how="diagonal") if frames else pl.DataFrame()


def _layers(results: Results) -> pl.DataFrame:
    return _apart(probes(results, parts="random"), "layer")


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


def redundancy_rows(results: Results, delta: float = 0.9) -> pl.DataFrame:
    """Return DR(δ) of every model on every dataset, random parts of the penultimate layer."""
    rows = []
    for names, curve in penultimate(probes(results, parts="random")):
        r = curve.redundancy(delta)
        rows.append(
            {
                "model": names["model"],
                "dataset": names["dataset"],
                "n_neurons": curve.n_neurons,
                "score": names["score"],
                "whole": curve.whole,
                "delta": delta,
                "dr": r.dr,
                **_interval(curve, r),
                "sustained": r.sustained,
                "spread": r.spread.std,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def published_rows(results: Results) -> pl.DataFrame:
    """Return every published value that the study names, beside what was measured here."""
    rows = []
    for entry in results.study.published:
        record: dict[str, Any] = entry.model_dump()
        for names, curve in penultimate(probes(results, parts=entry.parts)):
            if (names["model"], names["dataset"]) != (entry.model, entry.dataset):
                continue
            record["score"] = names["score"]
            if entry.delta is not None:
                r = curve.redundancy(entry.delta)
                record |= {"ours": r.dr, **_interval(curve, r)}
            else:
                frame = curve.frame.filter(pl.col("size") == entry.size)
                record["ours"] = frame["score"].mean() if len(frame) else None
            rows.append(record)
    return pl.DataFrame(rows, infer_schema_length=None)


TABLE_ROWS = {"table1": redundancy_rows, "published": published_rows}


def figure_chart(name: str, table: pl.DataFrame) -> Any:
    """Return the chart of a figure's table."""
    alt, figure = altair(), FIGURES[name]
    if figure.colour not in table.columns:
        raise InputError(
            f"figure {name}", verbatim(f"no {figure.colour}"), f"models with a label {figure.colour!r}"
        )
    groups = sorted(table[figure.colour].unique().to_list(), key=_natural)
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


def _natural(text: str) -> tuple[int, str]:
    """Return a key that puts numbers in numerical order, before words."""
    return (int(text), "") if text.isdigit() else (10**9, text)
