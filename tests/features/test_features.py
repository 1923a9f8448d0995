"""The whole: what arrays and files become, and every way they can be refused."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from helpers_data import blobs, tree
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from critmass.curves.measure import measure
from critmass.errors import InputError
from critmass.features.features import Features
from critmass.features.labels import encode, stratified
from critmass.features.store import Header, StoreWriter
from critmass.linalg import rng

X, Y = blobs(60, 4)
XT, YT = blobs(20, 4, seed=1)
NAMES = np.array(["ant", "bee", "cat"])


# What labels mean.


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (Y, (0, 1, 2)),
        (Y * 10 - 7, (-7, 3, 13)),
        (Y.astype("uint8"), (0, 1, 2)),
        (Y * 1.0, (0, 1, 2)),
        (Y.astype("float16") * 2, (0, 2, 4)),
        (Y > 0, (0, 1)),
        (NAMES[Y], ("ant", "bee", "cat")),
        (NAMES[Y].astype("S"), ("ant", "bee", "cat")),
        (NAMES[2 - Y].tolist(), ("ant", "bee", "cat")),
    ],
    ids=["ints", "other ints", "bytes", "whole floats", "halves", "bools", "text", "ASCII", "list"],
)
def test_classes_and_their_codes(labels: Any, classes: tuple[Any, ...]) -> None:
    fs = Features.from_arrays((X, labels), test=(X[:12], labels[:12]))
    assert fs.task == "classification"
    assert fs.classes == classes
    assert {type(name) for name in fs.classes} == {type(classes[0])}
    plain = np.asarray(labels)
    plain = plain.astype(str) if plain.dtype.kind in "SU" else plain.astype(np.int64)
    for split, n in (("train", 60), ("test", 12)):
        np.testing.assert_array_equal(np.array(classes)[fs.splits[split].y], plain[:n])


def test_floats_that_are_not_all_whole_are_targets() -> None:
    y = Y * 1.0
    y[7] = 0.5
    fs = Features.from_arrays((X, y.astype("float32")), test=(XT, YT * 1.0))
    assert (fs.task, fs.classes) == ("regression", None)
    assert fs.splits["train"].y.dtype == np.float64
    np.testing.assert_array_equal(fs.splits["train"].y, y)
    assert Features.from_arrays((X, Y * 1.0), test=(XT, YT + 0.5)).task == "regression"


def test_the_task_can_be_named() -> None:
    fs = Features.from_arrays((X, Y), task="regression")
    assert (fs.task, fs.classes) == ("regression", None)
    assert fs.splits["train"].y.dtype == np.float64
    assert Features.from_arrays((X, Y), task="classification").classes == (0, 1, 2)
    with pytest.raises(InputError, match="labels: found fractional numbers; allowed: whole numbers or text"):
        Features.from_arrays((X, Y + 0.5), task="classification")
    with pytest.raises(InputError, match="labels: found text; allowed: numbers for task='regression'"):
        Features.from_arrays((X, NAMES[Y]), task="regression")
    with pytest.raises(InputError, match="task: found 'clasification'.*did you mean 'classification'"):
        Features.from_arrays((X, Y), task="clasification")
    with pytest.raises(InputError, match="task: found 'regression'.*no labels; give y"):
        Features.from_arrays(X, task="regression")


def test_no_labels() -> None:
    fs = Features.from_arrays(X, test=XT, name="mine")
    assert (fs.name, fs.task, fs.classes, fs.groups, fs.n_neurons) == ("mine", None, None, None, 4)
    assert all(split.y is None and split.group is None for split in fs.splits.values())


def test_splits_in_a_fixed_order_whatever_order_they_came_in() -> None:
    fs = Features.from_arrays((X, Y), tests={"z": (XT, YT), "a": (XT, YT)}, test=(XT, YT), validation=(X, Y))
    assert list(fs.splits) == ["train", "validation", "test", "a", "z"]
    assert fs.tests == ("test", "a", "z")
    with pytest.raises(TypeError):
        fs.splits["train"] = fs.splits["test"]


def test_encode_sorts_names() -> None:
    names, codes = encode(np.array([30, -1, 30, 4]))
    assert names == (-1, 4, 30)
    assert codes.tolist() == [2, 0, 2, 1]


def test_groups_are_names_with_codes() -> None:
    fs = Features.from_arrays(
        (X, Y),
        test=(XT, YT),
        tests={"v2": (XT, YT)},
        groups={"test": np.arange(20) % 3, "v2": ["b", "a"] * 10},
    )
    assert fs.groups == ("0", "1", "2", "a", "b")
    assert fs.splits["train"].group is None
    np.testing.assert_array_equal(fs.splits["test"].group, np.arange(20) % 3)
    np.testing.assert_array_equal(fs.splits["v2"].group, [4, 3] * 10)


def test_groups_of_train_go_with_its_rows_into_the_carved_test() -> None:
    fs = Features.from_arrays((X, Y), groups={"train": [f"g{i:02d}" for i in range(60)]})
    for split in fs.splits.values():
        np.testing.assert_array_equal(X[split.group], split.x[:])
        np.testing.assert_array_equal(Y[split.group], split.y)


# What cannot be used.


def pair(x: Any = X, y: Any = Y) -> tuple[Any, Any]:
    return (x, y)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"train": (X[:, 0], Y)}, r"X of 'train': found shape \(60,\); allowed: 2 dimensions"),
        ({"train": (X[:, :, None], Y)}, r"X of 'train': found shape \(60, 4, 1\)"),
        ({"train": (X.astype("complex64"), Y)}, "X of 'train': found dtype complex64"),
        ({"train": (X.astype(object), Y)}, "X of 'train': found dtype object"),
        ({"train": (X.astype("longdouble"), Y)}, "X of 'train': found dtype (float128|longdouble)"),
        ({"train": (X[:0], Y[:0])}, r"X of 'train': found shape \(0, 4\); allowed: at least one row"),
        ({"train": (X[:, :0], Y)}, r"X of 'train': found shape \(60, 0\); allowed: at least one row"),
        ({"train": pair(), "test": (XT[:0], YT[:0])}, r"X of 'test': found shape \(0, 4\)"),
        ({"train": pair(), "test": (XT[:, :3], YT)}, "X of 'test': found 3 neurons; allowed: 4 neurons"),
        ({"train": pair(), "validation": (X[:, :3], Y)}, "X of 'validation': found 3 neurons"),
        ({"train": pair(), "tests": {"v2": (X[:, :3], Y)}}, "X of 'v2': found 3 neurons"),
        ({"train": (X, Y[:-1])}, r"labels of 'train': found shape \(59,\); allowed: shape \(60,\)"),
        ({"train": (X, Y[:, None])}, r"labels of 'train': found shape \(60, 1\)"),
        ({"train": pair(), "test": (XT, YT[1:])}, r"labels of 'test': found shape \(19,\)"),
        ({"train": (X, np.array([*NAMES, 1] * 15, dtype=object))}, "found dtype object .int, str.; allowed"),
        ({"train": (X, Y * 1j)}, "labels of 'train': found dtype complex128"),
        ({"train": (X, np.where(np.arange(60) == 9, np.nan, Y))}, "labels of 'train': found nan at row 9"),
        ({"train": (X, np.where(np.arange(60) == 9, -np.inf, Y))}, "labels of 'train': found -inf at row 9"),
        ({"train": (X, Y * 0 + 5)}, r"labels: found one class only \(5\); allowed: two classes or more"),
        ({"train": (X, np.full(60, "ant"))}, r"labels: found one class only \('ant'\)"),
        ({"train": pair(), "test": XT}, r"labels: found none for \['test'\]; allowed: labels for every"),
        ({"train": X, "test": (XT, YT)}, r"labels: found none for \['train'\]"),
        ({"train": pair(), "validation": X, "test": (XT, YT)}, r"none for \['validation'\]"),
        ({"train": pair(), "test": (XT, YT + 1)}, "labels of 'test': found 6 rows of a class that is not in"),
        ({"train": pair(), "validation": (X, Y - 1)}, "labels of 'validation': found 20 rows of a class"),
        ({"train": (X, NAMES[Y]), "test": (XT, NAMES[YT].astype("U9") + "s")}, "such as .*'ants'"),
        (
            {"train": (X, NAMES[Y]), "test": (XT, YT)},
            "labels of 'test': found .*like those of 'train': 'ant'",
        ),
        ({"train": (X, np.arange(60))}, "labels: found 60 classes in .* rows.*pass task='regression'"),
        ({"train": pair(), "groups": {"train": [1, 2]}}, r"groups of 'train': found shape \(2,\)"),
        ({"train": pair(), "groups": {"v2": [1, 2]}}, "groups of 'v2': found no rows for them"),
        ({"train": pair(), "test_fraction": 0.0}, "test_fraction: found 0.0; allowed: a number between"),
        ({"train": pair(), "test_fraction": 1.0}, "test_fraction: found 1.0"),
        ({"train": pair(), "test_fraction": float("nan")}, "test_fraction: found nan"),
        ({"train": X[:1]}, "X of 'train': found 1 rows; allowed: enough rows to set some aside"),
    ],
)
def test_what_cannot_be_used_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Features.from_arrays(arguments.pop("train"), **arguments)


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_further_test_split_cannot_take_a_name_of_the_others(name: str) -> None:
    with pytest.raises(InputError, match=name):
        Features.from_arrays((X, Y), test=(XT, YT), tests={name: (XT, YT)})


@pytest.mark.parametrize(
    "train",
    [([[1.0, 2.0], [3.0]], [0, 1]), [X, Y], (X, Y, Y), None],
    ids=["ragged", "a list of X and y", "three of them", "nothing"],
)
def test_things_that_are_no_arrays_work_or_are_an_input_error(train: Any) -> None:
    with contextlib.suppress(InputError):
        Features.from_arrays(train)


def test_nan_in_rows_is_found_by_whoever_reads_them_not_here() -> None:
    broken = X.copy()
    broken[3, 1] = np.nan
    assert Features.from_arrays((broken, Y)).n_neurons == 4


# Carving a test split; choosing validation rows.


@st.composite
def codes_and_fraction(draw: st.DrawFn) -> tuple[int, np.ndarray | None, float]:
    fraction = draw(st.floats(0.05, 0.6))
    if draw(st.booleans()):
        return draw(st.integers(1, 200)), None, fraction
    counts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    codes = np.repeat(np.arange(len(counts)), counts)
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(codes))
    return len(codes), codes[order], fraction


@settings(deadline=None, max_examples=300)
@given(case=codes_and_fraction(), seed=st.integers(0, 2**32 - 1))
def test_stratified(case: tuple[int, np.ndarray | None, float], seed: int) -> None:
    n, codes, fraction = case
    rows = stratified(n, codes, fraction, rng.stream(seed, "a"))
    again = stratified(n, codes, fraction, rng.stream(seed, "a"))
    np.testing.assert_array_equal(rows, again)
    assert (np.diff(rows) > 0).all(), "ascending and unique"
    assert ((rows >= 0) & (rows < n)).all()
    n_classes = 0 if codes is None else codes.max() + 1
    if fraction * n <= n - n_classes:
        assert abs(len(rows) - fraction * n) < 1 + 1e-9
    if codes is not None:
        counts, taken = np.bincount(codes), np.bincount(codes[rows], minlength=n_classes)
        assert (taken < counts).all(), "every class keeps a row"
        step = min(1.0, fraction * n / max(n - n_classes, 1))
        assert (np.abs(taken - (counts - 1) * step) < 1 + 1e-9).all(), "evenly over the classes"


def test_stratified_depends_on_the_seed_and_takes_any_row() -> None:
    codes = np.arange(40) % 2
    draws = [stratified(40, codes, 0.25, rng.stream(seed, "a")) for seed in range(200)]
    assert len({tuple(rows.tolist()) for rows in draws}) > 190
    share = np.bincount(np.concatenate(draws), minlength=40) / 200
    assert (np.abs(share - 0.25) < 0.13).all(), "four standard deviations of a share of 200"


@pytest.mark.parametrize("task", ["classification", "regression", None])
def test_the_carved_test_split(task: str | None) -> None:
    y = {"classification": Y, "regression": X[:, 0] * 1.5, None: None}[task]
    # The first neuron is the row's number, so that rows can be told apart.
    numbered = X.copy()
    numbered[:, 0] = np.arange(60)
    fs = Features.from_arrays((numbered, y))
    train, test = (fs.splits[name].x[:][:, 0].astype(int) for name in ("train", "test"))
    assert len(test) == 15
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(60))
    assert (np.diff(train) > 0).all()
    assert (np.diff(test) > 0).all()
    for name, rows in (("train", train), ("test", test)):
        np.testing.assert_array_equal(fs.splits[name].x[:], numbered[rows])
        if y is not None:
            np.testing.assert_array_equal(fs.splits[name].y, y[rows])
    if task == "classification":
        assert np.bincount(fs.splits["test"].y).tolist() == [5, 5, 5]
    np.testing.assert_array_equal(Features.from_arrays((numbered, y)).splits["test"].x[:], numbered[test])
    assert not np.array_equal(Features.from_arrays((numbered, y), seed=1).splits["test"].x[:], numbered[test])
    assert Features.from_arrays((numbered, y), test_fraction=0.5).splits["test"].x.shape == (30, 4)


def train_only_store(folder: Path) -> Path:
    header = Header(
        name="mine",
        task="classification",
        classes=(0, 1, 2),
        groups=None,
        dtype="float32",
        n_neurons=4,
        spec_id="0" * 16,
        provenance={},
    )
    writer = StoreWriter(folder, header, {"train": 60}, 16)
    for split, index, rows in writer.missing():
        writer.write(split, index, X[rows], y=Y[rows])
    writer.finish()
    return folder


@pytest.mark.parametrize("container", ["npy", "npz", "store"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_rows_are_carved_whatever_the_container(tmp_path: Path, container: str, seed: int) -> None:
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "f.npz", X_train=X, y_train=Y)
    paths = {"npy": tmp_path / "X.npy", "npz": tmp_path / "f.npz", "store": tmp_path / "store"}
    train_only_store(paths["store"])
    expected = Features.from_arrays((X, Y), seed=seed)
    found = Features.open(paths[container], seed=seed)
    assert list(found.splits) == ["train", "test"]
    for name, split in expected.splits.items():
        np.testing.assert_array_equal(found.splits[name].x[:], split.x[:])
        np.testing.assert_array_equal(found.splits[name].y, split.y)


def test_validation_rows_are_a_seeded_stratified_fifth_of_train() -> None:
    fs = Features.from_arrays((X, Y), test=(XT, YT))
    rows = fs.validation_rows(0)
    assert (np.diff(rows) > 0).all()
    assert len(rows) == 12
    assert np.bincount(Y[rows]).tolist() == [4, 4, 4]
    np.testing.assert_array_equal(rows, fs.validation_rows(0))
    assert not np.array_equal(rows, fs.validation_rows(1))


def test_taking_rows_twice_is_taking_them_once() -> None:
    fs = Features.from_arrays((X, Y), test=(XT, YT), groups={"train": np.arange(60)})
    twice = fs.splits["train"].take(np.arange(0, 60, 2)).take(np.array([1, 5]))
    np.testing.assert_array_equal(twice.x[:], X[[2, 10]])
    np.testing.assert_array_equal(twice.y, Y[[2, 10]])
    assert [fs.groups[code] for code in twice.group] == ["2", "10"]


# Fingerprints.


GROUPS = MappingProxyType({"test": np.arange(20) % 2})


def fingerprint(
    *,
    X: np.ndarray = X,
    y: np.ndarray = Y,
    XT: np.ndarray = XT,
    yt: np.ndarray = YT,
    groups: Any = GROUPS,
    name: str = "a",
) -> str:
    return Features.from_arrays((X, y), test=(XT, yt), groups=groups, name=name).fingerprint


def test_equal_data_has_one_fingerprint(tmp_path: Path) -> None:
    expected = fingerprint()
    assert expected == fingerprint(X=X.copy(), y=Y.copy(), XT=np.asfortranarray(XT))
    assert expected == fingerprint(X=np.repeat(X, 2, axis=1)[:, ::2], name="another name")
    np.savez(tmp_path / "f.npz", X_train=X, y_train=Y, X_test=XT, y_test=YT, groups_test=np.arange(20) % 2)
    assert expected == Features.open(tmp_path / "f.npz").fingerprint


def test_a_carved_split_has_the_fingerprint_of_its_rows(tmp_path: Path) -> None:
    carved = Features.from_arrays((X, Y))
    plain = {name: (np.array(split.x[:]), split.y) for name, split in carved.splits.items()}
    assert carved.fingerprint == Features.from_arrays(plain["train"], test=plain["test"]).fingerprint


def test_stores_of_equal_data_have_one_fingerprint(tmp_path: Path) -> None:
    fs = Features.from_arrays((X, Y))
    one, two = (fs.save(tmp_path / name, shard_rows=16) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint == Features.open(tmp_path / "one").fingerprint
    changed = Features.from_arrays((X + np.float32(1e-3), Y)).save(tmp_path / "three", shard_rows=16)
    relabelled = Features.from_arrays((X, 2 - Y)).save(tmp_path / "four", shard_rows=16)
    assert len({one.fingerprint, changed.fingerprint, relabelled.fingerprint}) == 3


@pytest.mark.parametrize("task", ["classification", "regression", None])
def test_the_number_of_shards_changes_nothing(tmp_path: Path, task: str | None) -> None:
    """In memory, in one shard, in many, and in shards of several lengths: one fingerprint, one curve."""
    y = {"classification": Y, "regression": X[:, 0] * 2.5, None: None}[task]
    yt = {"classification": YT, "regression": XT[:, 0] * 2.5, None: None}[task]
    memory = Features.from_arrays((X, y), test=(XT, yt), name="mine")
    header = Header(
        name="mine",
        task=task,
        classes=(0, 1, 2) if task == "classification" else None,
        groups=None,
        dtype="float32",
        n_neurons=4,
        spec_id="0" * 16,
        provenance=dict(memory.provenance),
    )
    # Shards of 9 rows, of which some are planned and left out.
    kept = np.sort(np.random.default_rng(0).choice(90, 60, replace=False))
    writer = StoreWriter(tmp_path / "uneven", header, {"train": 90, "test": 20}, 9)
    for split, index, rows in writer.missing():
        x, labels = (X, y) if split == "train" else (XT, yt)
        inside = np.arange(rows.start, rows.stop)
        if split == "train":
            inside = np.flatnonzero((kept >= rows.start) & (kept < rows.stop))
        writer.write(split, index, x[inside], y=None if labels is None else labels[inside])
    stored = writer.finish()
    assert len({shard.rows for shard in stored.manifest.splits["train"].shards}) > 2
    ways = [memory, memory.save(tmp_path / "one"), memory.save(tmp_path / "many", shard_rows=1)]
    ways.append(Features.open(tmp_path / "uneven"))
    for number, features in enumerate(ways):
        score = "ridge" if task else "cka"
        measure(features, score=score, sizes="all", repeats=2, out=tmp_path / f"results{number}")
        assert features.fingerprint == memory.fingerprint
        assert tree(tmp_path / f"results{number}") == tree(tmp_path / "results0")


def test_a_store_without_a_checksum_of_its_rows_has_the_same_fingerprint(tmp_path: Path) -> None:
    fs = Features.from_arrays((X, Y), test=(XT, YT))
    stored = fs.save(tmp_path / "store", shard_rows=16).splits
    plain = {name: replace(split, x=replace(split.x, content=None)) for name, split in stored.items()}
    assert replace(fs, splits=plain).fingerprint == fs.fingerprint
    assert fs.splits["train"].x.astype(">f4").dtype.byteorder == ">"
    assert Features.from_arrays((X.astype(">f4"), Y), test=(XT, YT)).fingerprint == fs.fingerprint


@settings(deadline=None, max_examples=60)
@given(row=st.integers(0, 59), neuron=st.integers(0, 3), bit=st.integers(0, 31))
def test_any_changed_bit_of_a_value_changes_the_fingerprint(row: int, neuron: int, bit: int) -> None:
    changed = X.copy()
    changed.view(np.uint32)[row, neuron] ^= np.uint32(1 << bit)
    assert fingerprint(X=changed) != fingerprint()


@settings(deadline=None, max_examples=40)
@given(row=st.integers(0, 59), label=st.integers(0, 2))
def test_any_changed_label_changes_the_fingerprint(row: int, label: int) -> None:
    assume(label != Y[row])
    changed = Y.copy()
    changed[row] = label
    assert fingerprint(y=changed) != fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"X": X.astype("float64")},
        {"X": X[:-3], "y": Y[:-3]},
        {"X": XT, "y": YT, "XT": X, "yt": Y, "groups": {"train": np.arange(20) % 2}},
        {"y": Y + 1, "yt": YT + 1},
        {"y": NAMES[Y], "yt": NAMES[YT]},
        {"y": Y.astype(str), "yt": YT.astype(str)},
        {"y": Y + 0.5, "yt": YT + 0.5},
        {"groups": None},
        {"groups": {"test": (np.arange(20) + 1) % 2}},
        {"groups": {"test": np.where(np.arange(20) % 2, "a", "b")}},
        {"groups": {"train": np.arange(60) % 2}},
        {"X": X[:, ::-1]},
    ],
)
def test_what_else_changes_the_fingerprint(changes: dict[str, Any]) -> None:
    assert fingerprint(**changes) != fingerprint()


def test_class_names_alone_change_the_fingerprint() -> None:
    prints = {
        fingerprint(y=names[Y], yt=names[YT])
        for names in (NAMES, np.array(["ant", "bee", "cow"]), np.array([0, 1, 2]), np.array(["0", "1", "2"]))
    }
    assert len(prints) == 4


def test_the_name_of_a_test_split_changes_the_fingerprint() -> None:
    prints = {
        Features.from_arrays((X, Y), test=(XT, YT), tests={name: (XT, YT)}).fingerprint for name in ("a", "b")
    }
    assert len(prints) == 2
