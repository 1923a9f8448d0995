"""The preconditioner of logistic probes: the Cholesky factor of hΣ + λI, a leading block for each size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from critmass.linalg.devices import Device
from critmass.linalg.kernels import cholesky_inverse
from critmass.scores.logistic_objective import Array, _stacked

TRIANGLE = 256
"""Columns of a product with a triangular matrix that are computed together."""


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
