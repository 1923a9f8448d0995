"""What the files that a request names are like now: cheap to ask, and different once one was touched."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from typing import Any


def described_files(request: Any) -> list[list[Any]]:
    """Return true path and state of every file that a request names, sorted: what changes when it is touched.

    A name such as ``csv:data/train_*.csv``, ``folder:images`` or ``checkpoint:resnet18@weights.pt`` stands
    for the files it matches, a folder for all below it, an ONNX file for all beside it, among which its
    weights may be. Names that are no files here, as those of a hub, stand for none.
    """
    found: dict[str, list[int]] = {}
    for text in _texts(request):
        rest = text.partition(":")[2]
        for name in {text, rest, rest.partition("?")[0], rest.partition("@")[2]} - {""}:
            for path in _matching(os.path.expanduser(name)):
                home = os.path.dirname(path) or "." if path.endswith(".onnx") else path
                found |= {os.path.realpath(file): _state(status) for file, status in _below(home)}
    return [[file, *values] for file, values in sorted(found.items())]


def _matching(name: str) -> list[str]:
    """Return the files that a name stands for, in which only * stands for anything."""
    if os.path.lexists(name):
        return [name]
    return glob.glob(glob.escape(name).replace("[*]", "*"), recursive=True)


def _state(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _below(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files at or below a path that are there."""
    inside = (os.path.join(folder, file) for folder, _, files in os.walk(path) for file in files)
    for file in inside if os.path.isdir(path) else (path,):
        with contextlib.suppress(OSError):  # a link that leads nowhere, a file that is gone
            yield file, os.stat(file)
