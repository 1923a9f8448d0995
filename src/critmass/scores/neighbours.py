"""What a part's nearest neighbours say: k-nearest-neighbour probes, and how many neighbours a part keeps.

The probe is scikit-learn's KNeighborsClassifier or KNeighborsRegressor on the part. Neighbour overlap is how
approximate search is judged: the recall of the whole's k nearest neighbours among the part's (recall@k); it
needs no labels. The neighbours are exact, and found in nearest.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from critmass.errors import InputError, unknown, verbatim
from critmass.features.features import Features
from critmass.linalg import rng
from critmass.linalg.matrices import Floats, Indices, Matrix
from critmass.parts.plan import Plan
from critmass.scores.head import FittedPart, no_head
from critmass.scores.nearest import (
    QUERY_ROWS,
    TIE,
    Distance,
    Near,
    Search,
    check_distance,
    memory_of_search,
    on_all_parts,
)
from critmass.scores.probes import Probe, best, fit_and_validation
from critmass.scores.protocols import Measurement, Run
from critmass.scores.tally import Credit, resolve_metric

NEIGHBOURS = (1, 3, 5, 10, 20, 50)
"""Default grid for the number of neighbours."""

WEIGHTS = ("uniform", "distance")


@dataclass(frozen=True)
class KNN(Probe):
    """Test performance of a k-nearest-neighbour probe on the part. Row weights mean nothing to it: refused.

    Attributes
    ----------
    n_neighbours : int or None
        k. None chooses it for each size and repeat on validation rows, from `NEIGHBOURS`, ties to the
        larger; neighbours are then sought among all training rows.
    distance : "cosine" or "euclidean"
        A row whose neurons are all 0 has cosine 0 with every row.
    weights : "uniform" or "distance"
        Whether neighbours count the same, or by 1 / distance; where some are at distance 0, only those.
        Of classes with the same votes, the first is predicted.
    standardise : bool
        Whether columns are centred and scaled to unit variance of the rows that are searched.
    metric : str or None
        "accuracy" (default) or "balanced-accuracy" for classes; "r2" for targets.
    """

    n_neighbours: int | None = None
    distance: Distance = "cosine"
    weights: Literal["uniform", "distance"] = "uniform"
    standardise: bool = False
    metric: str | None = None

    def __post_init__(self) -> None:
        if self.n_neighbours is not None:
            _check_count("n_neighbours", self.n_neighbours)
        check_distance(self.distance, standardise=self.standardise)
        if self.weights not in WEIGHTS:
            raise unknown("weights", str(self.weights), WEIGHTS)

    @property
    def name(self) -> str:
        """Name in the registry."""
        return "knn"

    def memory(self, features: Features, plan: Plan) -> dict[str, float]:
        """Bytes of the search for one block of queries, and of what it predicts."""
        most = max(NEIGHBOURS) if self.n_neighbours is None else self.n_neighbours
        classes = 1 if features.classes is None else len(features.classes)
        n, queries = features.splits["train"].x.shape[0], features.most_test_rows
        block = min(queries, QUERY_ROWS)
        tally = plan.shape[0] * plan.shape[1] * (4 * block + plan.n_repeats + classes)
        search = sum(memory_of_search(n, queries, most, plan))
        return {"rows": search + 8.0 * (tally + 2 * block * classes)}

    def fit(self, features: Features, plan: Plan, run: Run) -> KNNFit:
        """Choose k for all sizes by one search; the rows to search are all there is to fit."""
        train = features.splits["train"]
        assert train.y is not None  # noqa: S101
        if train.weight is not None:
            advice = "use ridge or logistic, or leave weights out"
            raise InputError(
                "weights of 'train'", verbatim("row weights"), "rows that count the same", advice
            )
        if self.n_neighbours is None:
            counts = self._choose(features, plan, run)
        else:
            counts = np.full(plan.shape, self.n_neighbours)
        return KNNFit(self, self._search(train.x, plan), train.y, features.classes, counts, run)

    def _search(self, x: Matrix, plan: Plan) -> Search:
        return Search.of(x, "X of 'train'", self.distance, plan, standardise=self.standardise)

    def _choose(self, features: Features, plan: Plan, run: Run) -> Indices:
        """Return the winning k of each repeat and size and of the whole, (n_repeats + 1, n_sizes).

        One search, for the largest k, serves all.
        """
        fit, validation = fit_and_validation(features, run.seed)
        assert fit.y is not None  # noqa: S101
        credit = Credit.on(resolve_metric(self.metric, features.task), validation, "validation")
        grid = [k for k in NEIGHBOURS if k <= fit.x.shape[0]]
        scores = np.zeros((len(grid), *plan.shape))
        search = self._search(fit.x, plan)
        for near in search.run(validation.x, "X of 'validation'", grid[-1], run):
            for score, k in zip(scores, grid, strict=True):
                predictions = self.predict(near, features.classes, fit.y, [k] * len(near.rows))
                score += credit.total(on_all_parts(predictions, plan), near.queries)
        winners: Indices = np.array(grid)[best(scores)]
        return winners

    def predict(
        self, near: Near, classes: tuple[int | str, ...] | None, y: np.ndarray, counts: Sequence[int]
    ) -> np.ndarray:
        """Return the codes or targets that the first `counts[i]` neighbours in part i give, (n_parts, n)."""
        out = np.empty(near.rows.shape[:2], dtype=y.dtype)
        for part, k in enumerate(counts):
            targets = y[near.rows[part, :, :k]]
            weights = self._weights(near.distances[part, :, :k])
            if classes is None:
                out[part] = np.average(targets, axis=1, weights=weights)
            else:
                out[part] = _votes(targets, weights, len(classes)).argmax(axis=1)
        return out

    def _weights(self, distances: Floats) -> Floats | None:
        """Return how much each neighbour counts, but for a factor of each query's own."""
        if self.weights == "uniform":
            return None
        same = distances <= TIE
        weights = 1.0 / np.where(same, 1.0, distances)
        if self.distance == "euclidean":
            weights = np.sqrt(weights)
        return np.where(same.any(axis=1, keepdims=True), same, weights)


