"""Rows of one split: a matrix, and what is known of each row; which splits there are, in order."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, check_number, verbatim
from critmass.features.labels import Task, stratified
from critmass.linalg import rng
from critmass.linalg.matrices import Indices, Matrix, RowSubset

TEST_FRACTION = 0.25
_VIEW = re.compile(r"train\.view\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes
    ----------
    x : matrix of shape (n_samples, n_neurons)
        An array, a memory map or a store; float16, float32 or float64. ``x[rows]`` and ``x[:]`` give arrays.
    y : array of shape (n_samples,) or None
        Class codes into `Features.classes` (classification) or targets (regression).
    group : array of shape (n_samples,) or None
        Group codes into `Features.groups`.
    weight : array of shape (n_samples,) or None
        How much a training row counts; 1 each where there is none.
    views : tuple of matrices of shape (n_samples, n_neurons)
        Augmented copies of the training rows; `x` is the evaluation view.
    """

    x: Matrix
    y: NDArray[Any] | None = None
    group: Indices | None = None
    weight: NDArray[np.float64] | None = None
    views: tuple[Matrix, ...] = ()

    def take(self, rows: Indices) -> Split:
        """Return the split of these rows (ascending); no matrix is copied."""
        return Split(
            _rows(self.x, rows),
            y=None if self.y is None else self.y[rows],
            group=None if self.group is None else self.group[rows],
            weight=None if self.weight is None else self.weight[rows],
            views=tuple(_rows(view, rows) for view in self.views),
        )


def view_name(number: int) -> str:
    """Return what a file or a store calls the rows of a view of the training rows, counting from 1."""
    return f"train.view{number}"


def check_no_view(name: str, splits: Iterable[str]) -> None:
    """Raise InputError, calling it `name`, for a split whose name is that of a view."""
    for split in splits:
        if _VIEW.fullmatch(split):
            advice = "views are counted from 1, without a gap; rename what is none"
            raise InputError(name, split, f"names other than {view_name(1)}, which is a view's", advice)


def take_views(matrices: dict[str, Any]) -> tuple[Any, ...]:
    """Remove the views from `matrices`, and return them in their order."""
    views: list[Any] = []
    while (name := view_name(len(views) + 1)) in matrices:
        views.append(matrices.pop(name))
    return tuple(views)


def checked_weights(split: str, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the weights of training rows, or raise InputError for others."""
    name = f"weights of {split!r}"
    if split != "train":
        raise InputError(name, verbatim("weights"), "weights of 'train' only", "test rows all count the same")
    if values.dtype.kind not in "biuf" or not (np.isfinite(values) & (values > 0)).all():
        found = verbatim(f"dtype {values.dtype}" if values.dtype.kind not in "biuf" else f"{values.min()}")
        raise InputError(name, found, "finite numbers above 0", "leave out rows that should not count")
    return values.astype(np.float64)


def _rows(x: Matrix, rows: Indices) -> RowSubset:
    return RowSubset(x.base, x.rows[rows]) if isinstance(x, RowSubset) else RowSubset(x, rows)


def in_order(
    splits: Mapping[str, Split], task: Task | None, test_fraction: float = TEST_FRACTION, seed: int = 0
) -> dict[str, Split]:
    """Return the splits in their order, with a test split set aside where there is none."""
    if "test" not in splits:
        splits = {**splits, **carve_test(splits["train"], task, test_fraction, seed)}
    return {split: splits[split] for split in sorted(splits, key=split_rank)}


def split_rank(name: str) -> tuple[int, str]:
    """Return what splits are sorted by."""
    known = ("train", "validation", "test")
    return (known.index(name) if name in known else len(known), name)


def check_matrix(split: str, x: Matrix, train: Matrix) -> None:
    """Raise InputError for a matrix that is none, or not as wide as that of the training rows."""
    if len(x.shape) != 2:
        raise InputError(f"X of {split!r}", verbatim(f"shape {x.shape}"), "2 dimensions: samples x neurons")
    if x.dtype.kind != "f" or x.dtype.itemsize not in (2, 4, 8):
        raise InputError(
            f"X of {split!r}",
            verbatim(f"dtype {x.dtype}"),
            "float16, float32 or float64; or integers or booleans",
            "convert it with .astype('float32')",
        )
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise InputError(f"X of {split!r}", verbatim(f"shape {x.shape}"), "at least one row and one neuron")
    if x.shape[1] != train.shape[1]:
        raise InputError(
            f"X of {split!r}", verbatim(f"{x.shape[1]} neurons"), f"{train.shape[1]} neurons, as in 'train'"
        )


def carve_test(train: Split, task: Task | None, fraction: float, seed: int) -> dict[str, Split]:
    """Return the training rows without, and as a test split with, a seeded share of them."""
    check_number("test_fraction", fraction, "a number between 0 and 1", most=math.nextafter(1, 0))
    n = train.x.shape[0]
    codes = train.y if task == "classification" else None
    rows = stratified(n, codes, fraction, rng.stream(seed, "test"))
    if len(rows) == 0 or len(rows) == n:
        raise InputError(
            "X of 'train'", verbatim(f"{n} rows"), "enough rows to set some aside for a test split"
        )
    return {"train": train.take(np.setdiff1d(np.arange(n), rows)), "test": train.take(rows)}
