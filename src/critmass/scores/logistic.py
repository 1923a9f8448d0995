"""The logistic probe: test performance of a multinomial logistic regression trained on each part.

The L2-penalised problem of scikit-learn's LogisticRegression, λ being its 1 / C on standardised columns and
intercepts free: softmax for more than two classes, one output and the sigmoid for two. Here: what is fitted
on which rows, how λ is chosen, how rows are scored. The solver is in logistic_solvers.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from critmass.errors import InputError
from critmass.features.features import Features, Split
from critmass.linalg.arrays import BLOCK_ROWS, SCORED_ROWS, Each, Floats, Indices, at_once, blocks
from critmass.linalg.moments import Moments, accumulate
from critmass.parts.parts import Parts, Walk
from critmass.progress import counted
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
from critmass.scores.probes import (
    ClassWeight,
    best,
    fit_and_validation,
    held_out,
    row_weights,
    tally_on,
)
from critmass.scores.protocols import Credit, Measurement, Run, check_positive, resolve_metric, share_whole
from critmass.scores.ridge_solvers import Problem as Quadratic
from critmass.scores.ridge_solvers import Walked

PENALTIES = tuple(10.0 ** (-4 + 5 * i / 7) for i in range(8))
"""Default grid: λ divided by the weight of the rows and the mean variance of a column, so free of scale.

From 1e-4, the weight decay of the paper's SGD, to 10, where probes are hardly more than class means.
"""

CHOOSING = 3e-4
"""Tolerance of the fits that only choose λ; docs/probes.md shows what a smaller one would change."""


HOPELESS = 1.0
"""A probe leaves the path towards smaller λ where it does so many standard errors worse than at its best.

