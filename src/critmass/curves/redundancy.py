"""Diffused redundancy: the largest share of neurons one can drop and keep a share δ of performance.

DR(δ) = 1 - min{k : mean over parts of size k of T(part) / T(whole) >= δ} / d (Nanda et al. 2023, eq. 1).
The interval is by test inversion: DR lives on a lattice, where bootstraps of the minimum cover badly.
For each size, D = T(part) - δ T(whole) over test units x repeats (crossed) has a t-bound on either side;
stepping down from d while the lower bound is not negative gives the upper end of the critical mass, and
the first size whose upper bound is not negative the lower end. Everything here is conditional on the
training rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from critmass.curves.tolerance import lower_bounds
from critmass.errors import InputError, check_number
from critmass.linalg.matrices import Floats, Indices
from critmass.scores.protocols import Measurement

CONFIDENCE = 0.95
COVERAGE = 0.95
"""Share of all parts that `Redundancy.nearly_all` speaks of, with CONFIDENCE."""

ROUNDING = 1e-12
"""A score that falls short of its threshold by no more than this share of the whole's counts as equal to it.

A thousand times the rounding error of a mean of credits, and a tenth of the smallest step between accuracies
that differ: 1 / (rows x repeats x denominator of δ) is 1e-11 for 100 million rows, 10 repeats and δ = .95.
"""


@dataclass(frozen=True)
class Spread:
    """How alike the parts of the critical mass are: the diffusion half of the hypothesis.

    Attributes
    ----------
    std : float or None
        Standard deviation over repeats of T(part) / T(whole) (divisor n - 1); None for one repeat.
    worst : float
        The lowest T(part) / T(whole) of the repeats.
    """

    std: float | None
    worst: float


@dataclass(frozen=True)
class Redundancy:
    """DR(δ) of one curve.

    Attributes
    ----------
    delta : float
    dr : float
        The paper's DR: by the smallest measured size whose mean ratio reaches δ.
    low, high : float or None
        95% interval of DR; None where the score has none.
    critical_mass : int
        The size behind `dr`.
    sustained : float
        DR by the smallest measured size from which all larger ones reach δ. On fine grids the paper's
        minimum over many noisy sizes leans upwards, and this does not.
    headline : float
        `sustained` where every size was measured, else `dr`; with `headline_mass`, its size.
    reached : bool
        Whether any size reaches δ; where none does, dr is 0.
    spread : Spread
        Over repeats, at the critical mass.
    nearly_all : float or None
        The diffusion half of the hypothesis: DR by the smallest measured size from which at least 95% of ALL
        parts reach δ on these test rows, with 95% confidence (tolerance.py). None for one part of each size.
    coverage : float or None
        Where a share of all parts was asked for: dr, sustained and headline are by it, and have no interval.
    n_neurons : int
    whole : float
    """

    delta: float
    dr: float
    low: float | None
    high: float | None
    critical_mass: int
    n_neurons: int
    whole: float
    sustained: float
    headline: float
    headline_mass: int
    reached: bool
    spread: Spread
    nearly_all: float | None
    coverage: float | None = None

    def record(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def redundancy(
    measurement: Measurement, *, sizes: Indices, delta: float, coverage: float | None = None
) -> Redundancy:
    """Return DR(δ) of measured scores.

    Parameters
    ----------
    measurement : Measurement
    sizes : array of shape (n_sizes,)
        Ascending; the last is the number of neurons.
    delta : float
        Share of the whole's score to keep.
    coverage : float, optional
        Instead of the mean over parts of a size, let at least this share of ALL such parts reach δ, with 95%
        confidence: the smallest size from which that is so.

    Raises
    ------
    InputError
        If `delta` is outside (0, 1], or the whole layer scores 0 or less, when no ratio makes sense; if there
        is one part of each size and a share of all is asked for.
    """
    check_deltas([delta])
    require_something_learned(measurement)
    dropped = (sizes[-1] - sizes) / sizes[-1]
    ratios = measurement.scores / measurement.whole
    if coverage is None:
        reached = _not_negative(
            (measurement.scores - delta * measurement.whole).mean(axis=0), measurement.whole
        )
        first = int(np.argmax(reached)) if reached.any() else len(sizes) - 1
        low, high = _interval(measurement, dropped, delta)
    else:
        reached = _nearly_all_reach(measurement, delta, coverage)
        first, low, high = _from_here_on(reached), None, None
    at, lasting = ratios[:, first], _from_here_on(reached)
    headline = lasting if len(sizes) == sizes[-1] else first
    return Redundancy(
        delta=float(delta),
        dr=float(dropped[first]),
        low=low,
        high=high,
        critical_mass=int(sizes[first]),
        n_neurons=int(sizes[-1]),
        whole=float(measurement.whole),
        sustained=float(dropped[lasting]),
        headline=float(dropped[headline]),
        headline_mass=int(sizes[headline]),
        reached=bool(reached.any()),
        spread=Spread(std=float(at.std(ddof=1)) if len(at) > 1 else None, worst=float(at.min())),
        nearly_all=(
            float(dropped[_from_here_on(_nearly_all_reach(measurement, delta, COVERAGE))])
            if len(at) > 1
            else None
        ),
        coverage=coverage,
    )


def _nearly_all_reach(measurement: Measurement, delta: float, coverage: float) -> np.ndarray:
    """Return for each size whether at least this share of all its parts reach δ, with CONFIDENCE."""
    if len(measurement.scores) < 2:
        advice = "measure more repeats of a random family; 59 or more need no assumption"
        raise InputError("coverage", coverage, "a share of the parts, where there are several", advice)
    bounds = lower_bounds(measurement.scores, coverage=coverage, confidence=CONFIDENCE)
    return _not_negative(bounds - delta * measurement.whole, measurement.whole)


def check_deltas(deltas: Sequence[float]) -> None:
    """Raise InputError unless there is a δ and each is above 0 and up to 1."""
    for delta in deltas or [float("nan")]:
        check_number("delta", delta, "numbers above 0 and up to 1, such as .9 .95", most=1)


def require_something_learned(measurement: Measurement) -> None:
    """Raise InputError where the whole layer scores 0 or less (an R² can): no share of it means anything."""
    if not measurement.whole > 0:
        raise InputError(
            "score of the whole layer",
            measurement.whole,
            "a positive score to keep a share of",
            "the probe learned nothing: check labels and features",
        )


def _not_negative(difference: Floats, whole: float) -> np.ndarray:
    """Return where T(part) - δ T(whole), or a bound of it, is 0 or more but for rounding."""
    held: np.ndarray = difference >= -ROUNDING * whole
    return held


def _from_here_on(holds: np.ndarray) -> int:
    """Return the first index from which all hold; the last index where not even that does."""
    fails = np.flatnonzero(~holds)
    return min(int(fails[-1]) + 1, len(holds) - 1) if len(fails) else 0


def _interval(
    measurement: Measurement, dropped: Floats, delta: float
) -> tuple[float, float] | tuple[None, None]:
    bounds = difference_bounds(measurement, delta=delta)
    if bounds is None:
        return None, None
    lower, upper = (_not_negative(bound, measurement.whole) for bound in bounds)
    smallest = int(np.argmax(upper)) if upper.any() else len(dropped) - 1
    return float(dropped[_from_here_on(lower)]), float(dropped[smallest])


def difference_bounds(measurement: Measurement, *, delta: float) -> tuple[Floats, Floats] | None:
    """Return one-sided 97.5% bounds, from below and above, of D = T(part) - δ T(whole) for each size.

    Units (rows) and repeats are crossed and both random, so the variance of the mean is that of rows plus
    that of repeats minus their interaction, with Satterthwaite's degrees of freedom. Returns None where
    the measurement has no covariance.
    """
    if measurement.covariance is None:
        return None
    repeats = len(measurement.scores)
    difference = measurement.scores - delta * measurement.whole
    contrast = np.concatenate([np.eye(repeats), np.full((repeats, 1), -delta)], axis=1)
    covariance = contrast @ measurement.covariance @ contrast.T
    variance, freedom = crossed_variance(difference, covariance, n_units=measurement.n_units)
    margin = stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) * np.sqrt(variance)
    mean = difference.mean(axis=0)
    return mean - margin, mean + margin


def crossed_variance(values: Floats, covariance: Floats, *, n_units: int) -> tuple[Floats, Floats]:
    """Return the variance of a mean over units x repeats, both random and crossed, and its freedom.

    Parameters
    ----------
    values : array of shape (n_repeats, n_sizes)
        Means over units.
    covariance : array of shape (n_sizes, n_repeats, n_repeats)
        Over units (divisor n - 1), between repeats.

    Returns
    -------
    variance, freedom : arrays of shape (n_sizes,)
        Rows plus repeats minus their interaction; Satterthwaite's degrees of freedom, 1 or more.
    """
    repeats, n = len(values), n_units
    by_rows = covariance.mean(axis=(1, 2)) / n
    parts = [(by_rows, n - 1.0)]
    variance = by_rows
    if repeats > 1:
        by_repeats = values.var(axis=0, ddof=1) / repeats
        own = np.einsum("mii->m", covariance) - repeats * covariance.mean(axis=(1, 2))
        both = np.maximum(own, 0.0) / (repeats - 1) / (n * repeats)
        parts += [(by_repeats, repeats - 1.0), (both, (n - 1.0) * (repeats - 1.0))]
        variance = np.maximum(by_rows + by_repeats - both, np.maximum(by_rows, by_repeats))
    spent = sum(value**2 / freedom for value, freedom in parts)
    freedom = np.where(spent > 0, variance**2 / np.where(spent > 0, spent, 1.0), np.inf)
    return variance, np.maximum(freedom, 1.0)
