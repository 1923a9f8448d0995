"""The k nearest rows of a database in every part, exactly, for all sizes in one pass over the database.

Dot products and squared norms add up along an order of the neurons, so the whole grid of sizes costs one
product as wide as the layer, for each order. Distances that differ by float64's rounding error alone count as
equal, and of equals the lower row number is nearer: so the neighbours are the same rows whatever the order of
the neurons, the container of the rows, the threads and the device.

A block of the database is compared with a block of queries at a time, on the CPU with NumPy twice. A first
pass in float32 sifts out all but the rows that its rounding error cannot rule out (sieve.py); a second one
looks, in float64, at those whose order is still in doubt, and searches the few parts for which float32 is of
no use (found.py). Other devices, and databases of one block, are searched in float64 throughout. No index, no
approximation, nothing of labels.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from critmass.errors import InputError, unknown
from critmass.linalg.devices import Device, ParallelMap, parallel_map
from critmass.linalg.matrices import BLOCK_ROWS, Floats, Indices, Matrix, blocks
from critmass.linalg.moments import mean_and_variance, scale_of
from critmass.parts.plan import Plan
from critmass.progress import counted
from critmass.scores.compared import Asked, Block, Distance, Track
from critmass.scores.protocols import Run
from critmass.scores.sieve import FEW, Singles

DISTANCES = ("cosine", "euclidean")

QUERY_ROWS = 256
"""Queries compared at once: their products with a block of the database stay in the processor's cache."""

GROUPS = 4
"""Prefix groups whose columns of a block are held in their order at once."""


def check_distance(distance: str, *, standardise: bool) -> None:
    """Raise InputError, naming it, for a setting of a search that is none."""
    if distance not in DISTANCES:
        raise unknown("distance", str(distance), DISTANCES)
    if not isinstance(standardise, bool):
        raise InputError("standardise", standardise, "true or false")


@dataclass(frozen=True)
class Near:
    """The nearest rows of a block of queries, nearest first.

    Attributes
    ----------
    queries : slice
    rows : array of shape (n_parts, n_queries, k)
        Row numbers in the database, for the sizes of every group, group by group; the whole's are last.
    distances : array, shape as `rows`
        Cosine distances; or squared Euclidean ones, divided by the query's squared norm plus the
        database's mean one, both about its mean. `TIE` and less are 0 but for rounding. Where a search was
        not asked for distances, some are float32's.
    """

    queries: slice
    rows: Indices
    distances: Floats


def on_all_parts(values: np.ndarray, plan: Plan) -> np.ndarray:
    """Return values of `Near`'s parts, (n_parts, n), as (n_repeats + 1, n, n_sizes), the whole's last."""
    cuts = np.cumsum([len(group.sizes) for group in plan.groups])[:-1]
    return plan.of_groups(np.split(values, cuts)).transpose(0, 2, 1)


def memory_of_search(n_rows: int, n_queries: int, k: int, plan: Plan) -> tuple[float, float]:
    """Return the bytes that a search of `n_rows` rows needs: with no query, and for a block of queries."""
    n_parts = sum(len(group.sizes) for group in plan.groups)
    rows, queries = min(n_rows, BLOCK_ROWS), min(n_queries, QUERY_ROWS)
    in_order = sum(len(group.sizes) + len(group.used) / 2 for group in plan.groups[-GROUPS:])
    block = 8 * rows * (3 * plan.n_columns + in_order)
    # The k nearest, what waits to be sorted among them, and what makes distances of gaps.
    kept = 2 * k + 2 * (k + FEW) + 3
    # Two products, and the distances that are near.
    compared = 2 * rows + 4 * k
    return block, 8 * queries * (2 * plan.n_columns + n_parts * kept + compared)


