"""A study's finished cells as the tables behind its figures: one function for each, of the cells alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from critmass.curves.curve import Curve
from critmass.curves.inequality import inequality
from critmass.curves.redundancy import Redundancy
from critmass.report.charts import by_size
from critmass.studies.config import Study
from critmass.studies.plan import Cell

DELTAS = tuple(round(0.8 + 0.005 * step, 3) for step in range(41))


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
