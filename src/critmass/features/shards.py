"""The rows of one split of a store as one matrix: shards that are mapped when they are read.

A map holds a file descriptor, so only the last few shards that were read stay mapped, whatever their number.
A shard's checksum is verified before its first row is used, and once.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from critmass.errors import StoreError, verbatim
from critmass.io.files import sha256
from critmass.io.tensors import map_tensors, n_mapped
from critmass.linalg.matrices import Indices, RowReader

SHARD_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*-\d{5,}\.safetensors$"
TARGET_BYTES = 64 * 2**20
"""Bytes of rows that a shard is meant to hold at most."""


class Record(BaseModel):
    """Base of what a manifest holds: frozen; keys that are not known are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Shard(Record):
    """One file of rows."""

    file: str = Field(pattern=SHARD_NAME)
    rows: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    columns: dict[str, str] | None = None  # of labels, groups and weights: a checksum each


def rows_of_a_shard(n_neurons: int, dtype: str) -> int:
    """Return the power of two of rows that comes nearest to `TARGET_BYTES` from below; 1 at least.

    Examples
    --------
    >>> rows_of_a_shard(2048, "float32")
    8192
    """
    return 1 << (max(TARGET_BYTES // (n_neurons * np.dtype(dtype).itemsize), 1).bit_length() - 1)


@dataclass(frozen=True, eq=False)
class ShardedMatrix(RowReader):
    """The rows of one split of a store.

    Pickled, it is paths and sizes; whoever unpickles it opens and verifies shards anew.

    Attributes
    ----------
    folder : Path
        Where the shards are, absolute.
    shards : tuple of Shard
    n_neurons : int
    stored : str
        Name of the rows' data type.
    content : str or None
        SHA-256 of all rows, as the manifest says.
    """

    folder: Path
    shards: tuple[Shard, ...]
    n_neurons: int
    stored: str
    content: str | None = None
    _verified: set[int] = field(default_factory=set, repr=False)
    _verifying: Any = field(default_factory=threading.Lock, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardedMatrix, (self.folder, self.shards, self.n_neurons, self.stored, self.content)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, number of neurons."""
        return (int(self.starts[-1]), self.n_neurons)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the rows."""
        return np.dtype(self.stored)

    @functools.cached_property
    def starts(self) -> Indices:
        """The first row of each shard, and the number of rows; shape (n_shards + 1,)."""
        return np.cumsum([0, *(shard.rows for shard in self.shards)])

    def _between(self, start: int, stop: int) -> NDArray[Any]:
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        if start < stop <= self.starts[first + 1] and n_mapped() <= _most_mapped():
            offset = int(self.starts[first])
            return self._rows(first)[start - offset : stop - offset]
        out = np.empty((stop - start, self.n_neurons), dtype=self.dtype)
        done = start
        while done < stop:
            offset, end = int(self.starts[first]), min(stop, int(self.starts[first + 1]))
            out[done - start : end - start] = self._rows(first)[done - offset : end - offset]
            done, first = end, first + 1
        return out

    def _take(self, rows: Indices) -> NDArray[Any]:
        out = np.empty((len(rows), self.n_neurons), dtype=self.dtype)
        home = np.searchsorted(self.starts, rows, side="right") - 1
        places = np.argsort(home, kind="stable")
        cuts = np.flatnonzero(np.diff(home[places], prepend=-1, append=-1))
        for begin, end in itertools.pairwise(cuts):
            here = places[begin:end]
            shard = int(home[here[0]])
            out[here] = self._rows(shard)[rows[here] - self.starts[shard]]
        return out

    def _rows(self, index: int) -> NDArray[Any]:
        """Return the rows of a shard, verified and mapped."""
        shard = self.shards[index]
        path = self.folder / shard.file
        if index not in self._verified:
            with self._verifying:
                if index not in self._verified:
                    check_shard(self.folder, shard)
                    self._verified.add(index)
        rows = _MAPS.rows(path, shard.sha256)
        if rows is None or rows.shape != (shard.rows, self.n_neurons) or rows.dtype != self.dtype:
            raise StoreError(
                str(path),
                verbatim(f"no x of shape {(shard.rows, self.n_neurons)} and type {self.dtype}"),
                "the shard that the manifest describes",
                "restore it from a copy or make it again",
            )
        return rows


def check_shard(folder: Path, shard: Shard) -> None:
    """Raise StoreError unless the shard's bytes are those the manifest names."""
    path = folder / shard.file
    try:
        found = f"checksum {sha256(path)[:12]}"
    except OSError as error:
        found = f"no file that can be read ({error.strerror})"
    if found != f"checksum {shard.sha256[:12]}":
        raise StoreError(
            str(path),
            verbatim(found),
            f"checksum {shard.sha256[:12]} as in the manifest",
            "the shard is damaged: restore it from a copy, or delete the folder and extract again",
        )


class _Maps:
    """The shards of any store that were read last, mapped."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, str], NDArray[Any] | None] = OrderedDict()
        self._lock = threading.Lock()

    def rows(self, path: Path, checksum: str) -> NDArray[Any] | None:
        """Return the tensor x of a file; None where it has none."""
        key = (path, checksum)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = map_tensors(path).get("x")
            self._kept.move_to_end(key)
            while len(self._kept) > _most_mapped():
                self._kept.popitem(last=False)
            return self._kept[key]


_MAPS = _Maps()


@functools.cache
def _most_mapped() -> int:
    """Return how many shards stay mapped: a quarter of the files that the process may have open."""
    try:
        import resource
    except ImportError:  # Windows, where a map holds none of these
        return 256
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if limit == resource.RLIM_INFINITY else max(1, min(limit // 4, 1024))
