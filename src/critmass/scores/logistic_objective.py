"""The objective of many logistic probes side by side: rows in lanes, sums in a fixed order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from critmass.features.splits import Split
from critmass.linalg.devices import Device, ParallelMap
from critmass.linalg.matrices import Floats
from critmass.parts.plan import Plan

BLOCK_NEURONS = 32
"""A block of neurons is at least this wide: narrower ones cost more in passes than zeros cost in products."""

BLOCK_ROWS = 1024
"""Rows that pass through the products at once: their outputs for all sizes stay in the cache."""

LANES = 16
"""At most so many sums are made side by side."""

LEAST = -40.0
"""Outputs this far below the largest count as this: p² stays a normal number, and products stay fast."""

Array = Any
"""An array on the device."""


@dataclass(frozen=True)
class Block:
    """Some training rows on the device.

    Attributes
    ----------
    x : array of shape (n_columns, n_rows)
        Of centred, scaled neurons; in the layer's order.
    codes : array of shape (n_rows,)
        Class codes.
    weights : array of shape (n_rows,), or None
    """

    x: Array
    codes: Array
    weights: Array | None


@dataclass
class Rows:
    """Training rows, centred and scaled, in *lanes*: groups of blocks whose sums are added in a fixed order.

    Attributes
    ----------
    split : Split
    weights : array of shape (n_samples,), or None
    plan : Plan
    mean, scale : arrays of shape (n_neurons,)
    device : Device
    dtype : str
        Of the products.
    keep : bool
        Whether blocks stay on the device; else they are read again at every pass.
    each : callable
        The map that lanes and problems run in.
    """

    split: Split
    weights: Floats | None
    plan: Plan
    mean: Floats
    scale: Floats
    device: Device
    dtype: str
    keep: bool
    each: ParallelMap
    _kept: dict[int, Block] = field(default_factory=dict)

    @property
    def lanes(self) -> list[range]:
        """The first rows of the blocks of each lane; they depend on the number of rows alone."""
        n = self.split.x.shape[0]
        count = min(LANES, 2 * math.ceil(n / (2 * BLOCK_ROWS)))
        edges = [n * i // count for i in range(count + 1)]
        return [range(a, b) for a, b in itertools.pairwise(edges)]

    def blocks(self, lane: range) -> Iterator[Block]:
        """Yield the blocks of a lane."""
        for start in lane[::BLOCK_ROWS]:
            if start not in self._kept:
                block = self._block(slice(start, min(start + BLOCK_ROWS, lane.stop)))
                if not self.keep:
                    yield block
                    continue
                self._kept[start] = block
            yield self._kept[start]

    def _block(self, rows: slice) -> Block:
        assert self.split.y is not None  # noqa: S101
        put = self.device.put
        weights = None if self.weights is None else put(self.weights[rows], self.dtype)
        return Block(self.standard(self.split.x[rows]), put(self.split.y[rows]), weights)

    def standard(self, x: Any) -> Array:
        """Return raw rows (n_rows, n_neurons) as a block's `x`."""
        standard = self.plan.gather((x - self.mean) / self.scale).astype(self.dtype)
        return self.device.put(np.ascontiguousarray(standard.T))


@dataclass(frozen=True)
class Side:
    """Probes of prefixes of one order, side by side, ready to be evaluated.

    Attributes
    ----------
    order : array of shape (n_neurons,), or None
        None: the layer's own.
    sizes : tuple of int, ascending
    edges : list of (slice, int)
        Blocks of neurons, and for each the first of the sizes that use it. A size between two edges is
        padded with zeros up to the second.
    operands : list of arrays of shape (n_sizes_here * n_outputs, width)
        The weights of each block.
    offsets : array of shape (n_sizes * n_outputs, 1)
    """

    order: Array | None
    sizes: tuple[int, ...]
    edges: list[tuple[slice, int]]
    operands: list[Array]
    offsets: Array

    @classmethod
    def of(cls, order: Array | None, weights: Sequence[Array], intercepts: Sequence[Array], xp: Any) -> Side:
        """Return the side of probes: weights (n_outputs, size), sizes ascending; intercepts (n_outputs,)."""
        sizes = tuple(own.shape[1] for own in weights)
        outputs = weights[0].shape[0]
        stops: list[int] = []
        for size in sizes:
            if size - (stops or [0])[-1] >= BLOCK_NEURONS:
                stops.append(size)
        stops = [*stops[:-1], sizes[-1]]
        starts = [0, *stops[:-1]]
        firsts = np.searchsorted(sizes, starts, side="right").tolist()
        edges = [(slice(a, b), first) for a, b, first in zip(starts, stops, firsts, strict=True)]
        padded = _stacked(weights, xp)
        operands = [padded[first * outputs :, where] for where, first in edges]
        return cls(order, sizes, edges, operands, xp.concat(list(intercepts))[:, None])

    def outputs(self, x: Array) -> Array:
        """Return the outputs for rows `x` in this order, shape (n_sizes * n_outputs, n_rows)."""
        total = self.operands[0] @ x[self.edges[0][0]]
        total += self.offsets
        for (where, _), operand in zip(self.edges[1:], self.operands[1:], strict=True):
            total[total.shape[0] - operand.shape[0] :] += operand @ x[where]
        return total

    def ordered(self, x: Array) -> Array:
        """Return neurons in this order, as far as they are used."""
        return x[: self.sizes[-1]] if self.order is None else x[self.order[: self.sizes[-1]]]

    def sums(self, block: Block, xp: Any) -> Sums:
        """Return loss, gradients and curvature over the rows of a block."""
        m, n = len(self.sizes), block.x.shape[1]
        x = self.ordered(block.x)
        z = self.outputs(x).reshape(m, -1, n)
        loss, p, squares = (_sigmoid if z.shape[1] == 1 else _softmax)(z, block.codes, xp)
        if block.weights is not None:
            p *= block.weights
            loss *= block.weights
        errors = p.reshape(-1, n)
        outputs = len(errors) // m
        gradient = xp.zeros((len(errors), self.sizes[-1]), dtype=x.dtype, **_placed(x))
        for where, first in self.edges:
            gradient[first * outputs :, where] = errors[first * outputs :] @ x[where].T
        wide = (xp.astype(values, xp.float64) for values in (xp.sum(loss, axis=1), squares))
        return Sums(next(wide), gradient, xp.sum(errors, axis=1), next(wide))


