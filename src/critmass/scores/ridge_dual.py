"""The ridge probe of every prefix from Gram matrices of the rows: for layers wider than there are rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from critmass.features.features import Features
from critmass.features.splits import Split
from critmass.linalg.kernels import cholesky, solve_lower
from critmass.linalg.matrices import Floats, Matrix, require_usable
from critmass.linalg.moments import scale_of
from critmass.parts.plan import Plan
from critmass.progress import Progress
from critmass.scores.head import FittedPart
from critmass.scores.linear_solvers import decide


@dataclass(frozen=True)
class Dual:
    """The same ridge problem through Gram matrices of its rows, shape (n_samples, n_samples).

    Attributes
    ----------
    x : array of shape (n_samples, n_neurons)
        Scaled, centred rows, times the root of their weight.
    y : array of shape (n_samples, n_outputs)
        Centred targets, likewise.
    weight : float
        Sum of the rows' weights.
    """

    x: Floats
    y: Floats
    mean: Floats
    scale: Floats
    intercept: Floats
    weight: float
    classify: bool

    @classmethod
    def of(cls, features: Features, split: Split, *, weights: Floats | None, standardise: bool) -> Dual:
        """Return the problem of fitting the targets of `split`; rows weigh `weights`, or 1."""
        x = np.asarray(split.x[:], dtype=np.float64)
        require_usable("X of 'train'", x, range(len(x)))
        targets = features.targets(split)(slice(0, len(x)))
        classify = features.task == "classification"
        if classify:
            targets = 2.0 * (targets[:, 1:] if targets.shape[1] == 2 else targets) - 1.0
        weights = np.ones(len(x)) if weights is None else weights
        mean, intercept = (np.average(values, axis=0, weights=weights) for values in (x, targets))
        x = x - mean
        variance = np.average(x**2, axis=0, weights=weights)
        scale = scale_of(variance, mean, len(x)) if standardise else np.ones(x.shape[1])
        root = np.sqrt(weights)[:, None]
        x, y = root * x / scale, root * (targets - intercept)
        return cls(x, y, mean, scale, intercept, float(weights.sum()), classify)

    def units(self, plan: Plan) -> Floats:
        """Return λ of penalty 1, shape (n_repeats + 1, n_sizes): see `PlanProblem`."""
        squares = (plan.gather(self.x) ** 2).sum(axis=0)
        return plan.of_groups(np.full(len(g.sizes), squares[g.columns].mean()) for g in plan.groups)

    def predictions(
        self, x: Matrix, name: str, plan: Plan, grid: Sequence[Floats], progress: Progress
    ) -> list[Floats]:
        """Return predictions for rows `x`, shape (n_repeats + 1, len(x), n_sizes), for each array of λ."""
        rows = np.asarray(x[:], dtype=np.float64)
        require_usable(name, rows, range(len(rows)))
        rows, own = plan.gather((rows - self.mean) / self.scale), plan.gather(self.x)
        found: list[list[tuple[int, int, Floats]]] = [[] for _ in grid]
        for number, group in enumerate(plan.groups):
            progress("probes from rows", number, len(plan.groups))
            gram, between, start = np.zeros((len(own),) * 2), np.zeros((len(rows), len(own))), 0
            for size, index in zip(group.sizes, group.size_index, strict=True):
                columns = group.columns[start:size]
                gram, start = gram + own[:, columns] @ own[:, columns].T, size
                between += rows[:, columns] @ own[:, columns].T
                for penalties, predictions in zip(grid, found, strict=True):
                    outputs = between @ self._solve(gram, penalties[group.repeat, index]) + self.intercept
                    predictions.append((group.repeat, index, decide(outputs.T, classify=self.classify)))
        return [plan.scatter(predictions).transpose(0, 2, 1) for predictions in found]

    def part(self, plan: Plan, repeat: int, size: int, penalties: Floats, classes: Any) -> FittedPart:
        """Return one part with its probe, from the rows of its columns."""
        (group,) = plan.only(repeat, size).groups[:-1] or (plan.whole,)
        (index,) = group.size_index
        columns = plan.gather(self.x)[:, group.columns[:size]]
        weights = columns.T @ self._solve(columns @ columns.T, penalties[repeat, index])
        return FittedPart.of(group, size, weights, self.intercept, self.mean, self.scale, classes)

    def _solve(self, gram: Floats, penalty: float) -> Floats:
        """Return the weights of rows, shape (n_samples, n_outputs)."""
        factor = cholesky(np.asfortranarray(gram + penalty * np.eye(len(gram))))
        return solve_lower(factor, solve_lower(factor, self.y), transposed=True)


@dataclass(frozen=True)
class DualFit:
    """The fitted probes of a plan: see `Fitted`."""

    dual: Dual
    plan: Plan
    penalties: Floats
    classes: tuple[int | str, ...] | None
    progress: Progress

    @property
    def converged(self) -> np.ndarray:
        """Every one: they are solved exactly."""
        return np.ones(self.penalties.shape, dtype=bool)

    @property
    def chosen(self) -> Mapping[str, np.ndarray]:
        """λ."""
        return {"regularisation": self.penalties}

    def predictions(self, x: Matrix, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield all rows at once, and predictions for them."""
        (found,) = self.dual.predictions(x, name, self.plan, [self.penalties], self.progress)
        yield slice(0, x.shape[0]), found

    def part(self, repeat: int, size: int) -> FittedPart:
        """Return one part with its probe."""
        return self.dual.part(self.plan, repeat, size, self.penalties, self.classes)
