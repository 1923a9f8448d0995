"""Files that people already have -> named arrays: .npz, .safetensors, .npy pairs, .parquet.

ParallelMap reader returns the raw content split by split and judges none of it; features.py does. Nothing is
unpickled. Arrays are memory-mapped where the format allows (.npy, .safetensors).
"""

from __future__ import annotations

import fnmatch
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from critmass.errors import InputError, unknown, verbatim
from critmass.features import validation
from critmass.io.tensors import map_tensors
from critmass.linalg.devices import available_memory

SUFFIXES = (".npz", ".safetensors", ".npy", ".parquet")
DEFLATED = 1100
"""No byte of a .npz file becomes more bytes than this: deflate reaches 1,032."""

SPLIT_NAMES = {
    **{name: name for name in ("train", "validation", "test")},
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
}


@dataclass
class Raw:
    """Per split: rows, labels or targets, groups, weights, as they came."""

    x: dict[str, Any] = field(default_factory=dict)
    y: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)


def read(path: Path, *, columns: Mapping[str, str | None]) -> Raw:
    """Read `path` by its suffix. `columns` names the parquet columns (embedding, label, split, group)."""
    _require_file(path, "features", "a file or folder that exists")
    if path.suffix not in SUFFIXES:
        raise InputError(
            "features",
            str(path),
            f"a store folder or a file ending in {', '.join(SUFFIXES)}",
            "save the arrays with numpy.savez(path, X_train=..., y_train=...)",
        )
    if path.suffix == ".npz":
        return _by_key(path, _parsed(path, _npz))
    if path.suffix == ".safetensors":
        return _by_key(path, map_tensors(path))
    if path.suffix == ".npy":
        return _pair(path)
    return _parquet(path, _parsed(path, _frame), columns)


def load_npy(path: Path, name: str) -> NDArray[Any]:
    """Return the array of a .npy file, memory-mapped, or raise InputError naming the file."""
    _require_file(path, name, "a file that exists")
    array: NDArray[Any] = _parsed(path, lambda p: np.lib.format.open_memmap(p, mode="r"))
    return array


def _require_file(path: Path, name: str, allowed: str) -> None:
    """Raise InputError unless there is a file to read to its end: a pipe or a device may have none."""
    if not os.path.exists(path):
        raise InputError(name, str(path), allowed, "check the path")
    if path.suffix in SUFFIXES and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        raise InputError(name, verbatim(f"{kind}, {path}"), "a file", "check the path")


def _parsed(path: Path, parse: Callable[[Path], Any]) -> Any:
    """Return what a library makes of a file; whatever it raises is the file's fault, and says so."""
    try:
        return parse(path)
    except InputError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # a panic of polars is no Exception
        if isinstance(error, MemoryError):
            found = verbatim(f"more than memory holds ({error})")
            raise InputError(str(path), found, "a file that fits", "give the process more memory") from None
        objects = "pickle" in str(error) or "Python objects" in str(error)
        hint = "save labels as numbers or text, not objects" if objects else "write the file again"
        raise InputError(
            str(path), verbatim(f"{type(error).__name__}: {error}"), f"a readable {path.suffix} file", hint
        ) from error


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        _require_sizes(path, archive.zip)
        return {key: archive[key] for key in archive.files}