def _stacked(own: Sequence[Array], xp: Any) -> Array:
    """Return arrays of as many rows each, and as many columns as the last or fewer, padded with zeros."""
    rows = own[0].shape[0]
    out = xp.zeros((len(own) * rows, own[-1].shape[1]), dtype=own[0].dtype, **_placed(own[0]))
    for index, array in enumerate(own):
        out[index * rows : (index + 1) * rows, : array.shape[1]] = array
    return out


def _placed(array: Array) -> dict[str, Any]:
    """Return where to make an array beside this one, as keyword arguments of its namespace."""
    return {} if isinstance(array, np.ndarray) else {"device": array.device}


def _softmax(z: Array, codes: Array, xp: Any) -> tuple[Array, Array, Array]:
    """Return loss, p - y and Σ p², from outputs (n_sizes, n_classes, n_rows), which are overwritten."""
    rows = xp.arange(z.shape[2])
    z -= xp.max(z, axis=1, keepdims=True)
    truth = z[:, codes, rows]
    # In place, and no clip: outputs fill the cache, and the namespaces' clip is several passes over them.
    xp.maximum(z, xp.full((), LEAST, dtype=z.dtype, **_placed(z)), out=z)
    p = xp.exp(z, out=z)
    total = xp.sum(p, axis=1)
    p *= (1 / total)[:, None]
    flat = p.reshape(len(p), -1)
    squares = xp.vecdot(flat, flat)
    p[:, codes, rows] -= 1
    return xp.log(total) - truth, p, squares


def _sigmoid(z: Array, codes: Array, xp: Any) -> tuple[Array, Array, Array]:
    """Return loss, p - y and Σ p², from outputs of shape (n_sizes, 1, n_rows)."""
    truth = xp.astype(codes, z.dtype)
    loss = xp.log1p(xp.exp(-xp.abs(z))) + xp.clip(z, min=0.0) - truth * z
    p = 1 / (1 + xp.exp(-z))
    squares = xp.sum(p * p + (1 - p) ** 2, axis=(1, 2))
    return loss[:, 0], p - truth, squares


@dataclass
class Sums:
    """Sums over rows for the probes of one side.

    Attributes
    ----------
    loss : array of shape (n_sizes,)
    gradient : array of shape (n_sizes * n_outputs, n_neurons_used)
    intercept : array of shape (n_sizes * n_outputs,)
    squares : array of shape (n_sizes,)
        Of Σ p² over classes.
    """

    loss: Array
    gradient: Array
    intercept: Array
    squares: Array

    def __iadd__(self, other: Sums) -> Sums:
        self.loss += other.loss
        self.gradient += other.gradient
        self.intercept += other.intercept
        self.squares += other.squares
        return self


def evaluate(rows: Rows, sides: Sequence[Side]) -> list[Sums]:
    """Return the sums of every side over all rows; lanes run in parallel and are added in order."""
    xp = rows.device.xp

    def lane_sums(lane: range) -> list[Sums]:
        totals: list[Sums] = []
        for block in rows.blocks(lane):
            for index, side in enumerate(sides):
                sums = side.sums(block, xp)
                if index < len(totals):
                    totals[index] += sums
                else:
                    totals.append(sums)
        return totals

    first: list[Sums]
    first, *others = rows.each(lane_sums, rows.lanes)
    for lane in others:
        for index, sums in enumerate(lane):
            first[index] += sums
    return first
