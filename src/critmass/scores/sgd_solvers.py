"""Softmax heads of many sizes and orders, trained side by side on the same batches: the arithmetic of sgd.py.

Arithmetic: torch.nn.Linear, CrossEntropyLoss and torch.optim.SGD. Heads do not touch one another. Those of
neighbouring sizes of one order share their products, because a wide product is far faster than many narrow
ones; batches are laid out neuron by neuron, so that taking a part's neurons copies whole stretches of
memory. Knows nothing of splits, metrics or schedules: that is sgd.py.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.linalg import rng
from critmass.linalg.devices import Device, ParallelMap, parallel_map
from critmass.linalg.matrices import SCORED_ROWS, Floats, Indices, Matrix, blocks
from critmass.linalg.moments import mean_and_variance, scale_of
from critmass.parts.groups import PrefixGroup
from critmass.parts.plan import Plan
from critmass.scores.head import FittedPart

NARROW, SHARE = 64, 1 / 2
"""Sizes up to NARROW, or of at least this SHARE of the widest, are laid side by side."""

WAVE_ROWS = 2048
"""Rows of the batches laid out at once: each head takes them all while its weights are at hand."""

WHOLE = -1
"""Repeat of the whole layer's head; as an index, the last row of the predictions."""


def initial(seed: int, repeat: int, size: int, n_classes: int) -> Floats:
    """Return the weights that a probe starts from, bias first, shape (n_classes, size + 1).

    Uniform within ±1/√size, as torch.nn.Linear draws them; neurons in the order of the part.
    """
    bound = 1.0 / math.sqrt(size)
    return rng.stream(seed, "sgd", "initial", repeat, size).uniform(-bound, bound, (n_classes, size + 1))


def side_by_side(sizes: Indices) -> list[slice]:
    """Cut ascending sizes into runs that share a product, the widest first.

    A product is as wide as the largest of its sizes, with zeros outside smaller parts: somewhat more
    arithmetic, and far fewer operations.
    """
    runs, stop = [], len(sizes)
    while stop > 0:
        widest = sizes[stop - 1]
        start = 0 if widest <= NARROW else int(np.searchsorted(sizes, SHARE * widest))
        runs.append(slice(start, stop))
        stop = start
    return runs