@dataclass(frozen=True)
class KNNFit:
    """The rows to search for all parts of a plan, and how many of them are asked: see `Fitted`.

    Attributes
    ----------
    counts : array of shape (n_repeats + 1, n_sizes)
        k.
    """

    probe: KNN
    search: Search
    y: np.ndarray
    classes: tuple[int | str, ...] | None
    counts: Indices
    run: Run

    @property
    def converged(self) -> np.ndarray:
        """Every one: nothing is solved."""
        return np.ones(self.counts.shape, dtype=bool)

    @property
    def chosen(self) -> Mapping[str, np.ndarray]:
        """Numbers of neighbours."""
        return {"n_neighbours": self.counts}

    def predictions(self, x: Matrix, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield rows and predictions for them."""
        plan = self.search.plan
        counts = [k for group in plan.by_group(self.counts) for k in group]
        for near in self.search.run(x, name, max(counts), self.run):
            predictions = self.probe.predict(near, self.classes, self.y, counts)
            yield near.queries, on_all_parts(predictions, plan)

    def part(self, _repeat: int, _size: int, /) -> FittedPart:
        """Raise InputError: a neighbour probe is its rows."""
        raise no_head(self.probe.name)


def _votes(codes: Indices, weights: Floats | None, classes: int) -> np.ndarray:
    """Return the votes of neighbours of class `codes`, (n, k), for each class, (n, classes)."""
    cells = np.arange(len(codes))[:, None] * classes + codes
    flat = None if weights is None else weights.ravel()
    return np.bincount(cells.ravel(), flat, len(codes) * classes).reshape(-1, classes)


@dataclass(frozen=True)
class NeighbourOverlap:
    """Share of a row's nearest neighbours in the whole that are its nearest in the part, too (recall@k).

    Neighbours of test rows are sought among the training rows. The whole scores 1.

    Attributes
    ----------
    n_neighbours : int
        k. Of rows equally far, those that come first are taken.
    n_queries : int
        Test rows to ask for, at even steps from a seeded start; all of them where there are fewer.
    distance : "cosine" or "euclidean"
    standardise : bool
        Whether columns are centred and scaled to unit variance of the training rows.
    """

    n_neighbours: int = 10
    n_queries: int = 1000
    distance: Distance = "cosine"
    standardise: bool = False
    label_free = True

    def __post_init__(self) -> None:
        _check_count("n_neighbours", self.n_neighbours)
        _check_count("n_queries", self.n_queries)
        check_distance(self.distance, standardise=self.standardise)

    @property
    def name(self) -> str:
        """Name in the registry."""
        return "neighbour-overlap"

    def memory(self, features: Features, plan: Plan) -> dict[str, float]:
        """Bytes of the search for one block of queries, and of the credits."""
        n, queries = features.splits["train"].x.shape[0], min(self.n_queries, features.most_test_rows)
        search = sum(memory_of_search(n, queries, self.n_neighbours, plan))
        return {"rows": search + 8.0 * 3 * queries * plan.shape[0] * plan.shape[1]}

    def measure(self, features: Features, plan: Plan, run: Run) -> Mapping[str, Measurement]:
        """Measure all sizes from one search of the training rows."""
        x, k = features.splits["train"].x, self.n_neighbours
        if k >= x.shape[0]:
            allowed = f"fewer than the {x.shape[0]} rows of 'train'"
            raise InputError("n_neighbours", k, allowed, "all rows are everyone's neighbours")
        search = Search.of(x, "X of 'train'", self.distance, plan, standardise=self.standardise)
        out = {}
        for name in features.tests:
            split = features.splits[name]
            rows = _evenly(split.x.shape[0], self.n_queries, rng.stream(run.seed, "queries", name))
            credit = np.empty((plan.n_repeats, len(plan.sizes), len(rows)))
            queries = split.take(rows).x
            for near in search.run(queries, f"X of {name!r}", k, run):
                shares = on_all_parts(_shared(near.rows) / k, plan)
                credit[:, :, near.queries] = shares[:-1].transpose(0, 2, 1)
            out[name] = Measurement.of_credits(credit, np.ones(len(rows)))
        return out


def _shared(rows: Indices) -> Indices:
    """Return how many rows each part's neighbours share with the last part's, (n_parts, n)."""
    shared = np.empty(rows.shape[:2], dtype=np.intp)
    for part, own in enumerate(rows):
        both = np.sort(np.concatenate([own, rows[-1]], axis=1), axis=1)
        shared[part] = (both[:, 1:] == both[:, :-1]).sum(axis=1)
    return shared


def _evenly(n: int, count: int, generator: np.random.Generator) -> Indices:
    """Return `count` of n row numbers at even steps, or all of them, ascending."""
    if count >= n:
        return np.arange(n)
    rows: Indices = np.floor((np.arange(count) + generator.random()) * (n / count)).astype(np.intp)
    return np.minimum(rows, n - 1)


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(name, value, "a whole number from 1")
