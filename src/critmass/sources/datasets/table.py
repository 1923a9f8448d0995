"""Texts in a .csv, or in a .jsonl of one object a line, with their labels.

``csv:banking77_*.csv`` takes one file a split, * being its name (train, val, test, ...); a single file may
have a column "split", and is "train" throughout where it has none. Columns are named by the request
(text, label, group, split; "" for none), or have usual names. Files are UTF-8.
"""

from __future__ import annotations

import csv
import functools
import glob
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from critmass.errors import InputError, verbatim
from critmass.features.readers import SPLIT_NAMES
from critmass.io.files import sha256
from critmass.linalg.matrices import Indices
from critmass.sources.datasets.columns import check_roles, choose, label_values, missing
from critmass.sources.protocols import BadSampleError, Dataset, DatasetRequest, Kind, Samples

SUFFIXES = (".csv", ".jsonl")
ROLES = ("text", "label", "group", "split")
Columns = dict[str, Sequence[Any]]


def _load(prefix: str, rest: str, request: DatasetRequest) -> Dataset:
    """Return the dataset in the file, or files, `rest`."""
    check_roles(request.columns, ROLES)
    return Table(f"{prefix}:{Path(rest).name}", _files(rest, f"{prefix}:{rest}"), request.columns)


csv_files, jsonl_files = functools.partial(_load, "csv"), functools.partial(_load, "jsonl")


@dataclass(frozen=True)
class Table:
    """Texts in files; `files` by split, or one file under ""; `name` as asked for, without the folder."""

    name: str
    files: Mapping[str, Path]
    columns: Mapping[str, str]
    kind: Kind = "text"

    def describe(self) -> dict[str, Any]:
        """Return the files' hashes, and the column of each role."""
        columns = {role: column for role, column in self._roles.items() if column is not None}
        return {
            "name": self.name,
            "sha256": {split or "all": sha256(path) for split, path in self.files.items()},
            "columns": columns,
        }

    def splits(self) -> Mapping[str, Samples]:
        """Return every split."""
        if "" not in self.files:
            return {file: self._samples(file, None) for file in self.files}
        column = self._roles["split"]
        if column is None:
            return {"train": self._samples("", None)}
        own = ["" if value is None else str(value) for value in self._tables[""][column]]
        if "" in own:
            where = f"{self.files[''].name}, row {own.index('') + 1}"
            raise InputError(where, verbatim("no split"), "a split in every row")
        splits = np.array([SPLIT_NAMES.get(value.lower(), value) for value in own])
        found = dict.fromkeys(splits.tolist())
        return {split: self._samples("", np.flatnonzero(splits == split)) for split in found}

    def _samples(self, file: str, rows: Indices | None) -> Samples:
        """Return these rows of a file, or all of them."""
        table, roles, labels = self._tables[file], self._roles, self._labels
        texts = table[str(roles["text"])]
        rows = np.arange(len(texts)) if rows is None else rows
        names = [f"{self.files[file].name}, row {row + 1}" for row in rows.tolist()]
        groups = None if roles["group"] is None else table[roles["group"]]
        return Samples(
            names,
            functools.partial(_text, [texts[row] for row in rows.tolist()], names),
            None if labels is None else labels[file][rows],
            None if groups is None else np.array([str(groups[row]) for row in rows.tolist()]),
        )

    @functools.cached_property
    def _labels(self) -> dict[str, NDArray[Any]] | None:
        """Labels by file; of one kind, whatever the number of files."""
        column = self._roles["label"]
        if column is None:
            return None
        values = {file: table[column] for file, table in self._tables.items()}
        where = [f"{self.files[file].name}, row {r + 1}" for file, v in values.items() for r in range(len(v))]
        labels = label_values([value for each in values.values() for value in each], where)
        ends = np.cumsum([len(each) for each in values.values()])
        return dict(zip(values, np.split(labels, ends[:-1]), strict=True))

    @functools.cached_property
    def _tables(self) -> dict[str, Columns]:
        tables = {split: _read(path) for split, path in self.files.items()}
        first = next(iter(tables.values()))
        for split, table in tables.items():
            if list(table) != list(first):
                raise InputError(
                    self.files[split].name, list(table), f"the columns of the others: {', '.join(first)}"
                )
        return tables

    @functools.cached_property
    def _roles(self) -> dict[str, str | None]:
        columns, name = list(next(iter(self._tables.values()))), next(iter(self.files.values())).name
        found = {role: choose(role, columns, self.columns, name) for role in ROLES}
        if found["text"] is None:
            raise missing("text", [], columns, name)
        left = [column for column in columns if column not in found.values()]
        if found["label"] is None and "label" not in self.columns and left:
            raise missing("label", [], columns, name)
        return found


