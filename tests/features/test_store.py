"""The features store: what is written is what is read, and damage never passes for data.

Shards are read behind the store's back with safetensors' own reader, so that an error made alike in
writing and reading cannot hide.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import blobs, flip, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from critmass.errors import InputError, StoreError
from critmass.features.features import Features
from critmass.features.store import Header, StoreWriter, holds, is_store, open_store
from critmass.io.records import read_record, write_record

HEADER = Header(
    name="made",
    task="classification",
    classes=("ant", "cat"),
    groups=None,
    dtype="float32",
    n_neurons=3,
    spec_id="0123456789abcdef",
    provenance={"source": "a test"},
)
SIZES = {"train": 10, "test": 5}
SHARD_ROWS = 4
SHARDS = [("train", 0), ("train", 1), ("train", 2), ("test", 0), ("test", 1)]


def rows_of(split: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(len(split))
    return rng.normal(size=(SIZES[split], 3)).astype("float32"), np.arange(SIZES[split]) % 2


def writer(folder: Path, header: Header = HEADER) -> StoreWriter:
    return StoreWriter(folder, header, SIZES, SHARD_ROWS)


def write_shards(work: StoreWriter, *, at_most: int = 99) -> list[tuple[str, int]]:
    """Write the missing shards, stopping after `at_most`; return which were written."""
    written = []
    for split, index, rows in list(work.missing())[:at_most]:
        x, y = rows_of(split)
        work.write(split, index, x[rows], y=y[rows])
        written.append((split, index))
    return written


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    work = writer(tmp_path / "store")
    write_shards(work)
    work.finish()
    return tmp_path / "store"


def change_manifest(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, **changes}))


def read_everything(folder: Path) -> None:
    """Open a store and touch every row, as a measurement would."""
    for split in Features.open(folder).splits.values():
        split.x[:]


# What is written is what is read.


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("task", ["classification", "regression", None])
def test_round_trip(tmp_path: Path, dtype: str, task: str | None) -> None:
    X, codes = blobs(90, 4, dtype=dtype)
    y = {"classification": codes, "regression": codes / 7 + X[:, 0].astype("float64"), None: None}[task]
    groups = np.array(["left", "right"])[(codes > 0).astype(int)]
    splits = {"train": slice(0, 40), "validation": slice(40, 55), "test": slice(55, 80), "v2": slice(80, 90)}
    pieces = {name: (X[rows], None if y is None else y[rows]) for name, rows in splits.items()}
    fs = Features.from_arrays(
        pieces["train"],
        validation=pieces["validation"],
        test=pieces["test"],
        tests={"v2": pieces["v2"]},
        groups={"test": groups[55:80], "v2": groups[80:90]},
        name="café ☕",
        provenance={"source": "ünïcode", "n": 3},
    )
    saved = fs.save(tmp_path / "store", shard_rows=7)

    for again in (saved, Features.open(tmp_path / "store")):
        assert (again.name, again.task, again.classes, again.groups) == (
            "café ☕",
            task,
            (0, 1, 2) if task == "classification" else None,
            ("left", "right"),
        )
        assert again.provenance == {"source": "ünïcode", "n": 3}
        assert again.tests == ("test", "v2")
        assert list(again.splits) == ["train", "validation", "test", "v2"]
        for name, split in fs.splits.items():
            found = again.splits[name]
            assert found.x.dtype == np.dtype(dtype).newbyteorder("=")
            assert found.x.shape == split.x.shape
            np.testing.assert_array_equal(found.x[:], split.x)
            for mine, theirs in ((split.y, found.y), (split.group, found.group)):
                assert (mine is None) == (theirs is None)
                if mine is not None:
                    np.testing.assert_array_equal(theirs, mine)

    behind: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in splits}
    for path in sorted((tmp_path / "store").glob("*.safetensors")):
        behind[path.name.rsplit("-", 1)[0]].append(load_file(path))
    for name, rows in splits.items():
        shards = behind[name]
        n = rows.stop - rows.start
        assert [len(shard["x"]) for shard in shards] == [7] * (n // 7) + [n % 7] * (n % 7 > 0)
        np.testing.assert_array_equal(np.concatenate([shard["x"] for shard in shards]), X[rows])
        if y is None:
            assert all("y" not in shard for shard in shards)
        else:  # classes are 0, 1, 2, so their codes are the labels themselves
            np.testing.assert_array_equal(np.concatenate([shard["y"] for shard in shards]), y[rows])
        if name in ("test", "v2"):
            codes_found = np.concatenate([shard["group"] for shard in shards])
            np.testing.assert_array_equal(np.array(["left", "right"])[codes_found], groups[rows])
        else:
            assert all("group" not in shard for shard in shards)


@pytest.mark.parametrize("labels", [["10", "9", "1"], ["ant", "bee", "çat"], [5, -3, 11]])
def test_class_names_keep_their_type_and_order(tmp_path: Path, labels: list[Any]) -> None:
    X, codes = blobs(60)
    named = np.array(labels)[codes]
    fs = Features.from_arrays((X, named)).save(tmp_path / "store")
    assert fs.classes == tuple(sorted(labels))
    assert [type(name) for name in fs.classes] == [type(name) for name in sorted(labels)]
    behind = np.concatenate([load_file(tmp_path / f"store/{s}-00000.safetensors")["y"] for s in fs.splits])
    everything = np.array(fs.classes)[behind]
    np.testing.assert_array_equal(np.sort(everything), np.sort(named))


def test_mixed_precisions_are_stored_at_the_widest(tmp_path: Path) -> None:
    X, y = blobs(40, dtype="float64")
    fs = Features.from_arrays((X.astype("float16"), y), test=(X, y)).save(tmp_path / "store")
    np.testing.assert_array_equal(fs.splits["test"].x[:], X)
    np.testing.assert_array_equal(fs.splits["train"].x[:], X.astype("float16"))


def test_a_carved_test_split_is_stored_as_it_was_carved(tmp_path: Path) -> None:
    fs = Features.from_arrays(blobs(80), seed=3)
    saved = fs.save(tmp_path / "store", shard_rows=9)
    for name in ("train", "test"):
        np.testing.assert_array_equal(saved.splits[name].x[:], fs.splits[name].x[:])
        np.testing.assert_array_equal(saved.splits[name].y, fs.splits[name].y)


@pytest.mark.parametrize("name", ["a/b", "../up", "v 2", "naïve"])
def test_any_test_split_name_round_trips_or_is_refused_before_writing(tmp_path: Path, name: str) -> None:
    X, y = blobs(40)
    try:
        fs = Features.from_arrays((X, y), test=(X, y), tests={name: (X[:10], y[:10])})
        fs.save(tmp_path / "in" / "store", shard_rows=4)
        again = fs.save(tmp_path / "in" / "store", shard_rows=4)
    except InputError:
        assert tree(tmp_path) == {}
    else:
        np.testing.assert_array_equal(again.splits[name].x[:], X[:10])
        assert [path.name for path in tmp_path.iterdir()] == ["in"]
        assert [path.name for path in (tmp_path / "in").iterdir()] == ["store"]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """The same 23 rows of 2 neurons, cut into shards in several ways."""
    X = np.random.default_rng(0).normal(size=(23, 2))
    found = {}
    for shard_rows in (1, 5, 22, 23, 40):
        folder = tmp_path_factory.mktemp("cut")
        fs = Features.from_arrays(X, test=X[:2]).save(folder, shard_rows=shard_rows)
        assert len(list(folder.glob("train-*"))) == -(-23 // shard_rows)
        found[shard_rows] = fs.splits["train"].x
    found[0] = X
    return found


INDEX = st.one_of(
    st.slices(23),
    st.lists(st.integers(-23, 22), max_size=30).map(lambda rows: np.array(rows, dtype=np.intp)),
    st.lists(st.booleans(), min_size=23, max_size=23).map(np.array),
    st.integers(-23, 22),
)


@settings(deadline=None, max_examples=150)
@given(shard_rows=st.sampled_from([1, 5, 22, 23, 40]), rows=INDEX)
def test_indexing_is_that_of_the_array(sharded: dict[int, Any], shard_rows: int, rows: Any) -> None:
    found = sharded[shard_rows][rows]
    expected = sharded[0][rows]
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(found, expected)


def test_indexing_out_of_range_or_by_columns_is_refused(sharded: dict[int, Any]) -> None:
    with pytest.raises(IndexError):
        sharded[5][np.array([23])]
    for wrong in ((slice(None), [0]), [[1, 2]]):
        with pytest.raises(TypeError, match="indexed by rows alone"):
            sharded[5][wrong]
    for wrong in ([True, False], [0.5], 23, -24):
        with pytest.raises(IndexError):
            sharded[5][wrong]


# Damage is named.


def test_every_flipped_byte_is_named_when_read_and_by_verify(finished: Path) -> None:
    shard = finished / "train-00001.safetensors"
    intact = shard.read_bytes()
    assert open_store(finished).verify() == len(SHARDS)
    for position in range(len(intact)):
        flip(shard, position)
        with pytest.raises(StoreError, match=r"train-00001\.safetensors: found checksum"):
            open_store(finished).verify()
        with pytest.raises(StoreError, match=r"train-00001\.safetensors"):
            read_everything(finished)
        shard.write_bytes(intact)
    read_everything(finished)


def test_a_flipped_byte_is_found_when_its_shard_is_first_read(finished: Path) -> None:
    flip(finished / "train-00002.safetensors", -1)
    rows = open_store(finished).rows("train")
    np.testing.assert_array_equal(rows[0:8], rows_of("train")[0][:8])  # the others are intact
    with pytest.raises(StoreError, match=r"train-00002\.safetensors: found checksum .* delete the folder"):
        rows[7:9]


def test_an_unfinished_store_says_so(finished: Path) -> None:
    (finished / "manifest.json").unlink()
    assert is_store(finished)
    assert not holds(finished, HEADER.spec_id)
    with pytest.raises(StoreError, match=r"unfinished store \(5 shards.*run the same extract again"):
        Features.open(finished)


@pytest.mark.parametrize("version", [2, 99, None, "1"])
def test_another_version_says_so(finished: Path, version: Any) -> None:
    change_manifest(finished, version=version)
    with pytest.raises(
        StoreError, match=f"format version {version}; allowed: version 1 or lower; upgrade critmass"
    ):
        Features.open(finished)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no valid JSON"),
        (b'{"format": "critmass-fea', "no valid JSON"),
        (b"\xff\xfe\x00\x01", "no valid JSON"),
        (b"[]", "JSON that is no object"),
        (b'"critmass-features"', "JSON that is no object"),
        (b"{}", "format None"),
        (b'{"format": "zarr", "version": 1}', "format 'zarr'"),
        (b'{"format": "critmass-features", "version": 1}', "name: Field required"),
    ],
)
def test_a_manifest_that_is_no_manifest_says_so(finished: Path, content: bytes, words: str) -> None:
    (finished / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match=rf"manifest\.json: found {words}"):
        Features.open(finished)


@pytest.mark.parametrize("key", sorted(json.loads(HEADER.model_dump_json()) | {"splits": 0}))
def test_a_manifest_without_a_key_names_it(finished: Path, key: str) -> None:
    content = json.loads((finished / "manifest.json").read_text())
    del content[key]
    (finished / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match=f"found {key}"):
        Features.open(finished)


def test_a_manifest_whose_numbers_do_not_add_up_says_so(finished: Path) -> None:
    splits = json.loads((finished / "manifest.json").read_text())["splits"]
    splits["train"]["n_rows"] = 11
    path = finished / "manifest.json"
    write_record(path, {**read_record(path), "splits": splits})
    with pytest.raises(StoreError, match="shards of 'train' that do not add up to 11 rows"):
        Features.open(finished)


def test_a_manifest_cannot_point_outside_its_folder(finished: Path) -> None:
    outside = finished.parent / "other"
    outside.mkdir()
    shutil.copy(finished / "train-00000.safetensors", outside)
    splits = json.loads((finished / "manifest.json").read_text())["splits"]
    splits["train"]["shards"][0]["file"] = "../other/train-00000.safetensors"
    change_manifest(finished, splits=splits)
    with pytest.raises(StoreError, match="manifest"):
        Features.open(finished)


@pytest.mark.parametrize(
    "change", [{"n_neurons": 2}, {"dtype": "float16"}, {"classes": ["ant", "dog"]}, {"name": "other"}]
)
def test_a_changed_manifest_is_found_by_verify(finished: Path, change: dict[str, Any]) -> None:
    change_manifest(finished, **change)
    with pytest.raises(StoreError, match=r"manifest\.json"):
        open_store(finished).verify()


def test_a_missing_shard_says_so(finished: Path) -> None:
    (finished / "test-00001.safetensors").unlink()
    with pytest.raises(StoreError, match=r"test-00001\.safetensors: found no file; allowed: \d+ bytes"):
        Features.open(finished)


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b""])
def test_a_shard_of_the_wrong_size_says_so(finished: Path, change: Any) -> None:
    shard = finished / "train-00000.safetensors"
    size = len(shard.read_bytes())
    shard.write_bytes(change(shard.read_bytes()))
    found = len(shard.read_bytes())
    with pytest.raises(
        StoreError, match=rf"train-00000\.safetensors: found {found} bytes; allowed: {size} bytes"
    ):
        Features.open(finished)


def test_the_advice_for_a_missing_shard_can_be_followed(finished: Path) -> None:
    (finished / "test-00001.safetensors").unlink()
    with pytest.raises(StoreError) as caught:
        holds(finished, HEADER.spec_id)  # what extracting again into the same folder asks first
    assert "delete the folder" in caught.value.advice


def test_a_folder_that_is_no_store_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(StoreError, match=r"no manifest\.json; allowed: a features store"):
        Features.open(tmp_path)


# Writing: resumed, never mixed, never blessed twice.


def test_a_folder_with_foreign_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    untouched = tree(tmp_path)
    with pytest.raises(StoreError, match=r"notes\.txt.*choose another folder"):
        writer(tmp_path)
    with pytest.raises(StoreError, match=r"notes\.txt.*choose another folder"):
        Features.from_arrays(blobs(40)).save(tmp_path)
    assert tree(tmp_path) == untouched


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_foreign_file_named_like_a_shard_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-00000.safetensors").write_bytes(content)
    with pytest.raises(StoreError, match=r"files of something else \(train-00000\.safetensors\)"):
        writer(tmp_path)


def test_shards_say_whose_they_are(finished: Path) -> None:
    labels = []
    for split, index in SHARDS:
        with safe_open(finished / f"{split}-{index:05d}.safetensors", framework="numpy") as shard:
            labels.append(json.loads(shard.metadata()["critmass"]))
    assert all(label.pop("sha256") for label in labels)
    assert labels == [{"spec": HEADER.spec_id, "split": split, "index": index} for split, index in SHARDS]


@pytest.mark.parametrize("stopped_after", range(len(SHARDS) + 1))
def test_resuming_gives_the_same_bytes(tmp_path: Path, finished: Path, stopped_after: int) -> None:
    folder = tmp_path / "resumed"
    write_shards(writer(folder), at_most=stopped_after)
    if folder.exists():  # what a kill in the middle of a write can leave
        for name in ("train-00002.safetensors.0.part", "manifest.json.0.part"):
            if not (folder / name.rsplit(".", 2)[0]).exists():
                (folder / name).write_bytes(b"half a file, and a long one at that" * 99)
    again = writer(folder)
    assert [(split, index) for split, index, _ in again.missing()] == SHARDS[stopped_after:]
    assert write_shards(again) == SHARDS[stopped_after:]
    again.finish()
    assert tree(folder) == tree(finished)


def test_resuming_trusts_only_whole_shards(tmp_path: Path, finished: Path) -> None:
    """A shard cut short (a disk that filled, a copy that broke) must not be blessed by the manifest."""
    folder = tmp_path / "resumed"
    write_shards(writer(folder), at_most=2)
    shard = folder / "train-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-8])
    try:
        again = writer(folder)
        write_shards(again)
        again.finish()
    except StoreError as error:
        assert "train-00000.safetensors" in str(error)  # noqa: PT017  either of the two will do
    else:
        assert tree(folder) == tree(finished)


@pytest.mark.parametrize("done", ["some shards", "all shards", "finished"])
def test_another_header_is_refused_and_changes_nothing(tmp_path: Path, done: str) -> None:
    work = writer(tmp_path / "store")
    write_shards(work, at_most=2 if done == "some shards" else 99)
    if done == "finished":
        work.finish()
    untouched = tree(tmp_path)
    other = HEADER.model_copy(update={"spec_id": "f" * 16})
    with pytest.raises(StoreError, match="files of something else.*choose another folder"):
        writer(tmp_path / "store", other)
    assert tree(tmp_path) == untouched


def test_saving_other_features_into_a_finished_store_is_refused(tmp_path: Path) -> None:
    X, y = blobs(40)
    Features.from_arrays((X, y)).save(tmp_path / "store")
    untouched = tree(tmp_path)
    with pytest.raises(StoreError, match="files of something else"):
        Features.from_arrays((X + 1, y)).save(tmp_path / "store")
    assert tree(tmp_path) == untouched


def test_saving_the_same_features_again_reuses_the_store(tmp_path: Path) -> None:
    X, y = blobs(40)
    Features.from_arrays((X, y)).save(tmp_path / "store")
    inodes = {path: path.stat().st_ino for path in (tmp_path / "store").iterdir()}
    again = Features.from_arrays((X, y)).save(tmp_path / "store")
    np.testing.assert_array_equal(again.splits["test"].x[:], Features.from_arrays((X, y)).splits["test"].x[:])
    assert inodes == {path: path.stat().st_ino for path in (tmp_path / "store").iterdir()}


def test_a_damaged_store_is_not_blessed_again(tmp_path: Path) -> None:
    X, y = blobs(40)
    fs = Features.from_arrays((X, y))
    fs.save(tmp_path / "store", shard_rows=8)
    flip(tmp_path / "store" / "train-00001.safetensors", -3)
    damaged = tree(tmp_path)
    again = fs.save(tmp_path / "store", shard_rows=8)
    assert tree(tmp_path) == damaged
    with pytest.raises(StoreError, match=r"train-00001\.safetensors: found checksum"):
        again.splits["train"].x[:]
    with pytest.raises(StoreError, match=r"train-00001\.safetensors: found checksum"):
        open_store(tmp_path / "store").verify()
