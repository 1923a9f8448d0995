"""Lower tolerance bounds: a score that at least a share of ALL parts of a size reach, with stated confidence.

The mean over a few random parts says what one part does on average, and the worst of five says what at least
55% of all parts do. A tolerance bound says what, say, 95% of them do: the r-th lowest of N random parts, r as
large as the binomial law allows (Wilks 1941), whatever the distribution; with fewer parts than that needs,
the bound of a normal distribution (Krishnamoorthy & Mathew 2009, 2.2), unless the scores are skewed. Bounds
are of the parts' scores on the test rows at hand.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from critmass.errors import InputError
from critmass.linalg.matrices import Floats

SKEWED = 1.645
"""Scores count as skewed towards low ones where their skewness is this many standard errors below 0."""


def rank(n_parts: int, *, coverage: float, confidence: float = 0.95) -> int:
    """Return r: the r-th lowest of `n_parts` random parts is a tolerance bound; 0 where there are too few.

    Examples
    --------
    >>> [rank(n, coverage=0.95) for n in (58, 59, 200, 500, 1000)]
    [0, 1, 5, 17, 39]
    """
    # It fails where fewer than r of the parts are among the lowest 1 - coverage of all.
    return int(stats.binom.ppf(1 - confidence, n_parts, 1 - coverage))


def lower_bounds(scores: Floats, *, coverage: float, confidence: float = 0.95) -> Floats:
    """Return what at least this share of all parts of each size score, shape (n_sizes,).

    Parameters
    ----------
    scores : array of shape (n_repeats, n_sizes)
        Of independent random parts.
    coverage, confidence : float
        Between 0 and 1.

    Returns
    -------
    array of shape (n_sizes,)
        -inf where nothing can be said: fewer than 3 parts, or too few that are skewed.

    Raises
    ------
    InputError
        For a share or a confidence outside (0, 1).
    """
    for name, value in (("coverage", coverage), ("confidence", confidence)):
        if not 0 < value < 1:
            raise InputError(name, value, "a number between 0 and 1, such as .95")
    n = len(scores)
    if place := rank(n, coverage=coverage, confidence=confidence):
        lowest: Floats = np.sort(scores, axis=0)[place - 1]
        return lowest
    if n < 3:
        return np.full(scores.shape[1], -np.inf)
    deviation = scores.std(axis=0, ddof=1)
    factor = stats.nct.ppf(confidence, n - 1, stats.norm.ppf(coverage) * np.sqrt(n)) / np.sqrt(n)
    error = np.sqrt(6.0 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3)))
    bounds: Floats = scores.mean(axis=0) - factor * deviation
    # Scores that are all the same are not skewed; their skewness is 0 / 0.
    varies = deviation > 1e-12 * np.abs(scores).max(axis=0)
    skewness = stats.skew(scores[:, varies], axis=0, bias=False)
    bounds[np.flatnonzero(varies)[skewness < -SKEWED * error]] = -np.inf
    return bounds
