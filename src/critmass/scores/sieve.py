"""A sieve for nearest rows: products in float32, twice as fast, and a bound on what their rounding may hide.

For a block of queries and one part it keeps every row that may be among the k nearest, in what is at last a
table little wider than k, and says which of them are too close to one another for float32 to tell apart. Only
these are looked at in float64. Where float32 is of no use, as where thousands of rows are equally far or
numbers leave its range, the sieve is *blind*: the part is then searched in float64 throughout.

Gaps are what distances are made of, as in nearest.py: ``distance = offset + slope * gap``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from critmass.linalg.matrices import Floats, Indices

Singles = NDArray[np.float32]

UNIT = 2.0**-24
"""Relative rounding error of one float32 operation."""

RANGE = 1e20
"""Squared norms from 1 / RANGE to RANGE are safe: no product underflows by what matters, none overflows."""

SPARE = 12
"""Roundings of a gap besides those of its products: of both rows, of the norm, of the limit; and to spare."""

WAITING, FEW = 2, 16
"""So many times k, and so many, rows wait for each query and part, on average, before they are sorted."""


def products_error(widths: Indices) -> float:
    """Return the error of float32 products added up over blocks of columns, as a share of the norms' product.

    A sum of w products in any order is off by w roundings at most, and so is each addition of a block. By
    Cauchy and Schwarz the blocks' errors are together at most that of the widest.
    """
    return 1.01 * UNIT * (int(np.max(widths)) + len(widths) + SPARE)


def in_range(squares: Floats) -> bool:
    """Return whether float32 serves vectors of these squared norms: zero, or neither tiny nor huge."""
    return bool(((squares == 0) | ((squares > 1 / RANGE) & (squares < RANGE))).all())


def kth_at_most(gaps: Singles | Floats, k: int) -> Floats:
    """Return for each query a gap that k rows or more do not exceed, and hardly more than k: shape (n,)."""
    n, width = gaps.shape
    if width < k:
        return np.full(n, np.inf)
    # The k-th of the least of k groups or more: no less than the k-th of all.
    depth = 2 ** int(np.log2(max(1, width // (4 * k))))
    groups = width // depth
    least = gaps[:, : depth * groups].reshape(n, depth, groups).min(axis=1)
    return np.sort(least, axis=1)[:, k - 1].astype(np.float64)


@dataclass
class Sieve:
    """What may be among the k nearest of a block of queries, in one part.

    Attributes
    ----------
    k : int
    base, rate : array of shape (n_queries,) and float
        Two gaps of rows that may be among the nearest differ truly if they do by more than
        ``base + rate * gap``, the gap being the k-th.
    blind : bool
        Whether float32 is of no use here.
    limit : array of shape (n_queries,), or None
        Gaps above it are of rows that are not among the k nearest. None before there were rows.
    """

    k: int
    base: Floats
    rate: float
    blind: bool = False
    limit: Singles | None = None
    waiting: list[tuple[Indices, Indices, Singles]] = field(default_factory=list)

    def add(self, gaps: Singles, first: int) -> None:
        """Take rows `first` and on into account, by their gaps, shape (n_queries, n_rows)."""
        if self.blind:
            return
        n, width = gaps.shape
        limit = self._lower(kth_at_most(gaps, self.k)) if self.limit is None else self.limit
        near = np.flatnonzero(gaps <= limit[:, None])
        if len(near) == 0:
            return
        crowd = 4 * (self.k + FEW)
        if len(near) > n * crowd and width > 2 * crowd:
            # Nearer rows than all before, or most are equal: of the second half, only those nearer than the
            # first's.
            for half in (slice(width // 2), slice(width // 2, width)):
                self.add(gaps[:, half], first + half.indices(width)[0])
                self._trim()
            return
        query = near // width
        column = near - query * width
        self.waiting.append((query, column + first, gaps[query, column]))
        if self._count() > n * (WAITING * self.k + FEW):
            self._trim()

    def give_up(self) -> None:
        """Leave this part to float64."""
        self.blind = True
        self.waiting.clear()

    def ranked(self) -> tuple[Indices, Singles, NDArray[np.bool_]]:
        """Return rows and gaps of all that may be nearest, nearest first, and where their order is in doubt.

        Shapes (n_queries, most); beyond the last of a query's, rows are 0 and gaps infinite.
        """
        if len(self.waiting) > 1:
            self._trim()
        rows, gaps = self._table()
        order = np.argsort(gaps, axis=1)
        rows, gaps = np.take_along_axis(rows, order, axis=1), np.take_along_axis(gaps, order, axis=1)
        margin = self._margin(gaps[:, self.k - 1].astype(np.float64))
        with np.errstate(invalid="ignore"):
            close = gaps[:, 1:] - np.minimum(gaps[:, :-1], gaps[:, self.k - 1 : self.k]) <= margin[:, None]
        doubt = np.zeros(gaps.shape, dtype=bool)
        doubt[:, 1:] |= close
        doubt[:, :-1] |= close
        return rows, gaps, doubt

    def _margin(self, kth: Floats) -> Floats:
        return self.base + self.rate * np.clip(kth, 0.0, np.finfo(np.float64).max)

    def _lower(self, kth: Floats) -> Singles:
        self.limit = (kth + self._margin(kth)).astype(np.float32)
        return self.limit

    def _count(self) -> int:
        return sum(len(query) for query, _, _ in self.waiting)

    def _trim(self) -> None:
        """Drop what is not among the nearest after all; where much is left, float32 is of no use."""
        if not self.waiting:
            return
        rows, gaps = self._table()
        limit = self._lower(np.sort(gaps, axis=1)[:, self.k - 1].astype(np.float64))
        query, place = np.nonzero((gaps <= limit[:, None]) & (gaps < np.inf))
        self.waiting[:] = [(query, rows[query, place], gaps[query, place])]
        if len(query) > len(rows) * (1.5 * self.k + FEW):
            self.give_up()

    def _table(self) -> tuple[Indices, Singles]:
        """Return rows and gaps of what waits, shape (n_queries, most), a query's in the order they came."""
        query, rows, gaps = (np.concatenate(values) for values in zip(*self.waiting, strict=True))
        if len(self.waiting) > 1:
            order = np.argsort(query, kind="stable")
            query, rows, gaps = query[order], rows[order], gaps[order]
        counts = np.bincount(query, minlength=len(self.base))
        place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = (len(counts), max(int(counts.max()), self.k))
        all_rows, all_gaps = np.zeros(shape, dtype=np.intp), np.full(shape, np.inf, dtype=np.float32)
        all_rows[query, place], all_gaps[query, place] = rows, gaps
        return all_rows, all_gaps
