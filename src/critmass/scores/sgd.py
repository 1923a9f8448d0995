"""The paper's probe: softmax regression by minibatch SGD, all sizes and repeats in one run over the batches.

Protocol: Nanda et al., NeurIPS 2023, appendix B; arithmetic: torch.nn.Linear, CrossEntropyLoss and
torch.optim.SGD. Every probe is, to rounding error, the head that torch trains alone from the same start on
the same batches. Here: what is trained on which rows, which epoch counts, how rows are scored; the
arithmetic is in sgd_solvers.py. Does not stop early, and does not mend a learning rate that is too high
for the scale of the features: that shows as it would in torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from critmass.errors import InputError, unknown
from critmass.features.features import Features
from critmass.features.splits import Split, view_name
from critmass.linalg import rng
from critmass.linalg.devices import parallel_map
from critmass.linalg.matrices import BLOCK_ROWS, SCORED_ROWS
from critmass.parts.plan import Plan
from critmass.scores.probes import ClassWeight, Probe, fit_and_validation, row_weights
from critmass.scores.protocols import Run
from critmass.scores.sgd_solvers import WAVE_ROWS, AllHeads, Heads, Scaler, Source, side_by_side
from critmass.scores.tally import Credit, resolve_metric


@dataclass(frozen=True)
class SGD(Probe):
    """Test performance of a softmax probe trained on the part by stochastic gradient descent.

    The loss of a batch is the mean cross-entropy of its rows; where rows have weights w,
    ``(w * loss).sum() / w.sum()`` over the batch, as torch's CrossEntropyLoss has it. The last batch of
    an epoch may be smaller. All probes see the same batches. Where the features have augmented views,
    epoch e trains on view e modulo their number, in place of the evaluation view; validation and test
    rows are scored in the evaluation view. Products are in float32, or in float64 for float64 rows.

    A probe whose weights did not stay finite counts as not converged. What it predicts then means
    nothing, and is scored all the same.

    Attributes
    ----------
    learning_rate, momentum, weight_decay : float
        As torch.optim.SGD's, without dampening or Nesterov's momentum; biases decay too.
    batch_size, epochs : int
    step_epochs, decay : int, float
        Of the schedule "step": the rate is multiplied by `decay` every `step_epochs` epochs.
    schedule : "step", "cosine" or "constant"
        "cosine": half a period over all epochs, down towards 0.
    select : "last" or "best"
        "last": train on all training rows; the last epoch counts. "best": train on the rows to fit on,
        and take for each size and repeat the epoch of the best score on validation rows, the first of
        equals; test rows are never seen.
    standardise : bool
        Whether columns are scaled to mean 0 and variance 1 over the (weighted) rows trained on, in the
        evaluation view. The paper does not.
    metric : str or None
        "accuracy" (default) or "balanced-accuracy".
    class_weight : None, "balanced" or mapping of class name to weight
        As scikit-learn's. Rows count this much, times their own weight where the features have weights.
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 256
    epochs: int = 50
    step_epochs: int = 10
    decay: float = 0.1
    schedule: Literal["step", "cosine", "constant"] = "step"
    select: Literal["last", "best"] = "last"
    standardise: bool = False
    metric: str | None = None
    class_weight: ClassWeight = None

    def __post_init__(self) -> None:
        _require("a number above 0", lambda x: x > 0, learning_rate=self.learning_rate, decay=self.decay)
        _require("a number from 0 to below 1", lambda x: 0 <= x < 1, momentum=self.momentum)
        _require("0 or a number above it", lambda x: x >= 0, weight_decay=self.weight_decay)
        counts = {name: getattr(self, name) for name in ("batch_size", "epochs", "step_epochs")}
        _require("a whole number above 0", lambda x: isinstance(x, int) and x > 0, **counts)
        for name, known in (("schedule", ["step", "cosine", "constant"]), ("select", ["last", "best"])):
            if getattr(self, name) not in known:
                raise unknown(name, str(getattr(self, name)), known)
        if not isinstance(self.standardise, bool):
            raise InputError("standardise", self.standardise, "true or false")
        resolve_metric(self.metric, "classification")
        if self.class_weight not in (None, "balanced") and not isinstance(self.class_weight, Mapping):
            raise InputError("class_weight", self.class_weight, "'balanced', or a weight for each class")

    @property
    def name(self) -> str:
        """Name in the registry."""
        return "sgd"

    def memory(self, features: Features, plan: Plan) -> dict[str, float]:
        """Bytes needed at least: the heads, a few batches, scored rows. More holds the training rows."""
        n, n_classes = features.splits["train"].x.shape[0], _n_classes(features)
        batch = min(self.batch_size, n)
        tests = min(features.most_test_rows, SCORED_ROWS)
        rows = max(batch, tests)
        numbers = 2 * (min(n, WAVE_ROWS) + batch) * (plan.n_columns + 1)
        for group in plan.groups:
            for run in side_by_side(group.sizes):
                heads, width = run.stop - run.start, int(group.sizes[run.stop - 1]) + 1
                numbers += heads * n_classes * (6 * width + 3 * rows) + width * rows
        tally = plan.shape[0] * plan.shape[1] * (3 * tests + plan.n_repeats)
        reading = min(n, BLOCK_ROWS) * plan.n_columns
        return {"rows": _dtype(features).itemsize * numbers + 8.0 * (reading + tally)}

    def rate(self, epoch: int) -> float:
        """Return the learning rate in an epoch, counted from 0: torch's StepLR or CosineAnnealingLR."""
        if self.schedule == "step":
            return float(self.learning_rate * self.decay ** (epoch // self.step_epochs))
        if self.schedule == "cosine":
            return self.learning_rate * (1.0 + math.cos(math.pi * epoch / self.epochs)) / 2.0
        return self.learning_rate

    def fit(self, features: Features, plan: Plan, run: Run) -> AllHeads:
        """Train all probes in one run over the batches."""
        train, validation, best = features.splits["train"], None, -math.inf
        if self.select == "best":
            train, validation = fit_and_validation(features, run.seed)
        sources = self._sources(features, train, plan, run)
        scaler = sources[0].scaler
        heads = AllHeads.untrained(plan, features.classes or (), scaler, seed=run.seed, device=run.device)
        with parallel_map(run.device) as each:
            for epoch in range(self.epochs):
                run.progress("training probes (sgd)", epoch, self.epochs)
                step = functools.partial(
                    Heads.descend, rate=self.rate(epoch), momentum=self.momentum, decay=self.weight_decay
                )
                order = rng.stream(run.seed, "sgd", epoch).permutation(train.x.shape[0])
                for wave in sources[epoch % len(sources)].waves(order, self.batch_size, each):
                    each(functools.partial(step, batches=wave), heads.heads)
                if validation is not None:
                    credit = Credit.on(resolve_metric(self.metric, features.task), validation, "validation")
                    scored = heads.predictions(validation.x, "X of 'validation'")
                    scores = np.sum([credit.total(classes, rows) for rows, classes in scored], axis=0)
                    heads.keep(scores > best, epoch + 1)
                    best = np.maximum(scores, best)
        run.progress("training probes (sgd)", self.epochs, self.epochs)
        if validation is None:
            heads.keep(np.ones(plan.shape, dtype=bool), self.epochs)
        heads.finish()
        return heads

    def _sources(self, features: Features, train: Split, plan: Plan, run: Run) -> list[Source]:
        """Return what the epochs take their rows from in turn, held where memory is left for that."""
        assert train.y is not None  # noqa: S101
        given = row_weights(features, train, self.class_weight)
        weights = np.ones(len(train.y)) if given is None else given
        scaler = Scaler(plan, _dtype(features))
        if self.standardise:
            scaler = scaler.fitted(train.x, weights)
        views = {view_name(i): view for i, view in enumerate(train.views, start=1)} or {"train": train.x}
        held = len(views) * train.x.shape[0] * plan.n_columns * scaler.dtype.itemsize
        hold = self.memory(features, plan)["rows"] + held <= run.memory
        onehot = np.eye(_n_classes(features))
        return [
            Source(view, train.y, weights, onehot, scaler, run.device).checked(f"X of {name!r}", hold=hold)
            for name, view in views.items()
        ]


def _n_classes(features: Features) -> int:
    if features.classes is None:
        raise InputError(
            "score", "sgd", "a score for continuous targets", "use ridge: sgd tells classes apart"
        )
    return len(features.classes)


def _dtype(features: Features) -> np.dtype[Any]:
    """Return the dtype of products: float64 where any split has it, as a store of all of them would."""
    return np.result_type(np.float32, *(split.x.dtype for split in features.splits.values()))


def _require(allowed: str, good: Callable[[Any], bool], **settings: Any) -> None:
    """Raise InputError, naming it, for a setting that is no finite number or not `good`."""
    for name, value in settings.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
        if not number or not good(value):
            raise InputError(name, value, allowed)
