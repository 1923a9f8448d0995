"""The nearest-mean probe: a row is of the class whose mean is nearest, on each part, all sizes at once.

scikit-learn's NearestCentroid without shrinkage, or by cosine: a search for one nearest neighbour
(nearest.py) where the database is the class means. Nothing is chosen, so no validation rows are needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from critmass.errors import InputError, said
from critmass.features.features import Features
from critmass.linalg.arrays import BLOCK_ROWS, Indices, blocks
from critmass.parts.parts import Parts
from critmass.scores.compared import Distance
from critmass.scores.nearest import (
    QUERY_ROWS,
    Search,
    check_distance,
    memory_of_search,
    on_all_parts,
)
from critmass.scores.probes import tally_on
from critmass.scores.protocols import Measurement, Run


@dataclass(frozen=True)
class Centroid:
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
    label_free = False

    def __post_init__(self) -> None:
        check_distance(self.distance, standardise=self.standardise)

    @property
    def name(self) -> str:
        """Name in the registry."""
        return "centroid"

    def memory(self, features: Features, parts: Parts, sizes: Indices) -> dict[str, float]:
        """Bytes of the class means, of the search for one block of queries, and of what it predicts."""
        classes = len(features.classes or ())
        tests = features.most_test_rows
        tally = (parts.repeats + 1) * len(sizes) * (4 * min(tests, QUERY_ROWS) + parts.repeats + classes)
        search = sum(memory_of_search(classes, tests, 1, parts, sizes))
        reading = 2 * min(features.splits["train"].x.shape[0], BLOCK_ROWS) * parts.n_columns
        return {"rows": search + 8 * (reading + tally + 3 * classes * features.n_neurons)}

    def from_rows(
        self, features: Features, parts: Parts, sizes: Indices, run: Run
    ) -> Mapping[str, Measurement]:
        """Measure all sizes from the class means; rows count by their weight where they have one."""
        search, shape = self._means(features, parts, sizes), (parts.repeats, len(sizes))
        out = {}
        for name in features.tests:
            tally = tally_on(features, name, self.metric, shape)
            x = features.splits[name].x
            for near in search.run(x, f"X of {name!r}", 1, run, distances=False):
                tally.add(near.queries, on_all_parts(near.rows[:, :, 0], parts, sizes))
            out[name] = tally.measurement()
        return out

    def _means(self, features: Features, parts: Parts, sizes: Indices) -> Search:
        """Return the search of the class means, in code order."""
        train = features.splits["train"]
        if features.classes is None or train.y is None:
            raise InputError("targets", said("continuous targets"), "classes", "use ridge or knn")
        weights = np.ones(train.x.shape[0]) if train.weight is None else train.weight
        name = "X of 'train'"
        search = Search.of(
            train.x, name, self.distance, parts, sizes, standardise=self.standardise, weights=weights
        )
        sums = np.zeros((len(features.classes), features.n_neurons))
        for rows, block in blocks(train.x, name, shift=search.shift):
            for code in np.unique(train.y[rows]):
                mine = train.y[rows] == code
                sums[code] += np.einsum("n,nd->d", weights[rows][mine], block[mine])
        means = sums / np.bincount(train.y, weights)[:, None] + search.shift
        return dataclasses.replace(search, x=means, name="class means")
