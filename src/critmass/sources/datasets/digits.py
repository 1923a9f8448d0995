"""The 1,797 handwritten digits of 8 x 8 that scikit-learn carries, split once and for all: no download."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import require
from critmass.linalg import rng
from critmass.sources.datasets.arrays import TEST_FRACTION, with_test_quarter
from critmass.sources.protocols import Dataset, DatasetRequest, Kind, Samples


def load(_rest: str, _request: DatasetRequest) -> Dataset:
    """Return the dataset."""
    return Digits()


@dataclass(frozen=True)
class Digits:
    """Their values of 0 to 16 are scaled to 0 to 255; a seeded, stratified quarter is the test split."""

    name: str = "digits:"
    kind: Kind = "image"

    def describe(self) -> dict[str, Any]:
        """Return the hash of the pixels and labels, and the split."""
        images, labels = self._arrays
        split = f"stratified {TEST_FRACTION} for test, seed 0"
        found = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        return {"name": self.name, "sha256": found, "split": split}

    def splits(self) -> Mapping[str, Samples]:
        """Return the train and test splits."""
        return with_test_quarter("digits", *self._arrays, rng.stream(0, "digits", "test"))

    @functools.cached_property
    def _arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        home = require(
            "sklearn.datasets", package="scikit-learn", extra="sklearn", purpose="the dataset digits:"
        )
        digits = home.load_digits()
        return (digits.images * 255 / 16).round().astype(np.uint8), digits.target.astype(np.int64)
