"""Files that people have: each kind gives the same Features as the arrays in it, or one clear error."""

from __future__ import annotations

import io
import json
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers_data import blobs, flip
from safetensors.numpy import save_file

from critmass.errors import InputError, StoreError
from critmass.features import readers
from critmass.features.features import Features
from critmass.linalg.devices import available_memory

X, Y = blobs(60, 4)
XT, YT = blobs(20, 4, seed=1)
XV, YV = blobs(12, 4, seed=2)
X2, Y2 = blobs(9, 4, seed=3)
GROUPS = np.array(["old", "new"])[np.arange(20) % 2]
NAMES = np.array(["ant", "bee", "cat"])


def assert_same(found: Features, expected: Features) -> None:
    """Assert that two Features say the same in every row, label and group."""
    assert (found.task, found.classes, found.groups) == (expected.task, expected.classes, expected.groups)
    assert list(found.splits) == list(expected.splits)
    for name, split in expected.splits.items():
        other = found.splits[name]
        for mine, theirs in ((split.x[:], other.x[:]), (split.y, other.y), (split.group, other.group)):
            assert (mine is None) == (theirs is None)
            if mine is not None and theirs is not None:
                np.testing.assert_array_equal(theirs, mine)


# Arrays by key.


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("validation", ["validation", "val", "valid", "dev"])
def test_arrays_by_key(tmp_path: Path, suffix: str, validation: str) -> None:
    arrays = {
        "X_train": X,
        "y_train": Y,
        "X_test": XT,
        "y_test": YT,
        "X_v2": X2,
        "y_v2": Y2,
        f"X_{validation}": XV,
        f"y_{validation}": YV,
        "groups_test": np.arange(20) % 2,
    }
    save_arrays(tmp_path / f"mine{suffix}", arrays)
    found = Features.open(tmp_path / f"mine{suffix}")
    assert found.name == "mine"
    assert found.provenance == {"source": f"mine{suffix}"}
    expected = Features.from_arrays(
        (X, Y), validation=(XV, YV), test=(XT, YT), tests={"v2": (X2, Y2)}, groups={"test": np.arange(20) % 2}
    )
    assert_same(found, expected)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_arrays_without_labels_or_test(tmp_path: Path, suffix: str) -> None:
    save_arrays(tmp_path / f"mine{suffix}", {"X_train": X})
    found = Features.open(tmp_path / f"mine{suffix}", seed=4, test_fraction=0.5, name="other")
    assert (found.name, found.task, found.classes) == ("other", None, None)
    assert_same(found, Features.from_arrays(X, seed=4, test_fraction=0.5))


def test_text_labels_and_groups_in_npz(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "f.npz",
        X_train=X,
        y_train=NAMES[Y],
        X_test=XT,
        y_test=NAMES[YT].astype("S"),
        groups_test=GROUPS,
    )
    found = Features.open(tmp_path / "f.npz")
    assert found.classes == ("ant", "bee", "cat")
    assert found.groups == ("new", "old")
    np.testing.assert_array_equal(np.array(found.classes)[found.splits["test"].y], NAMES[YT])
    np.testing.assert_array_equal(np.array(found.groups)[found.splits["test"].group], GROUPS)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    ("key", "near"),
    [("Xtrain", "'X_train'"), ("labels_train", "'y_train'"), ("X_", "'X_test'")],
)
def test_an_unknown_key_is_named_with_near_ones(tmp_path: Path, suffix: str, key: str, near: str) -> None:
    save_arrays(tmp_path / f"f{suffix}", {"X_train": X, "y_train": Y, key: X})
    with pytest.raises(InputError, match=f"f{suffix} key: found '{key}'.*did you mean .*{near}"):
        Features.open(tmp_path / f"f{suffix}")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_two_keys_for_one_split_are_refused(tmp_path: Path, suffix: str) -> None:
    arrays = {"X_train": X, "y_train": Y, "X_test": XT, "y_test": YT, "X_val": XV, "y_val": YV}
    save_arrays(tmp_path / f"f{suffix}", {**arrays, "X_validation": X2, "y_validation": Y2})
    with pytest.raises(InputError, match="val"):
        Features.open(tmp_path / f"f{suffix}")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_labels_without_rows_and_rows_without_train_are_refused(tmp_path: Path, suffix: str) -> None:
    save_arrays(tmp_path / f"a{suffix}", {"X_train": X, "y_train": Y, "y_test": YT})
    with pytest.raises(InputError, match="labels of 'test': found no rows for them"):
        Features.open(tmp_path / f"a{suffix}")
    save_arrays(tmp_path / f"b{suffix}", {"X_test": XT, "y_test": YT})
    with pytest.raises(InputError, match="splits: found .'test'.; allowed: a train split"):
        Features.open(tmp_path / f"b{suffix}")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(("x_key", "y_key"), [("X", "y"), ("x", "y"), ("x_train", "y_train"), ("X", "Y")])
