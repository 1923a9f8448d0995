"""Multinomial logistic problems of many parts, solved side by side: the objective, and L-BFGS on it.

For weights W and intercepts b, f = Σ wᵢ lossᵢ + λ/2 ‖W‖²: softmax and cross entropy, or for two classes one
output and the sigmoid. Parts of one order share a pass over the rows: a block of neurons serves every size
that contains it, so a pass is a few wide products. Variables are preconditioned by the Cholesky factor of
hΣ + λI, whose leading blocks serve every size (h: the mean of p(1 − p)). Knows nothing of metrics or of how
λ is chosen: that is logistic.py. Sources: L-BFGS in the compact form of Byrd, Nocedal & Schnabel 1994;
steps accepted as by Hager & Zhang 2005.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from critmass.features.features import Split
from critmass.linalg.arrays import Device, Each, Floats, cholesky_inverse
from critmass.parts.plan import Plan

HISTORY = 10
"""Pairs of steps and gradient changes that L-BFGS remembers."""

SETTLED = 4
"""Pairs after which the decrease that L-BFGS predicts is believed."""

BLOCK_NEURONS = 32
"""A block of neurons is at least this wide: narrower ones cost more in passes than zeros cost in products."""

BLOCK_ROWS = 1024
"""Rows that pass through the products at once: their outputs for all sizes stay in the cache."""

NEARLY_ALL = 0.7
"""Parts of at least this share of the neurons are multiplied as if they were the whole: one wide product."""

TRIANGLE = 256
"""Columns of a product with a triangular matrix that are computed together."""

LANES = 16
"""At most so many sums are made side by side."""

LEAST = -40.0
"""Outputs this far below the largest count as this: p² stays a normal number, and products stay fast."""

ROUNDING = 1e-6
"""Share of f within which rounding may move it: there the slope judges a step."""

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
    each: Each
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


@dataclass(frozen=True)
class Preconditioner:
    """W = L⁻ᵀ V, with L the Cholesky factor of hΣ + λI in one order: f is nearly round in V.

    Attributes
    ----------
    factor, inverse : arrays of shape (n_neurons_used, n_neurons_used)
        L and L⁻¹.
    intercept : float
        √(h n): what intercepts are multiplied by in V.
    """

    factor: Array
    inverse: Array
    intercept: float

    @classmethod
    def of(
        cls, gram: Array, *, weight: float, curvature: float, penalty: float, dtype: str, device: Device
    ) -> Preconditioner:
        """Return the preconditioner of Σ (in the order) at curvature h; `weight` is that of all rows."""
        xp = device.xp
        matrix = curvature * gram
        diagonal = xp.arange(len(gram))
        matrix[diagonal, diagonal] += penalty
        factor, inverse = cholesky_inverse(device, matrix, dtype)
        return cls(factor, inverse, math.sqrt(curvature * weight))

    def weights(self, v: Sequence[Array], xp: Any) -> list[Array]:
        """Return W of probes from V, shapes (n_outputs, size), sizes ascending."""
        return _triangular(v, lambda a, b, k: (slice(a, k), self.inverse[a:k, a:b]), xp)

    def gradients(self, g: Sequence[Array], xp: Any) -> list[Array]:
        """Return gradients for V of probes from those for W, shapes (n_outputs, size), sizes ascending."""
        return _triangular(g, lambda a, b, _: (slice(b), self.inverse[a:b, :b].T), xp)

    def variables(self, w: Array) -> Array:
        """Return V of one probe."""
        return w @ self.factor[: w.shape[1], : w.shape[1]]


def _triangular(
    own: Sequence[Array], factor: Callable[[int, int, int], tuple[slice, Array]], xp: Any
) -> list[Array]:
    """Return the product of each array with a triangular matrix's leading block of its width.

    Widths are ascending. `factor` gives, for columns a to b of a product of width k, the columns of the array
    that count there, and the matrix that they meet. Widths within a factor of two go together.
    """
    out: list[Array] = []
    while len(out) < len(own):
        k = own[len(own) - len(out) - 1].shape[1]
        group = [array for array in own[: len(own) - len(out)] if 2 * array.shape[1] > k]
        stack, rows = _stacked(group, xp), group[0].shape[0]
        product = xp.zeros_like(stack)
        for a in range(0, k, TRIANGLE):
            b = min(a + TRIANGLE, k)
            first = rows * sum(array.shape[1] <= a for array in group)
            columns, matrix = factor(a, b, k)
            product[first:, a:b] = stack[first:, columns] @ matrix
        parts = [product[i * rows : (i + 1) * rows, : array.shape[1]] for i, array in enumerate(group)]
        out = parts + out
    return out


class Pairs:
    """The inverse Hessian that the last steps and gradient changes imply (Byrd et al. 1994, eq. 3.1)."""

    def __init__(self, length: int, dtype: str, device: Device) -> None:
        self.device, self.dtype = device, dtype
        self.s, self.y = (device.put(np.zeros((HISTORY, length)), dtype) for _ in range(2))
        self.sy, self.yy = np.zeros((HISTORY, HISTORY)), np.zeros((HISTORY, HISTORY))
        self.order: list[int] = []

    def push(self, s: Array, y: Array) -> None:
        """Remember a pair; the oldest is forgotten."""
        full = len(self.order) == HISTORY
        slot = self.order.pop(0) if full else len(self.order)
        self.order.append(slot)
        self.s[slot], self.y[slot] = s, y
        self.sy[:, slot], self.yy[:, slot] = self._products(y)
        self.yy[slot] = self.yy[:, slot]

    def times(self, g: Array) -> Array:
        """Return the implied inverse Hessian times `g`; `g` itself before there are pairs."""
        if not self.order:
            return 1.0 * g
        at = np.array(self.order)
        sg, yg = self._products(g)[:, at]
        upper = np.triu(self.sy[np.ix_(at, at)])
        scale = float(self.sy[at[-1], at[-1]] / self.yy[at[-1], at[-1]])
        u = np.linalg.solve(upper, sg)
        middle = np.diag(upper) * u + scale * (self.yy[np.ix_(at, at)] @ u - yg)
        left, right = np.zeros(HISTORY), np.zeros(HISTORY)
        left[at], right[at] = np.linalg.solve(upper.T, middle), -scale * u
        put = self.device.put
        return scale * g + put(left, self.dtype) @ self.s + put(right, self.dtype) @ self.y

    def _products(self, vector: Array) -> Floats:
        products = self.device.xp.stack([self.s @ vector, self.y @ vector])
        return np.asarray(self.device.get(products), dtype=np.float64)


@dataclass
class Problem:
    """One probe in the making: asks to be evaluated at `trial`, and is told what was found there.

    Attributes
    ----------
    walk : int
        Which order; the last is the whole layer's.
    size : int
    penalty : float
        λ.
    trial : array of shape (n_outputs, size + 1)
        Preconditioned weights, and intercepts last.
    tolerance : float
        Stop where the decrease to come is at most this share of f, and of the decrease from 0.
    squares : float
        Sum of Σ p² over rows, where last evaluated.
    converged : bool
    done : bool
        Converged, or stuck at what rounding allows.
    """

    walk: int
    size: int
    penalty: float
    trial: Array
    tolerance: float
    pairs: Pairs
    v: Array = None
    value: float = np.inf
    gradient: Array = None
    direction: Array = None
    slope: float = 0.0
    step: float = 1.0
    squares: float = 0.0
    converged: bool = False
    done: bool = False

    def tell(self, value: float, gradient: Array, bound: float, xp: Any) -> None:
        """Take f and its gradient at `trial`; the decrease to come is at most `bound`, ‖∇f‖²/2λ."""
        if self.v is not None:
            slope = float(xp.sum(gradient * self.direction))
            sufficient = value <= self.value + 1e-4 * self.step * self.slope
            level = value <= self.value + ROUNDING * abs(self.value) and slope <= -0.8 * self.slope
            if not (sufficient or level):
                curve = value - self.value - self.step * self.slope
                best = -self.slope * self.step**2 / (2 * curve) if curve > 0 else 0.0
                self.step = min(max(best, 0.1 * self.step), 0.5 * self.step)
                self.done = self.step < 1e-6
                self.trial = self.v + self.step * self.direction
                return
            change = gradient - self.gradient
            s = self.step * self.direction
            if float(xp.sum(s * change)) > 0:
                self.pairs.push(s.reshape(-1), change.reshape(-1))
        self.v, self.value, self.gradient = self.trial, value, gradient
        self.direction = -self.pairs.times(gradient.reshape(-1)).reshape(gradient.shape)
        self.slope = float(xp.sum(gradient * self.direction))
        predicted = -0.5 * self.slope if len(self.pairs.order) >= SETTLED else bound
        gained = 0.5 * float(xp.sum(self.v * self.v))  # about f(0) - f: small where a part explains little
        self.converged = min(predicted, bound) <= self.tolerance * min(value, gained)
        self.done = self.converged
        self.step = 1.0
        self.trial = self.v + self.direction


def solve(
    rows: Rows,
    orders: Sequence[Array | None],
    problems: Sequence[Problem],
    conditions: Mapping[tuple[int, float], Preconditioner],
    *,
    iterations: int,
    report: Callable[[int], None],
) -> None:
    """Solve all problems side by side, in at most so many passes; `report` is told how many are done.

    `conditions` are the preconditioners, by walk and λ.
    """
    for _ in range(iterations):
        active = sorted((p for p in problems if not p.done), key=lambda p: (p.walk, p.size))
        if not active:
            break
        _advance(rows, orders, active, [conditions[p.walk, p.penalty] for p in active])
        report(sum(p.done for p in problems))


def _spread(weights: Array, order: Array | None, d: int, xp: Any) -> Array:
    """Return weights of a part as weights of the whole, in the layer's order."""
    if order is None:
        return weights
    whole = xp.zeros((len(weights), d), dtype=weights.dtype, **_placed(weights))
    whole[:, order[: weights.shape[1]]] = weights
    return whole


