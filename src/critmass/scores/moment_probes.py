"""Linear probes that moments of the rows decide for all parts: how they are fitted, and λ is chosen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from critmass.features.features import Features
from critmass.features.splits import Split
from critmass.linalg.matrices import BLOCK_ROWS, SCORED_ROWS, Floats, Matrix, blocks
from critmass.linalg.moments import Moments, accumulate
from critmass.linalg.tree import held_at_once
from critmass.parts.plan import Plan
from critmass.progress import counted
from critmass.scores.head import FittedPart
from critmass.scores.linear_solvers import LinearProbes, PlanProblem, Problem, coefficients, fit_jobs, predict
from critmass.scores.probes import ClassWeight, Fitted, Probe, best, fit_and_validation, held_out, row_weights
from critmass.scores.protocols import Run
from critmass.scores.tally import Credit, resolve_metric

PENALTIES = tuple(10.0**power for power in range(-5, 3))
"""Default grid: λ divided by the mean variance of a column, and for sums over rows by their number too."""


@dataclass(frozen=True)
class LinearFit:
    """The fitted probes of a plan.

    Attributes
    ----------
    problem : PlanProblem
    probes : sequence of LinearProbes
    penalties : array of shape (n_repeats + 1, n_sizes)
        λ.
    classes : tuple of class names, or None
    """

    problem: PlanProblem
    probes: Sequence[LinearProbes]
    penalties: Floats
    classes: tuple[int | str, ...] | None

    @property
    def converged(self) -> np.ndarray:
        """Every one: they are solved exactly."""
        return np.ones(self.penalties.shape, dtype=bool)

    @property
    def chosen(self) -> Mapping[str, np.ndarray]:
        """λ."""
        return {"regularisation": self.penalties}

    def predictions(self, x: Matrix, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield rows and predictions for them: see `Fitted`."""
        for rows, block in blocks(x, name, size=SCORED_ROWS):
            yield rows, predict(self.problem.plan, self.probes, block)

    def part(self, repeat: int, size: int) -> FittedPart:
        """Return one part with its probe."""
        (job,) = (
            replace(job, sizes=job.sizes[here], size_index=job.size_index[here])
            for job in self.problem.jobs(self.penalties)
            if job.group.repeat == repeat and (here := job.sizes == size).any()
        )
        weights, (constants,) = coefficients(job)
        mean, scale = job.problem.mean, job.problem.scale
        return FittedPart.of(job.group, size, weights[:, 0], constants, mean, scale, self.classes)


class MomentProbe(Probe):
    """A linear probe that moments of the training rows decide.

    Attributes
    ----------
    regularisation : float or None
        λ. None chooses it for each size and repeat on validation rows, from `PENALTIES`, ties to the larger,
        and refits on all training rows.
    metric : str or None
    class_weight : None, "balanced" or mapping of class name to weight
    """

    regularisation: float | None
    class_weight: ClassWeight

    @abstractmethod
    def problem(self, moments: Moments, features: Features) -> Problem:
        """Return what probes are solved from."""

    def memory(self, features: Features, plan: Plan) -> dict[str, float]:
        """Bytes that the way by moments needs."""
        d, n_sizes = features.n_neurons, len(plan.sizes)
        grid = len(PENALTIES) if self.regularisation is None else 1
        outputs = 1 if features.classes is None else len(features.classes)
        # A repeat's probes are weights, of all sizes together, or factors, one for each λ that won.
        probes = d * min(outputs * n_sizes, d * min(grid, n_sizes))
        changed = 3 * d * d * plan.n_repeats if plan.n_columns > d else 0
        reading = min(features.splits["train"].x.shape[0], BLOCK_ROWS) * (2 * d + outputs)
        rows = 3 * min(features.most_test_rows, SCORED_ROWS) + plan.n_repeats
        scoring = (plan.n_repeats + 1) * n_sizes * rows
        held = 2 * held_at_once(features.splits["train"].x.shape[0])
        return {"moments": 8.0 * ((8 + held) * d * d + changed + plan.n_repeats * probes + reading + scoring)}

    def fit(self, features: Features, plan: Plan, run: Run) -> Fitted:
        """Solve for all parts from moments of the training rows."""
        train, progress = features.splits["train"], run.progress
        moments = accumulate(
            train.x,
            targets=features.targets(train),
            weights=row_weights(features, train, self.class_weight),
            group_index=held_out(features, run.seed) if self.regularisation is None else None,
            device=run.device,
            name="X of 'train'",
            progress=counted(progress, "moments", train.x.shape[0]),
        )
        full = moments[0] if len(moments) == 1 else moments[0] + moments[1]
        whole = self.problem(full, features)
        if self.regularisation is not None:
            penalties = np.full(plan.shape, float(self.regularisation))
        else:
            fit = PlanProblem.of(self.problem(moments[0], features), plan)
            _, validation = fit_and_validation(features, run.seed)
            strengths = self._choose(fit, validation, features, run)
            penalties = strengths * fit.units * (whole.rows / fit.posed[-1].problem.rows)
        problem = PlanProblem.of(whole, plan)
        progress("fitting probes", 0, 1)
        rows = sum(features.splits[split].x.shape[0] for split in features.tests)
        probes = fit_jobs(problem.jobs(penalties), rows)
        progress("fitting probes", 1, 1)
        return LinearFit(problem, probes, penalties, features.classes)

    def _choose(self, fit: PlanProblem, validation: Split, features: Features, run: Run) -> Floats:
        """Return the winning penalty of each repeat and size and of the whole, (n_repeats + 1, n_sizes)."""
        credit = Credit.on(resolve_metric(self.metric, features.task), validation, "validation")
        scores = np.zeros((len(PENALTIES), *fit.plan.shape))
        for index, penalty in enumerate(PENALTIES):
            run.progress("choosing λ", index, len(PENALTIES))
            probes = fit_jobs(fit.jobs(penalty * fit.units), validation.x.shape[0])
            for rows, x in blocks(validation.x, "X of 'validation'", size=SCORED_ROWS):
                scores[index] += credit.total(predict(fit.plan, probes, x), rows)
        run.progress("choosing λ", len(PENALTIES), len(PENALTIES))
        winners: Floats = np.array(PENALTIES)[best(scores)]
        return winners
