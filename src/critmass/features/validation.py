"""What people hold in memory -> arrays: rows of floats; labels, groups and weights of one kind.

What has one plain meaning is accepted, by what it offers and not by the library it is of: arrays, tensors,
sparse matrices, tables of numbers, text, categories. Everything else is one error that names what was found.
Rows are not read to be checked; a missing label is found here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from critmass.errors import InputError, verbatim
from critmass.linalg.matrices import AsFloats, Matrix, RowReader

DENSE_BYTES = 4 * 2**30
"""A sparse matrix that needs no more than this is made dense."""


def matrix(name: str, value: Any) -> Matrix:
    """Return rows by neurons as floats: what is float already is not copied, and stays where it is.

    Integers of 8 and 16 bits and booleans become float32, which holds them all; wider ones float64. They are
    converted as they are read.

    Raises
    ------
    InputError
        Calling it `name`, for what is no matrix of numbers.
    """
    if isinstance(value, RowReader):
        return value
    found = _dense(name, value)
    if not isinstance(getattr(found, "dtype", None), np.dtype):
        found = _asarray(name, found)
    if found.dtype == object and len(found.shape) == 1 and len(found):
        found = _stacked(name, found)
    return AsFloats(found) if found.dtype.kind in "biu" else found


def column(name: str, value: Any) -> NDArray[Any]:
    """Return one value for each row: numbers, booleans or text.

    Raises
    ------
    InputError
        Calling it `name`, for a missing value, naming its row, and for values of no one kind.
    """
    value = _polars(value)
    _require_unmasked(name, value)
    if isinstance(value, list | tuple):
        _require_endings(name, value)
    if isinstance(value, pl.Series):
        _require_whole(name, value.is_null().to_numpy())
        if value.dtype in (pl.Categorical, pl.Enum):
            value = value.cast(pl.String)
        if value.dtype == pl.String:
            _require_endings(name, value)
    elif hasattr(value, "isna"):  # pandas
        _require_whole(name, np.asarray(value.isna()))
    elif isinstance(value, np.ma.MaskedArray):
        _require_whole(name, np.ma.getmaskarray(value))
    found = np.asarray(_asarray(name, value))
    if found.dtype.kind == "T":  # NumPy's text of any length
        found = found.astype(object)
    if found.dtype.kind == "S":
        try:
            found = np.char.decode(found, "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                name, verbatim(f"bytes that are no UTF-8 ({error})"), "text or numbers"
            ) from None
    return _of_objects(name, found) if found.dtype == object else found


def _require_unmasked(name: str, value: Any) -> None:
    """Raise InputError for a sequence that has NumPy's masked arrays, where one of them masks a value."""
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        masked = [isinstance(each, np.ma.MaskedArray) and np.ma.getmaskarray(each).any() for each in value]
        _require_whole(name, np.array(masked))