def _advance(
    rows: Rows,
    orders: Sequence[Array | None],
    problems: Sequence[Problem],
    conditions: Sequence[Preconditioner],
) -> None:
    """Evaluate every problem, sorted by walk and size, at its trial, and tell it."""
    xp, d = rows.device.xp, rows.plan.n_columns
    places = range(len(problems))
    shared: dict[int, list[int]] = {}
    for i in places:
        shared.setdefault(id(conditions[i]), []).append(i)
    alike = list(shared.values())
    weights: dict[int, Array] = {}

    def unfold(group: list[int]) -> None:
        v = [problems[i].trial[:, :-1] for i in group]
        weights.update(zip(group, conditions[group[0]].weights(v, xp), strict=True))

    rows.each(unfold, alike)
    # Parts of nearly all neurons go together, whatever their order, as rows of zeros and weights. The whole
    # goes alone: the bits of a product depend on its shape, and the whole's must not on what is asked beside.
    whole = len(orders) - 1
    homes_of = [-1 if p.walk != whole and p.size >= NEARLY_ALL * d else p.walk for p in problems]
    groups = [[i for i in places if homes_of[i] == home] for home in dict.fromkeys(homes_of)]
    sides = []
    for group in groups:
        order, own = orders[problems[group[0]].walk], [weights[i] for i in group]
        if homes_of[group[0]] == -1:
            order, own = None, [_spread(weights[i], orders[problems[i].walk], d, xp) for i in group]
        intercepts = [problems[i].trial[:, -1] / conditions[i].intercept for i in group]
        sides.append(Side.of(order, own, intercepts, xp))
    found = evaluate(rows, sides)
    homes = {
        i: (sums, place) for sums, group in zip(found, groups, strict=True) for place, i in enumerate(group)
    }

    def tell(group: list[int]) -> None:
        condition, gradients = conditions[group[0]], []
        for i in group:
            sums, place = homes[i]
            g = sums.gradient[place * len(weights[i]) : (place + 1) * len(weights[i])]
            order = orders[problems[i].walk] if homes_of[i] == -1 else None
            g = (g if order is None else g[:, order])[:, : problems[i].size]
            gradients.append(g + problems[i].penalty * weights[i])
        for i, g, gv in zip(group, gradients, condition.gradients(gradients, xp), strict=True):
            problem, w, (sums, place) = problems[i], weights[i], homes[i]
            gb = sums.intercept[place * len(w) : (place + 1) * len(w)] / condition.intercept
            value = float(sums.loss[place]) + 0.5 * problem.penalty * float(xp.sum(w * w))
            bound = float(xp.sum(g * g)) / (2 * problem.penalty) + float(xp.sum(gb * gb))
            problem.squares = float(sums.squares[place])
            problem.tell(value, xp.concat([gv, gb[:, None]], axis=1), bound, xp)

    rows.each(tell, alike)
