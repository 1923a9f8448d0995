"""What a model source and a dataset source must offer. Each implementation is one small lazy file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""Pixels of shape (height, width) or (height, width, 3)."""

Forward = Callable[[Sequence[Image]], NDArray[np.float32]]
"""A frozen model up to a layer: images -> activations of shape (n_samples, n_neurons)."""


class Model(Protocol):
    """A frozen pre-trained model."""

    name: str
    image_size: int
    layers: Mapping[str, int]
    """Name and width of each layer that can be extracted."""

    def describe(self) -> dict[str, Any]:
        """Return all that can change an activation: weights' hash, transform, versions; loads nothing."""
        ...

    def load(self, *, layer: str, image_size: int) -> Forward:
        """Load the weights and return the frozen forward pass."""
        ...


@dataclass(frozen=True)
class LabelledImages:
    """Images of one split and a label for each."""

    images: Sequence[Image]
    labels: NDArray[Any]


class Dataset(Protocol):
    """A labelled dataset in splits; "train" at least."""

    name: str

    def describe(self) -> dict[str, Any]:
        """Return what identifies the images and their split, as JSON values."""
        ...

    def splits(self) -> Mapping[str, LabelledImages]:
        """Read the dataset."""
        ...
