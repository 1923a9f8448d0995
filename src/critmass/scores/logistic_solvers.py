"""Multinomial logistic problems of many parts, solved side by side: the objective, and L-BFGS on it.

For weights W and intercepts b, f = Σ wᵢ lossᵢ + λ/2 ‖W‖²: softmax and cross entropy, or for two classes one
output and the sigmoid. Parts of one order share a pass over the rows: a block of neurons serves every size
that contains it, so a pass is a few wide products. Variables are preconditioned by the Cholesky factor of
hΣ + λI, whose leading blocks serve every size (h: the mean of p(1 − p)). Knows nothing of metrics or of how
λ is chosen: that is logistic.py. Sources: L-BFGS in the compact form of Byrd, Nocedal & Schnabel 1994;
steps accepted as by Hager & Zhang 2005.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from critmass.linalg.devices import Device
from critmass.linalg.matrices import Floats
from critmass.scores.logistic_objective import Array, Rows, Side, _placed, evaluate
from critmass.scores.logistic_preconditioner import Preconditioner

HISTORY = 10
"""Pairs of steps and gradient changes that L-BFGS remembers."""

SETTLED = 4
"""Pairs after which the decrease that L-BFGS predicts is believed."""

NEARLY_ALL = 0.7
"""Parts of at least this share of the neurons are multiplied as if they were the whole: one wide product."""

ROUNDING = 1e-6
"""Share of f within which rounding may move it: there the slope judges a step."""


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
