"""Parts from what a user asks for: a family by name, an object, a function, or an array."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from critmass.errors import InputError, unknown, verbatim
from critmass.features.features import Features
from critmass.io.ids import ID_LENGTH
from critmass.linalg.devices import require_memory
from critmass.parts.families import FAMILIES, SEEDINGS, Family, Given, Random, Seeding, Whole
from critmass.parts.parts import Bases, Orders, Parts, from_array
from critmass.parts.sizes import Sizes, resolve_sizes

ENTRY_POINTS = "critmass.families"

EXPLICIT, MASKS, MATRIX = "explicit", "masks", "matrix"
"""What parts that were given as arrays are called."""

WORK = 6
"""Matrices of shape (n_neurons, n_neurons) that making a basis takes besides it."""


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
        found = verbatim(f"repeats of shape {' and '.join(sorted({str(array.shape) for array in made}))}")
        raise InputError(f"parts of {name}", found, "one shape and dtype for all repeats")
    return _in_units(chosen.unit, from_array(name, np.stack(made), n_neurons))


def resolve_family(family: Any, settings: Mapping[str, Any] | None) -> tuple[Family | None, str]:
    """Return the family that was asked for, None for an array; and its name."""
    if isinstance(family, str):
        return make_family(family, settings), family
    if settings:
        raise InputError("parts_settings", sorted(settings), "nothing but for a family given by its name")
    if inspect.isclass(family):
        raise InputError("parts", verbatim(family.__name__), "a Family, made, or a function (whole, repeat)")
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


def _in_units(unit: str, parts: Parts) -> Parts:
    """Return parts, those of a dense basis in this unit, or called columns where it has none of its own."""
    if not isinstance(parts, Bases):
        return parts
    return replace(parts, unit="columns" if unit == Orders.unit else unit)


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return {point.name: point for point in found if point.name not in FAMILIES}
