"""Shards as one matrix: a slice costs the slice, few files are open, each is verified once."""

from __future__ import annotations

import copy
import operator
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from helpers_data import blobs

from critmass.features import shards
from critmass.features.features import Features
from critmass.features.shards import rows_of_a_shard
from critmass.linalg.matrices import RowSubset

X, Y = blobs(90, 4)


def travelled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """80 rows in 12 shards."""
    folder = tmp_path_factory.mktemp("stored") / "store"
    return Features.from_arrays((X[:80], Y[:80]), test=(X[80:], Y[80:])).save(folder, shard_rows=7)


def test_two_thousand_shards_under_a_limit_of_256_files(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    x = np.arange(4000.0).reshape(2000, 2)
    Features.from_arrays(x, test=x[:1]).save(tmp_path / "store", shard_rows=1)
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import numpy as np, critmass as cm
x = cm.Features.open({str(tmp_path / "store")!r}).splits["train"].x
assert np.asarray(x).sum() == {x.sum()}
held = list(x.blocks(1))  # views hold their maps
assert sum(block.sum() for block in held) == {x.sum()}
assert x[[1999, 0, 1000]].tolist() == {x[[1999, 0, 1000]].tolist()}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_slice_costs_the_slice(tmp_path):
    """Not a row number for each row of the split, in memory: 3 million of them would be 24 MB."""
    x = np.zeros((3_000_000, 1), dtype=np.float16)
    fs = Features.from_arrays(x, test=x[:1]).save(tmp_path / "store", shard_rows=500_000)
    whole = fs.splits["train"].x
    part = RowSubset(whole, np.arange(0, 3_000_000, 2))
    for matrix in (whole, part):
        for rows in (
            slice(10, 20),
            slice(-5, None),
            slice(0, 30, 3),
            [5, 1_400_000],
            slice(499_990, 500_010),
        ):
            matrix[rows]  # the first touch verifies
            tracemalloc.start()
            matrix[rows]
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 20_000, rows


def test_a_slice_of_one_shard_is_a_view_that_cannot_be_written_to(stored):
    x = stored.splits["train"].x
    assert np.shares_memory(x[1:4], x[2:6])
    assert not np.shares_memory(x[5:9], x[5:9])
    with pytest.raises(ValueError, match="read-only"):
        x[1:4][0, 0] = 1.0


def test_each_shard_is_verified_once_and_few_stay_mapped(stored, monkeypatch):
    monkeypatch.setattr(shards, "_most_mapped", lambda: 2)
    monkeypatch.setattr(shards, "_MAPS", type(shards._MAPS)())  # what other tests have read is in the other
    verified, mapped = [], []
    check, map_tensors = shards.check_shard, shards.map_tensors
    monkeypatch.setattr(shards, "check_shard", lambda *a: (verified.append(a[1].file), check(*a)))
    monkeypatch.setattr(shards, "map_tensors", lambda path: (mapped.append(path), map_tensors(path))[1])
    x = copy.copy(stored.splits["train"].x)
    for _ in range(3):
        np.testing.assert_array_equal(x[:], X[:80])
    assert sorted(verified) == [shard.file for shard in x.shards]
    assert len(mapped) == 3 * len(x.shards)
    assert len(shards._MAPS._kept) == 2


def test_threads_read_the_same_rows_while_maps_come_and_go(stored, monkeypatch):
    monkeypatch.setattr(shards, "_most_mapped", lambda: 2)
    x, start = copy.deepcopy(stored.splits["train"].x), threading.Barrier(8)

    def read(seed):
        generator = np.random.default_rng(seed)
        start.wait()
        for _ in range(60):
            rows = generator.integers(0, 80, size=9)
            first, last = sorted(rows[:2])
            np.testing.assert_array_equal(x[rows], X[rows])
            np.testing.assert_array_equal(x[first:last], X[first:last])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))


def test_numpy_reads_all_of_it(stored):
    x = stored.splits["train"].x
    for matrix, expected in ((x, X[:80]), (RowSubset(x, np.arange(3, 40, 2)), X[3:40:2])):
        assert (len(matrix), matrix.ndim) == (len(expected), 2)
        np.testing.assert_array_equal(np.asarray(matrix), expected)
        assert np.asarray(matrix, dtype=np.float64).dtype == np.float64
        assert np.array(matrix).flags.writeable
        with pytest.raises(ValueError, match="without a copy"):
            np.asarray(matrix, copy=False)
        np.testing.assert_array_equal(np.stack(list(matrix)), expected)
        blocks = list(matrix.blocks(16))
        assert [len(block) for block in blocks][:-1] == [16] * (len(blocks) - 1)
        np.testing.assert_array_equal(np.concatenate(blocks), expected)
        np.testing.assert_array_equal(np.mean(matrix, axis=0), expected.mean(axis=0))


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, travelled], ids=["copy", "deepcopy", "pickle"])
def test_features_travel(stored, tmp_path, travel):
    memory = Features.from_arrays((X[:80], Y[:80]), test=(X[80:], Y[80:]), groups={"test": Y[80:]})
    carved = Features.from_arrays((stored.splits["train"].x, Y[:80]))
    for features in (memory, stored, carved):
        again = travel(features)
        assert again.fingerprint == features.fingerprint
        assert (again.name, again.classes, again.groups) == (features.name, features.classes, features.groups)
        for name, split in features.splits.items():
            np.testing.assert_array_equal(np.asarray(again.splits[name].x), np.asarray(split.x))
        with pytest.raises(TypeError):
            again.splits["train"] = None


def test_a_pickled_store_is_its_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(2000, 64))
    fs = Features.from_arrays(x, test=x[:5]).save(Path("relative"))
    content = pickle.dumps(fs)
    assert len(content) < 5000
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = pickle.loads(content)  # noqa: S301
    np.testing.assert_array_equal(again.splits["train"].x[:], x)


def test_a_worker_reads_the_same_features(stored):
    fresh = travelled(Features.open(stored.splits["train"].x.folder))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(operator.attrgetter("fingerprint"), fresh).result()
        rows = pool.submit(np.asarray, fresh.splits["train"].x).result()
    assert found == Features.from_arrays((X[:80], Y[:80]), test=(X[80:], Y[80:])).fingerprint
    np.testing.assert_array_equal(rows, X[:80])


def test_a_shard_is_about_64_mib():
    for width in (1, 384, 1280, 2048, 65_536):
        for dtype in ("float16", "float32", "float64"):
            size = rows_of_a_shard(width, dtype) * width * np.dtype(dtype).itemsize
            assert 2**25 < size <= 2**26
    assert rows_of_a_shard(10**9, "float64") == 1
