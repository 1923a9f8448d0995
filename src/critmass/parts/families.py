"""Families: ways of taking parts, by name, or given as a function, an array, or another package's.

A family makes, for each repeat, an order of the neurons or a dense basis. Families of other packages are
entry points in the group "critmass.families": a class whose instances are families, made with a user's
settings as keyword arguments; or a function of (whole, repeat).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from critmass.errors import InputError, verbatim
from critmass.features.features import Features
from critmass.features.splits import Split
from critmass.linalg import bases, rng
from critmass.linalg.matrices import Floats, Indices
from critmass.linalg.moments import accumulate

Seeding = Literal["critmass", "authors"]
SEEDINGS = ("critmass", "authors")


@dataclass(frozen=True)
class Whole:
    """The layer that a family makes parts of.

    Attributes
    ----------
    n_neurons, seed : int
    seeding : "critmass" or "authors"
    features : Features or None
        For families that depend on the data: they see the training rows only.
    standardise : bool
        Whether the score standardises columns: a dense basis is then one of standardised columns.
    """

    n_neurons: int
    seed: int = 0
    seeding: Seeding = "critmass"
    features: Features | None = None
    standardise: bool = False

    def stream(self, *name: str | int) -> np.random.Generator:
        """Return the random generator of a family and repeat."""
        return rng.stream(self.seed, "parts", *name)

    @property
    def train(self) -> Split:
        """The training rows.

        Raises
        ------
        InputError
            Where there are none.
        """
        if self.features is None:
            raise InputError("features", verbatim("none"), "features, for parts that depend on the data")
        return self.features.splits["train"]


@runtime_checkable
class Family(Protocol):
    """A way of taking parts: a frozen dataclass whose fields are its settings, as JSON values.

    Attributes
    ----------
    random : bool
        Whether repeats differ; a family that is not random runs one.
    unit : str
        What its parts are made of: "neurons" where `make` gives orders; another word where it gives bases.
    """

    random: bool
    unit: str

    def make(self, whole: Whole, repeat: int, /) -> NDArray[Any]:
        """Return an order of the neurons, shape (n_neurons,), or a basis, (n_neurons, n_coordinates)."""
        ...


@dataclass(frozen=True)
class Random:
    """Random neurons; one permutation a repeat, its prefixes are the parts."""

    random = True
    unit = "neurons"

    def make(self, whole: Whole, repeat: int) -> Indices:
        """Return a permutation."""
        if whole.seeding == "authors":
            return rng.torch_randperm(whole.seed + repeat + 1, whole.n_neurons)
        return whole.stream("random", repeat).permutation(whole.n_neurons)


@dataclass(frozen=True)
class First:
    """The neurons as they come."""

    random = False
    unit = "neurons"

    def make(self, whole: Whole, _repeat: int) -> Indices:
        """Return 0, 1, 2, ..."""
        return np.arange(whole.n_neurons)


@dataclass(frozen=True)
class Sorted:
    """The neurons by a statistic of the training rows.

    Attributes
    ----------
    by : "variance" or "norm"
    least : bool
        Whether the smallest come first.
    """

    by: Literal["variance", "norm"] = "variance"
    least: bool = False
    random = False
    unit = "neurons"

    def make(self, whole: Whole, _repeat: int) -> Indices:
        """Return the neurons in order of the statistic."""
        order = bases.sorted_by(self.by, whole.train.x, whole.train.weight)
        return order[::-1] if self.least else order


@dataclass(frozen=True)
class PCA:
    """Principal components of the training rows.

    Attributes
    ----------
    centre : bool
        Whether components are of the rows less their mean.
    least : bool
        Whether those of least variance come first.
    """

    centre: bool = True
    least: bool = False
    random = False
    unit = "components"

    def make(self, whole: Whole, _repeat: int) -> Floats:
        """Return the components as columns."""
        x, weight = whole.train.x, whole.train.weight
        basis = bases.principal(x, weight, standardise=whole.standardise, centre=self.centre)
        return basis[:, ::-1] if self.least else basis


@dataclass(frozen=True)
class Projection:
    """Random directions.

    Attributes
    ----------
    entries : "gaussian", "orthogonal" or "uniform"
        Normal; a random rotation; uniform in [0, 1], as the paper's authors draw them.
    """

    entries: Literal["gaussian", "orthogonal", "uniform"] = "gaussian"
    random = True
    unit = "directions"

    def make(self, whole: Whole, repeat: int) -> Floats:
        """Return directions as columns."""
        draw = {"gaussian": bases.gaussian, "orthogonal": bases.orthogonal, "uniform": bases.uniform}
        return draw[self.entries](whole.n_neurons, whole.stream(self.entries, repeat))


@dataclass(frozen=True)
class Greedy:
    """The neurons in the order in which each helps a ridge regression most, given those before it.

    Attributes
    ----------
    worst : bool
        Whether each helps least.
    unlabelled : bool
        Whether the regression is of the layer's own neurons, and not of the labels or targets.
    strength : float
        λ, divided by the weight of the training rows and the mean variance of a column.
    """

    worst: bool = False
    unlabelled: bool = False
    strength: float = 1e-3
    random = False
    unit = "neurons"

    def __post_init__(self) -> None:
        if not 0 < self.strength < np.inf:
            raise InputError("strength", self.strength, "a number above 0")

    def make(self, whole: Whole, _repeat: int) -> Indices:
        """Return the order."""
        train, features = whole.train, whole.features
        if train.y is None and not self.unlabelled:
            raise InputError("parts", "greedy", "labels or targets to be greedy for", "use greedy-unlabelled")
        targets = None if self.unlabelled or features is None else features.targets(train)
        (moments,) = accumulate(train.x, targets=targets, weights=train.weight, name="X of 'train'")
        scale = moments.scale if whole.standardise else np.ones(whole.n_neurons)
        gram = moments.scatter / scale / scale[:, None]
        cross = gram if self.unlabelled else moments.target_scatter / scale[:, None]
        unit = float(np.trace(gram)) / len(gram)
        return bases.greedy(gram, cross, self.strength * unit, worst=self.worst)


@dataclass(frozen=True)
class Given:
    """The family that a function makes, called for each repeat; with a seed, repeats may differ."""

    function: Callable[[Whole, int], ArrayLike]
    random = True
    unit = "neurons"

    def make(self, whole: Whole, repeat: int) -> NDArray[Any]:
        """Return what the function returns."""
        return np.asarray(self.function(whole, repeat))


FAMILIES: dict[str, tuple[str, Callable[..., Family]]] = {
    "random": ("random neurons; one permutation a repeat, its prefixes are the parts", Random),
    "first": ("the first k neurons, as Matryoshka-trained layers are meant to be cut", First),
    "variance": ("the k neurons of most variance over the training rows", Sorted),
    "variance-least": ("the k neurons of least variance", functools.partial(Sorted, least=True)),
    "norm": ("the k neurons of largest norm over the training rows", functools.partial(Sorted, by="norm")),
    "norm-least": ("the k neurons of smallest norm", functools.partial(Sorted, by="norm", least=True)),
    "greedy": ("neurons in the order in which each helps a ridge probe most", Greedy),
    "greedy-worst": (
        "neurons in the order in which each helps a ridge probe least",
        functools.partial(Greedy, worst=True),
    ),
    "greedy-unlabelled": (
        "neurons in the order in which each says most about all others",
        functools.partial(Greedy, unlabelled=True),
    ),
    "pca": ("the first k principal components of the training rows", PCA),
    "pca-least": ("the last k principal components", functools.partial(PCA, least=True)),
    "random-projection": ("k random directions, entries normal", Projection),
    "random-projection-orthogonal": (
        "k random directions at right angles",
        functools.partial(Projection, entries="orthogonal"),
    ),
    "random-projection-uniform": (
        "k random directions, entries uniform in [0, 1], as the paper's authors draw them",
        functools.partial(Projection, entries="uniform"),
    ),
}


def units_of(units: Iterable[str]) -> str:
    """Return what the parts of several curves are made of, in words.

    Examples
    --------
    >>> units_of(["neurons", "components", "neurons"])
    'neurons or components'
    """
    return " or ".join(dict.fromkeys(units))