@dataclass(frozen=True)
class Search:
    """A database to search, and how.

    Attributes
    ----------
    x : matrix of shape (n_samples, n_neurons)
    name : str
        What its rows are called in errors.
    distance : "cosine" or "euclidean"
    plan : Plan
    shift, scale : arrays of shape (n_neurons,)
        Taken from every row, of database and queries alike, and what it is then divided by.
    spread : array of shape (n_columns,)
        Mean square of each column over the database, shifted and scaled; of use to Euclidean distances.
    """

    x: Matrix
    name: str
    distance: Distance
    plan: Plan
    shift: Floats
    scale: Floats
    spread: Floats

    @classmethod
    def of(
        cls,
        x: Matrix,
        name: str,
        distance: Distance,
        plan: Plan,
        *,
        standardise: bool,
        weights: Floats | None = None,
    ) -> Search:
        """Return the search of these rows; `weights` are how much each counts in mean and variance.

        Euclidean distances are taken about the rows' mean, which changes none and saves digits.
        """
        if distance == "cosine" and not standardise:
            zeros = np.zeros(x.shape[1])
            return cls(x, name, distance, plan, zeros, zeros + 1, np.zeros(plan.n_columns))
        weights = np.ones(x.shape[0]) if weights is None else weights
        mean, variance = mean_and_variance(x, name, weights)
        scale = scale_of(variance, mean, x.shape[0]) if standardise else np.ones(x.shape[1])
        spread = variance / scale**2
        if plan.n_columns > x.shape[1] and distance == "euclidean":
            spread = np.zeros(plan.n_columns)
            for rows, block in blocks(x, name, shift=mean):
                spread += np.einsum("n,nd->d", weights[rows] / weights.sum(), plan.gather(block / scale) ** 2)
        return cls(x, name, distance, plan, mean, scale, spread)

    def run(self, queries: Matrix, name: str, k: int, run: Run, *, distances: bool = True) -> Iterator[Near]:
        """Yield the k nearest rows of each block of queries; as many blocks as fit share a pass.

        Without `distances`, rows alone are to be relied on.

        Raises
        ------
        InputError
            If the database has not k rows, or a row is not finite.
        """
        n = self.x.shape[0]
        if not 1 <= k <= n:
            raise InputError("n_neighbours", k, f"1 to {n}, the number of rows searched", self.name)
        tracks, device = self._tracks(), run.device
        alone, a_batch = memory_of_search(n, queries.shape[0], k, self.plan)
        # Half, so that who reads the neighbours has the other half.
        held = max(1, int((run.memory / 2 - alone) / a_batch))
        passes = -(-queries.shape[0] // (held * QUERY_ROWS))
        count = counted(run.progress, f"neighbours of {name}", 2 * passes * n)
        waiting = self._blocks(queries, name, QUERY_ROWS)
        sift = device.torch_name is None and n > BLOCK_ROWS
        while batch := [
            Asked.start(rows, block, tracks, k, device, sift=sift)
            for rows, block in itertools.islice(waiting, held)
        ]:
            with parallel_map(device) as each:
                if any(not sieve.blind for asked in batch for sieve in asked.sieves):
                    for rows, block in self._blocks(self.x, self.name, BLOCK_ROWS):
                        _sift(tracks, batch, block.astype(np.float32), rows.start, each)
                        count(rows.stop - rows.start)
                else:
                    count(n)
                each(lambda asked: asked.rank(distances=distances), batch)
                if any(asked.open for asked in batch):
                    for rows, block in self._blocks(self.x, self.name, BLOCK_ROWS):
                        _look(tracks, batch, block, rows.start, each, device)
                        count(rows.stop - rows.start)
                else:
                    count(n)
                each(lambda asked: asked.settle(device.xp), batch)
            for asked in batch:
                yield Near(asked.queries, device.get(asked.found.rows), device.get(asked.found.distances))

    def _tracks(self) -> list[Track]:
        """Return the orders to search along, numbering their parts as `Near` does."""
        tracks: list[Track] = []
        first = 0
        for group in self.plan.groups:
            columns = group.columns[: len(group.used)]
            spread = np.cumsum(self.spread[columns])[group.sizes - 1]
            tracks.append(Track(columns, group.sizes.tolist(), first, self.distance, spread))
            first += len(group.sizes)
        return tracks

    def _blocks(self, x: Matrix, name: str, size: int) -> Iterator[tuple[slice, Floats]]:
        """Yield rows and their block, columns first, so that these are cheap to gather."""
        for rows, block in blocks(x, name, size=size, shift=self.shift):
            yield rows, np.ascontiguousarray(self.plan.gather(block / self.scale).T)


def _sift(tracks: Sequence[Track], batch: Sequence[Asked], x: Singles, first: int, each: ParallelMap) -> None:
    """Compare a block of the database, rows `first` and on, with all queries in float32."""
    for start in range(0, len(tracks), GROUPS):
        blocks_in_order = each(lambda track: track.singles(x), tracks[start : start + GROUPS])
        each(lambda pair: pair[1].sift(pair[0], first), list(itertools.product(blocks_in_order, batch)))


def _look(
    tracks: Sequence[Track], batch: Sequence[Asked], x: Floats, first: int, each: ParallelMap, device: Device
) -> None:
    """Compare a block of the database, rows `first` and on, in float64: as far as float32 did not do."""
    each(lambda pair: pair[0].look(pair[1], x, first), list(itertools.product(batch, tracks)))
    on_device = device.put(x)
    for track in tracks:
        blind = sorted({i for asked in batch for i in asked.blind(track)})
        if blind:
            block = track.doubles(on_device, blind, device)
            each(functools.partial(_search, block, first, device), batch)


def _search(block: Block, first: int, device: Device, asked: Asked) -> None:
    asked.search(block, first, device.xp)
