"""Every kind of file that critmass writes, damaged: it is named, or what is said stays what it was.

A seeded draw of flipped bits, cut ends and swapped files over one study's results: `verify` finds each, and
whoever reads the file anyway gets one clear error, or the answer it always gave. Never another number, never
an exception that is not ours.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_data import tree
from helpers_processes import with_words
from helpers_study import tiny, written

from critmass import study as studies
from critmass.errors import CritmassError
from critmass.features import Features
from critmass.parquet import read_table
from critmass.records import read_record
from critmass.results import load_cell, load_pairs
from critmass.store import StoreWriter, open_store
from critmass.verifying import verify

FLIPS = 100
"""Of each kind of file."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The results of a small study, whose features have labels, groups and two layers of files."""
    folder = tmp_path_factory.mktemp("attacked")
    with with_words():
        study = studies.load_study(written(tiny(folder), folder))
        assert {state.state for _, state in studies.run(study)} == {"done"}
        yield folder


@pytest.fixture
def attacked(whole: Path, tmp_path: Path) -> Path:
    """A copy of the results, to be damaged."""
    shutil.copytree(whole / "results", tmp_path / "results")
    return tmp_path / "results"


def of_store(path: Path) -> Any:
    features = Features.open(path.parent)
    return [
        (name, split.x[:].tobytes(), split.y.tobytes(), features.classes)
        for name, split in features.splits.items()
    ]


KINDS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "shard": ("features/*/*/train-*.safetensors", of_store),
    "manifest": ("features/*/*/manifest.json", of_store),
    "cell": (
        "cells/*.safetensors",
        lambda path: (
            load_pairs(path).rows()
            if path.name in PAIRS
            else [*load_cell(path).frame.rows(), str(load_cell(path))]
        ),
    ),
    "state": ("states/*[0-9a-f].json", read_record),
    "table": ("*.parquet", lambda path: read_table(path).rows()),
}
PAIRS: set[str] = set()


def flipped(content: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(8 * len(content))
    return content[: place // 8] + bytes([content[place // 8] ^ (1 << place % 8)]) + content[place // 8 + 1 :]


def cut(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content))]


@pytest.mark.parametrize("damage", [flipped, cut])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_by_verify_and_never_becomes_another_answer(
    attacked: Path, kind: str, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    generator = random.Random(f"{kind} {damage.__name__}")  # noqa: S311
    glob, read = KINDS[kind]
    files = sorted(attacked.glob(glob))
    PAIRS.update(
        path.name for path in attacked.glob("cells/*") if b"critmass-pairs" in path.read_bytes()[:2000]
    )
    answers = {file: read(file) for file in files}
    assert verify(attacked).faults == []
    count, harmless = FLIPS if damage is flipped else 20, 0
    for _ in range(count):
        file = generator.choice(files)
        content = file.read_bytes()
        file.write_bytes(damage(content, generator))
        try:
            answer = read(file)
        except CritmassError as error:
            assert file.name in str(error)  # noqa: PT017
            assert any(file.name in fault for fault in verify(attacked).faults)
        else:  # a byte that says nothing
            assert answer == answers[file]
            harmless += 1
        file.write_bytes(content)
    assert verify(attacked).faults == []
    assert harmless < (0.7 if kind == "table" else 0.02) * count


def test_swapped_cells_are_not_each_others_answers(attacked: Path) -> None:
    cells = sorted((attacked / "cells").iterdir())
    for one, other in zip(cells[::2], cells[1::2], strict=False):
        contents = one.read_bytes(), other.read_bytes()
        one.write_bytes(contents[1])
        other.write_bytes(contents[0])
        faults = verify(attacked).faults
        assert all(any(file.name in fault for fault in faults) for file in (one, other))
        one.write_bytes(contents[0])
        other.write_bytes(contents[1])


def test_what_verify_did_not_check_it_names(attacked: Path) -> None:
    assert verify(attacked).unchecked == []
    for name in ("notes.txt", "cells/x.safetensors.0.part", "figures/accuracy.svg"):
        (attacked / name).parent.mkdir(exist_ok=True)
        (attacked / name).write_bytes(b"what is this")
    assert {file.name for file in verify(attacked).unchecked} == {
        "notes.txt",
        "x.safetensors.0.part",
        "accuracy.svg",
    }


def test_a_damaged_shard_of_an_unfinished_store_is_made_again(attacked: Path, tmp_path: Path) -> None:
    """A killed extraction whose finished shards were damaged meanwhile: every one of 100 flips."""
    store = next(iter((attacked / "features").glob("*/*")))
    expected = tree(store)
    manifest = open_store(store).manifest
    sizes = {name: split.n_rows for name, split in manifest.splits.items()}
    content = {}
    for name in sizes:
        content[name] = (open_store(store).rows(name)[:].copy(), open_store(store).columns(name)["y"])
    (store / "manifest.json").unlink()
    shards = sorted(store.glob("*.safetensors"))
    shard_rows = manifest.splits["train"].shards[0].rows
    generator = random.Random(0)  # noqa: S311
    for _ in range(FLIPS):
        file = generator.choice(shards)
        file.write_bytes(flipped(file.read_bytes(), generator))
        try:
            writer = StoreWriter(store, manifest, sizes, shard_rows)
        except CritmassError as error:  # its label is damaged: nobody can tell whose it is
            assert file.name in str(error)  # noqa: PT017
            file.unlink()
            writer = StoreWriter(store, manifest, sizes, shard_rows)
        missing = list(writer.missing())
        assert len(missing) == 1
        for split, index, rows in missing:
            x, y = content[split]
            writer.write(split, index, x[rows], y=y[rows])
        assert {k: v for k, v in tree(store).items() if k != "manifest.json"} == {
            k: v for k, v in expected.items() if k != "manifest.json"
        }
