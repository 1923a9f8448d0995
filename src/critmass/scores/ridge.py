"""The ridge probe: test performance of a ridge regression trained on each part, exact, all sizes at once.

Classes are one-vs-rest ±1 targets, as in scikit-learn's RidgeClassifier, and λ is its alpha on
standardised columns. Two ways: by moments, whose memory does not grow with the number of rows; and by Gram
matrices of the rows (ridge_dual.py), whose memory does not grow with the number of neurons squared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from critmass.features.features import Features
from critmass.linalg.matrices import Floats
from critmass.linalg.moments import Moments
from critmass.parts.plan import Plan
from critmass.scores.linear_solvers import Problem
from critmass.scores.moment_probes import PENALTIES, MomentProbe
from critmass.scores.probes import ClassWeight, Fitted, best, fit_and_validation, held_out, row_weights
from critmass.scores.protocols import Run, check_positive
from critmass.scores.ridge_dual import Dual, DualFit
from critmass.scores.tally import Credit, resolve_metric


@dataclass(frozen=True)
class Ridge(MomentProbe):
    """Test performance of a ridge probe trained on the part.

    Attributes
    ----------
    regularisation : float or None
        λ, scikit-learn's alpha. None chooses it for each size and repeat on validation rows, from
        `PENALTIES`, ties to the larger, and refits on all training rows.
    standardise : bool
        Whether columns are scaled to unit variance of the rows that the probe is fitted on.
    metric : str or None
        "accuracy" (default) or "balanced-accuracy" for classes; "r2" for targets.
    class_weight : None, "balanced" or mapping of class name to weight
        As scikit-learn's. Rows count this much, times their own weight where the features have weights.
    """

    regularisation: float | None = None
    standardise: bool = True
    metric: str | None = None
    class_weight: ClassWeight = None

    def __post_init__(self) -> None:
        check_positive(regularisation=self.regularisation)

    @property
    def name(self) -> str:
        """Name in the registry."""
        return "ridge"

    def memory(self, features: Features, plan: Plan) -> dict[str, float]:
        """Bytes that each way needs; rows are no way where they outnumber the neurons."""
        n, tests = features.splits["train"].x.shape[0], features.most_test_rows
        grid = len(PENALTIES) if self.regularisation is None else 1
        tally = (plan.n_repeats + 1) * len(plan.sizes) * tests * (2 + grid)
        rows = 8.0 * ((n + tests) * (2 * plan.n_columns + 4 * n) + tally)
        return {**super().memory(features, plan), **({"rows": rows} if n < features.n_neurons else {})}

    def fit(self, features: Features, plan: Plan, run: Run) -> Fitted:
        """Solve for all parts."""
        return self._fit_rows(features, plan, run) if run.way == "rows" else super().fit(features, plan, run)

    def problem(self, moments: Moments, features: Features) -> Problem:
        """Return what probes are solved from: ±1 targets for classes, one output where there are two."""
        classify = features.task == "classification"
        scale = moments.scale if self.standardise else np.ones(len(moments.sum))
        cross, intercept = moments.target_scatter / scale[:, None], moments.target_mean
        if classify:
            chosen = slice(1, 2) if len(intercept) == 2 else slice(None)
            cross, intercept = 2.0 * cross[:, chosen], 2.0 * intercept[chosen] - 1.0
        gram = moments.scatter / scale
        gram /= scale[:, None]
        return Problem(moments.mean, scale, gram, cross, intercept, classify, rows=moments.weight)

    def _fit_rows(self, features: Features, plan: Plan, run: Run) -> DualFit:
        """Solve from n x n Gram matrices, grown along each order."""
        train = features.splits["train"]
        weights = row_weights(features, train, self.class_weight)
        whole = Dual.of(features, train, weights=weights, standardise=self.standardise)
        if self.regularisation is not None:
            penalties = np.full(plan.shape, float(self.regularisation))
        else:
            fit_split, _ = fit_and_validation(features, run.seed)
            held = held_out(features, run.seed)
            own = weights if weights is None or held is None else weights[held == 0]
            fit = Dual.of(features, fit_split, weights=own, standardise=self.standardise)
            penalties = self._choose_by_rows(fit, plan, features, run) * (whole.weight / fit.weight)
        return DualFit(whole, plan, penalties, features.classes, run.progress)

    def _choose_by_rows(self, fit: Dual, plan: Plan, features: Features, run: Run) -> Floats:
        """Return the winning λ of each repeat and size and of the whole, (n_repeats + 1, n_sizes)."""
        _, validation = fit_and_validation(features, run.seed)
        credit = Credit.on(resolve_metric(self.metric, features.task), validation, "validation")
        units = fit.units(plan)
        grid = [penalty * units for penalty in PENALTIES]
        tried = fit.predictions(validation.x, "X of 'validation'", plan, grid, run.progress)
        everything = slice(0, validation.x.shape[0])
        scores = np.stack([credit.total(predictions, everything) for predictions in tried])
        winners: Floats = np.array(PENALTIES)[best(scores)] * units
        return winners
