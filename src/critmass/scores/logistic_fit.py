"""Logistic probes of all parts of a plan, fitted on some rows at one λ for each; and what they predict."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from critmass.features.features import Features
from critmass.features.splits import Split
from critmass.linalg.devices import ParallelMap, parallel_map
from critmass.linalg.matrices import SCORED_ROWS, Floats, Matrix, blocks
from critmass.linalg.moments import Moments
from critmass.parts.plan import Plan
from critmass.scores.head import FittedPart
from critmass.scores.linear_solvers import PlanProblem
from critmass.scores.linear_solvers import Problem as Quadratic
from critmass.scores.logistic_objective import Array, Rows, Side
from critmass.scores.logistic_preconditioner import Preconditioner
from critmass.scores.logistic_solvers import Pairs, Problem, solve
from critmass.scores.protocols import Run


@dataclass(frozen=True)
class Solution:
    """One fitted probe, on standardised columns.

    Attributes
    ----------
    weights : array of shape (n_outputs, size)
    intercepts : array of shape (n_outputs,)
    curvature : float
        Mean of p(1 - p) over rows and classes.
    converged : bool
    """

    weights: Array
    intercepts: Array
    curvature: float
    converged: bool


@dataclass(frozen=True)
class Solutions:
    """The solutions of all parts, by number of the group and size; those of the whole are by the last group.

    Attributes
    ----------
    by_part : mapping of (int, int) to Solution
    index : mapping of (int, int) to (int, int)
        Where each has its entry in an array of shape (n_repeats + 1, n_sizes).
    plan : Plan
    """

    by_part: Mapping[tuple[int, int], Solution]
    index: Mapping[tuple[int, int], tuple[int, int]]
    plan: Plan

    def table(self, value: Callable[[Solution], bool]) -> np.ndarray:
        """Return what holds of each probe, shape (n_repeats + 1, n_sizes); all are there."""
        return self.plan.scatter((*place, value(self.by_part[key])) for key, place in self.index.items())

    def extrapolated(self, before: Solutions | None) -> Solutions:
        """Return solutions as far beyond these as they are from those before."""
        if before is None:
            return self
        further = {
            key: replace(
                solution,
                weights=2 * solution.weights - before.by_part[key].weights,
                intercepts=2 * solution.intercepts - before.by_part[key].intercepts,
            )
            for key, solution in self.by_part.items()
        }
        return replace(self, by_part=further)


@dataclass(frozen=True)
class Fitter:
    """Fits and applies the probes of all parts on some rows.

    Attributes
    ----------
    units : array of shape (n_repeats + 1, n_sizes)
        λ of penalty 1: the weight of the rows times the mean variance of a column.
    plan : Plan
    orders : list of arrays of columns on the device, one for each group; None for the layer's own order, last
    grams : list of arrays
        Σ in each order, float64, on the device.
    """

    rows: Rows
    n_classes: int
    weight: float
    units: Floats
    plan: Plan
    orders: list[Array | None]
    grams: list[Array]
    iterations: int
    run: Run

    @classmethod
    def of(
        cls,
        features: Features,
        split: Split,
        weights: Floats | None,
        moments: Moments,
        *,
        plan: Plan,
        standardise: bool,
        iterations: int,
        run: Run,
        each: ParallelMap,
    ) -> Fitter:
        """Return the fitter for the rows of `split`, whose moments these are."""
        assert features.classes is not None  # noqa: S101
        scale = moments.scale if standardise else np.ones(len(moments.sum))
        gram = moments.scatter / scale
        gram /= scale[:, None]
        nothing = np.zeros((len(gram), 0))
        quadratic = Quadratic(moments.mean, scale, gram, nothing, np.zeros(0), False, rows=moments.weight)
        dtype = "float64" if split.x.dtype == np.float64 else "float32"
        held = split.x.shape[0] * plan.n_columns * np.dtype(dtype).itemsize
        keep = held < run.memory / 2
        rows = Rows(split, weights, plan, moments.mean, scale, run.device, dtype, keep, each)
        posed = PlanProblem.of(quadratic, plan)
        grams = [own.gram.take(own.group.used, axis=0).take(own.group.used, axis=1) for own in posed.posed]
        return cls(
            rows=rows,
            n_classes=len(features.classes),
            weight=moments.weight,
            units=posed.units,
            plan=plan,
            orders=[*(run.device.put(group.columns[: len(group.used)]) for group in plan.groups[:-1]), None],
            grams=[run.device.put(gram) for gram in grams],
            iterations=iterations,
            run=run,
        )

    @functools.cached_property
    def index(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Where each probe's entry is in an array of shape (n_repeats + 1, n_sizes), by group and size."""
        return {
            (number, int(size)): (group.repeat, int(index))
            for number, group in enumerate(self.plan.groups)
            for size, index in zip(group.sizes, group.size_index, strict=True)
        }

    def fit(self, penalties: Floats, start: Solutions | None, tolerance: float, what: str) -> Solutions:
        """Return probes fitted with these λ, (n_repeats + 1, n_sizes): all from 0, or those of `start`."""
        device, dtype = self.run.device, self.rows.dtype
        outputs = 1 if self.n_classes == 2 else self.n_classes
        keys = self.index if start is None else start.by_part
        wanted = {key: float(penalties[self.index[key]]) for key in keys}
        shared: dict[tuple[int, float], list[int]] = {}
        for (group, size), penalty in wanted.items():
            shared.setdefault((group, penalty), []).append(size)
        flat = (1 - 1 / self.n_classes) / self.n_classes

        def condition(key: tuple[int, float]) -> Preconditioner:
            group, penalty = key
            sizes = shared[key]
            curvature = flat
            if start is not None:
                known = [start.by_part[group, size].curvature for size in sizes]
                curvature = float(np.average(known, weights=sizes))
            gram = self.grams[group][: max(sizes), : max(sizes)]
            return Preconditioner.of(
                gram, weight=self.weight, curvature=curvature, penalty=penalty, dtype=dtype, device=device
            )

        conditions = dict(zip(shared, self.rows.each(condition, list(shared)), strict=True))
        problems = {}
        for (group, size), penalty in wanted.items():
            trial = device.put(np.zeros((outputs, size + 1)), dtype)
            if start is not None:
                solution, pre = start.by_part[group, size], conditions[group, penalty]
                trial[:, :-1] = pre.variables(solution.weights)
                trial[:, -1] = pre.intercept * solution.intercepts
            pairs = Pairs(outputs * (size + 1), dtype, device)
            problems[group, size] = Problem(group, size, penalty, trial, tolerance, pairs)
        total = len(problems)
        solve(
            self.rows,
            self.orders,
            list(problems.values()),
            conditions,
            iterations=self.iterations,
            report=lambda done: self.run.progress(what, done, total),
        )
        n = self.rows.split.x.shape[0]
        solutions = {}
        for key, problem in problems.items():
            pre = conditions[key[0], problem.penalty]
            solutions[key] = Solution(
                weights=pre.weights([problem.v[:, :-1]], device.xp)[0],
                intercepts=problem.v[:, -1] / pre.intercept,
                curvature=max((1 - problem.squares / n) / self.n_classes, 1e-6),
                converged=problem.converged,
            )
        return Solutions(solutions, self.index, self.plan)

    def predictions(self, solutions: Solutions, x: Floats) -> Floats:
        """Return class codes for raw rows, shape (n_repeats + 1, len(x), n_sizes); the whole's are last.

        Where a probe is missing, they are 0.
        """
        device = self.run.device
        standard = self.rows.standard(x)
        out = np.zeros((*self.plan.shape, len(x)))

        def side(number: int) -> None:
            group = self.plan.groups[number]
            here = [j for j, size in enumerate(group.sizes) if (number, int(size)) in solutions.by_part]
            mine = [solutions.by_part[number, int(group.sizes[j])] for j in here]
            if not mine:
                return
            weights, intercepts = [p.weights for p in mine], [p.intercepts for p in mine]
            placed = Side.of(self.orders[number], weights, intercepts, device.xp)
            outputs = placed.outputs(placed.ordered(standard)).reshape(len(mine), -1, len(x))
            codes = outputs[:, 0] > 0 if outputs.shape[1] == 1 else device.xp.argmax(outputs, axis=1)
            out[group.repeat, group.size_index[here]] = device.get(codes)

        self.rows.each(side, range(len(self.plan.groups)))
        return self.plan.share_whole(out).transpose(0, 2, 1)


