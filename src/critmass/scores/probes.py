"""What all probes share: fitting, then predicting and tallying; which rows they fit on and choose on.

A probe is trained on the part and scored on test rows. Settings are chosen on validation rows (the
validation split, or a seeded, stratified 20% of the training rows), for each size and repeat; the probe is
then fitted again on all training rows. Test rows are never seen. A new probe is its mathematics: `Probe.fit`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from critmass.errors import InputError, check_number, unknown, verbatim
from critmass.features.features import Features
from critmass.features.splits import Split
from critmass.linalg.matrices import Floats, Indices, Matrix
from critmass.parts.plan import Plan
from critmass.progress import counted
from critmass.scores.head import FittedPart
from critmass.scores.protocols import Measurement, Run
from critmass.scores.tally import Credit, Tally, resolve_metric

ClassWeight = str | Mapping[Any, float] | None
"""None, "balanced", or {class name: weight}."""


class Fitted(Protocol):
    """The fitted probes of all parts of a plan.

    Attributes
    ----------
    converged : array of shape (n_repeats + 1, n_sizes)
        Whether each one's solver reached its tolerance.
    chosen : mapping of str to array of shape (n_repeats + 1, n_sizes)
        What each was fitted with, such as "regularisation": λ.
    """

    @property
    def converged(self) -> np.ndarray: ...  # noqa: D102

    @property
    def chosen(self) -> Mapping[str, np.ndarray]: ...  # noqa: D102

    def predictions(self, x: Matrix, name: str) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield rows of x (a slice, or row numbers) and predictions for them.

        Predictions have shape (n_repeats + 1, n_rows, n_sizes), the whole's last: class codes, or targets.
        `name` is what x is called in errors.
        """
        ...

    def part(self, repeat: int, size: int, /) -> FittedPart:
        """Return one part with its probe, as plain arrays.

        Raises
        ------
        InputError
            Where the probe is not linear.
        """
        ...


class Probe(ABC):
    """A score that is trained on a part: a frozen dataclass that says how all parts of a plan are fitted."""

    label_free = False
    metric: str | None

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in the registry."""

    @abstractmethod
    def memory(self, features: Features, plan: Plan) -> Mapping[str, float]:
        """Bytes that each way needs at least: see `Score`."""

    @abstractmethod
    def fit(self, features: Features, plan: Plan, run: Run) -> Fitted:
        """Return the probes of all parts and of the whole, fitted on the training rows."""

    def measure(self, features: Features, plan: Plan, run: Run) -> Mapping[str, Measurement]:
        """Fit all probes, and score them on every test split."""
        fitted = self.fit(features, plan, run)
        chosen = {name: table[:-1] for name, table in fitted.chosen.items()}
        out = {}
        for name in features.tests:
            x = features.splits[name].x
            tally = tally_on(features, name, self.metric, plan)
            count = counted(run.progress, f"scoring {name}", x.shape[0])
            for rows, predictions in fitted.predictions(x, f"X of {name!r}"):
                tally.add(rows, predictions)
                count(predictions.shape[1])
            out[name] = tally.measurement(converged=fitted.converged[:-1], chosen=chosen)
        return out


def held_out(features: Features, seed: int) -> Indices | None:
    """Return 1 for training rows to choose on and 0 for rows to fit on; None with a validation split."""
    if "validation" in features.splits:
        return None
    rows = features.validation_rows(seed)
    n = features.splits["train"].x.shape[0]
    if len(rows) == 0:
        raise InputError(
            "X of 'train'",
            verbatim(f"{n} rows, none to spare for validation"),
            "enough rows to set a fifth of them aside",
            "fix the regularisation (or what else is chosen), or give a validation split",
        )
    held = np.zeros(n, dtype=np.intp)
    held[rows] = 1
    return held


def fit_and_validation(features: Features, seed: int) -> tuple[Split, Split]:
    """Return the rows to fit on while choosing, and the rows to choose on."""
    train, held = features.splits["train"], held_out(features, seed)
    if held is None:
        return train, features.splits["validation"]
    return train.take(np.flatnonzero(held == 0)), train.take(np.flatnonzero(held))


def row_weights(features: Features, split: Split, class_weight: ClassWeight) -> Floats | None:
    """Return the weight of each row, shape (n_samples,): its own times its class's; None where all are 1.

    "balanced" gives each class the same total weight, their mean over rows staying what it was, as
    scikit-learn's ``class_weight="balanced"``.
    """
    weights: Floats | None = split.weight
    if class_weight is None:
        return weights
    if features.classes is None or split.y is None:
        raise InputError("class_weight", class_weight, "nothing for continuous targets")
    own = np.ones(len(split.y)) if weights is None else weights
    if isinstance(class_weight, Mapping):
        given = {str(name): weight for name, weight in class_weight.items()}
        names = [str(name) for name in features.classes]
        for name, weight in given.items():
            if name not in names:
                raise unknown("class_weight", name, names)
            check_number(f"class_weight of {name}", weight, "a number above 0")
        by_class = np.array([given.get(name, 1.0) for name in names], dtype=np.float64)
    elif class_weight == "balanced":
        totals = np.bincount(split.y, own, len(features.classes))
        by_class = own.sum() / (np.count_nonzero(totals) * np.where(totals > 0, totals, 1.0))
    else:
        raise InputError("class_weight", class_weight, "'balanced', or a weight for each class")
    weighted: Floats = own * by_class[split.y]
    return weighted


def tally_on(features: Features, name: str, metric: str | None, plan: Plan) -> Tally:
    """Return the tally of a metric on one split, for all parts of a plan."""
    split = features.splits[name]
    credit = Credit.on(resolve_metric(metric, features.task), split, name)
    return Tally(features, split, credit, plan.n_repeats, len(plan.sizes))


def best(scores: Floats) -> Indices:
    """Return the index of the best along the first axis, the last of equals.

    Grids run from what allows most to what allows least, so that ties go to the simpler probe.
    """
    last: Indices = len(scores) - 1 - np.argmax(scores[::-1], axis=0)
    return last
