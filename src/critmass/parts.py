"""Families of parts: a basis and its prefixes.

To take a part of size k, apply a basis to the layer and keep its first k columns. Here the bases are
permutations, stored as indices and never multiplied out: the part of size k is the first k neurons of an
order, so the parts of one repeat are nested, as the paper draws them. This page knows orders and sizes,
not what is measured on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from critmass import rng
from critmass.arrays import Indices
from critmass.errors import InputError, said, unknown

Seeding = Literal["critmass", "authors"]

PAPER_FRACTIONS = (
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.8, 0.9, 1.0,
)  # fmt: skip
"""The fractions of a layer that the authors measure (their code)."""


@dataclass(frozen=True)
class Parts:
    """Parts of a layer: one order of its neurons for each repeat.

    Attributes
    ----------
    family : str
        Name of the family.
    orders : array of shape (n_repeats, n_neurons)
        Each row is a permutation of the neurons; its first k are the part of size k.
    """

    family: str
    orders: Indices

    @property
    def repeats(self) -> int:
        """Number of orders."""
        return int(self.orders.shape[0])

    @property
    def n_neurons(self) -> int:
        """Width of the layer."""
        return int(self.orders.shape[1])


@dataclass(frozen=True)
class Family:
    """A named way of ordering neurons.

    Attributes
    ----------
    chance : bool
        Whether repeats differ; a family without chance runs one.
    order : callable (n_neurons, repeat, seed, seeding) -> array of shape (n_neurons,)
    """

    description: str
    chance: bool
    order: Callable[[int, int, int, Seeding], Indices]


def _random(n_neurons: int, repeat: int, seed: int, seeding: Seeding) -> Indices:
    if seeding == "authors":
        return rng.torch_randperm(seed + repeat + 1, n_neurons)
    return rng.stream(seed, "parts", "random", repeat).permutation(n_neurons)


def _first(n_neurons: int, _repeat: int, _seed: int, _seeding: Seeding) -> Indices:
    return np.arange(n_neurons)


FAMILIES = {
    "random": Family("random neurons; one permutation a repeat, its prefixes are the parts", True, _random),
    "first": Family("the first k neurons, as Matryoshka-trained layers are meant to be cut", False, _first),
}
EXPLICIT = "explicit"


def make_parts(
    family: str | ArrayLike,
    n_neurons: int,
    *,
    repeats: int = 5,
    seed: int = 0,
    seeding: Seeding = "critmass",
) -> Parts:
    """Return the parts of a layer of `n_neurons` neurons.

    Parameters
    ----------
    family : str or array of shape (n_neurons,) or (n_repeats, n_neurons)
        A family's name, or an explicit order: each row a permutation of the neurons.
    seeding : "critmass" or "authors"
        "authors": repeat r takes ``torch.manual_seed(seed + r + 1); torch.randperm(n_neurons)``, which
        with seed 0 are the seeds 1..5 of the paper's code. Torch is not needed for it.

    Raises
    ------
    InputError
        For an unknown family, or an order that is not a permutation.

    Examples
    --------
    >>> make_parts("first", 4).orders
    array([[0, 1, 2, 3]])
    """
    if not isinstance(family, str):
        return Parts(EXPLICIT, _explicit(np.asarray(family), n_neurons))
    if family not in FAMILIES:
        raise unknown("parts", family, FAMILIES)
    if seeding not in ("critmass", "authors"):
        raise unknown("seeding", str(seeding), ["critmass", "authors"])
    if repeats < 1:
        raise InputError("repeats", repeats, "1 or more")
    chosen = FAMILIES[family]
    rows = range(repeats if chosen.chance else 1)
    return Parts(family, np.stack([chosen.order(n_neurons, r, seed, seeding) for r in rows]))


def _explicit(order: NDArray[Any], n_neurons: int) -> Indices:
    orders = np.atleast_2d(order)
    shape_ok = orders.ndim == 2 and orders.shape[1] == n_neurons and orders.dtype.kind in "iu"
    if not shape_ok or (np.sort(orders, axis=1) != np.arange(n_neurons)).any():
        raise InputError(
            "parts",
            said(f"an array of shape {order.shape} and dtype {order.dtype}"),
            f"each of the neurons 0..{n_neurons - 1} once",
            "put the neurons you would keep first, and all others after them",
        )
    return orders.astype(np.intp)


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
