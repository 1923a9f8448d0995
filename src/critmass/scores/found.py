"""The k nearest rows as float64 tells them, of equals the first: tables that grow block by block.

All but few distances are only held against the k-th nearest so far; those few wait, and are sorted together.
Distances are ``offset + slope * gap``, as in nearest.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from critmass.linalg.devices import Device
from critmass.scores.sieve import FEW, WAITING

TIE = 1e-13
"""Distances no further apart than this are equal: about a hundred times the rounding error of a float64 sum
over a thousand neurons."""

Array = Any
"""An array on the device."""


@dataclass(frozen=True)
class Found:
    """The nearest rows that float64 has found so far for a block of queries.

    Rows that may be among them wait, for each part as (queries, rows, distances), until there are enough of
    them to be worth sorting.

    Attributes
    ----------
    offset, slope : arrays of shape (n_parts, n_queries)
    rows, distances : arrays of shape (n_parts, n_queries, k)
    waiting : list of list of (array, array, array)
    """

    offset: Array
    slope: Array
    rows: Array
    distances: Array
    waiting: list[list[tuple[Array, Array, Array]]]

    @classmethod
    def start(cls, offset: Array, slope: Array, k: int, device: Device) -> Found:
        """Return the state before any row."""
        shape = (*offset.shape, k)
        rows, distances = np.zeros(shape, dtype=np.int64), np.full(shape, np.inf)
        waiting: list[list[tuple[Array, Array, Array]]] = [[] for _ in range(shape[0])]
        return cls(offset, slope, device.put(rows), device.put(distances), waiting)

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
        places = nearest(xp, all_distances, k)
        self.distances[part] = all_distances[each[:, None], places]
        self.rows[part] = all_rows[each[:, None], places]


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


def nearest(xp: Any, distances: Array, k: int) -> Array:
    """Return the places of the k least of each row, of equals the first, shape (n, k)."""
    order = xp.argsort(distances, axis=1, stable=False)
    each = xp.arange(len(order), device=order.device)[:, None]
    ranked = distances[each, order[:, : k + 1]]
    places = order[:, :k]
    tied = xp.nonzero(xp.any(ranked[:, 1:] <= ranked[:, :-1] + TIE, axis=1))[0]
    if len(tied):
        # Number the runs of equals, and sort by run and place.
        order = order[tied]
        ranked, wide = distances[tied[:, None], order], distances.shape[1]
        runs = xp.zeros_like(order)
        runs[:, 1:] = xp.cumulative_sum(xp.astype(ranked[:, 1:] > ranked[:, :-1] + TIE, order.dtype), axis=1)
        places[tied] = xp.sort(runs * wide + order, axis=1, stable=False)[:, :k] % wide
    return places