def _asarray(name: str, value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):  # torch
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    try:
        return value if type(value) in (np.ndarray, np.memmap) else np.asarray(value)
    except (ValueError, TypeError, RuntimeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise InputError(name, verbatim(str(error)), "an array") from error


def _polars(value: Any) -> Any:
    """Return Arrow's tables and columns as polars'."""
    return pl.from_arrow(value) if type(value).__module__.split(".")[0] == "pyarrow" else value


def _dense(name: str, value: Any) -> Any:
    """Return tables and sparse matrices as arrays, and anything else as it is."""
    value = _polars(value)
    _require_unmasked(name, value)
    if isinstance(value, pl.Series):
        return vectors(name, value)
    if isinstance(value, pl.DataFrame):
        return table(name, value)
    if hasattr(value, "iloc") and hasattr(value, "columns"):  # pandas
        return _pandas_table(name, value)
    if hasattr(value, "toarray") and hasattr(value, "nnz"):  # SciPy's sparse arrays and matrices
        needed = float(np.prod(value.shape)) * value.dtype.itemsize
        if needed > DENSE_BYTES:
            raise InputError(
                name,
                verbatim(f"a sparse matrix of {needed / 2**30:.3g} GiB once it is dense"),
                f"at most {DENSE_BYTES / 2**30:.3g} GiB",
                "take fewer rows or columns, or write it to X.npy in pieces and open that file",
            )
        return value.toarray()
    if isinstance(value, np.ma.MaskedArray):
        _require_whole(name, np.asarray(np.ma.getmaskarray(value).reshape(len(value), -1).any(axis=1)))
        return value.data
    return value


def table(name: str, frame: pl.DataFrame) -> NDArray[Any]:
    """Return a table of numbers, one column for each neuron, as an array."""
    for series in frame:
        if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
            raise InputError(
                f"{name}, column {series.name!r}",
                verbatim(str(series.dtype)),
                "a column of numbers for each neuron",
                "leave out what is no neuron",
            )
        _require_whole(f"{name}, column {series.name!r}", series.is_null().to_numpy())
    return _asarray(name, frame)


def vectors(name: str, series: pl.Series) -> NDArray[Any]:
    """Return a column of vectors, all of one length, as an array."""
    _require_whole(name, series.is_null().to_numpy())
    if isinstance(series.dtype, pl.List):
        lengths = series.list.len().unique().to_list()
        if len(lengths) != 1:
            raise InputError(name, lengths[:5], "vectors of one length", "repair these rows")
        series = series.list.to_array(lengths[0])
    if isinstance(series.dtype, pl.Array) and series.explode().null_count():
        within = series.arr.to_list().list.eval(pl.element().is_null().any()).list.first()
        _require_whole(name, within.to_numpy())
    return _asarray(name, series)


def _pandas_table(name: str, frame: Any) -> NDArray[Any]:
    whole = frame.to_numpy()
    if whole.dtype.kind in "fiub":
        return np.asarray(whole)
    # Each column by itself: of several types, or of one that knows missing values.
    columns = []
    for number, label in enumerate(frame.columns):
        series = frame.iloc[:, number]
        found = column(f"{name}, column {str(label)!r}", series)
        if found.dtype.kind not in "fiub":
            raise InputError(
                f"{name}, column {str(label)!r}",
                verbatim(str(series.dtype)),
                "a column of numbers for each neuron",
                "leave out what is no neuron",
            )
        columns.append(found)
    return np.column_stack(columns) if columns else whole


def _stacked(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return a column whose every value is a vector as a matrix; anything else as it is."""
    lengths = {len(value) if isinstance(value, list | tuple | np.ndarray) else -1 for value in values}
    if -1 in lengths:
        return values
    if len(lengths) > 1:
        raise InputError(name, sorted(lengths)[:5], "vectors of one length", "repair these rows")
    return _asarray(name, values.tolist())


def _of_objects(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return Python's values as an array of their one kind."""
    flat = values.ravel().tolist()
    _require_whole(name, np.array([_missing(value) for value in flat], dtype=bool))
    for kinds, dtype in (
        ((str,), np.str_),
        ((bool, np.bool_), np.bool_),
        ((int, np.integer), np.int64),
        ((int, np.integer, float, np.floating), np.float64),
    ):
        no_number = dtype not in (np.str_, np.bool_)
        if all(isinstance(v, kinds) and not (no_number and isinstance(v, bool)) for v in flat):
            _require_endings(name, flat)
            try:
                return np.array(flat, dtype=dtype).reshape(values.shape)
            except OverflowError:
                most = verbatim(str(max(flat, key=abs)))
                raise InputError(name, most, "numbers of 64 bits", "give labels as text") from None
    found = ", ".join(sorted({type(value).__name__.rstrip("_") for value in flat}))
    raise InputError(name, verbatim(f"dtype object ({found})"), "numbers or text, of one kind")


def _require_endings(name: str, values: Iterable[Any]) -> None:
    """Raise InputError for text that ends in the null character, which NumPy's text leaves out."""
    for value in values:
        if isinstance(value, str) and value.endswith("\0"):
            raise InputError(name, value, "text that does not end in a null character", "rename it")


def _missing(value: Any) -> bool:
    nan = isinstance(value, float | np.floating) and bool(np.isnan(value))
    return value is None or nan or type(value).__name__ in ("NAType", "NaTType")  # pandas' own


def _require_whole(name: str, missing: NDArray[Any]) -> None:
    """Raise InputError naming the first row whose value is missing."""
    rows = np.flatnonzero(missing)
    if len(rows):
        raise InputError(
            name,
            verbatim(f"no value at row {rows[0]} ({len(rows)} missing)"),
            "a value in every row",
            "drop or fill these rows",
        )
