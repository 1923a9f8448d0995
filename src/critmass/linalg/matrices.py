"""Matrices as they are read: by blocks of rows, of a magnitude that float64 can work with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, verbatim

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

BLOCK_ROWS = 2048
"""Rows of a reduction block. Part of the result's bits: change it only with the result version."""

EXACT_INTEGERS = 2**53
"""Every whole number up to it is a float64."""

SMALLEST, LARGEST = 1e-60, 1e60
"""Magnitudes between them have fourth powers, which CKA sums, that float64 holds to all digits."""

SCORED_ROWS = 1024
"""Rows scored at once: few enough that the predictions for all sizes and repeats stay small."""


class Matrix(Protocol):
    """Rows by neurons; slicing rows gives an array."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102
    def __getitem__(self, rows: Any, /) -> Any: ...


class RowReader(ABC):
    """A matrix that lies elsewhere and is read by rows, as far as it is like an array.

    ``x[rows]`` gives an array, which may be a read-only view: rows are a slice, row numbers, a mask, or one
    number. ``x[:]`` and ``np.asarray(x)`` read all of it; ``x.blocks()`` gives it a block at a time.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Number of rows, number of neurons."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Data type of what is read."""

    @abstractmethod
    def _between(self, start: int, stop: int) -> NDArray[Any]:
        """Return these rows, which follow one another."""

    @abstractmethod
    def _take(self, rows: Indices) -> NDArray[Any]:
        """Return the rows of these numbers, none negative, in their order."""

    @property
    def ndim(self) -> int:
        """2, as of any matrix."""
        return 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        n = self.shape[0]
        if isinstance(rows, slice):
            start, stop, step = rows.indices(n)
            if step == 1:
                return self._between(start, max(start, stop))
            return self._take(np.arange(start, stop, step))
        wanted = np.asarray(rows) if not isinstance(rows, tuple) else None
        if wanted is None or wanted.ndim > 1:
            raise TypeError(
                f"a {type(self).__name__} is indexed by rows alone: a slice, row numbers, a mask of all rows "
                "or one number; columns are taken from what that gives: x[rows][:, columns]"
            )
        if wanted.dtype == np.bool_:
            if wanted.shape != (n,):
                raise IndexError(f"a mask of shape {wanted.shape} for {n} rows")
            wanted = np.flatnonzero(wanted)
        elif wanted.dtype.kind not in "iu" and wanted.size:
            raise IndexError(f"rows are numbers, not {wanted.dtype}")
        elif ((wanted < -n) | (wanted >= n)).any():
            raise IndexError(f"a row number is out of range for {n} rows")
        wanted = np.where(wanted < 0, wanted + n, wanted).astype(np.intp)
        return self._take(wanted) if wanted.ndim else self._take(wanted[None])[0]

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[NDArray[Any]]:
        """Yield the rows as arrays of `size` rows, the last of fewer."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield rows one by one, as an array does; they are read a block at a time."""
        for block in self.blocks():
            yield from block

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001
        """Read every row into an array: what ``np.asarray(x)`` does."""
        if copy is False:
            raise ValueError(
                f"a {type(self).__name__} is not in memory: its rows cannot be had without a copy"
            )
        rows = self[:]
        return np.array(rows, dtype=dtype, copy=True if copy and not rows.flags.owndata else None)


@dataclass(frozen=True, eq=False)
class RowSubset(RowReader):
    """Some rows of a matrix, in ascending order, read when asked for."""

    base: Matrix
    rows: Indices

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of kept rows, number of neurons."""
        return (len(self.rows), self.base.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the base matrix."""
        return self.base.dtype

    def _between(self, start: int, stop: int) -> NDArray[Any]:
        rows = self.rows[start:stop]
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            return np.asarray(self.base[int(rows[0]) : int(rows[-1]) + 1])
        return np.asarray(self.base[rows])

    def _take(self, rows: Indices) -> NDArray[Any]:
        return np.asarray(self.base[self.rows[rows]])


