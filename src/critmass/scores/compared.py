"""Blocks of queries compared with blocks of a database, along an order: in float32 first, then in float64.

Here are the two ways in which gaps are computed, and what a block of queries knows between them. What float32
can tell is in sieve.py; how float64's tables of neighbours grow, in found.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from critmass.linalg.devices import Device
from critmass.linalg.matrices import Floats, Indices
from critmass.scores.found import TIE, Array, Found, nearest
from critmass.scores.sieve import RANGE, Sieve, Singles, in_range, products_error

Distance = Literal["cosine", "euclidean"]

PAIRS = 2**16
"""Numbers of each side that are gathered at once to compare pairs of rows, but for one pair at least."""


COARSE = 2
"""On so few neurons rows crowd at the smallest distances: float32 is not tried."""


@dataclass(frozen=True)
class Track:
    """An order to search along.

    Attributes
    ----------
    order : array of shape (n_neurons_used,)
        Columns, up to the largest size.
    sizes : list of int, ascending
    first : int
        The part of the first size; the others follow.
    distance : "cosine" or "euclidean"
    spread : array of shape (n_sizes,)
        `Search.spread`, summed over the columns of each size.
    """

    order: Indices
    sizes: list[int]
    first: int
    distance: Distance
    spread: Floats

    def lines(self, x: Array, device: Device) -> tuple[Array, Array, Array]:
        """Return squared norms of queries x, and what makes distances of gaps, ``offset + slope * gap``.

        ParallelMap of shape (n_sizes, n_queries).
        """
        xp, q = device.xp, x[device.put(self.order)]
        squares = xp.stack(list(itertools.accumulate(_squares(xp, q[span]) for span in _spans(self.sizes))))
        if self.distance == "cosine":
            return squares, xp.ones_like(squares), _inverse(xp, xp.sqrt(squares))
        slope = 2 * _inverse(xp, squares + device.put(self.spread)[:, None])
        return squares, slope * squares / 2, slope

    def sieves(self, squares: Floats, k: int) -> list[Sieve]:
        """Return a sieve for each size, for queries of these squared norms."""
        widths = np.diff(self.sizes, prepend=0)
        return [self._sieve(i, own, products_error(widths[: i + 1]), k) for i, own in enumerate(squares)]

    def _sieve(self, i: int, squares: Floats, error: float, k: int) -> Sieve:
        blind, spread = self.sizes[i] <= COARSE, self.spread[i]
        if self.distance == "cosine":
            # ParallelMap of two gaps, cosines times the query's norm, is off by the error times that norm.
            return Sieve(k, 2 * (error + TIE) * np.sqrt(squares), 0.0, blind or not in_range(squares))
        # A gap is off by error * (|q|² + |x|²) / 2, where |x|² is at most 4 (|q|² + gap), as |x - q|² is
        # |q|² + 2 gap. So is another, and the k-th gap itself is known but for as much.
        base = 6 * error * squares + TIE * (squares + spread)
        return Sieve(k, base, 5 * error, blind or not in_range(squares + spread))

    def singles(self, x: Singles) -> Block:
        """Return a block of the database, columns first, ready to be compared in float32."""
        x = x[self.order]
        squares = np.empty((len(self.sizes), x.shape[1]))
        for own, span in zip(squares, _spans(self.sizes), strict=True):
            np.sum(np.square(x[span]), axis=0, dtype=np.float64, out=own)
        squares = squares.cumsum(axis=0)
        safe = [in_range(own) if self.distance == "cosine" else bool((own < RANGE).all()) for own in squares]
        factors = _inverse(np, np.sqrt(squares)) if self.distance == "cosine" else squares / 2
        return Block(self, range(len(self.sizes)), self.order, x, list(factors.astype(np.float32)), safe)

    def doubles(self, x: Array, which: Sequence[int], device: Device) -> Block:
        """Return a block ready to be compared in float64, in these of the sizes."""
        xp, sizes = device.xp, [self.sizes[i] for i in which]
        order = device.put(self.order[: sizes[-1]])
        x = x[order]
        squares = itertools.accumulate(_squares(xp, x[span]) for span in _spans(sizes))
        factors = [_inverse(xp, xp.sqrt(own)) if self.distance == "cosine" else own / 2 for own in squares]
        return Block(self, which, order, x, factors, [True] * len(sizes))


@dataclass(frozen=True)
class Block:
    """A block of the database in a track's order, and what makes gaps of dot products for some of its sizes.

    Attributes
    ----------
    track : Track
    which : sequence of int
        The sizes, as the track numbers them.
    order : array of shape (n_neurons_used,)
        The track's columns, on the device.
    x : array of shape (n_neurons_used, n_rows)
    factors : list of arrays of shape (n_rows,)
        For each size: what cosines' products are multiplied by, or what is added to Euclidean ones.
    safe : list of bool
        For each size, whether its numbers are in the range of the products.
    """

    track: Track
    which: Sequence[int]
    order: Array
    x: Array
    factors: list[Array]
    safe: list[bool]

    def gaps(self, q: Array, xp: Any) -> Iterator[tuple[int, Array]]:
        """Yield each size's part and the gaps of queries q, columns first and with their sign changed.

        Gaps have shape (n_queries, n_rows); the next overwrite them.
        """
        track = self.track
        spans = _spans([track.sizes[i] for i in self.which])
        join = xp.multiply if track.distance == "cosine" else xp.add
        dots = q[spans[0]].T @ self.x[spans[0]]
        gaps = xp.empty_like(dots)
        for index, span in enumerate(spans):
            if index:
                xp.matmul(q[span].T, self.x[span], out=gaps)
                dots += gaps
            # What is nearer has the smaller gap: of the queries the sign is changed.
            join(dots, self.factors[index], out=gaps)
            yield track.first + self.which[index], gaps


@dataclass(frozen=True)
class Doubt:
    """What may be among the nearest in one part, and the pairs that float32 cannot put in order.

    Attributes
    ----------
    rows, gaps : arrays of shape (n_queries, most)
        Nearest first; gaps beyond a query's last are infinite.
    query, place : arrays of shape (n_pairs,)
        Where in `rows` the pairs are.
    distances : array of shape (n_pairs,)
        In float64, once they are known.
    """

    rows: Indices
    gaps: Singles
    query: Indices
    place: Indices
    distances: Floats


@dataclass(frozen=True)
class Asked:
    """A block of queries, and what is known of their nearest rows.

    Attributes
    ----------
    queries : slice
    x : array of shape (n_columns, n_queries)
        The queries times -1, columns first, on the device.
    singles : array, shape as `x`
        The same in float32; of none where nothing is sifted.
    found : Found
        The result; and parts searched in float64 on their way there.
    sieves : list of Sieve
        By part.
    doubts : dict of int to Doubt
        By part, for those sifted.
    """

    queries: slice
    x: Array
    singles: Singles
    found: Found
    sieves: list[Sieve]
    doubts: dict[int, Doubt]

    @classmethod
    def start(
        cls, queries: slice, x: Floats, tracks: Sequence[Track], k: int, device: Device, *, sift: bool
    ) -> Asked:
        """Return what is known before any row; `x` are the queries, columns first.

        `sift` says whether float32 is to be tried.
        """
        on_device = device.put(x)
        lines = [track.lines(on_device, device) for track in tracks]
        squares, offset, slope = (device.xp.concat(values) for values in zip(*lines, strict=True))
        found = Found.start(offset, slope, k, device)
        if not sift:
            blind = [Sieve(k, np.zeros(0), 0.0, blind=True) for _ in range(len(squares))]
            return cls(queries, -on_device, np.empty((0, 0), dtype=np.float32), found, blind, {})
        sieves = [
            sieve for track, (own, _, _) in zip(tracks, lines, strict=True) for sieve in track.sieves(own, k)
        ]
        return cls(queries, -on_device, -x.astype(np.float32), found, sieves, {})

    def blind(self, track: Track) -> list[int]:
        """Return the sizes of a track, by number, for which float32 is of no use."""
        return [i for i in range(len(track.sizes)) if self.sieves[track.first + i].blind]

    @property
    def open(self) -> bool:
        """Whether anything is left for float64 to tell, once `rank` was called."""
        return any(sieve.blind for sieve in self.sieves) or any(
            len(doubt.query) for doubt in self.doubts.values()
        )

    def sift(self, block: Block, first: int) -> None:
        """Compare with a block in float32, rows `first` and on."""
        track = block.track
        sieves = self.sieves[track.first : track.first + len(track.sizes)]
        for sieve, safe in zip(sieves, block.safe, strict=True):
            if not safe:
                sieve.give_up()
        if all(sieve.blind for sieve in sieves):
            return
        with np.errstate(over="ignore", invalid="ignore"):
            for part, gaps in block.gaps(self.singles[track.order], np):
                self.sieves[part].add(gaps, first)

    def rank(self, *, distances: bool) -> None:
        """Find whose order is in doubt; where `distances` are wanted, all that are near are."""
        for part, sieve in enumerate(self.sieves):
            if not sieve.blind:
                rows, gaps, doubt = sieve.ranked()
                if distances:
                    doubt[:, : sieve.k] = True
                query, place = np.nonzero(doubt)
                self.doubts[part] = Doubt(rows, gaps, query, place, np.empty(len(query)))
                sieve.waiting.clear()

    def look(self, track: Track, x: Floats, first: int) -> None:
        """Measure in float64 what is in doubt on one track, as far as a block has it, rows `first` and on."""
        for i, size in enumerate(track.sizes):
            doubt = self.doubts.get(track.first + i)
            if doubt is None:
                continue
            rows = doubt.rows[doubt.query, doubt.place] - first
            here = np.flatnonzero((rows >= 0) & (rows < x.shape[1]))
            columns, step = track.order[:size, None], max(1, PAIRS // size)
            for start in range(0, len(here), step):
                some = here[start : start + step]
                a, b = self.x[columns, doubt.query[some]], x[columns, rows[some]]
                gaps, squares = np.einsum("dn,dn->n", a, b), np.einsum("dn,dn->n", b, b)
                if track.distance == "cosine":
                    gaps *= _inverse(np, np.sqrt(squares))
                else:
                    gaps += squares / 2
                doubt.distances[some] = self._distances(track.first + i, gaps, doubt.query[some])

    def search(self, block: Block, first: int, xp: Any) -> None:
        """Compare with a block in float64, in the parts for which float32 is of no use."""
        track = block.track
        own = {part for part in (track.first + i for i in block.which) if self.sieves[part].blind}
        if own:
            for part, gaps in block.gaps(self.x[block.order], xp):
                if part in own:
                    self.found.add(part, gaps, first, xp)

    def settle(self, xp: Any) -> None:
        """Complete what was found."""
        self.found.settle_all(xp)
        for part, doubt in self.doubts.items():
            self.found.rows[part], self.found.distances[part] = self._settled(part, doubt)

    def _settled(self, part: int, doubt: Doubt) -> tuple[Indices, Floats]:
        """Return rows and distances of the k nearest in one part, (n_queries, k) each."""
        rows, (n, k) = doubt.rows, self.found.rows.shape[1:]
        distances = self._distances(part, doubt.gaps, np.arange(n)[:, None])
        distances[doubt.query, doubt.place] = doubt.distances
        unsure = np.unique(doubt.query)
        if len(unsure):
            # Of equals the first is nearer: here they are to be in the order of rows.
            order = np.argsort(np.where(doubt.gaps < np.inf, rows, np.iinfo(rows.dtype).max)[unsure], axis=1)
            mine, own = (np.take_along_axis(values[unsure], order, axis=1) for values in (rows, distances))
            order = nearest(np, own, k)
            rows[unsure, :k], distances[unsure, :k] = (
                np.take_along_axis(v, order, axis=1) for v in (mine, own)
            )
        return rows[:, :k], distances[:, :k]

    def _distances(self, part: int, gaps: np.ndarray, query: Indices) -> Floats:
        """Return the distances of these queries' gaps, infinite where gaps are."""
        far = np.isinf(gaps)
        distances: Floats = self.found.offset[part][query] + self.found.slope[part][query] * np.where(
            far, 0.0, gaps
        )
        distances[far] = np.inf
        return distances


def _spans(sizes: Sequence[int]) -> list[slice]:
    """Return the columns between one size and the next."""
    return [slice(*span) for span in itertools.pairwise([0, *sizes])]


def _squares(xp: Any, x: Array) -> Array:
    return xp.sum(x * x, axis=0)


def _inverse(xp: Any, x: Array) -> Array:
    """Return 1 / x, and 0 where x is 0."""
    return xp.where(x > 0, 1.0 / xp.where(x > 0, x, 1.0), 0.0)
