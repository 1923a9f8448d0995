"""YAML of people's own writing, read so that nothing in it is lost or unfolds without end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from critmass.errors import InputError, said

MOST_VALUES = 100_000
"""Values in a file, aliases unfolded: a study has hundreds."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, which would let a key's last value win; here a key is written once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if isinstance(name, list | dict):
                raise yaml.constructor.ConstructorError(None, None, "a key that is no text", key.start_mark)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} a second time", key.start_mark
                )
            seen.add(name)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(path: Path) -> Any:
    """Return what a YAML file says.

    Raises
    ------
    InputError
        If it is no YAML, names a key twice, holds a number that is none, or unfolds without end.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a safe loader
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(str(path), said(" ".join(str(error).split())), "YAML") from None
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise InputError(str(path), said(f"more than {MOST_VALUES:,} values"), "at most so many")
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(str(path), value, "finite numbers")
    return content
