"""Families: ways of taking parts, by name, or given as a function, an array, or another package's.

A family makes, for each repeat, an order of the neurons or a dense basis. Families of other packages are
entry points in the group "critmass.families": a class whose instances are families, made with a user's
settings as keyword arguments; or a function of (whole, repeat).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from critmass.errors import InputError, said, unknown
from critmass.features.features import Features, Split
from critmass.io.ids import ID_LENGTH
from critmass.linalg import bases, rng
from critmass.linalg.arrays import Floats, Indices, require_memory
from critmass.linalg.moments import accumulate
from critmass.parts.parts import Bases, Orders, Parts, from_array
from critmass.parts.sizes import Sizes, resolve_sizes

Seeding = Literal["critmass", "authors"]
SEEDINGS = ("critmass", "authors")
ENTRY_POINTS = "critmass.families"

WORK = 6
"""Matrices of shape (n_neurons, n_neurons) that making a basis takes besides it."""


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
            raise InputError("features", said("none"), "features, for parts that depend on the data")
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
EXPLICIT, MASKS, MATRIX = "explicit", "masks", "matrix"


def registered() -> dict[str, str]:
    """Return the name and description of every family: ours, then those of installed packages."""
    ours = {name: description for name, (description, _) in FAMILIES.items()}
    return ours | {name: f"from {point.value}" for name, point in _entry_points().items()}


def make_family(name: str, settings: Mapping[str, Any] | None = None) -> Family:
    """Return a family by name, with settings of its own.

    Raises
    ------
    InputError
        For an unknown family, or a setting that it does not have.
    """
    points = _entry_points()
    if name not in FAMILIES and name not in points:
        raise unknown("parts", name, [*FAMILIES, *points])
    factory: Any = FAMILIES[name][1] if name in FAMILIES else points[name].load()
    is_function = name in points and not inspect.isclass(factory)
    known = [] if is_function else list(inspect.signature(factory).parameters)
    for setting, value in (settings or {}).items():
        if setting not in known:
            allowed = ", ".join(known) or "nothing"
            raise InputError(setting, value, f"{allowed}: the settings of parts {name!r}")
    family: Family = Given(factory) if is_function else factory(**(settings or {}))
    return family


def make_parts(
    family: str | Family | Callable[[Whole, int], ArrayLike] | ArrayLike,
    n_neurons: int,
    *,
    settings: Mapping[str, Any] | None = None,
    repeats: int = 5,
    seed: int = 0,
    seeding: Seeding = "critmass",
    features: Features | None = None,
    standardise: bool = False,
    memory: float = np.inf,
) -> Parts:
    """Return the parts of a layer of `n_neurons` neurons.

    Parameters
    ----------
    family : str, Family, function or array
        A family's name; a Family; a function (whole, repeat) that returns an array; or an array: see
        `from_array`.
    settings : mapping, optional
        Of a family by name.
    seeding : "critmass" or "authors"
        "authors": repeat r of "random" takes ``torch.manual_seed(seed + r + 1); torch.randperm(n_neurons)``,
        which with seed 0 are the seeds 1..5 of the paper's code. Torch is not needed for it.
    features : Features, optional
        For families that depend on the data. Rows count by their weight where they have one.
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
    chosen, name = resolve_family(family, settings)
    if chosen is None:
        given = np.asarray(family)
        kind = {"b": MASKS, "f": MATRIX}.get(given.dtype.kind, EXPLICIT)
        return _in_units("neurons", from_array(kind, given, n_neurons))
    check_drawing(chosen, name, repeats, seeding)
    whole = Whole(n_neurons, seed, seeding, features, standardise)
    every = range(repeats if chosen.random else 1)
    if chosen.unit != Orders.unit:
        needed, advice = 8.0 * (len(every) + WORK) * n_neurons**2, "use fewer repeats, or raise memory_gib"
        require_memory(f"{name} of {n_neurons} neurons", needed, memory, advice)
    made = [np.asarray(chosen.make(whole, repeat)) for repeat in every]
    if len({(array.shape, array.dtype) for array in made}) > 1:
        found = said(f"repeats of shape {' and '.join(sorted({str(array.shape) for array in made}))}")
        raise InputError(f"parts of {name}", found, "one shape and dtype for all repeats")
    return _in_units(chosen.unit, from_array(name, np.stack(made), n_neurons))


def resolve_family(family: Any, settings: Mapping[str, Any] | None) -> tuple[Family | None, str]:
    """Return the family that was asked for, None for an array; and its name."""
    if isinstance(family, str):
        return make_family(family, settings), family
    if settings:
        raise InputError("parts_settings", sorted(settings), "nothing but for a family given by its name")
    if inspect.isclass(family):
        raise InputError("parts", said(family.__name__), "a Family, made, or a function (whole, repeat)")
    if isinstance(family, Family):
        return family, type(family).__name__
    if callable(family):
        return Given(family), str(getattr(family, "__qualname__", type(family).__qualname__))
    return None, ""


def check_drawing(family: Family, name: str, repeats: int, seeding: str) -> None:
    """Raise InputError for a number of repeats or a seeding that the family cannot have."""
    if seeding not in SEEDINGS:
        raise unknown("seeding", str(seeding), SEEDINGS)
    if repeats < 1:
        raise InputError("repeats", repeats, "1 or more")
    if seeding == "authors" and family.random and not isinstance(family, Random):
        raise InputError("seeding", seeding, f"'critmass' for {name}", "the authors' orders are of neurons")


def described(
    name: str,
    settings: Mapping[str, Any] | None,
    n_neurons: int,
    sizes: Sizes,
    repeats: int,
    seeding: Seeding,
) -> dict[str, Any]:
    """Return what a MeasureSpec says of a family of ours, without a look at the data."""
    family = make_family(name, settings)
    check_drawing(family, name, repeats, seeding)
    return {
        "parts": name,
        "parts_settings": dict(settings or {}),
        "sizes": tuple(resolve_sizes(sizes, n_neurons).tolist()),
        "repeats": repeats if family.random else 1,
        "seeding": seeding if family.random else "critmass",
    }


def described_by_array(parts: Parts, sizes: Sizes) -> dict[str, Any]:
    """Return what a MeasureSpec says of parts that a user or another package made: what they are."""
    digest = hashlib.sha256(f"{parts.array.dtype} {parts.array.shape}".encode())
    digest.update(np.ascontiguousarray(parts.array).data)
    return {
        "parts": parts.family,
        "content": digest.hexdigest()[:ID_LENGTH],
        "sizes": tuple(parts.resolve(sizes).tolist()),
        "repeats": parts.repeats,
    }


def units_of(units: Iterable[str]) -> str:
    """Return what the parts of several curves are made of, in words.

    Examples
    --------
    >>> units_of(["neurons", "components", "neurons"])
    'neurons or components'
    """
    return " or ".join(dict.fromkeys(units))


def _in_units(unit: str, parts: Parts) -> Parts:
    """Return parts, those of a dense basis in this unit, or called columns where it has none of its own."""
    if not isinstance(parts, Bases):
        return parts
    return replace(parts, unit="columns" if unit == Orders.unit else unit)


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return {point.name: point for point in found if point.name not in FAMILIES}
