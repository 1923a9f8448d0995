"""What people hold in memory: what has one plain meaning is accepted; anything else is named."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import scipy.sparse
from helpers_data import blobs

from critmass.errors import InputError
from critmass.features.features import Features, validation

X, Y = blobs(60, 4)
WHOLE = np.round(X)
NAMES = np.array(["ant", "bee", "cat"])
TEXT = NAMES[Y].tolist()


def train_rows(x):
    return np.asarray(Features.from_arrays(x, test=x).splits["train"].x)


def train_labels(y):
    fs = Features.from_arrays((X, y), test=(X, y))
    return fs.classes, np.array(fs.classes)[fs.splits["train"].y].tolist()


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "bool", "int32", "uint32", "int64", "uint64"]
)
def test_integers_and_booleans_become_floats_that_equal_them(tmp_path, dtype):
    whole = np.abs(WHOLE) if dtype[0] in "ub" else WHOLE
    x = whole.astype(dtype)
    expected = "float32" if np.dtype(dtype).itemsize <= 2 else "float64"
    fs = Features.from_arrays((x, Y))
    assert fs.splits["train"].x.dtype == expected
    assert fs.fingerprint == Features.from_arrays((x.astype(expected), Y)).fingerprint
    extremes = np.array([[np.iinfo(dtype).min, np.iinfo(dtype).max]] if dtype != "bool" else [[0, 1]], dtype)
    if np.dtype(dtype).itemsize < 8:
        assert validation.matrix("X", extremes)[:].astype(dtype).tolist() == extremes.tolist()
    np.save(tmp_path / "X.npy", x)
    np.save(tmp_path / "y.npy", Y)
    assert Features.open(tmp_path / "X.npy").fingerprint == fs.fingerprint


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1])
def test_integers_that_no_float_holds_are_refused(value):
    x = np.zeros((9, 2), dtype=np.int64)
    x[3, 1] = value
    with pytest.raises(
        InputError, match=r"X: found integers to 9007199254740993; allowed: integers to 2\^53"
    ):
        Features.from_arrays(x).fingerprint  # noqa: B018


@pytest.mark.parametrize("form", ["csr_array", "csc_matrix", "coo_array", "lil_matrix"])
def test_sparse_rows_are_made_dense(form, monkeypatch):
    x = np.where(X > 0, X, 0)
    np.testing.assert_array_equal(train_rows(getattr(scipy.sparse, form)(x)), x)
    monkeypatch.setattr(validation, "DENSE_BYTES", X.nbytes - 1)
    with pytest.raises(
        InputError, match="X of 'train': found a sparse matrix of .* GiB once it is dense; allowed"
    ):
        train_rows(getattr(scipy.sparse, form)(x))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "int8"])
def test_tensors_are_arrays(dtype):
    torch = pytest.importorskip("torch")
    x = torch.tensor(WHOLE, dtype=getattr(torch, dtype), requires_grad=dtype == "float32")
    np.testing.assert_array_equal(train_rows(x), x.detach().to(torch.float64).numpy())
    assert train_labels(torch.from_numpy(Y)) == ((0, 1, 2), Y.tolist())


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int8", "bool"])
@pytest.mark.parametrize("library", ["pandas", "pandas nullable", "polars", "pyarrow"])
def test_tables_of_numbers_are_rows(library, dtype):
    x = WHOLE.astype(dtype)
    name, _, kind = library.partition(" ")
    module = pytest.importorskip(name)
    columns = {f"f{i}": x[:, i] for i in range(4)}
    frame = getattr(module, {"pyarrow": "table"}.get(name, "DataFrame"))(columns)
    frame = frame.convert_dtypes() if kind else frame
    np.testing.assert_array_equal(train_rows(frame), x)
    holes = [None, *columns["f2"].tolist()[1:]]
    broken = getattr(module, {"pyarrow": "table"}.get(name, "DataFrame"))({**columns, "f2": holes})
    if name != "pandas":
        with pytest.raises(InputError, match="X of 'train', column 'f2': found no value at row 0"):
            train_rows(broken)
    elif kind:
        with pytest.raises(InputError, match="X of 'train', column 'f2': found no value at row 0"):
            train_rows(broken.convert_dtypes())
    wrong = getattr(module, {"pyarrow": "table"}.get(name, "DataFrame"))({**columns, "id": TEXT})
    with pytest.raises(
        InputError, match="X of 'train', column 'id': found .*a column of numbers for each neuron"
    ):
        train_rows(wrong)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_column_of_vectors_is_rows(library):
    module = pytest.importorskip(library)
    build = getattr(module, {"pyarrow": "array"}.get(library, "Series"))
    np.testing.assert_array_equal(train_rows(build(X.tolist())), X)
    with pytest.raises(InputError, match="X of 'train': found .*vectors of one length"):
        train_rows(build([*X.tolist()[:-1], [1.0]]))


def text_columns():
    yield "object", lambda: np.array(TEXT, dtype=object)
    yield "NumPy's own", lambda: np.array(TEXT, dtype=np.dtypes.StringDType())
    yield "UTF-8", lambda: np.array([name.encode() for name in TEXT])
    for dtype in (pl.String, pl.Categorical, pl.Enum(NAMES.tolist())):
        yield f"polars {dtype}", lambda dtype=dtype: pl.Series(TEXT, dtype=dtype)
    for dtype in ("object", "str", "string", "category"):
        yield f"pandas {dtype}", lambda dtype=dtype: pytest.importorskip("pandas").Series(TEXT, dtype=dtype)
    yield "pandas Categorical", lambda: pytest.importorskip("pandas").Categorical(TEXT)
    yield "pyarrow", lambda: pytest.importorskip("pyarrow").array(TEXT)
    yield "pyarrow dictionary", lambda: pytest.importorskip("pyarrow").array(TEXT).dictionary_encode()


@pytest.mark.parametrize("build", [pytest.param(build, id=name) for name, build in text_columns()])
def test_text_and_categories_are_classes(build):
    assert train_labels(build()) == (("ant", "bee", "cat"), TEXT)
    groups = Features.from_arrays((X, Y), test=(X, Y), groups={"test": build()})
    assert groups.groups == ("ant", "bee", "cat")


def number_columns():
    yield "object", lambda: Y.astype(object)
    yield "polars", lambda: pl.Series(Y)
    for dtype in ("int64", "Int64", "category", "int8"):
        yield f"pandas {dtype}", lambda dtype=dtype: pytest.importorskip("pandas").Series(Y).astype(dtype)
    yield "pyarrow", lambda: pytest.importorskip("pyarrow").array(Y)


@pytest.mark.parametrize("build", [pytest.param(build, id=name) for name, build in number_columns()])
def test_numbers_are_classes(build):
    assert train_labels(build()) == ((0, 1, 2), Y.tolist())


def holes():
    numbers, text = [*Y.tolist()[:7], None, *Y.tolist()[8:]], [*TEXT[:7], None, *TEXT[8:]]
    for values in (numbers, text):
        yield lambda values=values: np.array(values, dtype=object)
        yield lambda values=values: pl.Series(values)
        yield lambda values=values: pytest.importorskip("pandas").Series(values).convert_dtypes()
        yield lambda values=values: pytest.importorskip("pandas").Series(values, dtype="category")
        yield lambda values=values: pytest.importorskip("pyarrow").array(values)
    yield lambda: np.ma.MaskedArray(Y, mask=np.arange(60) == 7)


@pytest.mark.parametrize("build", list(holes()))
def test_a_missing_label_is_named_by_its_row(build):
    with pytest.raises(
        InputError, match="labels of 'train': found no value at row 7 .1 missing.; allowed: a value"
    ):
        Features.from_arrays((X, build()))


def test_rows_that_are_masked_are_named():
    masked = np.ma.MaskedArray(X, mask=np.arange(60)[:, None] + 0 * X == 9)
    with pytest.raises(InputError, match="X of 'train': found no value at row 9"):
        train_rows(masked)
    np.testing.assert_array_equal(train_rows(np.ma.MaskedArray(X)), X)


@pytest.mark.parametrize("module", ["pandas", "pyarrow", "torch"])
def test_no_library_is_loaded_to_look_at_arrays(module):
    code = (
        "import sys, numpy as np, critmass as cm;"
        "cm.Features.from_arrays((np.zeros((9, 2)), list('ababababa'))).fingerprint;"
        f"sys.exit({module!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1e19, 2e19),
        (2.0**53, 2.0**53 + 2),
        (np.uint64(2**63), np.uint64(2**64 - 1)),
        (np.uint64(5), np.uint64(2**64 - 1)),
        (2**63, 1),
        (2**63, -1),
        (2**64, 1),
        (10**30, 10**30 + 1),
        (10**400, 1),
        (10**400, 0.5),
        (np.longdouble(2) ** 63, np.longdouble(2) ** 63 + 1),
        ("a", "a\0"),
    ],
)
@pytest.mark.parametrize("make", [list, np.array, lambda y: np.array(y, dtype=object), pl.Series])
def test_labels_that_would_become_one_class_are_refused(one, other, make):
    try:
        y = make([one, other] * 30)
    except (TypeError, ValueError, OverflowError):
        pytest.skip("no such column")
    if len(set(y)) == 1:
        pytest.skip("one label before it is ours")
    with pytest.raises(InputError, match="labels of 'train': found"):
        Features.from_arrays((X, y))


@pytest.mark.parametrize("values", [[2**63, 2**64 - 1], [2**100, 2**100 + 1]])
def test_wide_integers_of_polars_are_refused_as_labels(values):
    dtype = pl.UInt64 if values[0] < 2**64 else pl.Int128
    with pytest.raises(InputError, match="labels of 'train': found"):
        Features.from_arrays((X, pl.Series(values * 30, dtype=dtype)))


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), np.uint64(2**63 - 1), 2.0**53 - 1])
def test_labels_up_to_the_widest_keep_their_value(value):
    classes, _ = train_labels(np.array([value, 7] * 30, dtype=np.asarray(value).dtype))
    assert set(classes) == {7, int(value)}


def object_rows(rows):
    out = np.empty(len(rows), dtype=object)
    for index, row in enumerate(rows):
        out[index] = row
    return out


@pytest.mark.parametrize("form", [lambda x: x, list, object_rows])
def test_masked_arrays_are_refused_where_a_value_is_masked(form):
    whole, holed = np.ma.array(X), np.ma.array(X, mask=X[7, 2] == X)
    assert np.array_equal(train_rows(form(whole)), X)
    with pytest.raises(InputError, match=r"X of 'train': found no value at row 7 \(1 missing\)"):
        Features.from_arrays(form(holed))
    with pytest.raises(InputError, match=r"X of 'train\.view1': found no value at row 7"):
        Features.from_arrays(X, views=[form(holed)])
    labels = np.ma.array(Y, mask=np.arange(len(Y)) == 5)
    with pytest.raises(InputError, match=r"labels of 'train': found (no value|nan) at row 5"):
        Features.from_arrays((X, form(labels)))


@pytest.mark.parametrize("name", ["train.view1", "train.view7", "Train.View1"])
def test_a_split_is_not_called_as_views_are(name, tmp_path):
    with pytest.raises(InputError, match=f"tests: found '{name}'; allowed: names other than train.view1"):
        Features.from_arrays((X, Y), tests={name: (X, Y)})
    np.savez(tmp_path / "gap.npz", X_train=X, **{"X_train.view2": X})
    with pytest.raises(InputError, match=r"splits: found 'train.view2'; .*counted from 1, without a gap"):
        Features.open(tmp_path / "gap.npz")


def test_splits_that_some_systems_take_for_one_another_are_not_stored(tmp_path):
    fs = Features.from_arrays((X, Y), tests={"Far": (X, Y), "far": (X, Y)})
    with pytest.raises(InputError, match="split names: found 'Far' and 'far'"):
        fs.save(tmp_path / "store")


def test_rows_of_integers_wider_than_numpy_has_are_refused():
    wide = pl.Series([2**100] * 60, dtype=pl.Int128)
    with pytest.raises(InputError, match="X of 'train': found cannot convert i128"):
        Features.from_arrays(pl.DataFrame({"a": wide, "b": wide}))
