"""Logistic against loops over scikit-learn's LogisticRegression: at its default tolerance, and at 1e-6."""

from __future__ import annotations

from sklearn.linear_model import LogisticRegression
from subject import Part, Subject
from timing import Sampled, take_turns

from critmass.scores.logistic import PENALTIES

PER_ROW, STRONG = 0.01, 1.0
"""λ for each training row. At the strong one scikit-learn stops after a few steps."""

TOLERANCES = {1e-4: "scikit-learn's default tolerance", 1e-6: "tol=1e-6"}


def logistic(subject: Subject, counts: tuple[int, int, int]) -> None:
    """Add the rows of one λ, a strong one, and eight; `counts` says how many fits of each loop are timed."""
    levels = [penalty * subject.cut for penalty in PENALTIES]

    def fit(part: Part, penalty: float, tolerance: float, rows: slice, scored: tuple) -> float:
        model = LogisticRegression(C=1 / penalty, tol=tolerance, max_iter=10_000)
        x, y = scored
        return model.fit(subject.x[rows, part], subject.y[rows]).score(x[:, part], y)

    def loop(penalty: float, tolerance: float, count: int) -> Sampled:
        test = (subject.xt, subject.yt)
        return subject.loop(
            lambda part: fit(part, penalty, tolerance, slice(None), test), subject.paper, count=count
        )

    def grid(tolerance: float) -> Sampled:
        cut = subject.cut
        held_out = (subject.x[cut:], subject.y[cut:])
        return subject.loop(
            lambda part, level: fit(part, level, tolerance, slice(cut), held_out),
            subject.paper,
            levels,
            count=counts[2],
        )

    asked = {"one λ": PER_ROW * subject.n, "one strong λ": STRONG * subject.n}
    curves = {}

    def ours(what: str, penalty: float | None) -> None:
        curves[what] = subject.measure(score="logistic", regularisation=penalty)

    works = [lambda what=what, penalty=penalty: ours(what, penalty) for what, penalty in asked.items()]
    *one, chosen = take_turns(*works, lambda: ours("8 λ", None), turns=subject.turns)
    for tolerance, named in TOLERANCES.items():
        default = tolerance == 1e-4
        what = f"loop of LogisticRegression fits ({named}), {{}}, paper's sizes x 5 repeats"
        refit = None
        for (kind, penalty), spent, count in zip(asked.items(), one, counts, strict=False):
            found = loop(penalty, tolerance, count)
            refit = refit or found
            wanted = (8 if kind == "one strong λ" else 15) if default else 25
            subject.at_least(what.format(f"{kind} of {penalty:g}"), found, spent, wanted)
            if not default:
                subject.agrees(f"logistic, {kind} ({named})", curves[kind], found, 0.002)
        found = grid(tolerance)
        whole = found._replace(seconds=found.seconds + refit.seconds, chosen=[*found.chosen, *refit.chosen])
        subject.at_least(what.format("8 λ on validation and a refit"), whole, chosen, 50 if default else 100)
    failed = sum(int((~curve.frame["converged"]).sum()) for curve in curves.values())
    subject.add("logistic: fits of ours that did not converge", str(failed), "none", holds=failed == 0)
