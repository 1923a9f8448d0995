"""How fast the probes' arithmetic is, and how time grows with rows, neurons, classes and parts (a plot)."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

import critmass as cm
from critmass.files import write_atomic
from critmass.scores import logistic_solvers

PLOT = Path(__file__).parents[1] / "docs" / "images" / "scaling.svg"
BASE = {"rows": 4000, "neurons": 512, "classes": 10, "repeats": 5}
GRID = {
    "rows": (1000, 2000, 4000, 8000, 16000),
    "neurons": (128, 256, 512, 1024),
    "classes": (2, 10, 50, 200),
    "repeats": (1, 2, 5, 10),
}
SCORES = {"ridge": {}, "logistic": {"regularisation": 40.0}, "sgd": {"settings": {"epochs": 10}}}


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rates(fs: cm.Features) -> list[tuple[str, str, str]]:
    """Return rows of the table: the rate of logistic's products beside the machine's; draw the plot."""
    a = np.random.default_rng(0).normal(size=(2048, 2048)).astype(np.float32)
    peak = 2 * 2048**3 / min(seconds(lambda: a @ a) for _ in range(5)) / 1e9
    done = {"operations": 0.0, "seconds": 0.0}
    evaluate = logistic_solvers.evaluate

    def counted(rows, sides):
        n = rows.split.x.shape[0]
        start = time.perf_counter()
        found = evaluate(rows, sides)
        done["seconds"] += time.perf_counter() - start
        # Twice each product (outputs, gradient), 2 operations a weight and row; zeros of padding not counted out.
        done["operations"] += 4.0 * n * sum(operand.size for side in sides for operand in side.operands)
        return found

    logistic_solvers.evaluate = counted
    whole = seconds(lambda: cm.measure(fs, score="logistic", regularisation=100.0))
    logistic_solvers.evaluate = evaluate
    inside = done["operations"] / done["seconds"] / 1e9
    draw()
    return [
        (
            "logistic, λ = 100: rate of the passes over the rows (float32 products, softmax and all), beside one "
            "2,048 x 2,048 float32 product",
            f"{inside:.0f} of {peak:.0f} Gflop/s ({inside / peak:.0%}; passes are {done['seconds'] / whole:.0%} of the time)",
            "",
        )
    ]


def draw() -> None:
    """Measure and draw seconds against each dimension, the others held."""
    records = []
    for what, values in GRID.items():
        for value in values:
            shape = {**BASE, what: value}
            fs = made(shape["rows"], shape["neurons"], shape["classes"])
            for score, options in SCORES.items():
                work = functools.partial(cm.measure, fs, score=score, repeats=shape["repeats"], **options)
                spent = min(seconds(work) for _ in range(2))
                records.append({"what": what, "value": value, "score": score, "seconds": spent})
                print(what, value, score, f"{spent:.2f} s", flush=True)
    base = ", ".join(f"{value:,} {name}" for name, value in BASE.items())
    chart = (
        alt.Chart(pl.DataFrame(records))
        .mark_line(point=True)
        .encode(
            x=alt.X("value:Q", scale=alt.Scale(type="log"), title=None),
            y=alt.Y("seconds:Q", scale=alt.Scale(type="log")),
            color=alt.Color("score:N", scale=alt.Scale(range=["#0072B2", "#D55E00", "#009E73"])),
        )
        .properties(width=230, height=180)
        .facet(alt.Facet("what:N", sort=list(GRID), title=None), columns=2)
        .resolve_scale(x="independent")
        .properties(
            title=f"paper's sizes; where not on the axis: {base}; ridge 8 λ, logistic one λ, sgd 10 epochs"
        )
    )
    import vl_convert

    write_atomic(PLOT, vl_convert.vegalite_to_svg(chart.to_json()).encode())


def made(n: int, d: int, classes: int) -> cm.Features:
    """Return made-up rows: class means of norm 3 in correlated noise, float32, and 1,000 test rows."""
    generator = np.random.default_rng(0)
    y = np.arange(n + 1000) % classes
    means = generator.normal(size=(classes, d)) * 3 / np.sqrt(d)
    mix = generator.normal(size=(d, d)) / np.sqrt(d)
    x = (means[y] + generator.normal(size=(n + 1000, d)) @ mix).astype(np.float32)
    return cm.Features.from_arrays((x[:n], y[:n]), test=(x[n:], y[n:]))
