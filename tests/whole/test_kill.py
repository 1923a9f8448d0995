"""Killed at any moment: what is on disk is whole or absent, and the next run ends in the same bytes."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from helpers_data import tree
from helpers_processes import extract_and_measure, finished, start

from critmass.curves.cells import load_curves
from critmass.errors import StoreError
from critmass.features.store import open_store

KILLS, KILLS_A_ROUND = 20, 4
PAUSE = 0.005  # seconds


def check_whole_or_absent(folder: Path) -> None:
    """Assert that all that can be seen on disk is whole."""
    if (folder / "store" / "manifest.json").exists():
        assert open_store(folder / "store").verify() == 11
    elif (folder / "store").exists():
        with pytest.raises(StoreError, match="unfinished store"):
            open_store(folder / "store")
    if any((folder / "results" / "cells").glob("*.safetensors")):
        assert load_curves(folder / "results")


def test_killed_twenty_times(tmp_path: Path) -> None:
    # The first one starts the server of forks, which takes longer than the work.
    assert finished(start(extract_and_measure, tmp_path / "first", 0.0)) == 0
    clock = time.monotonic()
    assert finished(start(extract_and_measure, tmp_path / "undisturbed", PAUSE)) == 0
    whole_run = time.monotonic() - clock
    expected = tree(tmp_path / "undisturbed")
    assert (
        len(expected) == 2 + 11 + 1 + 1 + 4 + 1 + 1
    )  # folders, shards, manifest, cells/, cells, table, its lock

    rng = random.Random(0)  # noqa: S311
    states, kills, rounds = set(), 0, 0
    while kills < KILLS:
        folder = tmp_path / f"round{rounds}"
        rounds += 1
        for _ in range(KILLS_A_ROUND):
            victim = start(extract_and_measure, folder, PAUSE)
            time.sleep(rng.uniform(0, whole_run / 3))
            victim.kill()
            kills += finished(victim) == -signal.SIGKILL
            check_whole_or_absent(folder)
            found = tree(folder) if folder.exists() else {}
            whole = {name: content for name, content in found.items() if not name.endswith(".part")}
            states.add(frozenset(whole))
            whole.pop("results/results.parquet", None)  # it grows with every cell
            assert whole.items() <= expected.items()
        assert finished(start(extract_and_measure, folder, 0.0)) == 0
        assert tree(folder) == expected, "the same bytes, and no file left over"
    assert len(states) > 5, "the kills came at moments that differ"
