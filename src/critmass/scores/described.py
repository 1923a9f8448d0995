"""The settings of a score, as its signature and docstring say: for people who look for one."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from critmass.errors import unknown
from critmass.scores import SCORES, factory_of, registered


@dataclass(frozen=True)
class Setting:
    """A setting of a score: its type and meaning, in words, and its default."""

    type: str
    default: Any
    description: str


def settings(score: str) -> dict[str, Setting]:
    """Return the settings of a score by name.

    Raises
    ------
    InputError
        For an unknown score.

    Examples
    --------
    >>> settings("ridge")["standardise"].type, settings("ridge")["standardise"].default
    ('bool', True)
    """
    if score not in registered():
        raise unknown("score", score, registered())
    factory = factory_of(score)
    if not (inspect.isclass(factory) or score in SCORES):
        return {}  # a function of two splits has none
    written = _attributes(inspect.getdoc(factory) or "")
    return {
        name: Setting(written.get(name, ("", ""))[0], parameter.default, written.get(name, ("", ""))[1])
        for name, parameter in inspect.signature(factory).parameters.items()
    }


def _attributes(text: str) -> dict[str, tuple[str, str]]:
    """Return the type and description of each attribute that a numpydoc docstring lists."""
    _, _, section = text.partition("Attributes\n----------\n")
    found: dict[str, tuple[str, str]] = {}
    for names, kinds, lines in re.findall(r"^(\w[\w, ]*) : (.*)\n((?: +.*\n?)*)", section, re.MULTILINE):
        for name in names.split(", "):
            found[name] = (kinds, " ".join(lines.split()))
    return found
