"""How time grows with rows, neurons, classes and parts: a plot."""

from __future__ import annotations

import functools

import altair as alt
import numpy as np
import polars as pl
import vl_convert
from timing import seconds

import critmass as cm

BASE = {"rows": 4000, "neurons": 512, "classes": 10, "repeats": 5}
GRID = {
    "rows": (1000, 2000, 4000, 8000, 16000),
    "neurons": (128, 256, 512, 1024),
    "classes": (2, 10, 50, 200),
    "repeats": (1, 2, 5, 10),
}
TOY_BASE = {"rows": 100, "neurons": 16, "classes": 3, "repeats": 2}
TOY_GRID = {"rows": (100, 200), "neurons": (16, 32), "classes": (2, 3), "repeats": (1, 2)}
SCORES = {"ridge": {}, "logistic": {"regularisation": 40.0}, "sgd": {"settings": {"epochs": 10}}}


def plot(*, toy: bool) -> str:
    """Measure and draw seconds against each dimension, the others held; return the drawing as SVG."""
    shared, grid = (TOY_BASE, TOY_GRID) if toy else (BASE, GRID)
    records = []
    for what, values in grid.items():
        for value in values:
            shape = {**shared, what: value}
            fs = made(shape["rows"], shape["neurons"], shape["classes"])
            for score, options in SCORES.items():
                work = functools.partial(cm.measure, fs, score=score, repeats=shape["repeats"], **options)
                spent = min(seconds(work) for _ in range(2))
                records.append({"what": what, "value": value, "score": score, "seconds": spent})
                print(what, value, score, f"{spent:.2f} s", flush=True)
    base = ", ".join(f"{value:,} {name}" for name, value in shared.items())
    chart = (
        alt.Chart(pl.DataFrame(records))
        .mark_line(point=True)
        .encode(
            x=alt.X("value:Q", scale=alt.Scale(type="log"), title=None),
            y=alt.Y("seconds:Q", scale=alt.Scale(type="log")),
            color=alt.Color("score:N", scale=alt.Scale(range=["#0072B2", "#D55E00", "#009E73"])),
        )
        .properties(width=230, height=180)
        .facet(alt.Facet("what:N", sort=list(grid), title=None), columns=2)
        .resolve_scale(x="independent")
        .properties(
            title=f"paper's sizes; where not on the axis: {base}; ridge 8 λ, logistic one λ, sgd 10 epochs"
        )
    )
    return vl_convert.vegalite_to_svg(chart.to_json())


def made(n: int, d: int, classes: int) -> cm.Features:
    """Return made-up rows: class means of norm 3 in correlated noise, float32, and 1,000 test rows."""
    generator = np.random.default_rng(0)
    y = np.arange(n + 1000) % classes
    means = generator.normal(size=(classes, d)) * 3 / np.sqrt(d)
    mix = generator.normal(size=(d, d)) / np.sqrt(d)
    x = (means[y] + generator.normal(size=(n + 1000, d)) @ mix).astype(np.float32)
    return cm.Features.from_arrays((x[:n], y[:n]), test=(x[n:], y[n:]))
