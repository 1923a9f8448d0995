"""The ridge probe: test performance of a ridge regression trained on each part, exact, all sizes at once.

Classes are one-vs-rest ±1 targets, as in scikit-learn's RidgeClassifier, and λ is its alpha on
standardised columns. Here: what is fitted on which rows, how λ is chosen, how rows are scored. The
algebra is in ridge_solvers.py. Memory does not grow with the number of rows (moments), nor with the
number of neurons squared (rows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from critmass.features.features import Features, Split
from critmass.linalg.arrays import BLOCK_ROWS, SCORED_ROWS, Floats, Indices, blocks
from critmass.linalg.moments import Moments, accumulate
from critmass.parts.parts import Parts
from critmass.progress import counted
from critmass.scores.probes import (
    ClassWeight,
    best,
    fit_and_validation,
    held_out,
    row_weights,
    tally_on,
)
from critmass.scores.protocols import Credit, Measurement, Run, check_positive, resolve_metric
from critmass.scores.ridge_solvers import (
    Dual,
    Probe,
    Problem,
    Walked,
    fit_probes,
    make_jobs,
    predict,
    targets_of,
)

PENALTIES = tuple(10.0**power for power in range(-5, 3))
"""Default grid: λ divided by the number of fit rows and the mean variance of a column, so free of scale."""


@dataclass(frozen=True)
class Ridge:
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
    label_free = False

    def __post_init__(self) -> None:
        check_positive(regularisation=self.regularisation)

    @property
    def name(self) -> str:
        """Name in the registry."""
        return "ridge"

    def memory(self, features: Features, parts: Parts, sizes: Indices) -> dict[str, float]:
        """Bytes that each way needs; rows are no way where they outnumber the neurons."""
        n, d = features.splits["train"].x.shape[0], features.n_neurons
        tests = features.most_test_rows
        grid = len(PENALTIES) if self.regularisation is None else 1
        outputs = 1 if features.classes is None else len(features.classes)
        # A repeat's probes are weights, of all sizes together, or factors, one for each λ that won.
        probes = d * min(outputs * len(sizes), d * min(grid, len(sizes)))
        tally = (parts.repeats + 1) * len(sizes)
        turned = 3 * d * d * parts.repeats if parts.n_columns > d else 0
        reading = min(n, BLOCK_ROWS) * (2 * d + outputs)
        scoring = tally * (3 * min(tests, SCORED_ROWS) + parts.repeats)
        moments = d * d * 8 + turned + parts.repeats * probes + reading + scoring
        rows = (n + tests) * (2 * parts.n_columns + 4 * n) + tally * tests * (2 + grid)
        return {"moments": 8 * moments, "rows": 8 * rows if n < d else float("inf")}

    def from_moments(
        self, features: Features, parts: Parts, sizes: Indices, run: Run
    ) -> Mapping[str, Measurement]:
        """Measure all sizes from moments of the training rows."""
        train, progress = features.splits["train"], run.progress
        roles = held_out(features, run.seed) if self.regularisation is None else None
        moments = accumulate(
            train.x,
            targets=targets_of(features, train),
            weights=row_weights(features, train, self.class_weight),
            roles=roles,
            device=run.device,
            name="X of 'train'",
            progress=counted(progress, "moments", train.x.shape[0]),
        )
        full = moments[0] if len(moments) == 1 else moments[0] + moments[1]
        if self.regularisation is not None:
            penalties = np.full((parts.repeats + 1, len(sizes)), float(self.regularisation))
        else:
            fit = Walked.of(self._problem(moments[0], features), parts, sizes)
            _, validation = fit_and_validation(features, run.seed)
            per_row = self._choose(fit, validation, features, sizes, run)
            penalties = per_row * fit.units * (full.weight / moments[0].weight)
        problem = Walked.of(self._problem(full, features), parts, sizes)
        progress("fitting probes", 0, 1)
        rows = sum(features.splits[split].x.shape[0] for split in features.tests)
        probes = fit_probes(make_jobs(problem, penalties), rows)
        progress("fitting probes", 1, 1)
        return {
            split: self._score(parts, probes, features, split, penalties, run) for split in features.tests
        }

    def from_rows(
        self, features: Features, parts: Parts, sizes: Indices, run: Run
    ) -> Mapping[str, Measurement]:
        """Measure from n x n Gram matrices, grown along each order: for layers much wider than n."""
        train = features.splits["train"]
        weights = row_weights(features, train, self.class_weight)
        if self.regularisation is not None:
            penalties = np.full((parts.repeats + 1, len(sizes)), float(self.regularisation))
        else:
            fit_split, validation = fit_and_validation(features, run.seed)
            roles = held_out(features, run.seed)
            own = weights if weights is None or roles is None else weights[roles == 0]
            fit = Dual.of(features, fit_split, weights=own, standardise=self.standardise)
            credit = Credit.on(self._metric(features), validation, "validation")
            everything = slice(0, validation.x.shape[0])
            units = fit.units(parts, sizes)
            grid = [penalty * units.repeat(len(sizes), axis=1) for penalty in PENALTIES]
            tried = fit.predictions(validation.x, "X of 'validation'", parts, sizes, grid, run.progress)
            scores = [credit.total(predictions, everything) for predictions in tried]
            penalties = np.array(PENALTIES)[best(np.stack(scores))] * units
        problem = Dual.of(features, train, weights=weights, standardise=self.standardise)
        if self.regularisation is None:
            penalties = penalties * (problem.weight / fit.weight)
        out = {}
        for name in features.tests:
            split = features.splits[name]
            tally = tally_on(features, name, self.metric, penalties[:-1].shape)
            (predictions,) = problem.predictions(
                split.x, f"X of {name!r}", parts, sizes, [penalties], run.progress
            )
            tally.add(slice(0, split.x.shape[0]), predictions)
            out[name] = tally.measurement(chosen={"regularisation": penalties[:-1]})
        return out

    def _metric(self, features: Features) -> str:
        return resolve_metric(self.metric, features.task)

    def _problem(self, moments: Moments, features: Features) -> Problem:
        return Problem.of(moments, standardise=self.standardise, classify=features.task == "classification")

    def _choose(self, fit: Walked, validation: Split, features: Features, sizes: Indices, run: Run) -> Floats:
        """Return the winning penalty of each repeat and size and of the whole, (n_repeats + 1, n_sizes)."""
        credit = Credit.on(self._metric(features), validation, "validation")
        scores = np.zeros((len(PENALTIES), fit.parts.repeats + 1, len(sizes)))
        for index, penalty in enumerate(PENALTIES):
            run.progress("choosing λ", index, len(PENALTIES))
            jobs = make_jobs(fit, penalty * fit.units.repeat(len(sizes), axis=1))
            probes = fit_probes(jobs, validation.x.shape[0])
            for rows, x in blocks(validation.x, "X of 'validation'", size=SCORED_ROWS):
                scores[index] += credit.total(predict(fit.parts, probes, x, len(sizes)), rows)
        run.progress("choosing λ", len(PENALTIES), len(PENALTIES))
        winners: Floats = np.array(PENALTIES)[best(scores)]
        return winners

    def _score(
        self,
        parts: Parts,
        probes: Sequence[Probe],
        features: Features,
        name: str,
        penalties: Floats,
        run: Run,
    ) -> Measurement:
        x = features.splits[name].x
        tally = tally_on(features, name, self.metric, penalties[:-1].shape)
        count = counted(run.progress, f"scoring {name}", x.shape[0])
        for rows, block in blocks(x, f"X of {name!r}", size=SCORED_ROWS):
            tally.add(rows, predict(parts, probes, block, penalties.shape[1]))
            count(len(block))
        return tally.measurement(chosen={"regularisation": penalties[:-1]})
