"""Options that commands share, and the texts that stand for mappings and sizes."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from critmass.errors import InputError, unknown

if TYPE_CHECKING:
    from critmass.features.features import Features


def _words(values: Sequence[Any]) -> str:
    return " ".join(map(str, values)) or "none"


Numbers = Annotated[tuple[float, ...], Parameter(consume_multiple=True, negative="", show_default=_words)]
Tokens = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="", show_default=_words)]
Json = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """How a file of features is read.

    Parameters
    ----------
    task
        auto, classification or regression.
    test_fraction
        Share of the rows set aside for testing where the file has no test split.
    embedding
        Parquet column of vectors.
    label
        Parquet column of labels or targets.
    split
        Parquet column that names each row's split.
    group
        Parquet column that names each row's group.
    """

    task: str = "auto"
    test_fraction: float = 0.25
    embedding: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None

    def open(self, path: Path, *, seed: int = 0) -> Features:
        """Return the features in a file or store."""
        from critmass.features.features import Features

        return Features.open(path, seed=seed, **asdict(self))


def sizes_of(tokens: Sequence[str]) -> str | list[int | float]:
    """Return paper, all, or whole numbers (neurons) and fractions."""
    if len(tokens) == 1 and tokens[0] in ("paper", "all"):
        return tokens[0]
    sizes: list[int | float] = []
    for token in tokens:
        try:
            sizes.append(int(token) if token.isdigit() else float(token))
        except ValueError:
            if token in ("paper", "all"):
                raise InputError("sizes", token, f"{token} alone, or numbers") from None
            if token.isalpha():
                raise unknown("sizes", token, ["paper", "all"]) from None
            raise InputError("sizes", token, "paper, all, whole numbers (neurons) or fractions") from None
    return sizes


def settings_of(tokens: Sequence[str]) -> dict[str, Any]:
    """Return name=value tokens as a mapping; a value is JSON, or else the text as it is."""
    found: dict[str, Any] = {}
    for token in tokens:
        name, equals, text = token.partition("=")
        if not equals or not name or name in found:
            raise InputError("--set", token, "name=value, each name once", "such as --set epochs=20 lr=0.05")
        try:
            found[name] = jsonlib.loads(_PYTHON.get(text, text), parse_constant=_no_number)
        except InputError:
            raise
        except (ValueError, RecursionError):
            found[name] = text
    return found


_PYTHON = {"True": "true", "False": "false", "None": "null"}
"""What Python calls JSON's constants: as text they would all count as true."""


def _no_number(text: str) -> float:
    raise InputError("--set", text, "a finite number")


def pairs(option: str, tokens: Sequence[str]) -> dict[str, str]:
    """Return name=value tokens as a mapping of texts."""
    found: dict[str, str] = {}
    for token in tokens:
        name, equals, text = token.partition("=")
        if not (equals and name and text) or name in found:
            raise InputError(option, token, "name=value, each name once")
        found[name] = text
    return found


def limit_of(tokens: Sequence[str]) -> int | dict[str, int] | None:
    """Return one limit for every split, limits by split, or none."""
    try:
        if len(tokens) == 1 and "=" not in tokens[0]:
            return int(tokens[0])
        return {name: int(text) for name, text in pairs("--limit", tokens).items()} or None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError("--limit", " ".join(tokens), "a whole number, or split=number") from None
