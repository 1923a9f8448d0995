"""YAML of people's own writing, read so that nothing in it is lost or unfolds without end."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from critmass.errors import InputError, verbatim

MOST_VALUES = 100_000
"""Values in a file, aliases unfolded: a study has hundreds."""


def read_yaml(path: Path) -> Any:
    """Return what a YAML file says: texts, finite numbers, true, false, null, lists and mappings of these.

    Raises
    ------
    InputError
        If it is no YAML, names a key twice, says something else, or unfolds without end.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _check(path, yaml.compose(text, yaml.SafeLoader))
        content = yaml.safe_load(text)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001  a tag's constructor may raise anything
        raise InputError(
            str(path), verbatim(" ".join(str(error).split()) or type(error).__name__), "YAML"
        ) from None
    _check_values(path, content)
    return content


def _check(path: Path, tree: yaml.Node | None) -> None:
    """Raise InputError for a key that is there twice, and for more values than `MOST_VALUES`."""
    waiting, count = [tree], 0
    while waiting:
        node = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise InputError(str(path), verbatim(f"more than {MOST_VALUES:,} values"), "at most so many")
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [value for _, value in node.value]
            names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            if not all(isinstance(name, str) for name in names):
                raise InputError(str(path), verbatim("a key that is no text"), "keys that are texts")
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                line = f"the key {twice[0]!r} a second time, below line {node.start_mark.line + 1}"
                raise InputError(str(path), verbatim(line), "each key once")


def _check_values(path: Path, content: Any) -> None:
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InputError(str(path), value, "texts in Unicode") from None
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(str(path), value, "finite numbers")
        elif not (value is None or isinstance(value, int | float)):
            raise InputError(str(path), value, "texts, numbers, true, false, null, lists and mappings")
