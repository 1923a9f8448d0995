"""The base install alone: arrays in, answer out, no extra. Run by `make test` where there are none."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

SCRIPT = Path(sys.executable).with_name("critmass")


def run(*arguments):
    return subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    y = np.arange(400) % 4
    x = generator.normal(size=(400, 32)) + 2 * generator.normal(size=(4, 32))[y]
    return x.astype(np.float32), y


@pytest.mark.parametrize("extra", ["torch", "sklearn", "altair", "jinja2", "PIL", "pandas"])
def test_this_is_a_bare_environment(extra):
    assert importlib.util.find_spec(extra) is None


def test_measure_a_file_of_arrays(tmp_path, arrays):
    x, y = arrays
    np.savez(tmp_path / "mine.npz", X_train=x, y_train=y)
    done = run("measure", tmp_path / "mine.npz", "--delta", ".9", "--json", "--out", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)["redundancy"]
    assert record["n_neurons"] == 32
    assert 0 < record["dr"] < 1
    assert len(pl.read_parquet(tmp_path / "results" / "results.parquet")) > 20


def test_label_free_scores_of_a_parquet_file(tmp_path, arrays):
    vectors = pl.Series(arrays[0], dtype=pl.Array(pl.Float32, 32))
    pl.DataFrame({"embedding": vectors}).write_parquet(tmp_path / "mine.parquet")
    done = run("measure", tmp_path / "mine.parquet", "--score", "cka", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["redundancy"][0]["score"] == "cka"


def test_what_needs_an_extra_says_which(tmp_path, arrays):
    np.savez(tmp_path / "mine.npz", X_train=arrays[0], y_train=arrays[1])
    run("measure", tmp_path / "mine.npz", "--out", tmp_path / "results")
    for arguments, packages in (
        (("report", tmp_path / "results"), {"altair", "jinja2", "vl-convert-python"}),
        (("demo", "--out", tmp_path / "demo"), {"altair", "torch", "mlxtend", "efficientnet-lite-pytorch"}),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        # No index has critmass, so the command names what the extra asks for.
        _, _, command = done.stderr.partition("; next: pip install ")
        assert packages <= {re.split("[<>=]", asked)[0] for asked in shlex.split(command)}
        assert "critmass" not in command
    assert not (tmp_path / "demo").exists()