@dataclass(frozen=True)
class Scaler:
    """Makes rows ready for the heads: the columns of (x - mean) / scale, in the dtype of products."""

    plan: Plan
    dtype: np.dtype[Any]
    mean: Floats | float = 0.0
    scale: Floats | float = 1.0

    def fitted(self, x: Matrix, weights: Floats) -> Scaler:
        """Return the scaler that standardises these weighted rows; a constant neuron is only centred."""
        mean, variance = mean_and_variance(x, "X of 'train'", weights)
        return replace(self, mean=mean, scale=scale_of(variance, mean, x.shape[0]))

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the columns of rows, shape (n, n_columns)."""
        scaled: NDArray[Any] = (np.asarray(x, dtype=np.float64) - self.mean) / self.scale
        return self.plan.gather(scaled).astype(self.dtype)


@dataclass(frozen=True)
class Batch:
    """Rows of one step, neuron by neuron, so that the neurons of a part are whole stretches of memory.

    Attributes
    ----------
    x : array of shape (n_columns + 1, n_rows)
        First a row of ones, for the biases.
    targets : array of shape (n_classes, n_rows)
        One-hot, times the share.
    share : array of shape (n_rows,)
        Weights of the rows in the loss; their sum is 1.
    """

    x: Any
    targets: Any
    share: Any


@dataclass(frozen=True)
class Source:
    """One view of the training rows; `held` on the device, (n_samples, n_columns), or else read as needed."""

    x: Matrix
    y: Indices
    weights: Floats
    onehot: Floats
    scaler: Scaler
    device: Device
    held: Any = None

    def checked(self, name: str, *, hold: bool) -> Source:
        """Return the same with its rows read once: known to be finite, and held if asked."""
        held = np.empty((self.x.shape[0], self.scaler.plan.n_columns), self.scaler.dtype) if hold else None
        for rows, block in blocks(self.x, name):
            if held is not None:
                held[rows] = self.scaler(block)
        return self if held is None else replace(self, held=self.device.put(held))

    def waves(self, order: Indices, batch_size: int, each: ParallelMap) -> Iterator[list[Batch]]:
        """Yield the batches of rows in this order, some at a time; the next overwrite them."""
        batch_size = min(batch_size, len(order))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        count = min(max(1, WAVE_ROWS // batch_size), len(batches))
        empty = np.empty((count, self.scaler.plan.n_columns + 1, batch_size), self.scaler.dtype)
        spaces = self.device.put(empty)
        for start in range(0, len(batches), len(spaces)):
            jobs = zip(batches[start : start + len(spaces)], spaces, strict=False)
            yield each(self._lay_out, list(jobs))

    def _lay_out(self, job: tuple[Indices, Any]) -> Batch:
        rows, space = job
        x = space[:, : len(rows)]
        x[0] = 1.0
        x[1:] = self._take(rows).T
        share = self.weights[rows] / self.weights[rows].sum()
        numbers = (self.onehot[:, self.y[rows]] * share, share)
        return Batch(x, *(self.device.put(array, self.scaler.dtype.name) for array in numbers))

    def _take(self, rows: Indices) -> Any:
        if self.held is not None:
            return self.device.xp.take(self.held, self.device.put(rows), axis=0)
        ascending = np.argsort(rows)
        taken = np.empty((len(rows), self.scaler.plan.n_columns), self.scaler.dtype)
        taken[ascending] = self.scaler(self.x[rows[ascending]])
        return self.device.put(taken)


class Heads:
    """Probes of neighbouring sizes of one order, side by side, and the state of their descent.

    Attributes
    ----------
    group : PrefixGroup
        Of the sizes that are side by side; repeat `WHOLE` for the whole layer.
    shape : (n_heads, n_classes, largest size + 1)
        Of the weights, by head.
    weights : array of shape (n_heads * n_classes, largest size + 1), on the device
        Bias first, then the neurons in their order; 0 outside a part.
    epochs, converged : arrays of shape (n_heads,)
        After how many epochs the weights were taken; whether they stayed finite to the end.
    """

    def __init__(self, group: PrefixGroup, starts: Sequence[Floats], device: Device, dtype: str) -> None:
        """Start heads of ascending sizes from `starts`: see `initial`."""
        self.group, self.device = group, device
        widths = np.array([start.shape[1] for start in starts])
        weights = np.zeros((len(starts), len(starts[0]), widths[-1]))
        for head, start in enumerate(starts):
            weights[head, :, : widths[head]] = start
        inside = np.broadcast_to(np.arange(widths[-1]) < widths[:, None, None], weights.shape)
        self.shape, rows = weights.shape, (-1, widths[-1])
        self.neurons = device.put(np.concatenate([[0], group.columns[: widths[-1] - 1] + 1]))
        self.weights, self.inside = (device.put(a.reshape(rows), dtype) for a in (weights, inside))
        self.velocity, self._kept = (device.xp.zeros_like(self.weights) for _ in range(2))
        self.epochs, self.converged = np.zeros(len(starts), np.intp), np.zeros(len(starts), np.bool_)

    def descend(self, batches: Sequence[Batch], *, rate: float, momentum: float, decay: float) -> None:
        """Take one step on each batch."""
        # A rate that is too high ends in NaN, which `converged` tells, and no warning need.
        with np.errstate(all="ignore"):
            for batch in batches:
                self._step(batch, rate, momentum, decay)

    def _step(self, batch: Batch, rate: float, momentum: float, decay: float) -> None:
        xp = self.device.xp
        x = xp.take(batch.x, self.neurons, axis=0)
        error = self._outputs(x)
        error -= xp.max(error, axis=1, keepdims=True)
        error = xp.exp(error)
        error *= batch.share / xp.sum(error, axis=1, keepdims=True)
        error -= batch.targets
        gradient = xp.reshape(error, (len(self.weights), -1)) @ x.T
        gradient *= self.inside
        self.velocity *= momentum
        self.velocity += gradient
        self.velocity += decay * self.weights
        self.weights -= rate * self.velocity

    def _outputs(self, x: Any) -> Any:
        """Return outputs for the rows of x, its neurons in order, shape (n_heads, n_classes, n_rows)."""
        return self.device.xp.reshape(self.weights @ x, (*self.shape[:2], -1))

    def predict(self, x: Any) -> Indices:
        """Return class codes for rows laid out as in a batch, shape (n_heads, n_rows)."""
        xp = self.device.xp
        with np.errstate(all="ignore"):
            outputs = self._outputs(xp.take(x, self.neurons, axis=0))
            classes: Indices = self.device.get(xp.argmax(outputs, axis=1))
        return classes

    def keep(self, which: NDArray[np.bool_], epoch: int) -> None:
        """Remember the weights that some heads, shape (n_heads,), have after `epoch` epochs."""
        rows = self.device.put(np.repeat(which, self.shape[1])[:, None])
        self._kept = self.device.xp.where(rows, self.weights, self._kept)
        self.epochs[which] = epoch

    def finish(self) -> None:
        """Note what converged, and go back to the weights that were kept."""
        finite = np.isfinite(self.device.get(self.weights)).reshape(len(self.epochs), -1)
        self.weights, self.converged = self._kept, finite.all(axis=1)

    def probes(self) -> list[Floats]:
        """Return the weights of each probe, bias first, shape (n_classes, size + 1)."""
        weights, inside = (self.device.get(a).reshape(self.shape) for a in (self.weights, self.inside))
        return [head[:, within[0] > 0] for head, within in zip(weights, inside, strict=True)]


@dataclass(frozen=True)
class AllHeads:
    """The heads of all sizes and repeats, and the whole's.

    Attributes
    ----------
    heads : list of Heads
    scaler : Scaler
    classes : tuple of class names
    """

    heads: list[Heads]
    scaler: Scaler
    classes: tuple[int | str, ...]

    @classmethod
    def untrained(
        cls,
        plan: Plan,
        classes: tuple[int | str, ...],
        scaler: Scaler,
        *,
        seed: int,
        device: Device,
    ) -> AllHeads:
        """Return the heads at their start."""
        *groups, whole = plan.groups
        jobs = [(replace(whole, order=plan.drawn_order, repeat=WHOLE), slice(None))]
        for runs in itertools.zip_longest(*(side_by_side(group.sizes) for group in groups)):
            jobs += [(group, run) for group, run in zip(groups, runs, strict=True) if run is not None]
        heads = []
        for group, run in jobs:
            sizes = group.sizes[run].tolist()
            starts = [initial(seed, group.repeat, size, len(classes)) for size in sizes]
            here = replace(group, sizes=group.sizes[run], size_index=group.size_index[run])
            heads.append(Heads(here, starts, device, scaler.dtype.name))
        return cls(heads, scaler, classes)

    @property
    def plan(self) -> Plan:
        """The parts."""
        return self.scaler.plan

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Whether weights stayed finite to the end, shape (n_repeats + 1, n_sizes)."""
        return self._table("converged")

    @property
    def chosen(self) -> Mapping[str, NDArray[Any]]:
        """After how many epochs the weights were taken."""
        return {"epoch": self._table("epochs")}

    def keep(self, which: NDArray[np.bool_], epoch: int) -> None:
        """Remember the weights of some, shape (n_repeats + 1, n_sizes), after `epoch` epochs."""
        for head in self.heads:
            head.keep(which[head.group.repeat, head.group.size_index], epoch)

    def finish(self) -> None:
        """Go back to the weights that were kept."""
        for head in self.heads:
            head.finish()

    def predictions(self, x: Matrix, name: str) -> Iterator[tuple[slice, Indices]]:
        """Yield rows of x, and class codes for them, shape (n_repeats + 1, n_rows, n_sizes)."""
        device, dtype = self.heads[0].device, self.scaler.dtype
        with parallel_map(device) as each:
            for rows, block in blocks(x, name, size=SCORED_ROWS):
                laid_out = np.ones((self.plan.n_columns + 1, len(block)), dtype)
                laid_out[1:] = self.scaler(block).T
                values = each(functools.partial(Heads.predict, x=device.put(laid_out)), self.heads)
                yield rows, self._assembled(values).transpose(0, 2, 1)

    def part(self, repeat: int, size: int) -> FittedPart:
        """Return one part with its probe."""
        row = WHOLE if repeat == self.plan.n_repeats else repeat
        (head,) = (head for head in self.heads if head.group.repeat == row and size in head.group.sizes)
        weights = head.probes()[int(np.searchsorted(head.group.sizes, size))]
        mean, scale = (np.broadcast_to(v, self.plan.n_neurons) for v in (self.scaler.mean, self.scaler.scale))
        return FittedPart.of(head.group, size, weights[:, 1:].T, weights[:, 0], mean, scale, self.classes)

    def _table(self, name: str) -> NDArray[Any]:
        """Return an attribute that heads have for each probe, shape (n_repeats + 1, n_sizes)."""
        return self._assembled([getattr(head, name) for head in self.heads])

    def _assembled(self, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return values of each head in one array, and the whole's wherever it stands for them."""
        pairs = zip(self.heads, values, strict=True)
        return self.plan.scatter((h.group.repeat, h.group.size_index, value) for h, value in pairs)
