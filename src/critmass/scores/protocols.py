"""What every score gives and takes: the protocol, the run, the measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from critmass.errors import check_number
from critmass.features.features import Features
from critmass.linalg.devices import CPU, Device
from critmass.linalg.matrices import Floats, Indices
from critmass.parts.plan import Plan
from critmass.progress import Progress, silent


@dataclass(frozen=True)
class Measurement:
    """Scores of the parts of one family on one split.

    Attributes
    ----------
    scores : array of shape (n_repeats, n_sizes)
    whole : float
        Score of the whole layer.
    covariance : array of shape (n_sizes, n_repeats + 1, n_repeats + 1), or None
        For each size: covariance over units (divisor n - 1) of the credits of the repeats and, last, of
        the whole. None where no interval can be had.
    n_units : int
        Number of units: rows, or groups of rows for a jackknife.
    converged : array of shape (n_repeats, n_sizes)
        Whether each probe's solver reached its tolerance.
    chosen : mapping of str to array of shape (n_repeats, n_sizes)
        What each probe was fitted with, such as "regularisation": λ.
    by_class, by_group : arrays of shape (n_repeats, n_sizes, n_classes or n_groups), or None
        Score within each class (recall) or group; NaN where the split has no row of it.
    whole_by_class, whole_by_group : arrays of shape (n_classes or n_groups,), or None
        The same of the whole layer.
    class_rows, group_rows : arrays of shape (n_classes,), (n_groups,), or None
        Rows of the split in each.
    """

    scores: Floats
    whole: float
    covariance: Floats | None
    n_units: int
    converged: np.ndarray
    chosen: Mapping[str, np.ndarray] = field(default_factory=dict)
    by_class: Floats | None = None
    whole_by_class: Floats | None = None
    class_rows: Indices | None = None
    by_group: Floats | None = None
    whole_by_group: Floats | None = None
    group_rows: Indices | None = None

    @classmethod
    def of_credits(cls, parts: Floats, whole: Floats) -> Measurement:
        """Return the measurement of the credits of units, (n_repeats, n_sizes, n) and (n,)."""
        n = parts.shape[2]
        covariance = None
        if n > 1:
            every = np.concatenate([parts, np.broadcast_to(whole, (1, *parts.shape[1:]))])
            every = every - every.mean(axis=2, keepdims=True)
            covariance = np.einsum("imn,jmn->mij", every, every) / (n - 1)
        scores = parts.mean(axis=2)
        return cls(scores, float(whole.mean()), covariance, n, np.ones(scores.shape, dtype=bool))


@dataclass(frozen=True)
class Run:
    """How a measurement is run: the seed, and what changes its numbers by rounding at most.

    Attributes
    ----------
    seed : int
        Of the rows to choose on, and of whatever else a score draws.
    device : Device
        Where matrix products run.
    memory : float
        Bytes that may be used; a score that can, keeps rows in memory rather than read them again.
    progress : callable (what, done, total)
    way : "moments" or "rows"
        For a score that has both ways.
    """

    seed: int = 0
    device: Device = CPU
    memory: float = 8 * 2.0**30
    progress: Progress = silent
    way: str = "moments"


@runtime_checkable
class Score(Protocol):
    """A way of scoring parts: a frozen dataclass whose fields are its settings, as JSON values.

    There are two kinds: probes, trained on the part and scored on test rows (see `Probe`), and similarities
    of the part with the whole. A score may have two ways to the same numbers, of which the one that fits in
    memory is taken (`Run.way`): "moments", where algebra on the moments of the rows gives all sizes at once,
    and "rows". They agree to rounding error. `critmass.testing` holds every score to that.
    """

    label_free: bool

    @property
    def name(self) -> str:
        """Name in the registry."""
        ...

    def memory(self, features: Features, plan: Plan) -> Mapping[str, float]:
        """Bytes that each way needs at least; the way that is taken where it fits is first."""
        ...

    def measure(self, features: Features, plan: Plan, run: Run) -> Mapping[str, Measurement]:
        """Return the measurement of all parts of the plan on each test split of the features."""
        ...


def check_positive(**settings: float | None) -> None:
    """Raise InputError, naming it, for a setting that is neither None nor a finite number above 0."""
    for name, value in settings.items():
        if value is not None:
            check_number(name, value, "a number above 0")