def test_rows_and_labels_of_one_split_by_their_usual_names(
    tmp_path: Path, suffix: str, x_key: str, y_key: str
) -> None:
    save_arrays(tmp_path / f"f{suffix}", {x_key: X, y_key: Y})
    assert_same(Features.open(tmp_path / f"f{suffix}"), Features.from_arrays((X, Y)))


def test_a_usual_name_beside_its_split_is_ambiguous(tmp_path: Path) -> None:
    save_arrays(tmp_path / "f.npz", {"X": X, "X_train": X, "y": Y})
    with pytest.raises(InputError, match="key: found 'X_train'; allowed: one key for X of 'train'; rename"):
        Features.open(tmp_path / "f.npz")


# X.npy with y.npy beside it.


@pytest.mark.parametrize(("x_name", "y_name"), [("X.npy", "y.npy"), ("X_mine.npy", "y_mine.npy")])
def test_npy_pair(tmp_path: Path, x_name: str, y_name: str) -> None:
    np.save(tmp_path / x_name, X)
    np.save(tmp_path / y_name, Y)
    assert_same(Features.open(tmp_path / x_name, seed=5), Features.from_arrays((X, Y), seed=5))


@pytest.mark.parametrize("x_name", ["X.npy", "embeddings.npy"])
def test_npy_without_labels(tmp_path: Path, x_name: str) -> None:
    np.save(tmp_path / x_name, X)
    np.save(tmp_path / "y_other.npy", Y)
    found = Features.open(tmp_path / x_name)
    assert found.task is None
    assert_same(found, Features.from_arrays(X))


def test_npy_is_mapped_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", X)
    assert isinstance(Features.open(tmp_path / "X.npy").splits["train"].x.base, np.memmap)


# Parquet.


def vectors(x: np.ndarray, kind: str) -> pl.Series:
    inner = pl.Float32 if x.dtype == np.float32 else pl.Float64
    dtype = pl.Array(inner, x.shape[1]) if kind == "array" else pl.List(inner)
    return pl.Series("emb", x.tolist(), dtype=dtype)


