"""Parts chosen to spare the worst class: of N random parts of each size, the best on validation rows.

The loss of dropping neurons falls on a few classes (inequalities.py), and random parts of one size differ in
which. Here N candidates are drawn for each part, probes are fitted on the training rows without those set
aside for validation, and the candidate is taken whose worst class (or group, or mean) is best on these. A
validated choice: its own validation score is optimistic, being the best of N, and is given beside the
candidates' mean; what the choice is worth is measured on the test rows, which it never saw, by giving its
masks to `measure`. It costs N times the probes of one part.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from critmass.curves.measure import MEMORY_GIB, measure
from critmass.errors import InputError, check_number, unknown, verbatim
from critmass.features.features import Features
from critmass.progress import Progress
from critmass.scores import Score

Aim = Literal["worst-class", "worst-group", "mean"]
AIMS = ("worst-class", "worst-group", "mean")


@dataclass(frozen=True)
class Chosen:
    """Parts chosen on validation rows.

    Attributes
    ----------
    masks : bool array of shape (n_repeats, n_sizes, n_neurons)
        To be given to ``measure(parts=...)``; the whole layer is not among them.
    frame : DataFrame
        One row for each size and repeat. Columns: size, fraction, repeat; chosen (the aim of the chosen part
        on the validation rows, the best of its candidates, so optimistic), candidates_mean and
        candidates_std (of the aim over its candidates), accuracy (of the chosen, on the validation rows).
    """

    masks: NDArray[np.bool_]
    frame: pl.DataFrame


def choose_parts(
    features: Features | str | os.PathLike[str],
    *,
    by: Aim = "worst-class",
    candidates: int = 20,
    score: str | Score | Callable[..., Any] = "ridge",
    sizes: str | float | Sequence[int | float] = "paper",
    repeats: int = 5,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    memory_gib: float = MEMORY_GIB,
    progress: Progress | None = None,
) -> Chosen:
    """Return, for each size and repeat, the best of several random parts by their validation scores.

    Parameters
    ----------
    features : Features or path
        Classes; for "worst-group", groups on the rows set aside for validation.
    by : "worst-class", "worst-group" or "mean"
        What is to be largest on the validation rows: the lowest accuracy of a class (ties: the mean), of a
        group, or the mean. Validation rows are the validation split, or a seeded, stratified 20% of the
        training rows.
    candidates : int
        Random parts that compete for each size and repeat.
    score, sizes, repeats, seed, settings, device, memory_gib, progress
        As of `measure`; a probe.

    Raises
    ------
    InputError
        For input that cannot be used.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(300) % 3
    >>> X = rng.normal(size=(300, 12)) + y[:, None]
    >>> chosen = choose_parts(Features.from_arrays((X, y)), candidates=4, sizes=[3, 6], repeats=2)
    >>> chosen.masks.sum(axis=2).tolist()
    [[3, 6], [3, 6]]
    """
    if not isinstance(features, Features):
        features = Features.open(features, seed=seed)
    if by not in AIMS:
        raise unknown("by", str(by), AIMS)
    for name, value in (("candidates", candidates), ("repeats", repeats)):
        check_number(name, value, "1 or more", whole=True)
    curve = measure(
        _inner(features, seed),
        score=score,
        parts="random",
        sizes=sizes,
        repeats=repeats * candidates,
        seed=seed,
        settings=settings,
        device=device,
        memory_gib=memory_gib,
        progress=progress,
    )
    found = curve.measurement
    lowest = {"worst-class": found.by_class, "worst-group": found.by_group, "mean": found.scores[..., None]}[
        by
    ]
    if lowest is None:
        raise InputError("by", by, verbatim("mean, where there are no labels to choose by"), "or give labels")
    below = curve.sizes < curve.n_neurons
    aim = np.nanmin(lowest, axis=2)[:, below].reshape(repeats, candidates, -1)
    mean = found.scores[:, below].reshape(aim.shape)
    best = np.argmax(aim + 1e-6 * mean, axis=1)
    sizes_below = curve.sizes[below]
    masks = np.zeros((repeats, len(sizes_below), curve.n_neurons), dtype=bool)
    for (repeat, index), candidate in np.ndenumerate(best):
        size = int(sizes_below[index])
        masks[repeat, index, curve.indices(repeat=repeat * candidates + candidate, size=size)] = True
    taken = best[:, None, :]
    columns = {
        "size": np.tile(sizes_below, repeats),
        "fraction": np.tile(sizes_below / curve.n_neurons, repeats),
        "repeat": np.repeat(np.arange(repeats), len(sizes_below)),
        "chosen": np.take_along_axis(aim, taken, axis=1).ravel(),
        "candidates_mean": aim.mean(axis=1).ravel(),
        "candidates_std": aim.std(axis=1, ddof=min(1, candidates - 1)).ravel(),
        "accuracy": np.take_along_axis(mean, taken, axis=1).ravel(),
    }
    return Chosen(masks, pl.DataFrame(columns))


def _inner(features: Features, seed: int) -> Features:
    """Return the features whose test rows are the validation rows; the real test rows are not in them."""
    if features.task != "classification":
        raise InputError(
            "features", verbatim(f"task {features.task}"), "classes, whose worst is to be spared"
        )
    train = features.splits["train"]
    if "validation" in features.splits:
        splits = {"train": train, "test": features.splits["validation"]}
    else:
        aside = features.validation_rows(seed)
        fit = np.setdiff1d(np.arange(train.x.shape[0]), aside)
        splits = {"train": train.take(fit), "test": train.take(aside)}
    return dataclasses.replace(features, splits=splits)
