"""Labels -> what a probe is trained on: class codes or targets, checked; rows spread evenly over classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, verbatim
from critmass.linalg.matrices import EXACT_INTEGERS, Indices, Matrix

Task = Literal["classification", "regression"]
Classes = tuple[int | str, ...]


def encode(labels: NDArray[Any]) -> tuple[Classes, Indices]:
    """Return the sorted distinct labels and the code of each row.

    Examples
    --------
    >>> encode(np.array(["cat", "ant", "cat"]))
    (('ant', 'cat'), array([1, 0, 1]))
    """
    names, codes = np.unique(labels, return_inverse=True)
    return tuple(name if isinstance(name, str) else int(name) for name in names.tolist()), codes


def stratified(n: int, codes: Indices | None, fraction: float, generator: np.random.Generator) -> Indices:
    """Return about ``fraction * n`` row numbers, ascending, spread evenly over the classes.

    Rows are put in a random order within each class, classes one after another, and taken at even
    steps; the first row of each class is left out of this, so that no class is emptied.
    """
    order = generator.permutation(n)
    if codes is not None:
        order = order[np.argsort(codes[order], kind="stable")]
        order = order[np.diff(codes[order], prepend=-1) == 0]
    step = min(1.0, fraction * n / max(len(order), 1))
    quota = np.floor(np.arange(len(order) + 1) * step + generator.random())
    return np.sort(order[np.diff(quota) > 0])


def targets_of_splits(
    y: Mapping[str, NDArray[Any]], x: Mapping[str, Matrix], task: str
) -> tuple[Task | None, Classes | None, dict[str, NDArray[Any]]]:
    """Return the task, the class names, and the codes or targets of every split."""
    if not y:
        if task != "auto":
            raise InputError("task", task, "'auto' where there are no labels", "give y, or leave task out")
        return None, None, {}
    if y.keys() != x.keys():
        raise InputError(
            "labels",
            verbatim(f"none for {sorted(x.keys() - y.keys())}"),
            "labels for every split, or for none",
        )
    for split, values in y.items():
        if values.dtype.kind not in "biufUS":
            raise InputError(f"labels of {split!r}", verbatim(f"dtype {values.dtype}"), "numbers or text")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InputError(
                f"labels of {split!r}", verbatim(f"{values[row]} at row {row}"), "finite numbers"
            )
    whole = all(v.dtype.kind != "f" or bool((v == np.round(v)).all()) for v in y.values())
    if task == "regression" or (task == "auto" and not whole):
        if any(values.dtype.kind in "US" for values in y.values()):
            raise InputError("labels", verbatim("text"), "numbers for task='regression'")
        return "regression", None, {split: _targets(split, values) for split, values in y.items()}
    if not whole:
        raise InputError("labels", verbatim("fractional numbers"), "whole numbers or text for classes")
    plain = {split: _plain(split, values) for split, values in y.items()}
    classes, _ = encode(plain["train"])
    return "classification", classes, {split: codes_of(split, v, classes) for split, v in plain.items()}


def _targets(split: str, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return targets as float64, which holds them to rounding, or raise InputError."""
    with np.errstate(over="ignore"):
        targets = values.astype(np.float64)
    if not np.isfinite(targets).all():
        row = int(np.flatnonzero(~np.isfinite(targets))[0])
        raise InputError(
            f"labels of {split!r}", verbatim(f"{values[row]} at row {row}"), "numbers of float64"
        )
    return targets


def _plain(split: str, labels: NDArray[Any]) -> NDArray[Any]:
    """Return class labels as text or int64, no two of them made one, or raise InputError."""
    if labels.dtype.kind in "US":
        return labels.astype(str)
    if labels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            labels = labels.astype(np.float64)
        fit, allowed = np.abs(labels) < EXACT_INTEGERS, "whole numbers below 2^53, which floats hold exactly"
    else:
        fit, allowed = labels <= np.iinfo(np.int64).max, "whole numbers below 2^63"
    if not fit.all():
        row = int(np.flatnonzero(~fit)[0])
        raise InputError(
            f"labels of {split!r}", verbatim(f"{labels[row]} at row {row}"), allowed, "give them as text"
        )
    return labels.astype(np.int64)


def codes_of(split: str, labels: NDArray[Any], classes: Classes) -> Indices:
    """Return the code of each label, or raise InputError for a class that training rows have not."""
    known = np.array(classes)
    if known.dtype.kind != labels.dtype.kind:
        raise InputError(
            f"labels of {split!r}", labels[:1].tolist(), f"labels like those of 'train': {classes[0]!r}"
        )
    codes = np.minimum(np.searchsorted(known, labels), len(known) - 1)
    unseen = np.flatnonzero(known[codes] != labels)
    if len(unseen):
        raise InputError(
            f"labels of {split!r}",
            verbatim(
                f"{len(unseen)} rows of a class that is not in 'train', such as {labels[unseen[0]].item()!r}"
            ),
            "classes that a probe can have seen",
            "drop these rows or add training rows of the class",
        )
    return codes


def check_classes(classes: Classes, n_rows: int, advice: str = "") -> None:
    """Raise InputError for fewer than two classes, or more than half as many as there are rows."""
    if len(classes) < 2:
        raise InputError("labels", verbatim(f"one class only ({classes[0]!r})"), "two classes or more")
    if len(classes) > most_classes(n_rows):
        text = isinstance(classes[0], str)
        raise InputError(
            "labels",
            verbatim(f"{len(classes)} classes in {n_rows} training rows"),
            "two rows a class on average",
            advice
            or (
                "take more rows, or fewer classes"
                if text
                else "for continuous targets pass task='regression'"
            ),
        )


def most_classes(n_rows: int) -> int:
    """Return how many classes so many training rows may have: half as many."""
    return max(n_rows // 2, 2)


def targets_of(y: NDArray[Any], n_classes: int | None) -> Callable[[slice], NDArray[np.float64]]:
    """Return a function of rows: their targets, (n_rows, n_targets), one-hot for codes of classes."""
    if n_classes is None:
        return lambda rows: y[rows, None].astype(np.float64)
    codes = np.arange(n_classes)
    return lambda rows: (y[rows, None] == codes).astype(np.float64)
