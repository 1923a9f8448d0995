"""Attacks on files: bits flipped, ends cut, contents swapped, disks that fail; and what came of each.

Each attack is counted under one of `OUTCOMES`; the last three must never happen.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from helpers_data import tree
from helpers_processes import extract_and_measure, with_words
from helpers_study import tiny, written

from critmass.curves.cells import is_cell_of_pairs, load_cell, load_pairs
from critmass.errors import CritmassError, InputError
from critmass.features.features import Features
from critmass.features.store import open_store
from critmass.io.parquet import read_table
from critmass.io.records import read_record
from critmass.studies import run as studies
from critmass.studies.config import load_study
from critmass.studies.verify import verify

NAMED, HARMLESS, OTHER, RAW, MISSED = (
    "named",
    "harmless",
    "another answer",
    "raw error",
    "not found by verify",
)
OUTCOMES = (NAMED, HARMLESS, OTHER, RAW, MISSED)
"""An error that names the file, from its reader and from verify; the answer it always gave; or a fault."""


def made(folder: Path) -> Path:
    """Run a small study in a folder; return its results."""
    with with_words():
        states = studies.run(load_study(written(tiny(folder), folder)))
    assert {state.state for _, state in states} == {"done"}
    return folder / "results"


def _store(path: Path) -> Any:
    features = Features.open(path.parent)
    rows = {name: (split.x[:].tobytes(), split.y.tobytes()) for name, split in features.splits.items()}
    return rows, features.classes, features.task, features.name


def _cell(path: Path) -> Any:
    if is_cell_of_pairs(path):
        return load_pairs(path).rows()
    curve = load_cell(path)
    return curve.frame.rows(), str(curve), curve.measurement.whole, curve.classes


KINDS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "shard of a store": ("features/*/*/*-?????.safetensors", _store),
    "manifest of a store": ("features/*/*/manifest.json", _store),
    "cell": ("cells/*.safetensors", _cell),
    "state": ("states/*.json", read_record),
    "table": ("*.parquet", lambda path: read_table(path).rows()),
}
"""Every kind of file that critmass writes: where it lies in a study's results, and who reads it."""


def flipped(content: bytes, generator: random.Random) -> bytes:
    """Return the content with one bit flipped."""
    place, bit = divmod(generator.randrange(8 * len(content)), 8)
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def cut(content: bytes, generator: random.Random) -> bytes:
    """Return the beginning of the content."""
    return content[: generator.randrange(len(content))]


def grown(content: bytes, generator: random.Random) -> bytes:
    """Return the content with something after it."""
    return content + generator.randbytes(generator.randrange(1, 100))


DAMAGES = {"one bit flipped": flipped, "end cut off": cut, "something after the end": grown}


def damaged(
    results: Path, kind: str, damage: Callable[[bytes, random.Random], bytes], count: int, seed: int
) -> Counter[str]:
    """Damage files of a kind, one at a time, and give back what was there."""
    generator = random.Random(f"{seed} {kind} {damage.__name__}")  # noqa: S311
    glob, read = KINDS[kind]
    files = sorted(results.glob(glob))
    answers = {file: read(file) for file in files}
    found: Counter[str] = Counter()
    for _ in range(count):
        file = generator.choice(files)
        content = file.read_bytes()
        file.write_bytes(damage(content, generator))
        found[_outcome(results, file, read, answers[file])] += 1
        file.write_bytes(content)
    assert verify(results).faults == []
    return found


def _outcome(results: Path, file: Path, read: Callable[[Path], Any], answer: Any) -> str:
    try:
        same = read(file) == answer
    except CritmassError as error:
        if file.name not in str(error):
            return RAW
        return NAMED if any(file.name in fault for fault in verify(results).faults) else MISSED
    except BaseException:  # noqa: BLE001  panics of other libraries are no Exception
        return RAW
    return HARMLESS if same else OTHER


def swapped(results: Path) -> Counter[str]:
    """Give each cell the content of another."""
    cells = sorted((results / "cells").iterdir())
    found: Counter[str] = Counter()
    for one, other in zip(cells, [*cells[1:], cells[0]], strict=True):
        content, answer = one.read_bytes(), _cell(one)
        shutil.copyfile(other, one)
        found[_outcome(results, one, _cell, answer)] += 1
        one.write_bytes(content)
    return found


STEPS = {"open": (os, "open"), "flush": (os, "fsync"), "rename": (os, "replace")}


def disk_failed(folder: Path, step: str, number: int, at: int) -> str | None:
    """Extract and measure on a disk that fails at one step of one write; None where there are fewer writes.

    The run must end in one clear error, and the next, on a disk that works, in the bytes of one undisturbed.
    """
    home, name = STEPS[step]
    true, calls = getattr(home, name), 0

    def failing(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        if name != "open" or (len(arguments) > 1 and arguments[1] & os.O_EXCL):
            calls += 1
            if calls == at:
                raise OSError(number, os.strerror(number))
        return true(*arguments, **named)

    try:
        with mock.patch.object(home, name, failing):
            extract_and_measure(folder, 0.0)
    except InputError as error:
        outcome = NAMED if os.strerror(number) in str(error) else RAW
    except BaseException:  # noqa: BLE001
        outcome = RAW
    else:
        return None if calls < at else OTHER
    extract_and_measure(folder, 0.0)
    return outcome


ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS}


def undisturbed(folder: Path) -> dict[str, bytes | None]:
    """Return what `disk_failed` must end in."""
    extract_and_measure(folder, 0.0)
    return tree(folder)


def unfinished(store: Path, count: int, seed: int) -> Counter[str]:
    """Damage shards of a store that has no manifest yet; resuming must make each again."""
    from critmass.features.store import StoreWriter

    generator = random.Random(seed)  # noqa: S311
    opened = open_store(store)
    sizes = {name: split.n_rows for name, split in opened.manifest.splits.items()}
    rows = {name: (opened.rows(name)[:].copy(), opened.columns(name)["y"].copy()) for name in sizes}
    shard_rows = opened.manifest.splits["train"].shards[0].rows
    (store / "manifest.json").unlink()
    expected, found = tree(store), Counter[str]()
    for _ in range(count):
        file = generator.choice(sorted(store.iterdir()))
        file.write_bytes(flipped(file.read_bytes(), generator))
        try:
            writer = StoreWriter(store, opened.manifest, sizes, shard_rows)
        except CritmassError as error:  # its label is damaged: nobody can tell whose it is
            found[NAMED if file.name in str(error) else RAW] += 1
            file.unlink()
            writer = StoreWriter(store, opened.manifest, sizes, shard_rows)
        else:
            found[NAMED if len(list(writer.missing())) == 1 else MISSED] += 1
        for split, index, where in writer.missing():
            x, y = rows[split]
            writer.write(split, index, x[where], y=y[where])
        if tree(store) != expected:
            found[OTHER] += 1
    return found
