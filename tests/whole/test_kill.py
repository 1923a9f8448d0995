"""Killed at any moment: what is on disk is whole or absent, and the next run ends in the same bytes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers_data import tree

from critmass.errors import StoreError
from critmass.results import load_curves
from critmass.store import open_store

KILLS, KILLS_A_ROUND = 20, 4
PAUSE = 0.005  # seconds

# Waits for a line, then extracts and measures into the folder named. Each batch and each flush to disk
# sleeps for a while, so that a kill is as likely in the middle of a write as in the middle of the work.
SCRIPT = """
import os, sys, time
from pathlib import Path
import numpy as np
from critmass import extraction, measuring
from critmass.sources.base import Layer, Samples

folder, pause = Path(sys.argv[1]), float(sys.argv[2])
flush = os.fsync
def slow_flush(handle):
    time.sleep(3 * pause)
    flush(handle)
os.fsync = slow_flush
extraction.SHARD_ROWS = 16

class Slow:
    name, kind = "slow:", "image"
    weights = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    def describe(self):
        return {"name": self.name}
    def layers(self):
        return {"penultimate": Layer((6,), 6)}
    def place(self, device, precision):
        return self
    def prepare(self, sample, draw=None):
        return sample.ravel().astype("float32")
    def start(self, batch, layers, pooling):
        time.sleep(pause)
        return lambda: {"penultimate": np.stack(batch) @ self.weights}

class Dots:
    name, kind = "dots:", "image"
    def describe(self):
        return {"name": self.name}
    def splits(self):
        rng = np.random.default_rng(1)
        sizes = {"train": 100, "test": 60}
        pixels = {name: rng.integers(0, 256, size=(n, 8, 8), dtype=np.uint8) for name, n in sizes.items()}
        return {name: Samples([f"{name} {i}" for i in range(n)], pixels[name].__getitem__, np.arange(n) % 3)
                for name, n in sizes.items()}

print("ready", flush=True)
if not sys.stdin.readline():
    sys.exit("the test is gone")
features = extraction.extract(Slow(), Dots(), out=folder / "store", batch_size=8)
for score, parts in (("ridge", "random"), ("cka", "random"), ("ridge", "first"), ("cka", "first")):
    measuring.measure(features, score=score, parts=parts, sizes="all", repeats=2, out=folder / "results",
                      progress=lambda *step: time.sleep(pause / 4))
"""


def start(folder: Path, *, pause: float) -> subprocess.Popen[bytes]:
    """Start the script, which then waits to be released."""
    command = [sys.executable, "-c", SCRIPT, str(folder), str(pause)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def release(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout.readline() == b"ready\n"
    child.stdin.write(b"go\n")
    child.stdin.flush()


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
    undisturbed = start(tmp_path / "undisturbed", pause=PAUSE)
    release(undisturbed)
    clock = time.monotonic()
    undisturbed.communicate()
    whole_run = time.monotonic() - clock
    assert undisturbed.returncode == 0
    expected = tree(tmp_path / "undisturbed")
    assert len(expected) == 2 + 11 + 1 + 1 + 4 + 1  # folders, shards, manifest, cells/, cells, table

    rng = random.Random(0)  # noqa: S311
    states, kills, rounds = set(), 0, 0
    while kills < KILLS:
        folder = tmp_path / f"round{rounds}"
        rounds += 1
        # All children of a round start together and wait, so that their imports overlap.
        *killed, last = [start(folder, pause=PAUSE) for _ in range(KILLS_A_ROUND)] + [
            start(folder, pause=0.0)
        ]
        for child in killed:
            release(child)
            time.sleep(rng.uniform(0, whole_run / 3))
            child.send_signal(signal.SIGKILL)
            child.communicate()
            kills += child.returncode == -signal.SIGKILL
            check_whole_or_absent(folder)
            found = tree(folder) if folder.exists() else {}
            whole = {name: content for name, content in found.items() if not name.endswith(".part")}
            states.add(frozenset(whole))
            whole.pop("results/results.parquet", None)  # it grows with every cell
            assert whole.items() <= expected.items()
        release(last)
        last.communicate()
        assert last.returncode == 0
        assert tree(folder) == expected, "the same bytes, and no file left over"
    assert len(states) > 5, "the kills came at moments that differ"
