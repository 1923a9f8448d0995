"""Images in a .npz: X_train of shape (n, height, width[, 3]), uint8, with y_train, X_test, y_test, ..."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, require, verbatim
from critmass.features import readers
from critmass.features.labels import stratified
from critmass.io.files import sha256
from critmass.sources.protocols import Dataset, DatasetRequest, Kind, Samples

TEST_FRACTION = 0.25


def load(rest: str, _request: DatasetRequest) -> Dataset:
    """Return the dataset in the file `rest`."""
    path = Path(rest)
    if path.suffix != ".npz" or not path.is_file():
        raise InputError("dataset", f"arrays:{rest}", "a .npz file that exists", "check the path")
    return Arrays(path)


@dataclass(frozen=True)
class Arrays:
    """Images in memory."""

    path: Path
    kind: Kind = "image"

    @property
    def name(self) -> str:
        """Name without the folder."""
        return f"arrays:{self.path.stem}"

    def describe(self) -> dict[str, Any]:
        """Return the file's hash."""
        return {"name": self.name, "sha256": sha256(self.path)}

    def splits(self) -> Mapping[str, Samples]:
        """Return every split in the file."""
        raw = readers.read(self.path, columns={})
        return {
            split: samples_of(
                f"{self.path.name} {split}", np.asarray(x), raw.y.get(split), raw.groups.get(split)
            )
            for split, x in raw.x.items()
        }


def samples_of(
    name: str, images: NDArray[Any], labels: NDArray[Any] | None, groups: NDArray[Any] | None = None
) -> Samples:
    """Return samples of images of shape (n, height, width[, 3]), uint8."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise InputError(
            f"images of {name}",
            verbatim(f"shape {images.shape}, dtype {images.dtype}"),
            "uint8, shape (n, height, width) or (n, height, width, 3)",
        )
    pillow = require("PIL.Image", package="pillow", extra="vision", purpose="images in arrays")
    names = [f"{name}, image {index}" for index in range(len(images))]
    return Samples(names, lambda i: pillow.fromarray(images[i]).convert("RGB"), labels, groups)


def with_test_quarter(
    name: str, images: NDArray[Any], labels: NDArray[np.int64], generator: np.random.Generator
) -> dict[str, Samples]:
    """Return the train and test splits of images that come without any."""
    test = stratified(len(labels), labels, TEST_FRACTION, generator)
    train = np.setdiff1d(np.arange(len(labels)), test)
    return {
        split: samples_of(f"{name} {split}", images[rows], labels[rows])
        for split, rows in (("train", train), ("test", test))
    }
