"""Parts of a layer: a basis and its prefixes.

To take a part of size k, apply a basis to the layer and keep its first k columns. A permutation is stored as
an order of the neurons and never multiplied out: the part of size k is its first k neurons, so the parts of
one repeat are nested, as the paper draws them. A dense basis (PCA, a random projection) is a matrix. What is
no prefix of anything is a list of masks. How they are made is families.py; scores take them as plan.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, verbatim
from critmass.linalg.bases import times
from critmass.linalg.matrices import Floats, Indices
from critmass.parts.groups import Basis, PrefixGroup
from critmass.parts.sizes import Sizes, resolve_sizes


@dataclass(frozen=True)
class Parts(ABC):
    """Parts of a layer: what a score measures, and what a curve says was measured.

    Attributes
    ----------
    family : str
        Name of the family.
    unit : str
        What parts are made of: neurons, components, directions.
    """

    family: str
    unit: str = field(default="neurons", kw_only=True)

    @property
    @abstractmethod
    def repeats(self) -> int:
        """Number of parts of each size."""

    @property
    @abstractmethod
    def n_neurons(self) -> int:
        """Width of the layer, d."""

    @property
    def n_columns(self) -> int:
        """Number of columns that groups take from."""
        return self.n_neurons

    @property
    def ends_whole(self) -> bool:
        """Whether the part of size d is the whole layer: it has the whole's score then, unmeasured."""
        return True

    @property
    def memory(self) -> float:
        """Bytes of matrices held."""
        return 0.0

    def columns(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the columns that groups take from: see `Plan.gather`."""
        return x

    @property
    @abstractmethod
    def array(self) -> NDArray[Any]:
        """What the parts are: orders, masks or matrices."""

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return what is kept of the parts besides the family's name, seed and features."""
        return {}

    def resolve(self, sizes: Sizes) -> Indices:
        """Return the sizes to measure; see `resolve_sizes`."""
        return resolve_sizes(sizes, self.n_neurons)

    @abstractmethod
    def groups(self, sizes: Indices) -> list[PrefixGroup]:
        """Return the prefix groups of the parts that are measured, of these sizes; the last size is d."""

    @abstractmethod
    def indices(self, repeat: int, size: int) -> Indices:
        """Return the neurons of one part, shape (size,).

        Raises
        ------
        InputError
            Where parts are no neurons of the layer, or there is none of this size.
        """


@dataclass(frozen=True)
class Orders(Parts):
    """An order of the neurons for each repeat; its first k are the part of size k.

    Attributes
    ----------
    orders : array of shape (n_repeats, n_neurons)
        Each row a permutation.
    """

    orders: Indices

    @property
    def repeats(self) -> int:
        """Number of orders."""
        return int(self.orders.shape[0])

    @property
    def n_neurons(self) -> int:
        """Width of the layer, d."""
        return int(self.orders.shape[1])

    @property
    def array(self) -> Indices:
        """The orders."""
        return self.orders

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return the orders."""
        return {"orders": self.orders}

    def groups(self, sizes: Indices) -> list[PrefixGroup]:
        """Return a group for each order."""
        below = np.arange(len(sizes) - 1)
        return [PrefixGroup(order, sizes[below], repeat, below) for repeat, order in enumerate(self.orders)]

    def indices(self, repeat: int, size: int) -> Indices:
        """Return the neurons of one part, in their order, shape (size,)."""
        return self.orders[repeat, :size]


@dataclass(frozen=True)
class Masks(Parts):
    """An explicit part for each size and repeat; nothing is nested, so each is a group of its own.

    Attributes
    ----------
    masks : array of bool, shape (n_repeats, n_sizes, n_neurons)
        True where a neuron is in the part; sizes ascending, each below d.
    """

    masks: NDArray[np.bool_]

    @property
    def repeats(self) -> int:
        """Number of parts of each size."""
        return int(self.masks.shape[0])

    @property
    def n_neurons(self) -> int:
        """Width of the layer, d."""
        return int(self.masks.shape[2])

    @property
    def array(self) -> NDArray[np.bool_]:
        """The masks."""
        return self.masks

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return the masks."""
        return {"masks": self.masks}

    def resolve(self, sizes: Sizes) -> Indices:
        """Return the masks' sizes, and the whole's."""
        if not (isinstance(sizes, str) and sizes == "paper"):
            raise InputError("sizes", sizes, "nothing beside masks, which have sizes of their own")
        return np.array([*self.masks[0].sum(axis=1).tolist(), self.n_neurons])

    def groups(self, sizes: Indices) -> list[PrefixGroup]:
        """Return a group for each mask."""
        orders = np.argsort(~self.masks, axis=2, kind="stable")
        return [
            PrefixGroup(order, sizes[[index]], repeat, np.array([index]))
            for repeat, own in enumerate(orders)
            for index, order in enumerate(own)
        ]

    def indices(self, repeat: int, size: int) -> Indices:
        """Return the neurons of one part, ascending, shape (size,)."""
        if size == self.n_neurons:
            return np.arange(size)
        sizes = self.masks[repeat].sum(axis=1).tolist()
        if size not in sizes:
            raise InputError("size", size, ", ".join(map(str, [*sizes, self.n_neurons])))
        return np.flatnonzero(self.masks[repeat, sizes.index(size)])


@dataclass(frozen=True)
class Bases(Parts):
    """A dense basis for each repeat; rows times its first k columns are the part of size k.

    Attributes
    ----------
    shape : (n_repeats, n_neurons, n_coordinates)
        Where there are fewer coordinates than neurons, the part of size d is the whole layer.
    matrices : array of this shape, or None
        None in a curve: the same features, seed and family give them again.
    """

    shape: tuple[int, int, int]
    matrices: Floats | None = None

    @property
    def repeats(self) -> int:
        """Number of bases."""
        return self.shape[0]

    @property
    def n_neurons(self) -> int:
        """Width of the layer, d."""
        return self.shape[1]

    @property
    def n_columns(self) -> int:
        """The neurons, and the columns of each basis."""
        return self.n_neurons + self.repeats * self.shape[2]

    @property
    def ends_whole(self) -> bool:
        """Whether no basis reaches size d."""
        return self.shape[2] < self.n_neurons

    @property
    def memory(self) -> float:
        """Bytes of the matrices."""
        return float(8.0 * np.prod(self.shape, dtype=float))

    def columns(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return rows, and beside them their products with each basis, in float64."""
        out = np.empty((len(x), self.n_columns))
        out[:, : self.n_neurons] = x
        for start, matrix in zip(self._offsets, self.array, strict=True):
            out[:, start : start + self.shape[2]] = times(x, matrix)
        return out

    @property
    def array(self) -> Floats:
        """The matrices."""
        assert self.matrices is not None  # noqa: S101
        return self.matrices

    def resolve(self, sizes: Sizes) -> Indices:
        """Return the sizes to measure, of those asked by name or fraction as many as there are columns."""
        counts = resolve_sizes(sizes, self.n_neurons)
        within: Indices = counts[(counts <= self.shape[2]) | (counts == self.n_neurons)]
        return within

    def groups(self, sizes: Indices) -> list[PrefixGroup]:
        """Return a group for each basis."""
        here = np.flatnonzero(sizes <= self.shape[2])
        return [
            PrefixGroup(np.arange(self.shape[2]), sizes[here], repeat, here, Basis(matrix), start)
            for repeat, (start, matrix) in enumerate(zip(self._offsets, self.array, strict=True))
        ]

    def indices(self, repeat: int, size: int) -> Indices:
        """Raise InputError: columns of a dense basis are no neurons."""
        raise InputError(
            "indices",
            verbatim(f"{self.family} part {repeat} of size {size}, columns mixed of all neurons"),
            "parts that are neurons: orders, masks, or a family such as random or variance",
        )

    @property
    def _offsets(self) -> range:
        return range(self.n_neurons, self.n_columns, self.shape[2])


def from_array(name: str, array: NDArray[Any], n_neurons: int) -> Parts:
    """Return the parts that an array describes, by what it holds.

    Parameters
    ----------
    name : str
        Of the family.
    array : array
        Whole numbers, shape (n_neurons,) or (n_repeats, n_neurons): orders, each row a permutation. Booleans,
        shape (n_sizes, n_neurons) or (n_repeats, n_sizes, n_neurons): masks. Other numbers, shape
        (n_neurons, n_coordinates) or (n_repeats, n_neurons, n_coordinates): bases.

    Raises
    ------
    InputError
        For anything else.
    """
    if array.dtype == np.bool_:
        return _masks(name, array, n_neurons)
    return _bases(name, array, n_neurons) if array.dtype.kind == "f" else _orders(name, array, n_neurons)


def _orders(name: str, array: NDArray[Any], n_neurons: int) -> Orders:
    orders = np.atleast_2d(array)
    shape_ok = orders.ndim == 2 and orders.shape[1] == n_neurons and orders.dtype.kind in "iu"
    if not shape_ok or (np.sort(orders, axis=1) != np.arange(n_neurons)).any():
        raise InputError(
            "parts",
            verbatim(f"an array of shape {array.shape} and dtype {array.dtype}"),
            f"each of the neurons 0..{n_neurons - 1} once",
            "put the neurons you would keep first, and all others after them; or give masks, of booleans",
        )
    return Orders(name, orders.astype(np.intp))


def _masks(name: str, array: NDArray[Any], n_neurons: int) -> Masks:
    masks = array[None] if array.ndim == 2 else array
    if masks.ndim != 3 or masks.shape[2] != n_neurons or masks.size == 0:
        allowed = f"shape (n_sizes, {n_neurons}) or (n_repeats, n_sizes, {n_neurons})"
        raise InputError("parts", verbatim(f"masks of shape {array.shape}"), allowed)
    counts = masks.sum(axis=2)
    if (counts != counts[0]).any() or counts[0, 0] < 1 or (np.diff(counts[0]) < 1).any():
        found = verbatim(f"masks of {' and '.join(map(str, np.unique(counts, axis=0).tolist()))} neurons")
        raise InputError("parts", found, "sizes from 1 up, ascending, the same in every repeat")
    return Masks(name, masks[:, counts[0] < n_neurons])


def _bases(name: str, array: NDArray[Any], n_neurons: int) -> Bases:
    matrices = array[None] if array.ndim == 2 else array
    if matrices.ndim != 3 or matrices.shape[1] != n_neurons or not 0 < matrices.shape[2] <= n_neurons:
        allowed = f"shape ({n_neurons}, k) or (n_repeats, {n_neurons}, k), k from 1 to {n_neurons}"
        raise InputError("parts", verbatim(f"a matrix of shape {array.shape}"), allowed)
    if not np.isfinite(matrices).all():
        raise InputError("parts", verbatim("a matrix with values that are not finite"), "finite numbers")
    n_repeats, d, width = matrices.shape
    return Bases(name, (n_repeats, d, width), np.ascontiguousarray(matrices, dtype=np.float64))


def recorded(parts: Parts) -> Parts:
    """Return what a curve keeps of parts: all but dense matrices."""
    return replace(parts, matrices=None) if isinstance(parts, Bases) else parts


def stored(family: str, unit: str, arrays: Mapping[str, NDArray[Any]], shape: Sequence[int]) -> Parts:
    """Return recorded parts from their `arrays`; `shape` is that of bases."""
    if "orders" in arrays:
        return Orders(family, arrays["orders"])
    if "masks" in arrays:
        return Masks(family, arrays["masks"])
    n_repeats, d, width = shape
    return Bases(family, (n_repeats, d, width), unit=unit)
