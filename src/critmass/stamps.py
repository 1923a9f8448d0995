"""What the files that a request names are like now: cheap to ask, and different once one was touched."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from typing import Any


def described_files(request: Any) -> list[list[Any]]:
    """Return path, size and time of change (ns) of every file that a request names, sorted.

    A name such as ``csv:data/train_*.csv`` or ``folder:images`` stands for the files it matches, a folder for
    all below it. Names that are no files here, as those of a hub, stand for none.
    """
    found: dict[str, tuple[int, int]] = {}
    for text in _texts(request):
        for name in {text, text.partition(":")[2], text.partition(":")[2].partition("?")[0]} - {""}:
            for path in glob.glob(os.path.expanduser(name), recursive=True):
                found |= {file: (status.st_size, status.st_mtime_ns) for file, status in _below(path)}
    return [[file, *values] for file, values in sorted(found.items())]


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
    if not os.path.isdir(path):
        yield path, os.stat(path)
        return
    for folder, _, files in os.walk(path):
        for file in files:
            full = os.path.join(folder, file)
            if os.path.exists(full):
                yield full, os.stat(full)