@pytest.mark.parametrize("kind", ["array", "list"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parquet_with_all_columns(tmp_path: Path, kind: str, dtype: str) -> None:
    x = np.concatenate([X, XT, XV]).astype(dtype)
    splits = ["train"] * 60 + ["test"] * 20 + ["val"] * 12
    groups = ["old", "new"] * 46
    frame = pl.DataFrame(
        {"emb": vectors(x, kind), "label": np.concatenate([Y, YT, YV]), "split": splits, "group": groups}
    )
    shuffled = frame.with_row_index("id").sample(fraction=1.0, shuffle=True, seed=1)
    order = shuffled["id"].to_numpy()
    shuffled.drop("id").write_parquet(tmp_path / "f.parquet")
    found = Features.open(tmp_path / "f.parquet")
    assert found.splits["train"].x.dtype == dtype
    rows = {name: order[np.array(splits)[order] == name] for name in ("train", "test", "val")}
    y, g = np.concatenate([Y, YT, YV]), np.array(groups)
    expected = Features.from_arrays(
        (x[rows["train"]], y[rows["train"]]),
        validation=(x[rows["val"]], y[rows["val"]]),
        test=(x[rows["test"]], y[rows["test"]]),
        groups={"train": g[rows["train"]], "validation": g[rows["val"]], "test": g[rows["test"]]},
    )
    assert_same(found, expected)


@pytest.mark.parametrize("label_dtype", [pl.String, pl.Categorical, pl.Enum(NAMES.tolist())])
def test_parquet_with_custom_names_and_text_labels(tmp_path: Path, label_dtype: Any) -> None:
    frame = pl.DataFrame(
        {
            "a": vectors(X + 1, "array"),
            "b": vectors(X, "list"),
            "species": pl.Series(NAMES[Y].tolist(), dtype=pl.String).cast(label_dtype),
            "fold": ["test" if i % 5 == 0 else "training" for i in range(60)],
            "site": pl.Series(np.arange(60) % 3),
        }
    )
    frame.write_parquet(tmp_path / "f.parquet")
    found = Features.open(tmp_path / "f.parquet", embedding="b", label="species", split="fold", group="site")
    test = np.arange(60) % 5 == 0
    sites = np.arange(60) % 3
    expected = Features.from_arrays(
        (X[~test], NAMES[Y][~test]),
        test=(X[test], NAMES[Y][test]),
        groups={"train": sites[~test], "test": sites[test]},
    )
    assert found.classes == ("ant", "bee", "cat")
    assert found.groups == ("0", "1", "2")
    assert_same(found, expected)


def test_parquet_with_vectors_only(tmp_path: Path) -> None:
    pl.DataFrame({"emb": vectors(X, "array"), "id": range(60)}).write_parquet(tmp_path / "f.parquet")
    found = Features.open(tmp_path / "f.parquet", seed=2)
    assert found.task is None
    assert_same(found, Features.from_arrays(X, seed=2))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_parquet_with_one_column_for_each_neuron(tmp_path: Path, dtype: str) -> None:
    x = np.abs(np.round(X)).astype(dtype)
    frame = pl.DataFrame(x, schema=[f"f_{i}" for i in range(4)])
    frame.with_columns(label=pl.Series(NAMES[Y].tolist())).write_parquet(tmp_path / "f.parquet")
    assert_same(Features.open(tmp_path / "f.parquet"), Features.from_arrays((x, NAMES[Y])))
    odd = frame.with_columns(key=pl.Series(["k"] * 60), species=pl.Series(Y * 1.0))
    odd.write_parquet(tmp_path / "odd.parquet")
    with pytest.raises(InputError, match=r"odd\.parquet columns: found .*no numbers \('key'.*'f_\*'"):
        Features.open(tmp_path / "odd.parquet", label="species")
    found = Features.open(tmp_path / "odd.parquet", label="species", embedding="f_*")
    assert_same(found, Features.from_arrays((x, Y)))


def test_parquet_columns_of_two_kinds_are_not_guessed(tmp_path: Path) -> None:
    frame = pl.DataFrame(X, schema=list("abcd")).with_columns(id=pl.int_range(60))
    frame.write_parquet(tmp_path / "f.parquet")
    words = (
        r"4 columns of floats \('a'...\), 1 columns of integers \('id'...\); allowed: one column of vectors"
    )
    with pytest.raises(InputError, match=words):
        Features.open(tmp_path / "f.parquet")
    frame.with_columns(b=pl.when(pl.col("id") != 3).then("b")).write_parquet(tmp_path / "f.parquet")
    with pytest.raises(InputError, match="column 'b': found no value at row 3"):
        Features.open(tmp_path / "f.parquet", embedding="[abcd]")


def test_parquet_targets_and_whole_float_labels(tmp_path: Path) -> None:
    pl.DataFrame({"emb": vectors(X, "array"), "label": X[:, 0] * 2.5}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"emb": vectors(X, "array"), "label": Y * 1.0}).write_parquet(tmp_path / "b.parquet")
    assert Features.open(tmp_path / "a.parquet").task == "regression"
    assert Features.open(tmp_path / "b.parquet").classes == (0, 1, 2)
    assert Features.open(tmp_path / "b.parquet", task="regression").task == "regression"


def test_parquet_splits_of_one_meaning_are_one_split_or_refused(tmp_path: Path) -> None:
    splits = ["train"] * 30 + ["test"] * 10 + ["val"] * 10 + ["validation"] * 10
    frame = pl.DataFrame({"emb": vectors(X, "array"), "label": Y, "split": splits})
    frame.write_parquet(tmp_path / "f.parquet")
    try:
        found = Features.open(tmp_path / "f.parquet")
    except InputError as error:
        assert "val" in str(error)  # noqa: PT017  either of the two will do, losing rows will not
    else:
        np.testing.assert_array_equal(found.splits["validation"].x[:], X[40:60])


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("emb", "emb: found no value at row 17"),
        ("label", "label: found no value at row 17 .1 missing.; allowed: a value in every row; drop"),
        ("split", "split: found no value at row 17"),
        ("group", "group: found no value at row 17"),
    ],
)
@pytest.mark.parametrize("kind", ["array", "list"])
def test_parquet_nulls_are_refused(tmp_path: Path, kind: str, column: str, words: str) -> None:
    frame = pl.DataFrame(
        {
            "emb": vectors(X, kind),
            "label": NAMES[Y].tolist(),
            "split": ["train", "test"] * 30,
            "group": ["old", "new"] * 30,
        }
    )
    broken = frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 17).then(None).otherwise(pl.col(column)).alias(column)
    )
    assert broken[column].null_count() == 1
    broken.write_parquet(tmp_path / "f.parquet")
    with pytest.raises(InputError, match=rf"f\.parquet {words}"):
        Features.open(tmp_path / "f.parquet")


