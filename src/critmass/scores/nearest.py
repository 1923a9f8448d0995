"""The k nearest rows of a database in every part, exactly, for all sizes in one pass over the database.

Dot products and squared norms add up along an order of the neurons, so the whole grid of sizes costs one
product as wide as the layer, for each order. Products are float64; distances that differ by rounding error
alone count as equal, and of equals the lower row number is nearer: so the neighbours are the same rows
whatever the order of the neurons, the container of the rows, the threads and the device.

A block of the database is compared with a block of queries at a time. All but few distances are only held
against the k-th nearest so far; those few are sorted. No index, no approximation, nothing of labels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from critmass.errors import InputError, unknown
from critmass.linalg.devices import Device, ParallelMap, parallel_map
from critmass.linalg.matrices import BLOCK_ROWS, Floats, Indices, Matrix, blocks
from critmass.linalg.moments import mean_and_variance, scale_of
from critmass.parts.groups import PrefixGroup
from critmass.parts.plan import Plan
from critmass.progress import counted
from critmass.scores.protocols import Run

Distance = Literal["cosine", "euclidean"]
DISTANCES = ("cosine", "euclidean")

TIE = 1e-13
"""Distances no further apart than this are equal: about a hundred times the rounding error of a float64 sum
over a thousand neurons."""

QUERY_ROWS = 256
"""Queries compared at once: their products with a block of the database stay in the processor's cache."""

WAITING, FEW = 2, 16
"""So many times k, and so many, rows wait for each query and part, on average, before they are sorted."""

