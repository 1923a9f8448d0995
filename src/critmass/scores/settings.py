"""The settings of a score: checked by the types of its fields, and as they stand in the name of a result.

A score's fields say what its settings may be; here is held against them what a person gives, whichever
score it is for, ours or another package's. What a type cannot say (a number above 0) scores check themselves.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union

import numpy as np

from critmass.errors import InputError
from critmass.io.identity import UnknownError, identity

IDENTITY = "identity"
"""What settings call the hash of a score that settings alone do not tell from others."""

_WIDEST = 2**63


class _UnfitError(Exception):
    """A value is not of the type it should be."""


def checked(factory: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as the types of `factory`'s parameters have them: 1 is 1.0 where floats are meant.

    Parameters
    ----------
    factory : class, or partial of one
        What the settings are for; parameters without a type that is known take what is finite.

    Raises
    ------
    InputError
        Naming the first setting that has another type, or is or holds a number that is not finite.
    """
    if not settings:
        return {}
    hints, known = _hints(factory), inspect.signature(factory).parameters
    found = {}
    for name, value in settings.items():
        kind = hints.get(name, Any)
        if name in known and value is known[name].default:
            kind = Any  # whatever its type says
        try:
            found[name] = _fitted(value, kind)
        except _UnfitError:
            raise InputError(name, value, _words(kind)) from None
    return found


def settings_of(score: Any) -> dict[str, Any]:
    """Return what tells a score from others of its name: its settings, as JSON values.

    They are the fields of its dataclass, and tell our own scores. Where a field is no JSON value, such as a
    function, and for any score that is not ours, "identity" is the hash of all that it computes with: see
    io/identity.py; None where nobody can know that.
    """
    record: Any = score
    values = (
        {entry.name: getattr(record, entry.name) for entry in fields(record)} if is_dataclass(record) else {}
    )
    plain = checked(type(record), {name: value for name, value in values.items() if _is_json(value)})
    if type(record).__module__.startswith("critmass.") and len(plain) == len(values):
        return plain
    try:
        return {**plain, IDENTITY: identity(record)}
    except UnknownError:
        return {**plain, IDENTITY: None}


def _is_json(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(name, str | int) for name in value) and all(map(_is_json, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | int | float | np.integer | np.floating | np.bool_)


def _hints(factory: Any) -> dict[str, Any]:
    kind = factory.func if isinstance(factory, functools.partial) else factory
    try:
        return typing.get_type_hints(kind if is_dataclass(kind) else kind.__init__)
    except Exception:  # noqa: BLE001  names of others' types may mean nothing here
        return {}


def _fitted(value: Any, kind: Any) -> Any:
    """Return a value as this type has it, or raise _UnfitError."""
    if isinstance(value, np.generic):
        value = value.item()
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _first_fit(value, inner)
    if origin is Literal:
        return _first_fit(value, {type(each) for each in inner})
    plain = {bool: bool, int: int, str: str, type(None): type(None), None: type(None)}.get(kind)
    if plain is not None:
        _require(type(value) is plain)
    elif kind is float:
        _require(type(value) in (int, float))
        value = _float(value)
    elif origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        _require(isinstance(value, Mapping))
        value = {_fitted(name, Any): _fitted(each, inner[-1]) for name, each in value.items()}
    elif origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        _require(isinstance(value, list | tuple))
        value = type(value)(_fitted(each, inner[0]) for each in value)
    _require_finite(value)
    return value


def _first_fit(value: Any, kinds: Any) -> Any:
    """Return a value as the first of these types that fits has it: whole numbers before floats."""
    for kind in sorted(kinds, key=lambda kind: kind is float):
        try:
            return _fitted(value, kind)
        except _UnfitError:
            continue
    raise _UnfitError


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise _UnfitError from None


def _require_finite(value: Any) -> None:
    """Raise _UnfitError for a value that is, or holds, a number that is not finite or has over 64 bits."""
    if isinstance(value, Mapping):
        _require_finite(list(value))
        _require_finite(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            _require_finite(each)
    elif isinstance(value, float):
        _require(math.isfinite(value))
    elif isinstance(value, int):
        _require(-_WIDEST <= value < _WIDEST)


def _require(good: bool) -> None:  # noqa: FBT001
    if not good:
        raise _UnfitError


def _words(kind: Any) -> str:
    """Return what a type allows, in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, inner)))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"names, and for each {_words(inner[-1])}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list of {_words(inner[0])}"
    known = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    return known.get(kind, "nothing" if kind in (None, type(None)) else "finite numbers, text, true or false")
