"""A score that is a function of two splits: trained on one, scored on the other. Slow, and any score at all.

The function is called once for the whole and once for each size and repeat, with the part's columns only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from critmass.errors import InputError, verbatim
from critmass.features.features import Features
from critmass.features.splits import Split
from critmass.linalg.matrices import Floats, require_finite
from critmass.parts.plan import Plan
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

    def memory(self, features: Features, plan: Plan) -> dict[str, float]:
        """Bytes of the rows and of the credits."""
        rows = {name: split.x.shape[0] for name, split in features.splits.items()}
        itemsize = features.splits["train"].x.dtype.itemsize if plan.n_columns == plan.n_neurons else 8
        returned = 8.0 * features.most_test_rows * (plan.n_repeats * len(plan.sizes) + 1)
        return {"rows": 2.0 * itemsize * sum(rows.values()) * plan.n_columns + returned}

    def measure(self, features: Features, plan: Plan, run: Run) -> Mapping[str, Measurement]:
        """Call the function for every part and test split."""
        splits = {name: _held(features.splits[name], name, plan) for name in ("train", *features.tests)}
        calls = len(features.tests) * sum(len(group.sizes) for group in plan.groups)
        count, out = counted(run.progress, self.name, calls), {}
        for name in features.tests:
            values = []
            for group in plan.groups:
                for size, index in zip(group.sizes, group.size_index, strict=True):
                    value = self._score(splits["train"], splits[name], group.columns[:size])
                    values.append((group.repeat, index, value))
                    count(1)
            out[name] = _measurement(plan.scatter(values))
        return out

    def _score(self, train: Split, test: Split, neurons: Any) -> Floats:
        part_of = (Split(s.x[:, neurons], s.y, s.group, s.weight) for s in (train, test))
        value = np.asarray(self.function(*part_of), dtype=np.float64)
        n = test.x.shape[0]
        if value.shape not in ((), (n,)) or not np.isfinite(value).all():
            finite = "" if np.isfinite(value).all() else ", not all finite"
            raise InputError(
                f"what {self.name} returns",
                verbatim(f"shape {value.shape}{finite}"),
                f"a finite number, or one for each of the {n} test rows",
            )
        return value


def _held(split: Split, name: str, plan: Plan) -> Split:
    x = np.asarray(split.x[:])
    require_finite(f"X of {name!r}", x, range(len(x)))
    return Split(plan.gather(x), split.y, split.group, split.weight)


def _measurement(values: Floats) -> Measurement:
    """Return the measurement of scores, (R + 1, m), or of credits of rows, (R + 1, m, n); whole last."""
    parts, whole = values[:-1], values[-1, -1]
    if values.ndim == 3:
        return Measurement.of_credits(parts, whole)
    return Measurement(parts, float(whole), None, 0, np.ones(parts.shape, dtype=bool))