Array = Any
"""An array on the device."""


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
        database's mean one, both about its mean. `TIE` and less are 0 but for rounding.
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
    block = 8 * rows * (4 * plan.n_columns + 2 * len(plan.sizes))
    # The k nearest, what waits to be sorted among them, and what makes distances of gaps.
    kept = 2 * k + 3 * (WAITING * k + FEW) + 2
    # Two products, and the distances that are near.
    compared = 3 * rows + 4 * k
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

    def run(self, queries: Matrix, name: str, k: int, run: Run) -> Iterator[Near]:
        """Yield the k nearest rows of each block of queries; as many blocks as fit share a pass.

        Raises
        ------
        InputError
            If the database has not k rows, or a row is not finite.
        """
        n = self.x.shape[0]
        if not 1 <= k <= n:
            raise InputError("n_neighbours", k, f"1 to {n}, the number of rows searched", self.name)
        groups = self.plan.groups
        firsts = np.cumsum([0, *(len(group.sizes) for group in groups)]).tolist()
        device = run.device
        alone, a_batch = memory_of_search(n, queries.shape[0], k, self.plan)
        # Half, so that who reads the neighbours has the other half.
        held = max(1, int((run.memory / 2 - alone) / a_batch))
        passes = -(-queries.shape[0] // (held * QUERY_ROWS))
        count = counted(run.progress, f"neighbours of {name}", passes * n)
        waiting = self._blocks(queries, name, QUERY_ROWS, device)
        while batch := [
            _Found.start(rows, block, *self._lines(block, groups, device), k, device)
            for rows, block in itertools.islice(waiting, held)
        ]:
            with parallel_map(device) as each:
                for rows, block in self._blocks(self.x, self.name, BLOCK_ROWS, device):
                    for group, part in zip(groups, firsts, strict=False):
                        self._compare(group, part, block, rows.start, batch, device, each)
                    count(rows.stop - rows.start)
                each(lambda found: found.settle_all(device.xp), batch)
            for found in batch:
                yield Near(found.queries, device.get(found.rows), device.get(found.distances))

    def _blocks(self, x: Matrix, name: str, size: int, device: Device) -> Iterator[tuple[slice, Array]]:
        """Yield rows and their block on the device, columns first, so that these are cheap to gather."""
        for rows, block in blocks(x, name, size=size, shift=self.shift):
            yield rows, device.put(np.ascontiguousarray(self.plan.gather(block / self.scale).T))

    def _lines(self, queries: Array, groups: Sequence[PrefixGroup], device: Device) -> tuple[Array, Array]:
        """Return what makes distances of gaps, ``offset + slope * gap``, shape (n_parts, n_queries) each."""
        xp = device.xp
        norms: list[Array] = []
        spread: list[Floats] = []
        for group in groups:
            q = queries[device.put(group.columns)]
            norms += itertools.accumulate(_squares(xp, q[span]) for span in _spans(group))
            spread.append(np.cumsum(self.spread[group.columns])[group.sizes - 1])
        squares = xp.stack(norms)
        if self.distance == "cosine":
            return xp.ones_like(squares), _inverse(xp, xp.sqrt(squares))
        slope = 2 * _inverse(xp, squares + device.put(np.concatenate(spread))[:, None])
        return slope * squares / 2, slope

    def _compare(
        self,
        group: PrefixGroup,
        part: int,
        x: Array,
        first: int,
        batch: Sequence[_Found],
        device: Device,
        each: ParallelMap,
    ) -> None:
        """Compare a block of the database, rows `first` and on, with all queries, along one group.

        Its first size is part number `part` of `Near`.
        """
        xp, order = device.xp, device.put(group.columns)
        x, spans = x[order], _spans(group)
        squares = itertools.accumulate(_squares(xp, x[span]) for span in spans)
        factors = [_inverse(xp, xp.sqrt(s)) if self.distance == "cosine" else s / 2 for s in squares]
        join = xp.multiply if self.distance == "cosine" else xp.add

        def search(found: _Found) -> None:
            q = found.x[order]
            dots = q[spans[0]].T @ x[spans[0]]
            gaps = xp.empty_like(dots)
            for index, span in enumerate(spans):
                if index:
                    xp.matmul(q[span].T, x[span], out=gaps)
                    dots += gaps
                # What is nearer has the smaller gap: found.x are the queries with their sign changed.
                join(dots, factors[index], out=gaps)
                found.add(part + index, gaps, first, xp)

        each(search, batch)


@dataclass(frozen=True)
class _Found:
    """What is found so far for a block of queries; `x` are the queries, columns first, times -1.

    Rows that may be among the nearest wait, for each part as (queries, rows, distances), until there are
    enough of them to be worth sorting.
    """

    queries: slice
    x: Array
    offset: Array
    slope: Array
    rows: Array
    distances: Array
    waiting: list[list[tuple[Array, Array, Array]]]

    @classmethod
    def start(cls, queries: slice, x: Array, offset: Array, slope: Array, k: int, device: Device) -> _Found:
        shape = (*offset.shape, k)
        rows, distances = np.zeros(shape, dtype=np.int64), np.full(shape, np.inf)
        waiting: list[list[tuple[Array, Array, Array]]] = [[] for _ in range(shape[0])]
        return cls(queries, -x, offset, slope, device.put(rows), device.put(distances), waiting)

    def add(self, part: int, gaps: Array, first: int, xp: Any) -> None:
        """Take rows `first` and on into account, whose distances are ``offset + slope * gaps``."""
        (n, width), k = gaps.shape, self.rows.shape[2]
        offset, slope = self.offset[part], self.slope[part]
        limit = _limit(xp, self.distances[part], gaps, offset, slope, first)
        near = xp.nonzero(xp.reshape(gaps <= limit[:, None], (-1,)))[0]
        if len(near) == 0:
            return
        crowd = 4 * (k + FEW)
        if len(near) > n * crowd and width > 2 * crowd:
            # Most are equal, as on few neurons: of the second half only those nearer than the first's are.
            half = width // 2
            self.add(part, gaps[:, :half], first, xp)
            self.settle(part, xp)
            self.add(part, gaps[:, half:], first + half, xp)
            return
        query = near // width
        distances = offset[query] + slope[query] * xp.reshape(gaps, (-1,))[near]
        self.waiting[part].append((query, near - query * width + first, distances))
        if first == 0 or sum(len(found[0]) for found in self.waiting[part]) > n * (WAITING * k + FEW):
            self.settle(part, xp)

    def settle_all(self, xp: Any) -> None:
        """Sort what still waits."""
        for part in range(len(self.waiting)):
            self.settle(part, xp)

    def settle(self, part: int, xp: Any) -> None:
        """Find the k nearest among those known and those that wait in one part."""
        if not self.waiting[part]:
            return
        query, rows, distances = (xp.concat(values) for values in zip(*self.waiting[part], strict=True))
        if len(self.waiting[part]) > 1:
            order = xp.argsort(query, stable=True)
            query, rows, distances = query[order], rows[order], distances[order]
        self.waiting[part].clear()
        n, k = self.rows.shape[1:]
        each = xp.arange(n, device=query.device)
        place = k + xp.arange(len(query), device=query.device) - xp.searchsorted(query, each)[query]
        wide = int(xp.max(place)) + 1
        all_distances = xp.full((n, wide), float("inf"), dtype=distances.dtype, device=query.device)
        all_rows = xp.zeros((n, wide), dtype=rows.dtype, device=query.device)
        all_distances[:, :k], all_rows[:, :k] = self.distances[part], self.rows[part]
        all_distances[query, place], all_rows[query, place] = distances, rows
        nearest = _nearest(xp, all_distances, k)
        self.distances[part] = all_distances[each[:, None], nearest]
        self.rows[part] = all_rows[each[:, None], nearest]


def _spans(group: PrefixGroup) -> list[slice]:
    """Return the columns between one size and the next."""
    return [slice(*span) for span in itertools.pairwise([0, *group.sizes.tolist()])]


def _limit(xp: Any, known: Array, gaps: Array, offset: Array, slope: Array, first: int) -> Array:
    """Return for each query a gap above which no row is among the k nearest, and few rows below are not."""
    (n, width), k = gaps.shape, known.shape[1]
    # A tenth of TIE is to spare on either side: what rounding lets in is sorted out later.
    if first:
        # A row as far as the k-th that is known comes after it.
        most = known[:, -1] - 0.9 * TIE
    elif width < k:
        most = known[:, -1]
    else:
        # The k-th of the least of k groups or more: no less than the k-th of all, and hardly more.
        depth = 2 ** int(math.log2(max(1, width // (4 * k))))
        groups = width // depth
        least = xp.min(xp.reshape(gaps[:, : depth * groups], (n, depth, groups)), axis=1)
        most = offset + slope * xp.sort(least, axis=1, stable=False)[:, k - 1] + 1.1 * TIE
    rises = slope > 0
    limit = (most - offset) / xp.where(rises, slope, 1.0)
    return xp.where(rises, limit, xp.where(offset <= most, float("inf"), -float("inf")))


def _nearest(xp: Any, distances: Array, k: int) -> Array:
    """Return the places of the k least of each row, of equals the first, shape (n, k)."""
    order = xp.argsort(distances, axis=1, stable=False)
    each = xp.arange(len(order), device=order.device)[:, None]
    ranked = distances[each, order[:, : k + 1]]
    nearest = order[:, :k]
    tied = xp.nonzero(xp.any(ranked[:, 1:] <= ranked[:, :-1] + TIE, axis=1))[0]
    if len(tied):
        # Number the runs of equals, and sort by run and place.
        order = order[tied]
        ranked, wide = distances[tied[:, None], order], distances.shape[1]
        runs = xp.zeros_like(order)
        runs[:, 1:] = xp.cumulative_sum(xp.astype(ranked[:, 1:] > ranked[:, :-1] + TIE, order.dtype), axis=1)
        nearest[tied] = xp.sort(runs * wide + order, axis=1, stable=False)[:, :k] % wide
    return nearest


def _squares(xp: Any, x: Array) -> Array:
    return xp.sum(x * x, axis=0)


def _inverse(xp: Any, x: Array) -> Array:
    """Return 1 / x, and 0 where x is 0."""
    return xp.where(x > 0, 1.0 / xp.where(x > 0, x, 1.0), 0.0)
