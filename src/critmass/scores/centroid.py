"""The nearest-mean probe: a row is of the class whose mean is nearest, on each part, all sizes at once.

scikit-learn's NearestCentroid without shrinkage, or by cosine: a search for one nearest neighbour
(nearest.py) where the database is the class means. Nothing is chosen, so no validation rows are needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from critmass.errors import InputError, verbatim
from critmass.features.features import Features
from critmass.linalg.matrices import BLOCK_ROWS, Matrix, blocks
from critmass.parts.plan import Plan
from critmass.scores.head import FittedPart, no_head
from critmass.scores.nearest import (
    QUERY_ROWS,
    Distance,
    Search,
    check_distance,
    memory_of_search,
    on_all_parts,
)
from critmass.scores.probes import Probe
from critmass.scores.protocols import Run


@dataclass(frozen=True)
class Centroid(Probe):
    """Test performance of the nearest class mean on the part.

    Attributes
    ----------
    distance : "euclidean" or "cosine"
        Of means equally far, the first class's is taken.
    standardise : bool
        Whether columns are centred and scaled to unit variance of the training rows.
    metric : str or None
        "accuracy" (default) or "balanced-accuracy".
    """

    distance: Distance = "euclidean"
    standardise: bool = False
    metric: str | None = None

    def __post_init__(self) -> None:
        check_distance(self.distance, standardise=self.standardise)

    @property
    def name(self) -> str:
        """Name in the registry."""
        return "centroid"

    def memory(self, features: Features, plan: Plan) -> dict[str, float]:
        """Bytes of the class means, of the search for one block of queries, and of what it predicts."""
        classes, tests = len(features.classes or ()), features.most_test_rows
        rows = 4 * min(tests, QUERY_ROWS) + plan.n_repeats + classes
        tally = plan.shape[0] * plan.shape[1] * rows
        search = sum(memory_of_search(classes, tests, 1, plan))
        reading = 2 * min(features.splits["train"].x.shape[0], BLOCK_ROWS) * plan.n_columns
        return {"rows": search + 8.0 * (reading + tally + 3 * classes * features.n_neurons)}

    def fit(self, features: Features, plan: Plan, run: Run) -> CentroidFit:
        """Find the class means; rows count by their weight where they have one."""
        return CentroidFit(self._means(features, plan), run)

    def _means(self, features: Features, plan: Plan) -> Search:
        """Return the search of the class means, in code order."""
        train = features.splits["train"]
        if features.classes is None or train.y is None:
            raise InputError("targets", verbatim("continuous targets"), "classes", "use ridge or knn")
        weights = np.ones(train.x.shape[0]) if train.weight is None else train.weight
        name = "X of 'train'"
        search = Search.of(train.x, name, self.distance, plan, standardise=self.standardise, weights=weights)
        sums = np.zeros((len(features.classes), features.n_neurons))
        for rows, block in blocks(train.x, name, shift=search.shift):
            for code in np.unique(train.y[rows]):
                mine = train.y[rows] == code
                sums[code] += np.einsum("n,nd->d", weights[rows][mine], block[mine])
        means = sums / np.bincount(train.y, weights)[:, None] + search.shift
        return dataclasses.replace(search, x=means, name="class means")


@dataclass(frozen=True)
class CentroidFit:
    """The class means to search for all parts of a plan: see `Fitted`."""

    search: Search
    run: Run

    @property
    def converged(self) -> np.ndarray:
        """Every one: nothing is solved."""
        return np.ones(self.search.plan.shape, dtype=bool)

    @property
    def chosen(self) -> Mapping[str, np.ndarray]:
        """Nothing."""
        return {}

    def predictions(self, x: Matrix, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield rows and predictions for them."""
        for near in self.search.run(x, name, 1, self.run):
            yield near.queries, on_all_parts(near.rows[:, :, 0], self.search.plan)

    def part(self, _repeat: int, _size: int, /) -> FittedPart:
        """Raise InputError: a nearest mean is no linear probe."""
        raise no_head("centroid")
