"""Credits of test rows, and their tally: the scores of all parts, and all that intervals need.

A score of a part is a mean over test rows of some *credit* (1 for a right answer, say). The tally keeps,
beside the means, the covariance over rows of the credits of all repeats and of the whole: all that an
interval for DR needs, for any δ, in memory that does not grow with the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from critmass.errors import InputError, unknown, verbatim
from critmass.features.features import Features
from critmass.features.labels import Task
from critmass.features.splits import Split
from critmass.linalg.matrices import Floats, Indices
from critmass.scores.protocols import Measurement

CLASSIFICATION_METRICS = ("accuracy", "balanced-accuracy")
REGRESSION_METRICS = ("r2",)


def resolve_metric(metric: str | None, task: Task | None) -> str:
    """Return the metric's name for this task, or raise naming those that fit."""
    allowed = REGRESSION_METRICS if task == "regression" else CLASSIFICATION_METRICS
    if metric is None:
        return allowed[0]
    if metric not in allowed:
        raise unknown(f"metric of a {task} task", metric, allowed)
    return metric


@dataclass(frozen=True)
class Credit:
    """Turns predictions into credits: a mean of credits over the rows of the split is the metric.

    accuracy: 1 for a right answer. balanced-accuracy: n / (n_classes_present n_class) for a right
    answer. r2: 1 - n e² / SST, so that the mean is R² (SST about the split's own mean).
    """

    metric: str
    y: np.ndarray
    weights: Floats
    total_squares: float

    @classmethod
    def on(cls, metric: str, split: Split, name: str) -> Credit:
        """Return the credit of `metric` on a split that has labels or targets."""
        assert split.y is not None  # noqa: S101
        n = len(split.y)
        if metric != "r2":
            rows = np.bincount(split.y)
            present = np.count_nonzero(rows)
            weights = np.ones(n) if metric == "accuracy" else n / (present * rows[split.y])
            return cls(metric, split.y, weights, 0.0)
        squares = float(((split.y - split.y.mean()) ** 2).sum())
        if squares == 0:
            raise InputError(f"targets of {name!r}", verbatim("all the same"), "targets that vary, for R²")
        return cls(metric, split.y, np.ones(n), squares)

    def hits(self, predictions: np.ndarray, rows: slice) -> Floats:
        """Return unweighted credits, shape as `predictions`: (..., len(rows), n_sizes)."""
        y = self.y[rows][:, None]
        if self.metric != "r2":
            right: Floats = (predictions == y).astype(np.float64)
            return right
        residual: Floats = predictions - y
        return 1.0 - len(self.y) * residual * residual / self.total_squares

    def total(self, predictions: np.ndarray, rows: slice) -> Floats:
        """Return the sum of these rows' credits, shape (n_repeats + 1, n_sizes)."""
        total: Floats = np.einsum("rbm,b->rm", self.hits(predictions, rows), self.weights[rows])
        return total


class Tally:
    """Sums of credits over blocks of rows; the measurement at the end."""

    def __init__(
        self, features: Features, split: Split, credit: Credit, n_repeats: int, n_sizes: int
    ) -> None:
        self.split, self.credit = split, credit
        self.sums = np.zeros((n_repeats + 1, n_sizes))
        self.products = np.zeros((n_sizes, n_repeats + 1, n_repeats + 1))
        self.class_sums = self._sums_by(None if features.classes is None else len(features.classes))
        has_groups = split.group is not None and features.groups is not None
        self.group_sums = self._sums_by(len(features.groups or ()) if has_groups else None)

    def _sums_by(self, count: int | None) -> Floats | None:
        return None if count is None else np.zeros((count, *self.sums.shape))

    def add(self, rows: slice, predictions: np.ndarray) -> None:
        """Add a block: predictions of shape (n_repeats + 1, len(rows), n_sizes), the whole's last.

        The whole's prediction is the same for every size.
        """
        self.add_hits(rows, self.credit.hits(predictions, rows))

    def add_hits(self, rows: slice, hits: Floats) -> None:
        """Add a block by its unweighted credits, shape as predictions in `add`."""
        credit = hits * self.credit.weights[rows][:, None]
        self.sums += credit.sum(axis=1)
        for i in range(len(credit)):
            for j in range(i + 1):
                product = np.einsum("bm,bm->m", credit[i], credit[j])
                self.products[:, i, j] += product
                if i != j:
                    self.products[:, j, i] += product
        for sums, codes in ((self.class_sums, self.split.y), (self.group_sums, self.split.group)):
            if sums is not None and codes is not None:
                _add_by_code(sums, codes[rows], hits)

    def measurement(
        self, *, converged: np.ndarray | None = None, chosen: Mapping[str, np.ndarray] | None = None
    ) -> Measurement:
        """Return what was tallied; by default every probe counts as converged."""
        n = self.split.x.shape[0]
        means = self.sums / n
        covariance = None
        if n > 1:
            outer = np.einsum("im,jm->mij", means, means)
            covariance = (self.products - n * outer) / (n - 1)
        by_class, class_rows = _means_by_code(self.class_sums, self.split.y)
        by_group, group_rows = _means_by_code(self.group_sums, self.split.group)
        if by_group is not None and group_rows is not None and self.credit.metric == "r2":
            by_group = self._group_r2(by_group, group_rows)
        return Measurement(
            scores=means[:-1],
            whole=float(means[-1, -1]),
            covariance=covariance,
            n_units=n,
            converged=np.ones(means[:-1].shape, dtype=bool) if converged is None else converged,
            chosen=chosen or {},
            by_class=None if by_class is None else by_class[:-1],
            whole_by_class=None if by_class is None else by_class[-1, -1],
            class_rows=class_rows,
            by_group=None if by_group is None else by_group[:-1],
            whole_by_group=None if by_group is None else by_group[-1, -1],
            group_rows=group_rows,
        )

    def _group_r2(self, mean_credit: Floats, rows: Indices) -> Floats:
        """Return R² within each group, about the group's own mean, from its mean credit."""
        assert self.split.group is not None  # noqa: S101
        y, codes = self.credit.y, self.split.group
        mean = np.bincount(codes, y, len(rows)) / np.maximum(rows, 1)
        total = np.bincount(codes, (y - mean[codes]) ** 2, len(rows))
        error = (1.0 - mean_credit) * rows * self.credit.total_squares / len(y)
        return np.where(total > 0, 1.0 - error / np.where(total > 0, total, 1.0), np.nan)


def _add_by_code(sums: Floats, codes: Indices, hits: Floats) -> None:
    member = (np.arange(len(sums))[:, None] == codes).astype(np.float64)
    sums += np.matmul(member, hits).transpose(1, 0, 2)


def _means_by_code(sums: Floats | None, codes: Indices | None) -> tuple[Floats | None, Indices | None]:
    """Return mean credits, shape (n_repeats + 1, n_sizes, n_codes), the whole's last; and rows of each."""
    if sums is None or codes is None:
        return None, None
    rows = np.bincount(codes, minlength=len(sums))
    means = np.where(rows > 0, 1.0, np.nan)[:, None, None] * sums / np.maximum(rows, 1)[:, None, None]
    return np.moveaxis(means, 0, -1), rows
