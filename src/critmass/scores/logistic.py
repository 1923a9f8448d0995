"""The logistic probe: test performance of a multinomial logistic regression trained on each part.

The L2-penalised problem of scikit-learn's LogisticRegression, λ being its 1 / C on standardised columns and
intercepts free: softmax for more than two classes, one output and the sigmoid for two. Here: what is fitted
on which rows, how λ is chosen, how rows are scored. The solver is in logistic_solvers.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from critmass.errors import InputError
from critmass.features.features import Features, Split
from critmass.linalg.arrays import BLOCK_ROWS, SCORED_ROWS, Each, Floats, Matrix, at_once, blocks
from critmass.linalg.moments import Moments, accumulate
from critmass.parts.plan import Plan
from critmass.progress import counted
from critmass.scores.head import FittedPart
from critmass.scores.linear_solvers import PlanProblem
from critmass.scores.linear_solvers import Problem as Quadratic
from critmass.scores.logistic_solvers import (
    HISTORY,
    LANES,
    Array,
    Pairs,
    Preconditioner,
    Problem,
    Rows,
    Side,
    solve,
)
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
            roles=held,
            device=run.device,
            name="X of 'train'",
            progress=counted(run.progress, "moments", train.x.shape[0]),
        )
        with at_once(run.device) as each:
            make = functools.partial(Fitter.of, self, features, plan=plan, run=run, each=each)
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
        score: Logistic,
        features: Features,
        split: Split,
        weights: Floats | None,
        moments: Moments,
        *,
        plan: Plan,
        run: Run,
        each: Each,
    ) -> Fitter:
        """Return the fitter for the rows of `split`, whose moments these are."""
        assert features.classes is not None  # noqa: S101
        scale = moments.scale if score.standardise else np.ones(len(moments.sum))
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
            iterations=score.iterations,
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
        with at_once(self.fitter.run.device) as each:
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
