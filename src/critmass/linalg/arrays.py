"""Matrices by blocks of rows, and the few dense kernels that everything else is made of.

A *matrix* here is anything with a shape, a dtype and slicing by rows: an array, a memory map, a store.
It is read in blocks whose boundaries depend on nothing but the row number, so sums come out in the same
order, and to the same bits, however the rows are stored.

Two back ends, NumPy and torch, behind one set of names (the array API standard): a `Device` gives the
namespace, and code written with it runs on either. Moments are summed on the device, in float64; the algebra
on them is NumPy's.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, lapack
from threadpoolctl import ThreadpoolController

from critmass.errors import InputError, require, said

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

Each = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]
"""A map over items."""

BLOCK_ROWS = 2048
"""Rows of a reduction block. Part of the result's bits: change it only with the result version."""

PIECE = 128
"""Columns of a product that are computed together, on one thread. Part of the result's bits."""

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


@dataclass(frozen=True)
class Device:
    """Where matrix products run.

    Attributes
    ----------
    name : str
        "cpu": NumPy. "torch:cpu", "cuda", "cuda:1": torch on that device.
    """

    name: str

    @property
    def torch_name(self) -> str | None:
        """What torch calls the device; None for NumPy."""
        return None if self.name == "cpu" else self.name.removeprefix("torch:")

    @property
    def xp(self) -> Any:
        """The array API namespace: NumPy's functions, or torch's under the same names."""
        library = "numpy" if self.torch_name is None else "torch"
        return importlib.import_module(f"array_api_compat.{library}")

    def put(self, array: Any, dtype: str | None = None) -> Any:
        """Return a NumPy array as an array on this device, with this dtype where one is named."""
        kind = None if dtype is None else getattr(self.xp, dtype)
        if self.torch_name is None:
            return np.asarray(array, dtype=kind)
        return self.xp.asarray(np.ascontiguousarray(array), dtype=kind, device=self.torch_name)

    def get(self, array: Any) -> Any:
        """Return an array on this device as a NumPy array."""
        return array if self.torch_name is None else array.cpu().numpy()


CPU = Device("cpu")


def resolve_device(name: str) -> Device:
    """Return the device called `name`.

    Raises
    ------
    InputError
        For a name that torch does not know, or a device that is not there.
    MissingExtraError
        If torch is needed and not installed.
    """
    device = Device(name)
    if device.torch_name is not None:
        torch = require("torch", package="torch", extra="torch", purpose=f"device {name!r}")
        try:
            torch.zeros(1, dtype=torch.float64, device=device.torch_name)
        except (RuntimeError, AssertionError, TypeError) as error:
            here = f"{torch.cuda.device_count()} CUDA devices here"
            raise InputError(
                "device", name, f"cpu (NumPy), torch:cpu, cuda, cuda:N ({here})", str(error).split("\n")[0]
            ) from None
    return device


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
                said(f"integers to {max(int(whole.max()), -int(whole.min()))}"),
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
            said(f"values no further from their mean than {largest:.3g}"),
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
            said(f"{x[row, neuron]} at row {rows[row]}, neuron {neuron}"),
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
            said(f"{x[row, neuron]:.3g} at row {rows[row]}, neuron {neuron}"),
            f"magnitudes of {SMALLEST:g} to {LARGEST:g}",
            "multiply all rows by one number",
        )


def add_gram(total: Any, x: Any) -> Any:
    """Return ``total + xᵀx``, upper triangle only, in place where `total` is Fortran-ordered or torch's."""
    if not isinstance(x, np.ndarray):
        total += (x.T @ x).triu()
        return total
    result: Floats = blas.dsyrk(1.0, x.T, beta=1.0, c=total, overwrite_c=1)
    return result


def add_product(total: Any, x: Any, y: Any) -> Any:
    """Return ``total + xᵀy``, in place where `total` is Fortran-ordered or torch's.

    With NumPy to the same bits on any number of threads: a threaded product is cut where their number says,
    and its bits with it; so it is cut at fixed places here, and each piece is multiplied on one thread.
    """
    if not isinstance(x, np.ndarray):
        total += x.T @ y
        return total
    total = np.asfortranarray(total)

    def piece(start: int) -> None:
        columns = slice(start, start + PIECE)
        # Not by SciPy's dgemm, which would add in place but holds the interpreter's lock, and with it all
        # other pieces, until it is done.
        total.T[columns] += y[:, columns].T @ x

    with at_once(CPU) as each:
        each(piece, range(0, y.shape[1], PIECE))
    return total


