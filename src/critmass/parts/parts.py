"""Families of parts: a basis and its prefixes.

To take a part of size k, apply a basis to the layer and keep its first k columns. A permutation is stored as
an order of the neurons and never multiplied out: the part of size k is its first k neurons, so the parts of
one repeat are nested, as the paper draws them. A dense basis (PCA, a random projection) is a matrix, from
bases.py. What is no prefix of anything is a list of masks. Scores take all of these as *walks*: columns that
parts grow along. This page knows orders, matrices and sizes, not what is measured on them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from critmass.errors import InputError, said, unknown
from critmass.features.features import Split
from critmass.io.ids import content_id
from critmass.linalg import bases, rng
from critmass.linalg.arrays import Floats, Indices, require_memory

Seeding = Literal["critmass", "authors"]

PAPER_FRACTIONS = (
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.8, 0.9, 1.0,
)  # fmt: skip
"""The fractions of a layer that the authors measure (their code)."""


@dataclass(frozen=True)
class Walk:
    """Nested parts: each is the first columns of one order, so that one walk along it serves them all.

    Attributes
    ----------
    order : array of shape (n_neurons,)
        Columns, as `Parts.columns` numbers them.
    sizes : array of shape (n_sizes_here,), ascending
    repeat : int
        Row of the scores; the number of repeats for the whole layer.
    places : array of shape (n_sizes_here,)
        Columns of the scores.
    basis : array of shape (n_neurons, n_neurons), or None
        The columns in this order as a matrix over the neurons, where that is dense.
    """

    order: Indices
    sizes: Indices
    repeat: int
    places: Indices
    basis: Floats | None = None


@dataclass(frozen=True)
class Parts(ABC):
    """Parts of a layer: what a score measures, and what a curve says was measured.

    Attributes
    ----------
    family : str
        Name of the family.
    ends_whole : bool
        Whether the part of size d is the whole layer: then it has the whole's score, and is not measured.
    """

    family: str
    ends_whole = True

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
        """Number of columns that walks take from."""
        return self.n_neurons

    @property
    def memory(self) -> float:
        """Bytes of matrices held."""
        return 0.0

    def columns(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the columns that walks take from, for rows x of shape (n, n_neurons): (n, n_columns).

        The neurons come first. x is what the score uses of the whole: where it standardises, standardised
        already; the columns of a dense basis are not standardised again.
        """
        return x

    @abstractmethod
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return what the parts are known by besides the family's name, seed and features."""

    def resolve(self, sizes: str | float | Sequence[int | float]) -> Indices:
        """Return the sizes to measure; see `resolve_sizes`."""
        return resolve_sizes(sizes, self.n_neurons)

    def walks(self, sizes: Indices) -> list[Walk]:
        """Return the walks to the parts of these sizes, of which the last is d; the last is to the whole."""
        d = self.n_neurons
        return [
            *self._walks(sizes),
            Walk(np.arange(d), sizes[-1:], self.repeats, np.array([len(sizes) - 1])),
        ]

    @abstractmethod
    def _walks(self, sizes: Indices) -> list[Walk]:
        """Return the walks to the parts that are measured."""

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

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return the orders."""
        return {"orders": self.orders}

    def _walks(self, sizes: Indices) -> list[Walk]:
        places = np.arange(len(sizes) - 1)
        return [Walk(order, sizes[:-1], repeat, places) for repeat, order in enumerate(self.orders)]

    def indices(self, repeat: int, size: int) -> Indices:
        """Return the neurons of one part, in their order, shape (size,)."""
        return self.orders[repeat, :size]


@dataclass(frozen=True)
class PartSet(Parts):
    """An explicit part for each size and repeat; nothing is nested, so each is a walk of its own.

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

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return the masks."""
        return {"masks": self.masks}

    def resolve(self, sizes: str | float | Sequence[int | float]) -> Indices:
        """Return the masks' sizes, and the whole's."""
        if not (isinstance(sizes, str) and sizes == "paper"):
            raise InputError("sizes", sizes, "nothing beside masks, which have sizes of their own")
        return np.array([*self.masks[0].sum(axis=1).tolist(), self.n_neurons])

    def _walks(self, sizes: Indices) -> list[Walk]:
        orders = np.argsort(~self.masks, axis=2, kind="stable")
        return [
            Walk(order, sizes[[place]], repeat, np.array([place]))
            for repeat, own in enumerate(orders)
            for place, order in enumerate(own)
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
    shape : (n_repeats, n_neurons)
    matrices : array of shape (n_repeats, n_neurons, n_neurons), or None
        None in a curve: the same features, seed and family give them again.
    """

    shape: tuple[int, int]
    matrices: Floats | None = None
    ends_whole = False

    @classmethod
    def of(cls, family: str, matrices: Floats) -> Bases:
        """Return the parts that these matrices give."""
        return cls(family, (len(matrices), matrices.shape[1]), matrices)

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
        return self.n_neurons * (1 + self.repeats)

    @property
    def memory(self) -> float:
        """Bytes of the matrices."""
        return 8.0 * self.repeats * self.n_neurons**2

    def columns(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return rows, and beside them their products with each basis, in float64."""
        out = np.empty((len(x), self.n_columns))
        every = out.reshape(len(x), 1 + self.repeats, self.n_neurons)
        every[:, 0] = x
        for repeat, basis in enumerate(self._held):
            every[:, 1 + repeat] = bases.times(x, basis)
        return out

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return nothing."""
        return {}

    def _walks(self, sizes: Indices) -> list[Walk]:
        places, own = np.arange(len(sizes)), np.arange(self.n_neurons)
        return [
            Walk(own + (1 + repeat) * self.n_neurons, sizes, repeat, places, basis)
            for repeat, basis in enumerate(self._held)
        ]

    def indices(self, repeat: int, size: int) -> Indices:
        """Raise InputError: columns of a dense basis are no neurons."""
        raise InputError(
            "indices",
            said(f"{self.family} part {repeat} of size {size}, columns mixed of all neurons"),
            "parts that are neurons: orders, masks, or a family such as random or variance",
        )

    @property
    def _held(self) -> Floats:
        assert self.matrices is not None  # noqa: S101
        return self.matrices


def recorded(parts: Parts) -> Parts:
    """Return what a curve keeps of parts: all but dense matrices."""
    return replace(parts, matrices=None) if isinstance(parts, Bases) else parts


def stored(family: str, arrays: Mapping[str, NDArray[Any]], repeats: int, n_neurons: int) -> Parts:
    """Return recorded parts from their `arrays`."""
    if "orders" in arrays:
        return Orders(family, arrays["orders"])
    if "masks" in arrays:
        return PartSet(family, arrays["masks"])
    return Bases(family, (repeats, n_neurons))


@dataclass(frozen=True)
class Layer:
    """What families are made for.

    Attributes
    ----------
    n_neurons, seed : int
    seeding : "critmass" or "authors"
    train : Split or None
        The training rows.
    standardise : bool
        Whether a dense basis is applied to standardised columns.
    """

    n_neurons: int
    seed: int = 0
    seeding: Seeding = "critmass"
    train: Split | None = None
    standardise: bool = False

    def stream(self, *name: str | int) -> np.random.Generator:
        """Return the generator of a family and repeat."""
        return rng.stream(self.seed, "parts", *name)

    @property
    def rows(self) -> Split:
        """The training rows, where they are known."""
        if self.train is None:
            raise InputError("train", said("no rows"), "training rows, for parts that depend on the data")
        return self.train


@dataclass(frozen=True)
class Family:
    """A named way of taking parts.

    Attributes
    ----------
    description : str
    make : callable (layer, repeat) -> array
        An order of the neurons, shape (n_neurons,); or a basis, shape (n_neurons, n_neurons).
    chance : bool
        Whether repeats differ; a family without chance runs one.
    dense : bool
        Whether `make` gives a basis.
    unit : str
        What its parts are made of: neurons, or the columns of its basis.
    """

    description: str
    make: Callable[[Layer, int], NDArray[Any]]
    chance: bool = False
    dense: bool = False
    unit: str = "neurons"


def _random(layer: Layer, repeat: int) -> Indices:
    if layer.seeding == "authors":
        return rng.torch_randperm(layer.seed + repeat + 1, layer.n_neurons)
    return layer.stream("random", repeat).permutation(layer.n_neurons)


def _first(layer: Layer, _repeat: int) -> Indices:
    return np.arange(layer.n_neurons)


def _pca(layer: Layer, _repeat: int) -> Floats:
    rows = layer.rows
    return bases.principal(rows.x, rows.weight, standardise=layer.standardise)


def _variance(layer: Layer, _repeat: int) -> Indices:
    return bases.by_variance(layer.rows.x, layer.rows.weight)


def _norm(layer: Layer, _repeat: int) -> Indices:
    return bases.by_norm(layer.rows.x, layer.rows.weight)


def _least(make: Callable[[Layer, int], NDArray[Any]]) -> Callable[[Layer, int], NDArray[Any]]:
    """Return the same family, last first."""
    return lambda layer, repeat: np.flip(make(layer, repeat), axis=-1)


def _projection(
    name: str, draw: Callable[[int, np.random.Generator], Floats]
) -> Callable[[Layer, int], Floats]:
    return lambda layer, repeat: draw(layer.n_neurons, layer.stream(name, repeat))


FAMILIES = {
    "random": Family(
        "random neurons; one permutation a repeat, its prefixes are the parts", _random, chance=True
    ),
    "first": Family("the first k neurons, as Matryoshka-trained layers are meant to be cut", _first),
    "variance": Family("the k neurons of most variance over the training rows", _variance),
    "variance-least": Family("the k neurons of least variance", _least(_variance)),
    "norm": Family("the k neurons of largest norm over the training rows", _norm),
    "norm-least": Family("the k neurons of smallest norm", _least(_norm)),
    "pca": Family(
        "the first k principal components of the training rows", _pca, dense=True, unit="components"
    ),
    "pca-least": Family("the last k principal components", _least(_pca), dense=True, unit="components"),
    "random-projection": Family(
        "k random directions, entries normal",
        _projection("gaussian", bases.gaussian),
        chance=True,
        dense=True,
        unit="directions",
    ),
    "random-projection-orthogonal": Family(
        "k random directions at right angles",
        _projection("orthogonal", bases.orthogonal),
        chance=True,
        dense=True,
        unit="directions",
    ),
    "random-projection-uniform": Family(
        "k random directions, entries uniform in [0, 1], as the paper's authors draw them",
        _projection("uniform", bases.uniform),
        chance=True,
        dense=True,
        unit="directions",
    ),
}
EXPLICIT, MASKS = "explicit", "masks"


def unit_of(family: str) -> str:
    """Return what the parts of a family are made of: neurons, components or directions.

    Examples
    --------
    >>> unit_of("random"), unit_of("pca"), unit_of("masks")
    ('neurons', 'components', 'neurons')
    """
    return FAMILIES[family].unit if family in FAMILIES else "neurons"


def units_of(families: Iterable[str]) -> str:
    """Return what the parts of several families are made of, in words.

    Examples
    --------
    >>> units_of(["random", "pca", "first"])
    'neurons or components'
    """
    return " or ".join(dict.fromkeys(map(unit_of, families)))


WORK = 6
"""Matrices of shape (n_neurons, n_neurons) that making a basis takes besides it."""


def make_parts(
    family: str | ArrayLike,
    n_neurons: int,
    *,
    repeats: int = 5,
    seed: int = 0,
    seeding: Seeding = "critmass",
    train: Split | None = None,
    standardise: bool = False,
    memory: float = np.inf,
) -> Parts:
    """Return the parts of a layer of `n_neurons` neurons.

    Parameters
    ----------
    family : str or array
        A family's name; or an explicit order, shape (n_neurons,) or (n_repeats, n_neurons), each row a
        permutation of the neurons; or masks, booleans of shape (n_sizes, n_neurons) or (n_repeats, n_sizes,
        n_neurons), each row a part.
    seeding : "critmass" or "authors"
        "authors": repeat r of "random" takes ``torch.manual_seed(seed + r + 1); torch.randperm(n_neurons)``,
        which with seed 0 are the seeds 1..5 of the paper's code. Torch is not needed for it.
    train : Split, optional
        Training rows, for families that depend on the data. Rows count by their weight where they have one.
    standardise : bool
        Whether PCA is that of the columns scaled to unit variance.
    memory : float
        Bytes that matrices may take.

    Raises
    ------
    InputError
        For an unknown family, an order that is not a permutation, or masks that are no parts.

    Examples
    --------
    >>> make_parts("first", 4).arrays()
    {'orders': array([[0, 1, 2, 3]])}
    """
    if not isinstance(family, str):
        return _given(family, n_neurons)
    chosen = _named(family, repeats, seeding)
    layer = Layer(n_neurons, seed, seeding, train, standardise)
    every = range(repeats if chosen.chance else 1)
    if not chosen.dense:
        return Orders(family, np.stack([chosen.make(layer, repeat) for repeat in every]))
    needed, advice = 8.0 * (len(every) + WORK) * n_neurons**2, "use fewer repeats, or raise memory_gib"
    require_memory(f"{family} of {n_neurons} neurons", needed, memory, advice)
    return Bases.of(family, np.stack([chosen.make(layer, repeat) for repeat in every]))


def described(
    family: str | ArrayLike,
    n_neurons: int,
    *,
    sizes: str | float | Sequence[int | float],
    repeats: int,
    seeding: Seeding,
) -> dict[str, Any]:
    """Return what a MeasureSpec says of parts, without a look at the data; arguments as of `make_parts`."""
    if isinstance(family, str):
        chance = _named(family, repeats, seeding).chance
        return {
            "parts": family,
            "sizes": tuple(resolve_sizes(sizes, n_neurons).tolist()),
            "repeats": repeats if chance else 1,
            "seeding": seeding if chance else "critmass",
        }
    given = _given(family, n_neurons)
    (array,) = given.arrays().values()
    return {
        "parts": given.family,
        "order": content_id(array.tolist()),
        "sizes": tuple(given.resolve(sizes).tolist()),
        "repeats": given.repeats,
    }


def _named(family: str, repeats: int, seeding: Seeding) -> Family:
    """Return the family, everything that is asked of it checked."""
    if family not in FAMILIES:
        raise unknown("parts", family, FAMILIES)
    if seeding not in ("critmass", "authors"):
        raise unknown("seeding", str(seeding), ["critmass", "authors"])
    if repeats < 1:
        raise InputError("repeats", repeats, "1 or more")
    chosen = FAMILIES[family]
    if seeding == "authors" and chosen.chance and chosen.dense:
        raise InputError("seeding", seeding, f"'critmass' for {family}", "the authors' orders are of neurons")
    return chosen


def _given(array: ArrayLike, n_neurons: int) -> Orders | PartSet:
    given = np.asarray(array)
    return _masks(given, n_neurons) if given.dtype == np.bool_ else _explicit(given, n_neurons)


def _explicit(order: NDArray[Any], n_neurons: int) -> Orders:
    orders = np.atleast_2d(order)
    shape_ok = orders.ndim == 2 and orders.shape[1] == n_neurons and orders.dtype.kind in "iu"
    if not shape_ok or (np.sort(orders, axis=1) != np.arange(n_neurons)).any():
        raise InputError(
            "parts",
            said(f"an array of shape {order.shape} and dtype {order.dtype}"),
            f"each of the neurons 0..{n_neurons - 1} once",
            "put the neurons you would keep first, and all others after them; or give masks, of booleans",
        )
    return Orders(EXPLICIT, orders.astype(np.intp))


def _masks(given: NDArray[Any], n_neurons: int) -> PartSet:
    masks = given[None] if given.ndim == 2 else given
    if masks.ndim != 3 or masks.shape[2] != n_neurons or masks.size == 0:
        allowed = f"shape (n_sizes, {n_neurons}) or (n_repeats, n_sizes, {n_neurons})"
        raise InputError("parts", said(f"masks of shape {given.shape}"), allowed)
    counts = masks.sum(axis=2)
    if (counts != counts[0]).any() or counts[0, 0] < 1 or (np.diff(counts[0]) < 1).any():
        found = said(f"masks of {' and '.join(map(str, np.unique(counts, axis=0).tolist()))} neurons")
        raise InputError("parts", found, "sizes from 1 up, ascending, the same in every repeat")
    return PartSet(MASKS, masks[:, counts[0] < n_neurons])


def resolve_sizes(sizes: str | float | Sequence[int | float], n_neurons: int) -> Indices:
    """Return the sizes to measure, ascending, the whole layer always among them.

    Parameters
    ----------
    sizes : "paper", "all", or numbers
        Integers are sizes; floats are fractions f, giving ``max(1, int(f * n_neurons))`` neurons.

    Raises
    ------
    InputError
        For a size below 1 or above `n_neurons`, or a fraction outside (0, 1].

    Examples
    --------
    >>> resolve_sizes([1, 0.5], 10).tolist()
    [1, 5, 10]
    """
    if isinstance(sizes, str):
        if sizes == "all":
            return np.arange(1, n_neurons + 1)
        if sizes != "paper":
            raise InputError("sizes", sizes, "'paper', 'all', whole numbers (neurons) or fractions")
        sizes = PAPER_FRACTIONS
    counts = {n_neurons}
    for size in [sizes] if isinstance(sizes, int | float | np.number) else sizes:
        if isinstance(size, int | np.integer) and not isinstance(size, bool):
            if not 1 <= size <= n_neurons:
                raise InputError("sizes", int(size), f"1 to {n_neurons} neurons")
            counts.add(int(size))
        elif isinstance(size, float | np.floating):
            if not 0 < size <= 1:
                raise InputError("sizes", float(size), "a fraction above 0 and up to 1, or a whole number")
            counts.add(max(1, int(size * n_neurons)))
        else:
            raise InputError("sizes", size, "'paper', 'all', whole numbers (neurons) or fractions")
    return np.array(sorted(counts))
