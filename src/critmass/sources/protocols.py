"""What a model and a dataset must offer the extraction. Each integration is one small lazy file.

A dataset reads samples one at a time; a network prepares each (in worker threads), takes a batch of
prepared samples, and gives activations by layer. Neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, verbatim
from critmass.progress import Progress, silent

Kind = Literal["image", "text"]

Sample = Any
"""An image (PIL.Image.Image, mode RGB) or a text (str)."""

Activations = Mapping[str, NDArray[Any]]
"""By layer: floats of shape (n_samples, n_neurons)."""

PENULTIMATE, OUTPUT = "penultimate", "output"
POOLINGS = ("auto", "avg", "max", "cls", "last", "flatten", "none")


class BadSampleError(InputError):
    """One sample cannot be read: empty, truncated, too large, or no image at all."""

    def __init__(self, name: str, found: str, allowed: str = "a whole image that can be read") -> None:
        super().__init__(
            name, verbatim(found), allowed, "repair or remove it, or leave it out with on_bad='list'"
        )


@dataclass(frozen=True)
class Samples:
    """One split of a dataset.

    Attributes
    ----------
    names : sequence of str
        Where each sample comes from, for messages: a path, a row. Its length is that of the split.
    read : callable (int) -> Sample
        The sample at an index; called from several threads. Raises BadSampleError.
    labels : array of shape (n_samples,) or None
        Class names or numbers, or targets.
    groups : array of str, shape (n_samples,), or None
    """

    names: Sequence[str]
    read: Callable[[int], Sample]
    labels: NDArray[Any] | None
    groups: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.names)


class Dataset(Protocol):
    """A dataset in splits; "train" at least, once they are mapped."""

    @property
    def name(self) -> str:
        """Its name, such as ``torchvision:CIFAR10``."""
        ...

    @property
    def kind(self) -> Kind:
        """What its samples are."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what identifies the samples, as JSON values; never the path they lie at."""
        ...

    def splits(self) -> Mapping[str, Samples]:
        """Return every split, by its own name."""
        ...


@dataclass(frozen=True)
class ModelRequest:
    """What a model source may be told beside its name.

    Attributes
    ----------
    image_size : int, optional
        Side of the square images given to the model; its own where None.
    """

    image_size: int | None = None
    progress: Progress = silent


class Layer(NamedTuple):
    """The shape of one sample's activations, and how many neurons pooling "auto" makes of them."""

    shape: tuple[int, ...]
    n_neurons: int


@dataclass(frozen=True)
class DatasetRequest:
    """What a dataset source may be told beside its name.

    Attributes
    ----------
    columns : mapping
        Columns of a table by role: "text" or "image", "label", "group", "split".
    root : path, optional
        Where downloaded datasets are kept, or looked for.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    root: Path | None = None
    progress: Progress = silent


@runtime_checkable
class Network(Protocol):
    """A frozen pre-trained model, loaded."""

    @property
    def name(self) -> str:
        """Its name, such as ``timm:resnet50.tv_in1k``."""
        ...

    @property
    def kind(self) -> Kind | None:
        """What it reads; None for a function, which may read anything."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return all that can change an activation, as JSON values: weights' hash, transform, versions."""
        ...

    def layers(self) -> Mapping[str, Layer]:
        """Return every layer that can be extracted, by name, "penultimate" first."""
        ...

    def place(self, device: str, precision: str) -> Network:
        """Return the network on a device ("cpu", "cuda", "cuda:1", "mps"), computing at a precision."""
        ...

    def prepare(self, sample: Sample, draw: np.random.Generator | None = None) -> Any:
        """Return one sample as a batch takes it; with `draw`, randomly augmented. Any thread may call it."""
        ...

    def start(self, batch: Sequence[Any], layers: Sequence[str], pooling: str) -> Callable[[], Activations]:
        """Start the forward pass of a batch; the callable returned waits for its activations."""
        ...


def cpu_only(name: str, device: str, precision: str) -> None:
    """Raise InputError for anything but the CPU in float32, for networks that run nowhere else."""
    if device != "cpu":
        raise InputError("device", device, f"cpu, where {name} runs")
    if precision != "float32":
        raise InputError("precision", precision, f"float32, in which {name} computes")
