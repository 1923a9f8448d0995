"""Which column of a table plays which part, and what a column of labels holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, unknown, verbatim

CONVENTIONS = {
    "text": ("text", "sentence", "content", "document"),
    "image": ("image", "img"),
    "label": ("label", "category", "class", "intent", "target"),
    "group": ("group",),
    "split": ("split",),
}


def check_roles(asked: Mapping[str, str], roles: Sequence[str]) -> None:
    """Raise InputError for a role that this kind of dataset has not."""
    for role in asked:
        if role not in roles:
            raise unknown("columns", role, roles)


def choose(role: str, columns: Sequence[str], asked: Mapping[str, str], name: str) -> str | None:
    """Return the column asked for ("" for none), else the one with a conventional name, else None.

    Raises
    ------
    InputError
        If the column asked for is not there, or several have conventional names.
    """
    if role in asked:
        if asked[role] and asked[role] not in columns:
            raise unknown(f"{name} {role} column", asked[role], columns)
        return asked[role] or None
    found = [column for column in columns if column.lower() in CONVENTIONS[role]]
    if len(found) > 1:
        raise missing(role, found, columns, name)
    return found[0] if found else None


def missing(role: str, found: Sequence[str], columns: Sequence[str], name: str) -> InputError:
    """Return the error for a column that has to be named."""
    several = verbatim(f"several: {', '.join(found)}") if found else verbatim("none with a usual name")
    return InputError(
        f"{name} {role} column", several, f"one of {', '.join(columns)}", f"name it in columns as {role!r}"
    )


def label_values(values: Sequence[Any], names: Sequence[str]) -> NDArray[Any]:
    """Return labels as integers, as finite floats (targets), or as text; None is refused by name.

    Text that reads as numbers throughout becomes numbers, unless that would merge two labels ("1", "01").
    """
    gaps = [row for row, value in enumerate(values) if value is None or value == ""]
    if gaps:
        raise InputError(
            names[gaps[0]],
            verbatim(f"no label ({len(gaps)} rows in all)"),
            "a label in every row",
            "drop these rows, or leave the labels out",
        )
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return _parsed(values)
    if kinds <= {int, bool} or kinds == {float} or kinds == {int, float}:
        try:
            found = np.array(values, dtype=np.float64 if float in kinds else np.int64)
        except OverflowError as error:
            raise InputError("labels", verbatim("an integer above 64 bits"), "smaller ones") from error
        if float in kinds and not np.isfinite(found).all():
            row = int(np.flatnonzero(~np.isfinite(found))[0])
            raise InputError(names[row], values[row], "finite numbers")
        return found
    odd = [row for row, value in enumerate(values) if type(value) is not type(values[0])]
    row = odd[0] if odd else 0
    raise InputError(names[row], values[row], "labels all text, all integers or all floats")


def _parsed(values: Sequence[str]) -> NDArray[Any]:
    text = np.array(values)
    distinct = np.unique(text)
    for dtype in (np.int64, np.float64):
        try:
            numbers = distinct.astype(dtype)
        except (ValueError, OverflowError):
            continue
        if np.isfinite(numbers).all() and len(np.unique(numbers)) == len(distinct):
            found: NDArray[Any] = text.astype(dtype)
            return found
    return text
