"""A score that is a function of two splits: trained on one, scored on the other. Slow, and any score at all.

The function is called once for the whole and once for each size and repeat, with the part's columns only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from critmass.errors import InputError, said
from critmass.features.features import Features, Split
from critmass.linalg.arrays import Floats, Indices, require_finite
from critmass.parts.parts import Parts
from critmass.progress import counted
from critmass.scores.protocols import Measurement, Run

Function = Callable[[Split, Split], Any]


@dataclass(frozen=True)
class Custom:
    """The score that a function gives.

    Attributes
    ----------
    function : callable (train, test) -> float, or array of shape (n_test_samples,)
        Gets two Splits: `x` of shape (n_samples, n_neurons_of_the_part), `y` (class codes, targets or
        None), `group`, `weight`. Returns the part's score; or the credit of each test row, whose mean
        is the score: then DR has an interval.
    """

    function: Function
    label_free = True

    @property
    def name(self) -> str:
        """Name of the function."""
        return str(getattr(self.function, "__qualname__", type(self.function).__qualname__))

    def memory(self, features: Features, parts: Parts, sizes: Indices) -> dict[str, float]:
        """Bytes of the rows and of the credits."""
        rows = {name: split.x.shape[0] for name, split in features.splits.items()}
        itemsize = features.splits["train"].x.dtype.itemsize
        returned = 8 * features.most_test_rows * (parts.repeats * len(sizes) + 1)
        width, itemsize = parts.n_columns, itemsize if parts.n_columns == features.n_neurons else 8
        return {"rows": 2 * itemsize * sum(rows.values()) * width + returned}

    def from_rows(
        self, features: Features, parts: Parts, sizes: Indices, run: Run
    ) -> Mapping[str, Measurement]:
        """Call the function for every part and test split."""
        splits = {name: _held(features.splits[name], name, parts) for name in ("train", *features.tests)}
        walks = parts.walks(sizes)
        count = counted(run.progress, self.name, len(features.tests) * sum(len(walk.sizes) for walk in walks))
        out = {}
        for name in features.tests:
            values: list[list[Any]] = [[None] * len(sizes) for _ in range(parts.repeats + 1)]
            for walk in walks:
                for size, place in zip(walk.sizes, walk.places, strict=True):
                    values[walk.repeat][place] = self._score(splits["train"], splits[name], walk.order[:size])
                    count(1)
            whole = values[-1][-1]
            rows = [[whole if value is None else value for value in row] for row in values[:-1]]
            out[name] = _measurement(np.array(rows), whole)
        return out

    def _score(self, train: Split, test: Split, neurons: Any) -> Floats:
        part_of = (Split(s.x[:, neurons], s.y, s.group, s.weight) for s in (train, test))
        value = np.asarray(self.function(*part_of), dtype=np.float64)
        n = test.x.shape[0]
        if value.shape not in ((), (n,)) or not np.isfinite(value).all():
            finite = "" if np.isfinite(value).all() else ", not all finite"
            raise InputError(
                f"what {self.name} returns",
                said(f"shape {value.shape}{finite}"),
                f"a finite number, or one for each of the {n} test rows",
            )
        return value


def _held(split: Split, name: str, parts: Parts) -> Split:
    x = np.asarray(split.x[:])
    require_finite(f"X of {name!r}", x, range(len(x)))
    return Split(parts.columns(x), split.y, split.group, split.weight)


def _measurement(values: Floats, whole: Floats) -> Measurement:
    """Return the measurement of scores (R, m), or of the credits of rows (R, m, n)."""
    if values.ndim == 3:
        return Measurement.of_credits(values, whole)
    return Measurement(values, float(whole), None, 0, np.ones(values.shape, dtype=bool))