def _frame(path: Path) -> pl.DataFrame:
    """Return the table of a .parquet file, which another process has read before.

    Of some damaged files (a page that says to hold a negative number of values) polars asks for so much
    memory that its allocator ends the process, whatever Python would catch.
    """
    pl.read_parquet_schema(path)  # what is wrong at the end of the file is found at once, and without harm
    tried = subprocess.run(  # noqa: S603
        [sys.executable, "-c", "import sys, polars; polars.read_parquet(sys.argv[1])", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if tried.returncode not in (0, 1):  # 1 is an exception, which says more when it is raised here
        found = verbatim(f"content that ends the process that reads it (exit code {tried.returncode})")
        raise InputError(
            str(path), found, "a readable .parquet file that memory holds", "write the file again"
        )
    return pl.read_parquet(path)


def _require_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise InputError, before any is allocated, for arrays larger than their file says or memory holds."""
    members = archive.infolist()
    for member in members:
        size = member.file_size
        if size > DEFLATED * (member.compress_size + 1):
            found = f"{member.filename} of {size} bytes in {member.compress_size}"
            raise InputError(
                str(path), verbatim(found), "sizes that compression can reach", "write the file again"
            )
        with archive.open(member) as stream:
            if (declared := _declared_bytes(stream)) > size:
                found = f"{member.filename} of {declared} bytes that has {size}"
                raise InputError(
                    str(path), verbatim(found), "arrays as large as they say", "write the file again"
                )
    total, available = sum(member.file_size for member in members), available_memory()
    if total > available:
        found = f"{total / 2**30:.3g} GiB once it is unpacked"
        advice = "save X.npy and y.npy, or .safetensors: these are read a block at a time"
        raise InputError(
            str(path), verbatim(found), f"at most {available / 2**30:.3g} GiB, what memory is free", advice
        )


def _declared_bytes(stream: IO[bytes]) -> int:
    """Return the bytes that a .npy file has by its header; 0 for what is no .npy file."""
    try:
        version = np.lib.format.read_magic(stream)
    except ValueError:
        return 0
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:  # pickled, of any size: refused when it is read
        return 0
    return stream.tell() + math.prod(shape) * int(dtype.itemsize)


def _by_key(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Raw:
    raw = Raw()
    homes: dict[str, dict[str, Any]] = {"X": raw.x, "y": raw.y, "groups": raw.groups, "weights": raw.weights}
    for key, value in arrays.items():
        kind, underscore, split = key.partition("_")
        kind = {"x": "X", "Y": "y"}.get(kind, kind)
        if kind not in homes or (underscore and not split):
            raise unknown(
                f"{path.name} key", key, ["X", "y", "X_train", "y_train", "X_test", "y_test", "groups_test"]
            )
        split = SPLIT_NAMES.get(split.lower(), split) if underscore else "train"
        if split in homes[kind]:
            raise InputError(
                f"{path.name} key", key, f"one key for {kind} of {split!r}", "rename one of them"
            )
        homes[kind][split] = value
    return raw


def _pair(path: Path) -> Raw:
    raw = Raw(x={"train": load_npy(path, "features")})
    labels = path.with_name("y" + path.name[1:])
    if path.name.startswith("X") and labels.exists():
        raw.y["train"] = load_npy(labels, "labels")
    return raw


def _parquet(path: Path, frame: pl.DataFrame, columns: Mapping[str, str | None]) -> Raw:
    names = {role: _column(path, frame, role, columns.get(role)) for role in ("label", "split", "group")}
    vectors = _vectors(path, frame, columns.get("embedding"), names.values())
    if names["split"] is None:
        rows = {"train": np.arange(len(frame))}
    else:
        splits = [str(name) for name in _values(path, frame, names["split"]).tolist()]
        splits = [SPLIT_NAMES.get(name.lower(), name) for name in splits]
        rows = {name: np.flatnonzero(np.array(splits) == name) for name in dict.fromkeys(splits)}
    raw = Raw()
    for split, index in rows.items():
        raw.x[split] = vectors[index]
        for role, home in (("label", raw.y), ("group", raw.groups)):
            if (name := names[role]) is not None:
                home[split] = _values(path, frame, name)[index]
    return raw


def _column(path: Path, frame: pl.DataFrame, role: str, asked: str | None) -> str | None:
    if asked is not None and asked not in frame.columns:
        raise unknown(f"{path.name} {role} column", asked, frame.columns)
    return asked if asked is not None else (role if role in frame.columns else None)


def _vectors(
    path: Path, frame: pl.DataFrame, asked: str | None, taken: Collection[str | None]
) -> NDArray[Any]:
    """Return the rows: of one column of vectors, or of one column of numbers for each neuron."""
    schema = {name: dtype for name, dtype in frame.schema.items() if name not in taken}
    nested = [name for name, dtype in schema.items() if isinstance(dtype, pl.Array | pl.List)]
    if asked is not None and asked not in frame.columns:
        chosen = fnmatch.filter(schema, asked)
        if not chosen:
            raise unknown(f"{path.name} embedding column", asked, frame.columns)
        return validation.table(path.name, frame.select(chosen))
    if asked is None and not nested:
        return validation.table(path.name, frame.select(_neurons(path, schema)))
    if asked is None and len(nested) != 1:
        raise InputError(
            f"{path.name} embedding column", nested, "one column of vectors", "name it with embedding="
        )
    series = frame[asked or nested[0]]
    if not isinstance(series.dtype, pl.Array | pl.List):
        raise InputError(
            f"{path.name} {series.name}", verbatim(str(series.dtype)), "a vector in every row", "name another"
        )
    return validation.vectors(f"{path.name} {series.name}", series)


def _neurons(path: Path, schema: Mapping[str, pl.DataType]) -> list[str]:
    """Return the columns that are neurons where none is named: all that are left, if they are of one kind."""
    kinds: dict[str, list[str]] = {"floats": [], "integers": [], "no numbers": []}
    for name, dtype in schema.items():
        whole = dtype.is_integer() or dtype == pl.Boolean
        kinds["floats" if dtype.is_float() else "integers" if whole else "no numbers"].append(name)
    found = {kind: names for kind, names in kinds.items() if names}
    if len(found) != 1 or kinds["no numbers"]:
        shown = ", ".join(
            f"{len(names)} columns of {kind} ({names[0]!r}...)" for kind, names in found.items()
        )
        raise InputError(
            f"{path.name} columns",
            verbatim(shown or "no column"),
            "one column of vectors, or one column for each neuron, all floats or all integers",
            "name the label with label= and the neurons with embedding=, which may be a glob such as 'f_*'",
        )
    (names,) = found.values()
    return names


def _values(path: Path, frame: pl.DataFrame, name: str) -> NDArray[Any]:
    return validation.column(f"{path.name} {name}", frame[name])
