"""Every kind of file that critmass writes, damaged: it is named, or what is said stays what it was.

A seeded draw; `make attacks` runs more and other ones, and writes what came of them into docs/reliability.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from helpers_attacks import (
    DAMAGES,
    ERRORS,
    HARMLESS,
    KINDS,
    NAMED,
    STEPS,
    damaged,
    disk_failed,
    made,
    swapped,
    undisturbed,
    unfinished,
)
from helpers_data import tree

from critmass.io.parquet import read_table, write_table
from critmass.studies.verify import verify


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return made(tmp_path_factory.mktemp("attacked"))


@pytest.fixture
def results(whole: Path, tmp_path: Path) -> Path:
    """A copy of the results of a small study, to be damaged."""
    return shutil.copytree(whole, tmp_path / "results")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_and_never_becomes_another_answer(results: Path, kind: str, damage: str) -> None:
    count = 100 if damage == "one bit flipped" else 20
    found = damaged(results, kind, DAMAGES[damage], count, seed=0)
    assert set(found) <= {NAMED, HARMLESS}
    assert found[NAMED] > 0.9 * count


def test_a_cell_is_not_another_ones_answer(results: Path) -> None:
    found = swapped(results)
    assert found == {NAMED: len(list((results / "cells").iterdir()))}


def test_a_damaged_shard_of_an_unfinished_store_is_made_again(results: Path) -> None:
    assert unfinished(next(iter((results / "features").glob("*/*"))), 100, seed=0) == {NAMED: 100}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_fails_is_one_clear_error_and_nothing_is_lost(
    tmp_path: Path, step: str, error: str
) -> None:
    expected = undisturbed(tmp_path / "undisturbed")
    for at in (1, 5, 12, 14, 17):
        folder = tmp_path / f"failed{at}"
        assert disk_failed(folder, step, ERRORS[error], at) == NAMED
        assert tree(folder) == expected


def test_verify_passes_over_nothing_and_fails_over_nothing(results: Path) -> None:
    store = next(iter((results / "features").glob("*/*")))
    (store / "train-00007.safetensors").write_bytes(b"junk")
    assert verify(results).unchecked == [store / "train-00007.safetensors"]
    (results / "states" / "x.json").symlink_to("/nowhere")
    (fault,) = verify(results).faults
    assert "x.json" in fault
    (results / "states" / "x.json").unlink()
    table = results / "results.parquet"
    frame = pl.read_parquet(table)
    for other in (
        lambda: frame.with_columns(day=date(2001, 1, 1)).write_parquet(table),
        lambda: write_table(table, frame.with_columns(score=pl.col("score") + 1e-9)),
    ):
        other()
        (fault,) = verify(results).faults
        assert "results.parquet" in fault
    write_table(table, frame[::2])  # some of the cells' rows, as after cells were added
    assert verify(results).faults == []


def test_a_name_may_look_like_a_checksum(tmp_path: Path) -> None:
    frame = pl.DataFrame({"model": [f"critmass-sealed-{'a' * 64}"] * 3, "score": [0.1, 0.2, None]})
    write_table(tmp_path / "t.parquet", frame)
    assert read_table(tmp_path / "t.parquet").equals(frame)
    assert pl.read_parquet(tmp_path / "t.parquet").equals(frame)


def test_what_verify_did_not_check_it_names(results: Path) -> None:
    assert verify(results).unchecked == []
    for name in ("notes.txt", "cells/x.safetensors.0.part", "figures/accuracy.svg"):
        (results / name).parent.mkdir(exist_ok=True)
        (results / name).write_bytes(b"what is this")
    names = {file.name for file in verify(results).unchecked}
    assert names == {"notes.txt", "x.safetensors.0.part", "accuracy.svg"}