@dataclass(frozen=True, eq=False)
class AsFloats(RowReader):
    """A matrix of integers or booleans, read as floats that equal them."""

    base: Matrix

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, number of neurons."""
        return self.base.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 where it holds every number of the base's type (8 and 16 bits, booleans), else float64."""
        return np.dtype(np.float32 if self.base.dtype.itemsize <= 2 else np.float64)

    def _between(self, start: int, stop: int) -> NDArray[Any]:
        return self._floats(self.base[start:stop])

    def _take(self, rows: Indices) -> NDArray[Any]:
        return self._floats(self.base[rows])

    def _floats(self, values: Any) -> NDArray[Any]:
        whole = np.asarray(values)
        if whole.itemsize == 8 and len(whole) and max(int(whole.max()), -int(whole.min())) > EXACT_INTEGERS:
            raise InputError(
                "X",
                verbatim(f"integers to {max(int(whole.max()), -int(whole.min()))}"),
                "integers to 2^53, which float64 holds exactly",
                "convert them to floats yourself",
            )
        return whole.astype(self.dtype)


def blocks(
    x: Matrix, name: str, *, size: int = BLOCK_ROWS, shift: Floats | float = 0.0
) -> Iterator[tuple[slice, Floats]]:
    """Yield (rows, float64 block of ``x - shift``); every block but the last has `size` rows.

    One buffer serves all blocks: each is overwritten by the next.

    Raises
    ------
    InputError
        Calling the rows `name`, for the first row and neuron that is not finite or too large; after the
        last block, where no value was large enough.
    """
    largest = 0.0
    buffer = np.empty((min(size, x.shape[0]), x.shape[1]))
    for start in range(0, x.shape[0], size):
        rows = slice(start, min(start + size, x.shape[0]))
        block = np.subtract(x[rows], shift, out=buffer[: rows.stop - start])
        least, most = block.min(initial=0.0), block.max(initial=0.0)
        if not (least >= -LARGEST and most <= LARGEST):
            require_finite(name, block, x.rows[rows] if isinstance(x, RowSubset) else range(start, rows.stop))
        largest = max(largest, most, -least)
        yield rows, block
    _require_magnitude(name, largest)


def require_usable(name: str, x: NDArray[Any], rows: Sequence[int] | Indices) -> None:
    """Raise InputError where `x` has a value that cannot be worked with, or none large enough to be."""
    require_finite(name, x, rows)
    _require_magnitude(name, float(max(x.max(initial=0.0), -x.min(initial=0.0))))


def _require_magnitude(name: str, largest: float) -> None:
    """Raise InputError where the values, if not all 0, are so small that their powers lose digits."""
    if 0 < largest < SMALLEST:
        raise InputError(
            name,
            verbatim(f"values no further from their mean than {largest:.3g}"),
            f"magnitudes of {SMALLEST:g} to {LARGEST:g}",
            "multiply all rows by one number",
        )


def require_finite(name: str, x: NDArray[Any], rows: Sequence[int] | Indices) -> None:
    """Raise InputError naming the first row and neuron of `x` that is NaN, infinite or above `LARGEST`.

    `rows` are the numbers that the rows of `x` have for the user.
    """
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        row, neuron = (int(i) for i in bad[0])
        raise InputError(
            name,
            verbatim(f"{x[row, neuron]} at row {rows[row]}, neuron {neuron}"),
            "finite numbers",
            "drop or repair these rows",
        )
    if x.dtype.itemsize < 8:
        return  # no such number is above it
    bad = np.argwhere(np.abs(x) > LARGEST)
    if len(bad):
        row, neuron = (int(i) for i in bad[0])
        raise InputError(
            name,
            verbatim(f"{x[row, neuron]:.3g} at row {rows[row]}, neuron {neuron}"),
            f"magnitudes of {SMALLEST:g} to {LARGEST:g}",
            "multiply all rows by one number",
        )