def test_parquet_vectors_of_several_lengths_are_refused(tmp_path: Path) -> None:
    frame = pl.DataFrame({"emb": [[1.0, 2.0]] * 9 + [[1.0]]})
    frame.write_parquet(tmp_path / "f.parquet")
    with pytest.raises(InputError, match=r"emb: found .*vectors of one length"):
        Features.open(tmp_path / "f.parquet")


def test_parquet_columns_that_are_not_there_or_not_vectors(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": vectors(X, "array"), "b": vectors(X, "list"), "label": Y})
    frame.write_parquet(tmp_path / "two.parquet")
    frame.select("label").write_parquet(tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"embedding column: found \['a', 'b'\].*name it with embedding="):
        Features.open(tmp_path / "two.parquet")
    with pytest.raises(
        InputError, match="columns: found no column; allowed: one column of vectors, or one column for"
    ):
        Features.open(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="label: found .*a vector in every row"):
        Features.open(tmp_path / "two.parquet", embedding="label")
    with pytest.raises(InputError, match="label column: found 'lable'.*did you mean 'label'"):
        Features.open(tmp_path / "two.parquet", embedding="a", label="lable")
    with pytest.raises(InputError, match="embedding column: found 'c'; allowed: a, b, label"):
        Features.open(tmp_path / "two.parquet", embedding="c")


def test_columns_are_for_parquet_only(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", X_train=X, y_train=Y)
    with pytest.raises(InputError, match=r"label: found 'y'; allowed: a column of a \.parquet file; f\.npz"):
        Features.open(tmp_path / "f.npz", label="y")


# Nothing is unpickled, nothing is guessed.


class Trap:
    """Unpickling this would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.mkdir, (self.path,))


def test_pickles_are_refused_and_never_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    traps = np.empty(60, dtype=object)
    traps[:] = [Trap(sprung) for _ in range(60)]
    np.savez(tmp_path / "f.npz", X_train=X, y_train=traps)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", traps)
    np.save(tmp_path / "X_traps.npy", traps[:, None])
    for name, guilty in (("f.npz", "f.npz"), ("X.npy", "y.npy")):
        with pytest.raises(InputError, match=f"{guilty}: .*save labels as numbers or text, not objects"):
            Features.open(tmp_path / name)
    with pytest.raises(InputError, match="objects"):
        Features.open(tmp_path / "X_traps.npy")
    assert not sprung.exists()


def test_bfloat16_is_refused_with_the_way_out(tmp_path: Path) -> None:
    header = json.dumps({"X_train": {"dtype": "BF16", "shape": [8, 2], "data_offsets": [0, 32]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(32)
    (tmp_path / "f.safetensors").write_bytes(content)
    with pytest.raises(StoreError, match=r"X_train: found 'BF16'; allowed: F16, F32.*convert it to float32"):
        Features.open(tmp_path / "f.safetensors")


def test_missing_files_and_unknown_suffixes(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"none\.npz'; allowed: a file or folder that exists; check the path"
    ):
        Features.open(tmp_path / "none.npz")
    (tmp_path / "f.csv").write_text("1,2")
    with pytest.raises(
        InputError, match=r"ending in \.npz, \.safetensors, \.npy, \.parquet; save the arrays"
    ):
        Features.open(tmp_path / "f.csv")


# Damage.


def save_small(path: Path) -> Path:
    x, y = np.arange(24.0).reshape(12, 2), np.arange(12) % 2
    if path.suffix == ".npy":
        np.save(path, x)
        np.save(path.with_name("y" + path.name[1:]), y)
    elif path.suffix == ".parquet":
        pl.DataFrame({"emb": vectors(x, "array"), "label": y}).write_parquet(path)
    else:
        save_arrays(path, {"X_train": x, "y_train": y})
    return path


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".parquet"])
def test_a_truncated_file_is_an_input_error_that_names_it(tmp_path: Path, suffix: str) -> None:
    path = save_small(tmp_path / f"X{suffix}")
    content = path.read_bytes()
    Features.open(path)
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(InputError) as caught:
            Features.open(path)
        assert path.name in str(caught.value)


def test_a_truncated_label_file_is_named_itself(tmp_path: Path) -> None:
    path = save_small(tmp_path / "X.npy")
    labels = tmp_path / "y.npy"
    labels.write_bytes(labels.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"y\.npy"):
        Features.open(path)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors"])
def test_a_flipped_bit_raises_nothing_but_an_input_error(tmp_path: Path, suffix: str) -> None:
    """These formats of others cannot show every flip; but what they cannot read is our clear error.

    Not .parquet: some flips make polars itself panic.
    """
    path = save_small(tmp_path / f"X{suffix}")
    content = path.read_bytes()
    refused = 0
    for position in range(0, len(content), 3):
        flip(path, position)
        try:
            Features.open(path)
        except InputError:
            refused += 1
        path.write_bytes(content)
    assert refused > 5


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".parquet"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello, world" * 20, b"PK\x03\x04" + bytes(60), b"{}"],
    ids=["empty", "text", "broken zip", "JSON"],
)
def test_a_file_of_another_kind_is_an_input_error(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"X{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"X\{suffix}"):
        Features.open(path)


def test_an_npy_array_named_npz_is_an_input_error(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", X)
    (tmp_path / "X.npy").rename(tmp_path / "X.npz")
    with pytest.raises(InputError, match=r"X\.npz"):
        Features.open(tmp_path / "X.npz")


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"X_train": []},
        {"X_train": {"dtype": "F32"}},
        {"X_train": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 999]}},
        {"X_train": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 16]}},
        {"X_train": {"dtype": "F32", "shape": [2, 2], "data_offsets": [-16, 0]}},
        {"X_train": {"dtype": "F64", "shape": [2, 2], "data_offsets": [0, 16]}},
        {"X_train": {"dtype": "F32", "shape": "ab", "data_offsets": [0, 16]}},
        {"X_train": {"dtype": ["F32"], "shape": [2, 2], "data_offsets": [0, 16]}},
    ],
)
def test_a_safetensors_header_that_makes_no_sense_is_an_input_error(tmp_path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "f.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(InputError, match=r"f\.safetensors"):
        Features.open(path)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".parquet"])
def test_what_has_no_end_is_not_read(tmp_path, suffix):
    pipe = tmp_path / f"X{suffix}"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="features: found a pipe or a device"):
        Features.open(pipe)
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(InputError):
        Features.open(tmp_path / f"folder{suffix}")


def test_a_parquet_file_that_makes_polars_panic_is_one_clear_error(tmp_path, monkeypatch):
    """A panic is no Exception. (Over some damaged files polars ends the process: nothing helps that.)"""
    path = tmp_path / "x.parquet"
    pl.DataFrame({"label": [0, 1], "f": [0.5, 1.5]}).write_parquet(path)

    def panic(*_: Any, **__: Any) -> None:
        raise pl.exceptions.PanicException("range end index 9 out of range")

    assert not issubclass(pl.exceptions.PanicException, Exception)
    monkeypatch.setattr(pl, "read_parquet", panic)
    with pytest.raises(InputError, match="x.parquet: found PanicException: range end .* a readable .parquet"):
        Features.open(path)


def npz_with(path, header_shape, data, compression=zipfile.ZIP_STORED, claimed=None):
    """Write a .npz file whose one array says another shape than it has, or whose member says another size."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f8", "fortran_order": False, "shape": header_shape})
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("X.npy", out.getvalue() + data)
    if claimed is not None:
        raw, size = path.read_bytes(), len(out.getvalue() + data)
        path.write_bytes(raw.replace(struct.pack("<I", size), struct.pack("<I", claimed)))