Of a difference of independent samples; as all λ are scored on the same rows, the true one is smaller.
"""


@dataclass(frozen=True)
class Logistic:
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
    label_free = False

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

    def memory(self, features: Features, parts: Parts, sizes: Indices) -> dict[str, float]:
        """Bytes needed, the rows not counted: they are read again at every pass where they do not fit."""
        d, walks = features.n_neurons, parts.walks(sizes)
        outputs = 1 if features.classes is None else len(features.classes)
        probes = outputs * sum(int(walk.sizes.sum()) for walk in walks)
        squares = 8 * (4 * d * d + 2 * sum(int(max(walk.sizes, default=0)) ** 2 for walk in walks))
        kept = 4 * probes * (2 * HISTORY + 3 * len(PENALTIES))
        sums = 4 * (LANES + 4) * outputs * d * (parts.repeats * len(sizes) + 1)
        reading = 8 * 2 * min(features.splits["train"].x.shape[0], BLOCK_ROWS) * parts.n_columns
        return {"rows": squares + kept + sums + reading}

    def from_rows(
        self, features: Features, parts: Parts, sizes: Indices, run: Run
    ) -> Mapping[str, Measurement]:
        """Fit all sizes and repeats side by side, pass by pass, and score them."""
        if features.classes is None:
            raise InputError("score", self.name, "a score for continuous targets", "use ridge")
        train = features.splits["train"]
        weights = row_weights(features, train, self.class_weight)
        roles = held_out(features, run.seed) if self.regularisation is None else None
        moments = accumulate(
            train.x,
            weights=weights,
            roles=roles,
            device=run.device,
            name="X of 'train'",
            progress=counted(run.progress, "moments", train.x.shape[0]),
        )
        with at_once(run.device) as each:
            make = functools.partial(Fitter.of, self, features, parts=parts, sizes=sizes, run=run, each=each)
            if self.regularisation is None:
                fit_split, validation = fit_and_validation(features, run.seed)
                own = weights if weights is None or roles is None else weights[roles == 0]
                fitter = make(fit_split, own, moments[0])
                penalties, start = self._choose(fitter, features, validation)
                full = moments[0] if len(moments) == 1 else moments[0] + moments[1]
                penalties *= full.weight / moments[0].weight
                sound = start.table(lambda probe: probe.converged)
            else:
                (full,), start, sound = moments, None, np.array(True)
                penalties = np.full((parts.repeats + 1, len(sizes)), float(self.regularisation))
            fitter = make(train, weights, full)
            probes = fitter.fit(penalties, start, self.tolerance, "fitting probes")
            converged = (sound & probes.table(lambda probe: probe.converged))[:-1]
            chosen = {"regularisation": penalties[:-1]}
            out = {}
            for name in features.tests:
                x, tally = features.splits[name].x, tally_on(features, name, self.metric, converged.shape)
                count = counted(run.progress, f"scoring {name}", x.shape[0])
                for rows, block in blocks(x, f"X of {name!r}", size=SCORED_ROWS):
                    tally.add(rows, fitter.predictions(probes, block))
                    count(len(block))
                out[name] = tally.measurement(converged=converged, chosen=chosen)
        return out

    def _choose(self, fitter: Fitter, features: Features, validation: Split) -> tuple[Floats, Probes]:
        """Return the winning λ of each repeat and size and of the whole, and the probes fitted with it."""
        credit = Credit.on(resolve_metric(self.metric, features.task), validation, "validation")
        shape = (fitter.parts.repeats + 1, len(fitter.sizes))
        n = validation.x.shape[0]
        scores = np.full((len(PENALTIES), *shape), -1.0)
        path: dict[int, Probes] = {}
        start: Probes | None = None
        for index in reversed(range(len(PENALTIES))):  # from the largest: each starts from the ones before
            level = np.broadcast_to(PENALTIES[index] * fitter.units, shape)
            what = f"choosing λ, {len(PENALTIES) - index} of {len(PENALTIES)}"
            path[index] = fitter.fit(level, start, CHOOSING, what)
            totals = np.zeros(shape)
            for rows, x in blocks(validation.x, "X of 'validation'", size=SCORED_ROWS):
                totals += credit.total(fitter.predictions(path[index], x), rows)
            top = scores.max(axis=0)
            error = np.sqrt(2 * np.clip(top * (1 - top), 0.0, None) / n)
            hopeless = totals / n < top - HOPELESS * error
            found = path[index].probes
            for key in found:
                scores[index][fitter.places[key]] = totals[fitter.places[key]] / n
            share_whole(fitter.parts, scores[index])
            going = {key: probe for key, probe in found.items() if not hopeless[fitter.places[key]]}
            start = replace(path[index], probes=going).towards(path.get(index + 1))
            if not going:
                break
        chosen = best(scores)
        winners = {key: path[int(chosen[place])].probes[key] for key, place in fitter.places.items()}
        penalties: Floats = np.array(PENALTIES)[chosen] * fitter.units
        return penalties, replace(path[len(PENALTIES) - 1], probes=winners)


@dataclass(frozen=True)
class Probe:
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
class Probes:
    """The probes of all parts, by walk and size; those of the whole are by the last walk.

    Attributes
    ----------
    probes : mapping of (int, int) to Probe
    places : mapping of (int, int) to (int, int)
        Where each has its entry in an array of shape (n_repeats + 1, n_sizes).
    parts : Parts
    """

    probes: Mapping[tuple[int, int], Probe]
    places: Mapping[tuple[int, int], tuple[int, int]]
    parts: Parts

    def table(self, value: Callable[[Probe], bool]) -> np.ndarray:
        """Return what holds of each probe, shape (n_repeats + 1, n_sizes); all are there."""
        places = np.array(list(self.places.values()))
        out = np.empty(places.max(axis=0) + 1, dtype=bool)
        for key, place in self.places.items():
            out[place] = value(self.probes[key])
        share_whole(self.parts, out)
        return out

    def towards(self, before: Probes | None) -> Probes:
        """Return where the path is going: as far beyond these probes as they are from those before."""
        if before is None:
            return self
        further = {
            key: replace(
                probe,
                weights=2 * probe.weights - before.probes[key].weights,
                intercepts=2 * probe.intercepts - before.probes[key].intercepts,
            )
            for key, probe in self.probes.items()
        }
        return replace(self, probes=further)


@dataclass(frozen=True)
class Fitter:
    """Fits and applies the probes of all parts on some rows.

    Attributes
    ----------
    units : array of shape (n_repeats + 1, 1)
        λ of penalty 1: the weight of the rows times the mean variance of a column.
    walks : list of Walk
    orders : list of arrays of columns on the device, one for each walk; None for the layer's own order, last
    grams : list of arrays
        Σ in each order, float64, on the device.
    """

    rows: Rows
    n_classes: int
    weight: float
    units: Floats
    parts: Parts
    sizes: Indices
    walks: list[Walk]
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
        parts: Parts,
        sizes: Indices,
        run: Run,
        each: Each,
    ) -> Fitter:
        """Return the fitter for the rows of `split`, whose moments these are."""
        assert features.classes is not None  # noqa: S101
        problem = Quadratic.of(moments, standardise=score.standardise, classify=False)
        dtype = "float64" if split.x.dtype == np.float64 else "float32"
        held = split.x.shape[0] * parts.n_columns * np.dtype(dtype).itemsize
        keep = held < run.memory / 2
        rows = Rows(split, weights, parts, problem.mean, problem.scale, run.device, dtype, keep, each)
        walked = Walked.of(problem, parts, sizes)
        *below, (_, whole) = walked.walks
        used = [walk.order[: max(walk.sizes, default=0)] for walk, _ in below]
        grams = [
            problem.gram[np.ix_(order, order)] if walk.basis is None else own.gram
            for order, (walk, own) in zip(used, below, strict=True)
        ]
        return cls(
            rows=rows,
            n_classes=len(features.classes),
            weight=moments.weight,
            units=walked.units,
            parts=parts,
            sizes=sizes,
            walks=[walk for walk, _ in walked.walks],
            orders=[*(run.device.put(order) for order in used), None],
            grams=[run.device.put(gram) for gram in (*grams, whole.gram)],
            iterations=score.iterations,
            run=run,
        )

    @functools.cached_property
    def places(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Where each probe's entry is in an array of shape (n_repeats + 1, n_sizes), by walk and size."""
        return {
            (number, int(size)): (walk.repeat, int(place))
            for number, walk in enumerate(self.walks)
            for size, place in zip(walk.sizes, walk.places, strict=True)
        }

    def fit(self, penalties: Floats, start: Probes | None, tolerance: float, what: str) -> Probes:
        """Return probes fitted with these λ, (n_repeats + 1, n_sizes): all from 0, or those of `start`."""
        device, dtype = self.run.device, self.rows.dtype
        outputs = 1 if self.n_classes == 2 else self.n_classes
        keys = self.places if start is None else start.probes
        wanted = {key: float(penalties[self.places[key]]) for key in keys}
        shared: dict[tuple[int, float], list[int]] = {}
        for (walk, size), penalty in wanted.items():
            shared.setdefault((walk, penalty), []).append(size)
        flat = (1 - 1 / self.n_classes) / self.n_classes

        def condition(key: tuple[int, float]) -> Preconditioner:
            walk, penalty = key
            sizes = shared[key]
            curvature = flat
            if start is not None:
                known = [start.probes[walk, size].curvature for size in sizes]
                curvature = float(np.average(known, weights=sizes))
            gram = self.grams[walk][: max(sizes), : max(sizes)]
            return Preconditioner.of(
                gram, weight=self.weight, curvature=curvature, penalty=penalty, dtype=dtype, device=device
            )

        conditions = dict(zip(shared, self.rows.each(condition, list(shared)), strict=True))
        problems = {}
        for (walk, size), penalty in wanted.items():
            trial = device.put(np.zeros((outputs, size + 1)), dtype)
            if start is not None:
                probe, pre = start.probes[walk, size], conditions[walk, penalty]
                trial[:, :-1] = pre.variables(probe.weights)
                trial[:, -1] = pre.intercept * probe.intercepts
            pairs = Pairs(outputs * (size + 1), dtype, device)
            problems[walk, size] = Problem(walk, size, penalty, trial, tolerance, pairs)
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
        probes = {}
        for key, problem in problems.items():
            pre = conditions[key[0], problem.penalty]
            probes[key] = Probe(
                weights=pre.weights([problem.v[:, :-1]], device.xp)[0],
                intercepts=problem.v[:, -1] / pre.intercept,
                curvature=max((1 - problem.squares / n) / self.n_classes, 1e-6),
                converged=problem.converged,
            )
        return Probes(probes, self.places, self.parts)

    def predictions(self, probes: Probes, x: Floats) -> Floats:
        """Return class codes for raw rows, shape (n_repeats + 1, len(x), n_sizes); the whole's are last.

        Where a probe is missing, they are 0.
        """
        device = self.run.device
        standard = self.rows.standard(x)
        out = np.zeros((self.parts.repeats + 1, len(self.sizes), len(x)))

        def side(number: int) -> None:
            walk = self.walks[number]
            here = [j for j, size in enumerate(walk.sizes) if (number, int(size)) in probes.probes]
            mine = [probes.probes[number, int(walk.sizes[j])] for j in here]
            if not mine:
                return
            weights, intercepts = [p.weights for p in mine], [p.intercepts for p in mine]
            placed = Side.of(self.orders[number], weights, intercepts, device.xp)
            outputs = placed.outputs(placed.ordered(standard)).reshape(len(mine), -1, len(x))
            codes = outputs[:, 0] > 0 if outputs.shape[1] == 1 else device.xp.argmax(outputs, axis=1)
            out[walk.repeat, walk.places[here]] = device.get(codes)

        self.rows.each(side, range(len(self.walks)))
        share_whole(self.parts, out)
        return out.transpose(0, 2, 1)
