"""Gini and the coefficient of variation: their values, slopes, and what finite rows add to them.

Source: Nanda et al. 2023, who measure how evenly accuracy is shared among classes by these two. Both ignore
scale and are 0 where all values are equal. Accuracies of classes are shares of right rows, and their binomial
noise makes equal classes look unequal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from critmass.linalg.matrices import Floats, Indices

GRID_CELLS = 256, 4096
"""Fewest and most cells that accuracies of classes of different numbers of rows are laid out on."""


def gini(values: ArrayLike) -> Floats:
    """Return the Gini index over the last axis: half the mean absolute difference of pairs, over the mean.

    Between 0 (all equal) and 1 - 1/n; 0 where all are 0. Values must not be negative.

    Examples
    --------
    >>> float(gini([0.0, 1.0])), float(gini([0.7, 0.7]))
    (0.5, 0.0)
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    n = ordered.shape[-1]
    return over(ordered @ (2.0 * np.arange(1, n + 1) - n - 1) / n**2, ordered.mean(axis=-1))


def coefficient_of_variation(values: ArrayLike) -> Floats:
    """Return std / mean over the last axis, of the whole population (divisor n); 0 where all are 0.

    Examples
    --------
    >>> float(coefficient_of_variation([0.5, 1.5]))
    0.5
    """
    array = np.asarray(values, dtype=np.float64)
    return over(array.std(axis=-1), array.mean(axis=-1))


def over(value: Floats, by: Floats | float) -> Floats:
    """Return value / by, and 0 where `by` is 0: where all accuracies are 0, nothing is unequal."""
    by = np.asarray(by)
    result: Floats = np.where(by == 0, 0.0, value / np.where(by == 0, 1.0, by))
    return result


@dataclass(frozen=True)
class Index:
    """An index over the last axis, and what its interval and correction need.

    Attributes
    ----------
    value, slope : callable (accuracies) -> index; its derivative in each accuracy
    inflation : callable (true accuracies, rows) -> what binomial noise adds to the index's square
        Squares, because they hardly depend on how unequal the true accuracies are: like variances, they add.
    """

    value: Callable[[Floats], Floats]
    slope: Callable[[Floats], Floats]
    inflation: Callable[[Floats, Indices], Floats]


def _cov_slope(values: Floats) -> Floats:
    mean, std = (measure(axis=-1, keepdims=True) for measure in (values.mean, values.std))
    return over(values - mean, values.shape[-1] * std * mean) - over(std, values.shape[-1] * mean**2)


def _cov_inflation(true: Floats, rows: Indices) -> Floats:
    """Return what binomial noise adds to the square of the coefficient of variation: no approximation."""
    n = true.shape[-1]
    return over((1 - 1 / n) * _binomial(true, rows).mean(axis=-1), true.mean(axis=-1) ** 2)


def _gini_slope(values: Floats) -> Floats:
    rank, n = stats.rankdata(values, axis=-1), values.shape[-1]
    return over(
        (2.0 * rank - n - 1) / n**2 - gini(values)[..., None] / n, values.mean(axis=-1, keepdims=True)
    )


def _gini_inflation(true: Floats, rows: Indices) -> Floats:
    """Return what binomial noise adds to the square of Gini: that of the mean, for the noise shifts it most.

    The mean absolute difference of X and Y is the integral of F(1 - G) + G(1 - F) with F and G their
    distribution functions, so all pairs need only the sum of the functions. The mean of the accuracies, which
    divides, is taken as free of noise.
    """
    n, same = len(rows), bool((rows == rows[0]).all())
    cells = int(rows[0] if same else np.clip(4 * rows.max(), *GRID_CELLS))
    middle = (np.arange(cells) + 0.5) / cells
    flat = true.reshape(-1, n)
    apart = np.empty(len(flat))
    step = max(1, 2**21 // max(cells, int(rows.max())))
    for start in range(0, len(flat), step):
        some = slice(start, start + step)
        total, own = np.zeros((2, len(flat[some]), cells))
        for count, share in zip(rows, flat[some].T, strict=True):
            below = _binomial_below(share, count)[:, (middle * count).astype(np.intp)]
            total += below
            own += below * (1.0 - below)
        apart[some] = (total * (n - total) - own).mean(axis=1)
    noisy: Floats = over(apart.reshape(true.shape[:-1]) / n**2, true.mean(axis=-1))
    return noisy**2 - gini(true) ** 2


def _binomial_below(share: Floats, count: int) -> Floats:
    """Return P(right <= j) for j = 0..count, shape (len(share), count + 1)."""
    right = np.arange(count + 1.0)
    ways = special.gammaln(count + 1) - special.gammaln(right + 1) - special.gammaln(count - right + 1)
    p = share[:, None]
    chance = np.exp(ways + special.xlogy(right, p) + special.xlog1py(count - right, -p))
    below: Floats = np.cumsum(chance, axis=1)
    return below


def _binomial(true: Floats, rows: Indices) -> Floats:
    variance: Floats = true * (1.0 - true) / np.where(rows > 1, rows, np.nan)
    return variance


INDICES = {
    "gini": Index(gini, _gini_slope, _gini_inflation),
    "cov": Index(coefficient_of_variation, _cov_slope, _cov_inflation),
}