@pytest.mark.parametrize("shape", [(10**6, 10**6), (10**9, 3), (4, 4)])
def test_an_array_that_says_more_than_its_file_holds_is_refused_before_it_is_allocated(tmp_path, shape):
    npz_with(tmp_path / "a.npz", shape, bytes(8 * 12))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a\.npz: found X\.npy of \d+ bytes that has \d+"):
        Features.open(tmp_path / "a.npz")
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_a_member_that_says_more_than_compression_can_reach_is_refused(tmp_path):
    npz_with(tmp_path / "a.npz", (20, 500), bytes(8 * 10**4), zipfile.ZIP_DEFLATED, claimed=2**31)
    with pytest.raises(InputError, match=r"a\.npz: found X\.npy of 2147483648 bytes in \d+"):
        Features.open(tmp_path / "a.npz")


def test_an_archive_that_unpacks_to_more_than_memory_holds_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", X=np.zeros((4000, 250)), y=np.arange(4000) % 2)
    monkeypatch.setattr(readers, "available_memory", lambda: 2.0**22)
    with pytest.raises(
        InputError, match="GiB once it is unpacked; allowed: at most .* GiB, what memory is free"
    ):
        Features.open(tmp_path / "a.npz")
    assert available_memory() > 2.0**22


def test_a_file_that_would_end_the_process_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame({f"f_{i}": np.random.default_rng(i).normal(size=10) for i in range(4)})
    frame.write_parquet(path, compression="snappy")
    assert Features.open(path).n_neurons == 4
    raw = path.read_bytes()
    ten_values, minus_eleven = b"\x2c\x15\x14\x15", b"\x2c\x15\x15\x15"
    assert ten_values in raw
    path.write_bytes(raw.replace(ten_values, minus_eleven))
    with pytest.raises(InputError, match=r"a\.parquet: found .*; allowed: a readable \.parquet file"):
        Features.open(path)
