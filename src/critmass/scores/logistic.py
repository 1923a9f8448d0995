"""The logistic probe: test performance of a multinomial logistic regression trained on each part.

The L2-penalised problem of scikit-learn's LogisticRegression, λ being its 1 / C on standardised columns and
intercepts free: softmax for more than two classes, one output and the sigmoid for two. Here: what is fitted
on which rows, how λ is chosen, how rows are scored. The solver is in logistic_solvers.py.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from critmass.errors import InputError
from critmass.features.features import Features
from critmass.features.splits import Split
from critmass.linalg.devices import parallel_map
from critmass.linalg.matrices import BLOCK_ROWS, SCORED_ROWS, Floats, blocks
from critmass.linalg.moments import accumulate
from critmass.parts.plan import Plan
from critmass.progress import counted
from critmass.scores.logistic_fit import Fitter, LogisticFit, Solutions
from critmass.scores.logistic_objective import LANES
from critmass.scores.logistic_solvers import HISTORY
from critmass.scores.probes import ClassWeight, Probe, best, fit_and_validation, held_out, row_weights
from critmass.scores.protocols import Run, check_positive
from critmass.scores.tally import Credit, resolve_metric

PENALTIES = tuple(10.0 ** (-4 + 5 * i / 7) for i in range(8))
"""Default grid: λ divided by the weight of the rows and the mean variance of a column, so free of scale.

From 1e-4, the weight decay of the paper's SGD, to 10, where probes are hardly more than class means.
"""

CHOOSING = 3e-4
"""Tolerance of the fits that only choose λ; docs/probes.md shows what a smaller one would change."""


GIVING_UP = 1.0
"""A probe leaves the path towards smaller λ where it does so many standard errors worse than at its best.

Of a difference of independent samples; as all λ are scored on the same rows, the true one is smaller.
"""


@dataclass(frozen=True)
class Logistic(Probe):
    """Test performance of a logistic probe trained on the part.

    Attributes
    ----------
    regularisation : float or None
        λ, scikit-learn's 1 / C. None chooses it for each size and repeat on validation rows, from
        `PENALTIES`, ties to the larger, and refits on all training rows.
    standardise : bool
        Whether columns are scaled to unit variance of the rows that the probe is fitted on.
    metric : str or None
        "accuracy" (default) or "balanced-accuracy".
    class_weight : None, "balanced" or mapping of class name to weight
        As scikit-learn's. Rows count this much, times their own weight where the features have weights.
    tolerance : float
        A fit has converged where the decrease of the objective to come, as L-BFGS predicts it, is at most
        this share of the objective, and of its decrease from weights of 0. The default leaves objectives
        within 1e-5 of the minimum; for coefficients to three digits use 1e-9.
    iterations : int
        Passes over the rows that a fit may take.
    """

    regularisation: float | None = None
    standardise: bool = True
    metric: str | None = None
    class_weight: ClassWeight = None
    tolerance: float = 3e-7
    iterations: int = 1000

    def __post_init__(self) -> None:
        check_positive(
            regularisation=self.regularisation, tolerance=self.tolerance, iterations=self.iterations
        )
        if not isinstance(self.iterations, int):
            raise InputError("iterations", self.iterations, "a whole number above 0")

    @property
    def name(self) -> str:
        """Name in the registry."""
        return "logistic"

    def memory(self, features: Features, plan: Plan) -> dict[str, float]:
        """Bytes needed, the rows not counted: they are read again at every pass where they do not fit."""
        d, outputs = features.n_neurons, 1 if features.classes is None else len(features.classes)
        probes = outputs * sum(int(group.sizes.sum()) for group in plan.groups)
        squares = 8 * (4 * d * d + 2 * sum(len(group.used) ** 2 for group in plan.groups))
        kept = 4 * probes * (2 * HISTORY + 3 * len(PENALTIES))
        sums = 4 * (LANES + 4) * outputs * d * (plan.n_repeats * len(plan.sizes) + 1)
        reading = 8 * 2 * min(features.splits["train"].x.shape[0], BLOCK_ROWS) * plan.n_columns
        return {"rows": float(squares + kept + sums + reading)}

    def fit(self, features: Features, plan: Plan, run: Run) -> LogisticFit:
        """Fit all sizes and repeats side by side, pass by pass."""
        if features.classes is None:
            raise InputError("score", self.name, "a score for continuous targets", "use ridge")
        train = features.splits["train"]
        weights = row_weights(features, train, self.class_weight)
        held = held_out(features, run.seed) if self.regularisation is None else None
        moments = accumulate(
            train.x,
            weights=weights,
            group_index=held,
            device=run.device,
            name="X of 'train'",
            progress=counted(run.progress, "moments", train.x.shape[0]),
        )
        with parallel_map(run.device) as each:
            make = functools.partial(
                Fitter.of,
                features,
                plan=plan,
                standardise=self.standardise,
                iterations=self.iterations,
                run=run,
                each=each,
            )
            if self.regularisation is None:
                fit_split, validation = fit_and_validation(features, run.seed)
                own = weights if weights is None or held is None else weights[held == 0]
                fitter = make(fit_split, own, moments[0])
                penalties, start = self._choose(fitter, features, validation)
                full = moments[0] if len(moments) == 1 else moments[0] + moments[1]
                penalties *= full.weight / moments[0].weight
                sound = start.table(lambda solution: solution.converged)
            else:
                (full,), start, sound = moments, None, np.array(True)
                penalties = np.full(plan.shape, float(self.regularisation))
            fitter = make(train, weights, full)
            solutions = fitter.fit(penalties, start, self.tolerance, "fitting probes")
        converged = sound & solutions.table(lambda solution: solution.converged)
        return LogisticFit(fitter, solutions, penalties, converged, features.classes)

    def _choose(self, fitter: Fitter, features: Features, validation: Split) -> tuple[Floats, Solutions]:
        """Return the winning λ of each repeat and size and of the whole, and the probes fitted with it."""
        credit = Credit.on(resolve_metric(self.metric, features.task), validation, "validation")
        shape = fitter.plan.shape
        n = validation.x.shape[0]
        scores = np.full((len(PENALTIES), *shape), -1.0)
        path: dict[int, Solutions] = {}
        start: Solutions | None = None
        for index in reversed(range(len(PENALTIES))):  # from the largest: each starts from the ones before
            level = PENALTIES[index] * fitter.units
            what = f"choosing λ, {len(PENALTIES) - index} of {len(PENALTIES)}"
            path[index] = fitter.fit(level, start, CHOOSING, what)
            totals = np.zeros(shape)
            for rows, x in blocks(validation.x, "X of 'validation'", size=SCORED_ROWS):
                totals += credit.total(fitter.predictions(path[index], x), rows)
            top = scores.max(axis=0)
            error = np.sqrt(2 * np.clip(top * (1 - top), 0.0, None) / n)
            worse = totals / n < top - GIVING_UP * error
            found = path[index].by_part
            for key in found:
                scores[index][fitter.index[key]] = totals[fitter.index[key]] / n
            fitter.plan.share_whole(scores[index])
            going = {key: solution for key, solution in found.items() if not worse[fitter.index[key]]}
            start = replace(path[index], by_part=going).extrapolated(path.get(index + 1))
            if not going:
                break
        chosen = best(scores)
        winners = {key: path[int(chosen[place])].by_part[key] for key, place in fitter.index.items()}
        penalties: Floats = np.array(PENALTIES)[chosen] * fitter.units
        return penalties, replace(path[len(PENALTIES) - 1], by_part=winners)