def symmetric(upper: Floats) -> Floats:
    """Return the full matrix whose upper triangle is `upper`, which is zero below it."""
    full = upper + upper.T
    full[np.diag_indices(len(full))] *= 0.5
    return full


def cholesky(gram: Floats) -> Floats:
    """Return the lower factor of a positive definite matrix, computed on one thread.

    One thread, because the bits of a threaded factorisation depend on the number of threads. `gram` is
    overwritten where it is Fortran-ordered; only its lower triangle is read.

    Raises
    ------
    InputError
        If the matrix is not positive definite in float64.
    """
    with one_thread():
        factor, info = lapack.dpotrf(gram, lower=1, clean=1, overwrite_a=1)
    if info != 0:
        raise _singular(f"a singular system at neuron {info} of the part")
    result: Floats = factor
    return result


def _singular(found: str) -> InputError:
    return InputError(
        "regularisation",
        said(found),
        "a value large enough to make the system positive definite",
        "raise regularisation=, or leave it out to have it chosen; a layer that is constant has no probe",
    )


def solve_lower(factor: Floats, right: Floats, *, transposed: bool = False) -> Floats:
    """Return ``factor⁻¹ right`` (or ``factor⁻ᵀ right``) for a lower triangular factor."""
    result: Floats = blas.dtrsm(1.0, factor, np.asfortranarray(right), lower=1, trans_a=int(transposed))
    return result


def one_thread() -> AbstractContextManager[Any]:
    """Limit BLAS to one thread inside the context, and give back what was there before."""
    context: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return context


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def threads() -> int:
    """Return how many threads BLAS may use now, which bounds ours too (OMP_NUM_THREADS bounds both)."""
    found = [library["num_threads"] for library in _controller().info() if library["user_api"] == "blas"]
    return max(found, default=1)


@contextlib.contextmanager
def at_once(device: Device) -> Iterator[Each]:
    """Yield ``each(work, items)``: the list of ``work(item)``, several at once on the CPU with NumPy.

    As many threads as BLAS may use, each with a BLAS of one thread: so elementwise work is parallel too,
    and the bits of a result do not depend on the number of threads.
    """
    if device.torch_name is not None:
        yield lambda work, items: [work(item) for item in items]
        return
    count = threads()
    with one_thread(), ThreadPoolExecutor(count) as pool:
        yield lambda work, items: list(pool.map(work, items))


def cholesky_inverse(device: Device, gram: Any, dtype: str) -> tuple[Any, Any]:
    """Return the lower Cholesky factor of a positive definite matrix on the device, and its inverse.

    Both are computed in `dtype`; the factor in the matrix's own precision where that fails.
    """
    xp = device.xp
    kind = getattr(xp, dtype)
    try:
        factor = xp.linalg.cholesky(xp.astype(gram, kind))
    except (np.linalg.LinAlgError, RuntimeError):
        try:
            factor = xp.astype(xp.linalg.cholesky(gram), kind)
        except (np.linalg.LinAlgError, RuntimeError):
            raise _singular("a singular system") from None
    if device.torch_name is not None:
        torch = importlib.import_module("torch")
        unit = xp.eye(len(factor), dtype=factor.dtype, device=factor.device)
        return factor, torch.linalg.solve_triangular(factor, unit, upper=False)
    invert = lapack.strtri if dtype == "float32" else lapack.dtrtri
    return factor, np.ascontiguousarray(invert(factor, lower=1)[0])


def require_memory(name: str, needed: float, allowed: float, advice: str) -> None:
    """Raise InputError where `needed` bytes are more than the `allowed` ones."""
    if needed > allowed:
        raise InputError(
            name, said(f"work of {needed / 2**30:.3g} GiB"), f"at most {allowed / 2**30:.3g} GiB", advice
        )


def available_memory() -> float:
    """Return how many bytes of memory are free for the taking; infinity where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return float("inf")
