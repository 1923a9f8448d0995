"""How unevenly accuracy is shared among classes and groups: Gini, coefficient of variation, the worst.

Sources: Nanda et al. 2023 for the question; Korn & Graubard 1998 for intervals of shares near 0 and 1.

Both indices are inflated by finite test rows: equal classes of 50 rows score unequally by chance, and more
so as accuracy falls towards 1/2. So each stands beside its value corrected for that, and beside its *null*:
what it would be, inflation included, had every class lost the same share of its accuracy. As both ignore
scale, a proportional loss changes neither's true value; the *excess* of a part, its corrected value minus the
whole's, is inequality that dropping neurons made.

Pure functions of curves: how rows of one class vary together over parts comes from the curve's covariance of
credits, not from the predictions. Nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from critmass.curves.curve import Curve
from critmass.curves.gini import INDICES, Index, coefficient_of_variation, gini, over
from critmass.curves.redundancy import CONFIDENCE, crossed_variance, difference_bounds
from critmass.errors import InputError, verbatim
from critmass.linalg.matrices import Floats, Indices
from critmass.scores.protocols import Measurement


@dataclass(frozen=True)
class Inequality:
    """Inequality of one curve.

    Attributes
    ----------
    frame : DataFrame
        One row for each size, by class and, where the split has groups, by group; means over repeats.
        Columns: by, size, fraction, accuracy; for X = gini and cov (the coefficient of variation): X as it
        is, X_corrected for finite rows, X_low and X_high (95% interval of the corrected), X_null, X_excess
        with X_excess_low and X_excess_high; worst (the class of lowest accuracy), worst_accuracy, worst_low
        and worst_high (95% interval of the lowest true accuracy), worst_null (the whole's lowest accuracy,
        had its loss been proportional). Null where it cannot be had: corrections need 2 rows of each class,
        intervals a covariance.
    by_repeat : DataFrame
        One row for each size and repeat. Columns: by, size, fraction, repeat; accuracy, gini, cov, worst and
        worst_accuracy of that part.
    trade_off : DataFrame
        One row for each size. Columns: by, size, dropped (neurons), dropped_fraction; accuracy_lost,
        gini_excess and cov_excess (with _low and _high), worst_lost (of the worst class's accuracy); each of
        these four for every 1% of neurons dropped, X_per_percent; worst_to_mean = worst_lost / accuracy_lost.
    """

    frame: pl.DataFrame
    by_repeat: pl.DataFrame
    trade_off: pl.DataFrame


def inequality(curve: Curve) -> Inequality:
    """Return how unevenly accuracy is shared among classes, and groups, at each size of part.

    Parameters
    ----------
    curve : Curve
        Of a probe on classes. Its test split's classes and groups that have rows count.

    Returns
    -------
    Inequality

    Raises
    ------
    InputError
        For a curve without accuracies by class: of CKA, of continuous targets, of a function.

    Examples
    --------
    >>> import numpy as np
    >>> from critmass.features.features import Features
    >>> from critmass.curves.measure import measure
    >>> y = np.arange(600) % 3
    >>> X = np.random.default_rng(0).normal(size=(600, 16)) + np.eye(3, 16)[y]
    >>> found = inequality(measure(Features.from_arrays((X, y)), sizes=[1, 4]))
    >>> found.frame["size"].to_list(), found.frame["cov_excess"][-1]
    ([1, 4, 16], 0.0)
    """
    measurement = curve.measurement
    if measurement.by_class is None or measurement.whole_by_class is None:
        found = verbatim(f"a curve of {curve.described} with no accuracies by class")
        raise InputError("curve", found, "a probe on classes", "measure ridge, logistic, knn ... with labels")
    together = _within_classes(measurement, curve.metric)
    kinds = [_Shared.of("class", curve.classes, measurement, together)]
    if measurement.by_group is not None:
        kinds.append(_Shared.of("group", curve.groups, measurement, together))
    sizes = {"size": curve.sizes, "fraction": curve.sizes / curve.n_neurons}
    frame = pl.concat([_frame(shared, sizes) for shared in kinds])
    return Inequality(
        frame=frame,
        by_repeat=pl.concat([_by_repeat(shared, sizes) for shared in kinds]),
        trade_off=pl.concat([_trade_off(shared, frame, curve.n_neurons) for shared in kinds]),
    )


def table(curves: Sequence[Curve]) -> pl.DataFrame:
    """Return one tidy table: the frames of these curves, on each test split, and what tells them apart."""
    splits = [curve.on(split) for curve in curves for split in (curve.split, *curve.others)]
    return pl.concat([curve.named(inequality(curve).frame) for curve in splits])


@dataclass(frozen=True)
class _Shared:
    """Accuracies of classes or groups, those with rows.

    Attributes
    ----------
    kind : "class" or "group"
    names : list of n_classes str
    parts : array of shape (n_repeats, n_sizes, n_classes)
    whole : array of shape (n_classes,)
    rows : array of shape (n_classes,)
    together : array of shape (n_sizes, n_repeats + 1, n_repeats + 1), or None
        Correlation, over rows of one class, of the credits of the repeats and, last, of the whole.
    """

    kind: str
    names: list[str]
    parts: Floats
    whole: Floats
    rows: Indices
    together: Floats | None

    @classmethod
    def of(cls, kind: str, names: Any, measurement: Measurement, together: Floats | None) -> _Shared:
        rows = getattr(measurement, f"{kind}_rows")
        there = np.flatnonzero(rows)
        return cls(
            kind,
            [] if names is None else [str(names[i]) for i in there],
            getattr(measurement, f"by_{kind}")[..., there],
            getattr(measurement, f"whole_by_{kind}")[there],
            rows[there],
            together,
        )

    @property
    def every(self) -> Floats:
        """Parts and, last, the whole: shape (n_repeats + 1, n_sizes, n_classes)."""
        return np.concatenate([self.parts, np.broadcast_to(self.whole, (1, *self.parts.shape[1:]))])

    @property
    def accuracy(self) -> tuple[Floats, float]:
        """Share of all rows that parts get right, shape (n_repeats, n_sizes), and that the whole does."""
        share = self.rows / self.rows.sum()
        return self.parts @ share, float(self.whole @ share)

    @property
    def noise(self) -> Floats:
        """Unbiased variance of each accuracy in `every`; NaN for a class of one row."""
        freedom = np.where(self.rows > 1, self.rows - 1.0, np.nan)
        return self.every * (1.0 - self.every) / freedom


def _within_classes(measurement: Measurement, metric: str | None) -> Floats | None:
    """Return the correlation of credits over rows of the same class, of `_Shared.together`.

    The covariance over all rows is that within classes plus that between them, and the latter follows from
    the accuracies by class. Pooled over classes.
    """
    if measurement.covariance is None:
        return None
    shared = _Shared.of("class", None, measurement, None)
    rows, n = shared.rows, measurement.n_units
    credit = n / (len(rows) * rows) if metric == "balanced-accuracy" else np.ones(len(rows))
    mean = np.concatenate([measurement.scores, np.full((1, len(measurement.scores[0])), measurement.whole)])
    apart = credit * shared.every - mean[..., None]
    between = np.einsum("imc,jmc,c->mij", apart, apart, rows)
    within = measurement.covariance * (n - 1) - between
    own = np.sqrt(np.maximum(np.einsum("mii->mi", within), 0.0))
    scale = own[:, :, None] * own[:, None, :]
    varies = scale > 1e-9 * n
    together: Floats = np.where(varies, np.clip(within / np.where(varies, scale, 1.0), -1.0, 1.0), 0.0)
    itself = np.arange(together.shape[1])
    together[:, itself, itself] = 1.0
    return together


def _frame(shared: _Shared, sizes: dict[str, Any]) -> pl.DataFrame:
    parts, whole = shared.accuracy
    columns: dict[str, Any] = {"by": [shared.kind] * len(sizes["size"]), **sizes}
    columns["accuracy"] = parts.mean(axis=0)
    for name, index in INDICES.items():
        columns |= {f"{name}{what}": values for what, values in _columns(index, shared).items()}
    mean = shared.parts.mean(axis=0)
    low, high = _lowest(shared)
    columns |= {
        "worst": [shared.names[i] for i in mean.argmin(axis=1)],
        "worst_accuracy": mean.min(axis=1),
        "worst_low": low,
        "worst_high": high,
        "worst_null": over(parts.mean(axis=0), whole) * shared.whole.min(),
    }
    return pl.DataFrame(columns).fill_nan(None)


def _plus(value: Floats, more: Floats) -> Floats:
    """Return the index, never below 0, with `more` added to its square."""
    root: Floats = np.sqrt(np.maximum(np.maximum(value, 0.0) ** 2 + more, 0.0))
    return root


def _columns(index: Index, shared: _Shared) -> dict[str, Floats]:
    """Return the columns of one index: means over repeats, shape (n_sizes,)."""
    every, noise, rows = shared.every, shared.noise, shared.rows
    values = index.value(every)
    mean, whole = values[:-1].mean(axis=0), values[-1]
    true = _shrunk(every, noise)
    inflation = index.inflation(true, rows)
    own, base = inflation[:-1].mean(axis=0), inflation[-1]
    accuracy, of_whole = shared.accuracy
    kept = np.minimum(over(accuracy, of_whole)[..., None] * true[-1], 1.0)
    null = index.inflation(kept, rows).mean(axis=0)
    low, high, less, more = np.full((4, len(mean)), np.nan)
    if shared.together is not None:
        u = index.slope(every) * np.sqrt(noise)
        n = int(rows.sum())
        covariance = n * shared.together * np.einsum("imc,jmc->mij", u, u)
        measured = Measurement(
            values[:-1], float(whole[0]), covariance, n, np.ones(accuracy.shape, dtype=bool)
        )
        low, high = _bounds(measured, delta=0.0)
        less, more = _bounds(measured, delta=1.0) + whole
    start = _plus(whole, -base)
    return {
        "": mean,
        "_corrected": _plus(mean, -own),
        "_low": _plus(low, -own),
        "_high": _plus(high, -own),
        "_null": _plus(whole, null - base),
        "_excess": _plus(mean, -own) - start,
        "_excess_low": _plus(less, -own) - start,
        "_excess_high": _plus(more, -own) - start,
    }


def _bounds(statistic: Measurement, *, delta: float) -> Floats:
    bounds = difference_bounds(statistic, delta=delta)
    assert bounds is not None  # noqa: S101
    return np.asarray(bounds)


def _lowest(shared: _Shared) -> Floats:
    """Return the interval of the lowest true accuracy of all, shape (2, n_sizes).

    Each class has a Clopper-Pearson interval with the rows that would give its variance over rows and repeats
    (Korn & Graubard). The lowest of the lower ends is below the lowest accuracy wherever that class's own is;
    for the upper ends all classes must hold at once.
    """
    if shared.together is None:
        return np.full((2, shared.parts.shape[1]), np.nan)
    deviation, tail = np.sqrt(shared.noise[:-1]), (1 - CONFIDENCE) / 2
    low: list[Floats] = []
    high: list[Floats] = []
    for index, rows in enumerate(shared.rows):
        values, own = shared.parts[..., index], deviation[..., index]
        covariance = rows * shared.together[:, :-1, :-1] * np.einsum("im,jm->mij", own, own)
        variance, freedom = crossed_variance(values, covariance, n_units=rows)
        share = values.mean(axis=0)
        low.append(1.0 - _upper_end(1.0 - share, variance, freedom, rows, len(values), tail))
        high.append(_upper_end(share, variance, freedom, rows, len(values), tail / len(shared.rows)))
    return np.stack([np.min(low, axis=0), np.min(high, axis=0)])


def _upper_end(
    share: Floats, variance: Floats, freedom: Floats, rows: int, repeats: int, chance: float
) -> Floats:
    """Return the Clopper-Pearson bound above `share` for as many rows as would give it this variance."""
    t = stats.t.ppf(chance, max(rows - 1, 1)) / stats.t.ppf(chance, freedom)
    likely = np.minimum(over(share * (1.0 - share), variance) * t**2, repeats * rows)
    likely = np.where(variance > 0, likely, rows)
    right, wrong = share * likely, np.maximum((1.0 - share) * likely, 1e-9)
    return np.where(share < 1.0, stats.beta.isf(chance, right + 1.0, wrong), 1.0)


def _shrunk(accuracies: Floats, noise: Floats) -> Floats:
    """Return accuracies drawn in to their mean until their variance is free of noise: likely true ones."""
    mean, variance = accuracies.mean(axis=-1, keepdims=True), accuracies.var(axis=-1, keepdims=True)
    n = accuracies.shape[-1]
    true = np.maximum(variance - (1 - 1 / n) * noise.mean(axis=-1, keepdims=True), 0.0)
    drawn_in: Floats = mean + np.sqrt(over(true, variance)) * (accuracies - mean)
    return drawn_in


def _by_repeat(shared: _Shared, sizes: dict[str, Any]) -> pl.DataFrame:
    repeats, count, _ = shared.parts.shape
    accuracy, _ = shared.accuracy
    return pl.DataFrame(
        {
            "by": [shared.kind] * (repeats * count),
            **{name: np.tile(values, repeats) for name, values in sizes.items()},
            "repeat": np.repeat(np.arange(repeats), count),
            "accuracy": accuracy.ravel(),
            "gini": gini(shared.parts).ravel(),
            "cov": coefficient_of_variation(shared.parts).ravel(),
            "worst": [shared.names[i] for i in shared.parts.argmin(axis=2).ravel()],
            "worst_accuracy": shared.parts.min(axis=2).ravel(),
        }
    )


def _trade_off(shared: _Shared, frame: pl.DataFrame, n_neurons: int) -> pl.DataFrame:
    _, whole = shared.accuracy
    lost = {
        "accuracy_lost": whole - pl.col("accuracy"),
        "gini_excess": pl.col("gini_excess"),
        "gini_excess_low": pl.col("gini_excess_low"),
        "gini_excess_high": pl.col("gini_excess_high"),
        "cov_excess": pl.col("cov_excess"),
        "cov_excess_low": pl.col("cov_excess_low"),
        "cov_excess_high": pl.col("cov_excess_high"),
        "worst_lost": float(shared.whole.min()) - pl.col("worst_accuracy"),
    }
    dropped = n_neurons - pl.col("size")
    percent = pl.when(dropped > 0).then(100.0 * dropped / n_neurons)
    slopes = ("accuracy_lost", "gini_excess", "cov_excess", "worst_lost")
    return frame.filter(by=shared.kind).select(
        "by",
        "size",
        dropped=dropped,
        dropped_fraction=dropped / n_neurons,
        **lost,
        **{f"{name}_per_percent": lost[name] / percent for name in slopes},
        worst_to_mean=lost["worst_lost"] / pl.when(lost["accuracy_lost"] > 0).then(lost["accuracy_lost"]),
    )
