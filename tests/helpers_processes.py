"""Processes to kill or to run side by side: real ones, forked from one that has imported what they use.

A fresh interpreter spends seconds on imports before its first line of work; a fork begins at once. What
runs in them is a function of a module that is imported by name, so it stands here.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import zlib
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

IMPORTED = ["pytest", "critmass.cli", "critmass.studies.run", "critmass.scores.centroid", "scipy.linalg"]


def start(target: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Start ``target(*arguments)`` in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=target, args=arguments, daemon=True)
    # The server forks: BLAS must not have threads of its own in it.
    with mock.patch.dict(os.environ, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"):
        process.start()
    return process


def finished(process: BaseProcess) -> int:
    """Wait for a process, and return its exit code: below 0 the signal that ended it."""
    process.join()
    assert process.exitcode is not None
    return process.exitcode


class Words:
    """A network of 32 neurons for texts: the sum of a fixed random vector for each word."""

    name, kind, width = "words:", "text", 32

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def layers(self) -> dict[str, Any]:
        from critmass.sources.protocols import Layer

        return {"penultimate": Layer((self.width,), self.width)}

    def place(self, device: str, precision: str) -> Words:
        return self

    def prepare(self, sample: str, draw: Any = None) -> Any:
        seeds = [zlib.crc32(word.encode()) for word in sample.split()]
        return np.sum([np.random.default_rng(seed).normal(size=self.width) for seed in seeds], axis=0)

    def start(self, batch: Any, layers: Any, pooling: str) -> Callable[[], Any]:
        return lambda: {"penultimate": np.stack(batch).astype("float32")}


def with_words() -> Any:
    """Return a context in which ``words:`` is the name of a model."""
    from critmass.extraction import extract as extraction

    opened = extraction.open_model

    def open_model(name: str, **asked: Any) -> Any:
        return Words() if name == Words.name else opened(name, **asked)

    return mock.patch.object(extraction, "open_model", open_model)


def run_study(path: Path) -> None:
    """Run ``critmass study run`` on a file, in which ``words:`` may be a model."""
    from critmass.cli import main

    with with_words():
        main(["study", "run", str(path)])


class Slow:
    """A network whose batches take a while."""

    name, kind = "slow:", "image"
    weights = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def layers(self) -> dict[str, Any]:
        from critmass.sources.protocols import Layer

        return {"penultimate": Layer((6,), 6)}

    def place(self, device: str, precision: str) -> Slow:
        return self

    def prepare(self, sample: Any, draw: Any = None) -> Any:
        return sample.ravel().astype("float32")

    def start(self, batch: Any, layers: Any, pooling: str) -> Callable[[], Any]:
        time.sleep(self.pause)
        return lambda: {"penultimate": np.stack(batch) @ self.weights}


class Dots:
    """160 images of 8 x 8 random pixels, of three classes."""

    name, kind = "dots:", "image"

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def splits(self) -> dict[str, Any]:
        from critmass.sources.protocols import Samples

        rng = np.random.default_rng(1)
        sizes = {"train": 100, "test": 60}
        pixels = {name: rng.integers(0, 256, size=(n, 8, 8), dtype=np.uint8) for name, n in sizes.items()}
        return {
            name: Samples([f"{name} {i}" for i in range(n)], pixels[name].__getitem__, np.arange(n) % 3)
            for name, n in sizes.items()
        }


def extract_and_measure(folder: Path, pause: float) -> None:
    """Extract and measure into a folder.

    Each batch and each flush to disk sleeps for a while, so that a kill is as likely in the middle of a
    write as in the middle of the work.
    """
    from critmass.curves import measure as measuring
    from critmass.extraction import extract as extraction
    from critmass.extraction import pipeline

    flush = os.fsync

    def slow_flush(handle: int) -> None:
        time.sleep(3 * pause)
        flush(handle)

    with mock.patch.object(os, "fsync", slow_flush), mock.patch.object(pipeline, "SHARD_ROWS", 16):
        features = extraction.extract(Slow(pause), Dots(), out=folder / "store", batch_size=8)
        for score, parts in (("ridge", "random"), ("cka", "random"), ("ridge", "first"), ("cka", "first")):
            measuring.measure(
                features,
                score=score,
                parts=parts,
                sizes="all",
                repeats=2,
                out=folder / "results",
                progress=lambda *step: time.sleep(pause / 4),
            )
