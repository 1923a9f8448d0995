"""The measurements in docs/probes.md, written into it: `make probes`."""

from __future__ import annotations

import sys

import claims
import numpy as np
from features import banking77, cifar10, mnist

import critmass as cm
from critmass.scores import logistic

DELTAS = (0.9, 0.95)

PROBES = {
    "ridge": {},
    "lda": {"score": "lda"},
    "logistic": {"score": "logistic"},
    "sgd (the paper's)": {"score": "sgd"},
    "knn": {"score": "knn"},
    "centroid": {"score": "centroid"},
    "CKA": {"score": "cka"},
    "neighbour-overlap": {"score": "neighbour-overlap"},
    "ridge, not standardised": {"standardise": False},
    "logistic, not standardised": {"score": "logistic", "standardise": False},
    "sgd, standardised": {"score": "sgd", "standardise": True},
}


def table(fs: cm.Features) -> list[str]:
    train, test = fs.splits["train"], fs.splits["test"]
    lines = [
        f"**{fs.name}**: {train.x.shape[0]:,} training and {test.x.shape[0]:,} test rows, d = {fs.n_neurons:,}, "
        f"{len(fs.classes)} classes.",
        "",
        "| score | whole | DR(.9) | 95% interval | DR(.95) | 95% interval | spread (std, worst) at .9 | DR(.9), 95% of all parts |",
        "|---|---|---|---|---|---|---|---|",
    ]
    warnings = []
    for label, options in PROBES.items():
        print(f"{fs.name}: {label}", file=sys.stderr, flush=True)
        curve = cm.measure(fs, **options)
        cells = [f"{curve.whole:.4f}"]
        for delta in DELTAS:
            r = curve.redundancy(delta)
            cells += [f"{r.dr:.3f}", f"{r.low:.3f} to {r.high:.3f}"]
        spread = curve.redundancy(DELTAS[0]).spread
        cells += [f"{spread.std:.3f}, {spread.worst:.3f}", f"{curve.redundancy(DELTAS[0]).nearly_all:.3f}"]
        warnings += [f"{label}: {warning}" for warning in curve.warnings]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return [*lines, "", *(line for warning in warnings for line in (warning, ""))]


def choosing(fs: cm.Features) -> list[str]:
    """What a tighter tolerance of the fits that choose λ would change."""
    print(f"{fs.name}: tolerance of the choice", file=sys.stderr, flush=True)
    curves = {}
    kept = logistic.CHOOSING
    for tolerance in (1e-7, kept):
        logistic.CHOOSING = tolerance
        curves[tolerance] = cm.measure(fs, score="logistic", repeats=2)
    logistic.CHOOSING = kept
    one, other = curves[1e-7].measurement, curves[kept].measurement
    same = np.mean(one.chosen["regularisation"] == other.chosen["regularisation"])
    change = other.scores - one.scores
    drs = [[f"{c.redundancy(delta).dr:.3f}" for delta in DELTAS] for c in curves.values()]
    return [
        f"Choosing λ with fits at tolerance {kept:g} instead of 1e-7 ({fs.name}, 2 repeats): {same:.0%} of the "
        f"choices are the same; scores change by {np.abs(change).mean():.4f} on average ({change.mean():+.4f} with "
        f"sign); DR(.9) {drs[0][0]} and {drs[1][0]}, DR(.95) {drs[0][1]} and {drs[1][1]}.",
    ]


def main() -> None:
    with claims.run("make probes", __doc__) as run:
        sets = [cifar10(run), mnist(run), banking77(run)]
        lines = [line for fs in sets for line in table(fs)] + choosing(sets[0])
        run.write({"docs/probes.md": "\n".join(lines)})


if __name__ == "__main__":
    main()
