"""Where random parts stand between the best and the worst: `make diffusion`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import altair as alt
import claims
import numpy as np
import polars as pl
import vl_convert
from features import banking77, cifar10, imagenette, mnist, wordllama

import critmass as cm

DELTA, REPEATS, SHARE = 0.9, 60, 0.1
ORDERS = {"best": "greedy", "best without labels": "greedy-unlabelled", "worst": "greedy-worst"}
COLOURS = {"best": "#0072B2", "best without labels": "#56B4E9", "random": "#555555", "worst": "#D55E00"}


def score_of(fs: cm.Features) -> str:
    """Return the probe: ridge, or lda for more than 20 classes, which one-vs-rest targets do not suit."""
    return "ridge" if len(fs.classes) <= 20 else "lda"


def measured(fs: cm.Features, *, toy: bool) -> dict[str, cm.Curve]:
    """Return the curves of random parts, and of the orders between which they lie."""
    found = {"random": {"parts": "random", "repeats": 4 if toy else REPEATS}}
    found |= {label: {"parts": parts} for label, parts in ORDERS.items()}
    curves = {}
    for label, asked in found.items():
        print(f"{fs.name}: {label}", file=sys.stderr, flush=True)
        curves[label] = cm.measure(fs, score=score_of(fs), **asked)
    return curves


def row(fs: cm.Features, curves: dict[str, cm.Curve]) -> str:
    """Return the table's row of one set of features."""
    index = int(np.argmin(np.abs(curves["random"].sizes - SHARE * fs.n_neurons)))
    scores = {label: curve.measurement.scores[:, index] for label, curve in curves.items()}
    drs = {label: curve.redundancy(DELTA) for label, curve in curves.items()}
    random = scores["random"]
    cells = [
        f"{fs.name} ({len(fs.classes)} classes, {score_of(fs)})",
        f"{curves['random'].whole:.3f}",
        f"{scores['best'][0]:.3f}",
        f"{scores['best without labels'][0]:.3f}",
        f"{random.mean():.3f} ± {random.std(ddof=1):.3f}",
        f"{scores['worst'][0]:.3f}",
        *(f"{drs[label].dr:.2f}" for label in ("best", "random")),
        f"{drs['random'].nearly_all:.2f}",
        f"{drs['worst'].dr:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def points(fs: cm.Features, curves: dict[str, cm.Curve]) -> Iterator[dict[str, object]]:
    """Yield what is drawn: shares of the whole's score, of random parts the mean and the range."""
    for label, curve in curves.items():
        shares = curve.measurement.scores / curve.whole
        for index, size in enumerate(curve.sizes.tolist()):
            yield {
                "features": f"{fs.name}, {score_of(fs)}",
                "parts": label,
                "fraction": size / fs.n_neurons,
                "mean": float(shares[:, index].mean()),
                "low": float(shares[:, index].min()),
                "high": float(shares[:, index].max()),
            }


def drawing(table: pl.DataFrame) -> str:
    """Return the figure as SVG."""
    base = alt.Chart(table).encode(
        x=alt.X("fraction:Q", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~%")),
        color=alt.Color(
            "parts:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), title=None
        ),
    )
    axis = alt.Axis(format="~%")
    band = base.mark_area(opacity=0.25).encode(
        y=alt.Y("low:Q", title="share of the whole's score", axis=axis), y2="high:Q"
    )
    line = base.mark_line(strokeWidth=2).encode(y=alt.Y("mean:Q", axis=axis))
    threshold = alt.Chart().mark_rule(strokeDash=[4, 4], color="#666666").encode(y=alt.datum(DELTA))
    chart = (
        alt.layer(band, line, threshold, data=table)
        .properties(width=250, height=200)
        .facet(alt.Facet("features:N", sort=None, title=None), columns=3)
    )
    return vl_convert.vegalite_to_svg(chart.to_json())


def main() -> None:
    with claims.run("make diffusion", __doc__) as run:
        makers = (cifar10, mnist, imagenette, banking77, wordllama)
        sets = [make(run) for make in (makers[:2] if run.toy else makers)]
        found = [(fs, measured(fs, toy=run.toy)) for fs in sets]
        lines = [
            f"Random parts: {4 if run.toy else REPEATS} of each of the paper's sizes. DR at δ = {DELTA}.",
            "",
            f"| features | whole | {SHARE:.0%}: best | best without labels | random, mean ± std | worst "
            "| DR best | DR random, mean | DR random, 95% of all parts | DR worst |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *(row(fs, curves) for fs, curves in found),
            "",
            "![Share of the whole's score against the share of neurons kept, for the best, random and worst "
            "parts](images/diffusion.svg)",
        ]
        table = pl.DataFrame([point for fs, curves in found for point in points(fs, curves)])
        run.write({"docs/diffusion.md": "\n".join(lines), "docs/images/diffusion.svg": drawing(table)})


if __name__ == "__main__":
    main()