def _files(rest: str, name: str) -> dict[str, Path]:
    before, star, after = str(Path(rest).expanduser()).partition("*")
    known = rest.lower().endswith(SUFFIXES)
    if not star:
        if not known or not Path(before).is_file():
            raise InputError("dataset", name, "a .csv or .jsonl file that exists", "check the path")
        return {"": Path(before)}
    found = sorted(set(glob.glob(f"{glob.escape(before)}*{glob.escape(after)}")) - {before + after})
    if "*" in after or not known or not found:
        raise InputError(
            "dataset", name, "files that exist, called alike but for one *", "check the path; quote the *"
        )
    files: dict[str, Path] = {}
    for path in found:
        own = path[len(before) : len(path) - len(after)]
        split = SPLIT_NAMES.get(own.lower(), own)
        if split in files:
            raise InputError("dataset", name, "one file a split", f"two files are called {split!r}")
        files[split] = Path(path)
    return files


def _read(path: Path) -> Columns:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path.name}, line {line}",
            verbatim(f"byte {data[error.start]:#04x}, which is not UTF-8"),
            "text in UTF-8",
            "convert the file",
        ) from error
    table = (_csv if path.suffix.lower() == ".csv" else _jsonl)(text, path.name)
    if not table or not len(next(iter(table.values()))):
        raise InputError(path.name, verbatim("no rows"), "a row at least")
    return table


def _csv(text: str, name: str) -> Columns:
    text = text.rstrip("\r\n")
    try:
        header = next(csv.reader(io.StringIO(text, newline="")), [])
    except csv.Error as error:
        raise InputError(f"{name} header", verbatim(str(error)), "names of columns") from error
    if len(set(header)) < len(header):
        raise InputError(f"{name} header", header, "a name of its own for every column")
    if not header:
        return {}
    try:
        frame = pl.read_csv(text.encode(), infer_schema=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        found = verbatim(str(error).partition("\n")[0])
        raise _ragged(text, name) or InputError(
            name, found, "a .csv of rows as long as its header"
        ) from error
    # Polars fills short rows with nulls, as it does empty fields.
    if len(frame) and frame[:, -1].null_count() and (ragged := _ragged(text, name)) is not None:
        raise ragged
    return {column: frame[column].to_list() for column in frame.columns}


def _ragged(text: str, name: str) -> InputError | None:
    """Return the error for the first row that is shorter or longer than the header, or badly quoted."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    width = 0
    try:
        for row, fields in enumerate(reader):
            width = width or len(fields)
            if len(fields) != width and (fields or width > 1):
                where, allowed = f"{name}, row {row} (line {reader.line_num})", f"{width}, as in the header"
                advice = "put quotes around fields with commas"
                return InputError(where, verbatim(f"{len(fields)} fields"), allowed, advice)
    except csv.Error as error:
        if "field limit" not in str(error):
            where = f"{name}, line {reader.line_num}"
            return InputError(where, verbatim(str(error)), "quotes that are closed, and doubled inside")
    return None


def _jsonl(text: str, name: str) -> Columns:
    rows: list[dict[str, Any]] = []
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{name}, line {number}", verbatim(str(error)), "one JSON object a line"
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{name}, line {number}", row, "one JSON object a line")
        rows.append(row)
    columns = dict.fromkeys(key for row in rows for key in row)
    return {column: [row.get(column) for row in rows] for column in columns}


def _text(texts: Sequence[Any], names: Sequence[str], index: int) -> str:
    text = texts[index]
    if not isinstance(text, str) or not text.strip():
        found = "an empty text" if text is None or isinstance(text, str) else f"{type(text).__name__}"
        raise BadSampleError(names[index], found, "a text")
    return text
