"""MNIST and its kin as their authors' files, still packed: NAME-idx3-ubyte.gz, from any mirror.

torchvision knows the packed files of its own mirrors by MD5; a file packed anew holds the same images under
another. What is unpacked is judged here instead: gzip's checksum and length, IDX's magic number, as many
images of 28 x 28 as the dataset has, a label below 10 for each. Whether they are the authors' images no
structure can tell: their SHA-256 is in the features' provenance, and depends on the content alone.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, require, verbatim

COUNTS = {"train": 60_000, "t10k": 10_000}
SIDE, N_CLASSES = 28, 10


@dataclass(frozen=True)
class Unpacked:
    """A split with the attributes of torchvision's own: pixels of shape (n, 28, 28), class indices, names."""

    data: NDArray[np.uint8]
    targets: NDArray[np.uint8]
    classes: Sequence[str]

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return an image, greyscale, and its class index."""
        pillow = require("PIL.Image", package="pillow", extra="vision", purpose="images in arrays")
        return pillow.fromarray(self.data[index]), int(self.targets[index])


def unpacked(folders: Sequence[Path], prefix: str, classes: Sequence[str]) -> Unpacked | None:
    """Return the split whose two files begin with `prefix`; None where they are in none of the folders.

    Raises
    ------
    InputError
        If a file is damaged, or holds anything but that split.
    """
    count = COUNTS[prefix]
    for folder in folders:
        images, labels = (folder / f"{prefix}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
        if images.is_file() and labels.is_file():
            targets = _array(labels, (count,))
            if targets.max() >= N_CLASSES:
                raise _no_idx(labels, f"the label {targets.max()}", f"labels 0 to {N_CLASSES - 1}")
            return Unpacked(_array(images, (count, SIDE, SIDE)), targets, classes)
    return None


def _array(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the bytes in an IDX file of exactly that shape."""
    header = np.array([0x0800 + len(shape), *shape], dtype=">u4").tobytes()
    size = len(header) + math.prod(shape)
    try:
        with gzip.open(path) as stream:
            # One byte more than there should be: to reach the end, where gzip's checksum is, and no further.
            data = stream.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _no_idx(path, f"{type(error).__name__}: {error}", "a whole gzip file") from error
    if len(data) != size or not data.startswith(header):
        found = (
            f"{'more than ' if len(data) > size else ''}{min(len(data), size)} bytes from {data[:4].hex()}"
        )
        raise _no_idx(path, found, f"{size} bytes of IDX, from {header[:4].hex()}, of shape {shape}")
    return np.frombuffer(data, dtype=np.uint8, offset=len(header)).reshape(shape)


def _no_idx(path: Path, found: str, allowed: str) -> InputError:
    return InputError(str(path), verbatim(found), allowed, "fetch it again")