@dataclass(frozen=True)
class LogisticFit:
    """The fitted probes of a plan: see `Fitted`."""

    fitter: Fitter
    solutions: Solutions
    penalties: Floats
    converged: np.ndarray
    classes: tuple[int | str, ...]

    @property
    def chosen(self) -> Mapping[str, np.ndarray]:
        """λ."""
        return {"regularisation": self.penalties}

    def predictions(self, x: Matrix, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield rows and predictions for them."""
        with parallel_map(self.fitter.run.device) as each:
            fitter = replace(self.fitter, rows=replace(self.fitter.rows, each=each))
            for rows, block in blocks(x, name, size=SCORED_ROWS):
                yield rows, fitter.predictions(self.solutions, block)

    def part(self, repeat: int, size: int) -> FittedPart:
        """Return one part with its probe."""
        groups = self.fitter.plan.groups
        number = next(i for i, group in enumerate(groups) if group.repeat == repeat and size in group.sizes)
        solution, rows = self.solutions.by_part[number, size], self.fitter.rows
        weights, constants = (
            np.asarray(rows.device.get(values), dtype=np.float64)
            for values in (solution.weights, solution.intercepts)
        )
        group = groups[number]
        return FittedPart.of(group, size, weights.T, constants, rows.mean, rows.scale, self.classes)
