"""Datasets of the Hugging Face hub, ``hf:ORG/NAME`` or ``hf:ORG/NAME:CONFIG``; or a local folder.

A local folder holds what ``save_to_disk`` wrote, or files that ``datasets.load_dataset`` reads by itself
(parquet, csv, folders of images). No code of a dataset is ever run. Splits keep their own names. Images
are stored bytes, decoded by `images.decode`. A column of class labels gives their names; a split whose
labels are all hidden (-1) has none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, require
from critmass.sources.datasets.columns import check_roles, choose, label_values, missing
from critmass.sources.hub import hub_or_cache, reason
from critmass.sources.inputs.images import decode
from critmass.sources.protocols import BadSampleError, Dataset, DatasetRequest, Kind, Samples

ROLES = ("image", "text", "label", "group")
_HUB = re.compile(r"([\w.-]+/)?[\w.-]+")
_BATCH = 1000


def load(rest: str, request: DatasetRequest) -> Dataset:
    """Return the dataset `rest`, fetched if it is not in the cache (the request's root, or the usual one)."""
    check_roles(request.columns, ROLES)
    library = require("datasets", package="datasets", extra="hf", purpose=f"hf:{rest}")
    path = Path(rest).expanduser()
    with _quiet(library):
        found = _local(library, path, request) if path.is_dir() else _hub(library, rest, request)
    if isinstance(found, library.Dataset):
        found = {str(found.split or "train"): found}
    name = path.resolve().name if path.is_dir() else rest
    return HubDataset(f"hf:{name}", dict(found), request.columns)


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Show no bars for work on local files; those of downloads are the hub's own."""
    shown = not library.are_progress_bars_disabled()
    library.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bars()


def _local(library: Any, path: Path, request: DatasetRequest) -> Any:
    try:
        if any((path / mark).exists() for mark in ("dataset_dict.json", "state.json")):
            return library.load_from_disk(str(path))
        return library.load_dataset(str(path), cache_dir=_cache(request))
    except Exception as error:
        raise InputError(
            "dataset",
            f"hf:{path}",
            "a folder of save_to_disk, or of parquet, csv or image files",
            _first_line(error),
        ) from error


def _hub(library: Any, rest: str, request: DatasetRequest) -> Any:
    name, colon, config = rest.partition(":")
    if not _HUB.fullmatch(name) or (colon and not config):
        raise InputError("dataset", f"hf:{rest}", "hf:ORG/NAME, hf:ORG/NAME:CONFIG, or a folder that exists")
    with hub_or_cache(name):
        try:
            return library.load_dataset(name, config or None, cache_dir=_cache(request))
        except Exception as error:
            raise InputError(
                "dataset",
                f"hf:{rest}",
                "a dataset of the hub that can be reached or is in the cache, or a folder",
                f"{type(error).__name__}: {reason(error)}; fetch https://huggingface.co/datasets/{name} "
                "elsewhere and give its folder, hf:PATH",
            ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _cache(request: DatasetRequest) -> str | None:
    return None if request.root is None else str(request.root)


@dataclass(frozen=True)
class HubDataset:
    """Tables by split."""

    name: str
    tables: Mapping[str, Any]
    columns: Mapping[str, str]

    @property
    def kind(self) -> Kind:
        """Images where a column holds images, unless a column of texts was asked for."""
        return "image" if self._sample_column[0] == "image" else "text"

    def describe(self) -> dict[str, Any]:
        """Return a hash of the labels and the texts, or the sizes of the stored images."""
        kind, column = self._sample_column
        found = hashlib.sha256()
        for split, table in self.tables.items():
            found.update(f"{split} {len(table)} {table.features}\n".encode())
            labels = self._labels(split)
            found.update(repr(None if labels is None else labels.tolist()).encode())
            for batch in table.select_columns([column]).with_format("arrow").iter(_BATCH):
                found.update(repr(_identity(batch.column(column), kind)).encode())
        return {
            "name": self.name,
            "sha256": found.hexdigest(),
            "sha256_of": "labels and sizes of the images" if kind == "image" else "labels and texts",
            "columns": {
                "sample": column,
                **{role: own for role in ("label", "group") if (own := self._column(role))},
            },
        }

    def splits(self) -> Mapping[str, Samples]:
        """Return every split by its own name."""
        return {split: self._samples(split, table) for split, table in self.tables.items()}

    def _samples(self, split: str, table: Any) -> Samples:
        kind, column = self._sample_column
        names = [f"{self.name} {split}, row {row + 1}" for row in range(len(table))]
        only = table.select_columns([column])
        if kind == "image":
            library = require("datasets", package="datasets", extra="hf", purpose=self.name)
            only = only.cast_column(column, library.Image(decode=False))
        read = functools.partial(_image if kind == "image" else _text, only, column, names)
        group = self._column("group")
        groups = None if group is None else np.array([str(value) for value in _values(table, group)])
        return Samples(names, read, self._labels(split), groups)

    @functools.cached_property
    def _sample_column(self) -> tuple[str, str]:
        """The role and the name of the column with the samples."""
        features = self._features
        images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
        texts = [
            name for name, f in features.items() if getattr(f, "dtype", "") in ("string", "large_string")
        ]
        if "text" not in self.columns and (images or "image" in self.columns):
            if not images:
                raise missing("image", [], list(features), self.name)
            column = choose("image", images, self.columns, self.name)
            if column is None and len(images) != 1:
                raise missing("image", images, list(features), self.name)
            return "image", column or images[0]
        column = choose("text", texts, self.columns, self.name)
        if column is None:
            raise missing("text", [], list(features), self.name)
        return "text", column

    @property
    def _features(self) -> Mapping[str, Any]:
        features: Mapping[str, Any] = next(iter(self.tables.values())).features
        return features

    def _column(self, role: str) -> str | None:
        left = [name for name in self._features if name != self._sample_column[1]]
        column = choose(role, left, self.columns, self.name)
        if column is not None or role != "label" or role in self.columns or not left:
            return column
        coded = [name for name in left if type(self._features[name]).__name__ == "ClassLabel"]
        if len(coded) != 1:
            raise missing(role, coded, left, self.name)
        return coded[0]

    def _labels(self, split: str) -> NDArray[Any] | None:
        column = self._column("label")
        if column is None:
            return None
        table, names = self.tables[split], getattr(self._features[column], "names", None)
        values = _values(table, column)
        rows = [f"{self.name} {split}, row {row + 1}" for row in range(len(values))]
        if names is None:
            return label_values(values, rows)
        hidden = [row for row, value in enumerate(values) if value is None or value < 0]
        if len(hidden) == len(values):
            return None
        if hidden:
            raise InputError(rows[hidden[0]], values[hidden[0]], f"a label, 0 to {len(names) - 1}")
        found: NDArray[Any] = np.array(names)[np.array(values)]
        return found


def _values(table: Any, column: str) -> list[Any]:
    values: list[Any] = table.select_columns([column])[:][column]
    return values


def _identity(values: Any, kind: str) -> Any:
    """Return what identifies a column: texts, or the sizes and file names of images, none of them read."""
    if kind == "text":
        return values.to_pylist()
    compute = require("pyarrow.compute", package="pyarrow", extra="hf", purpose="identity of a dataset")
    paths = compute.struct_field(values, "path").to_pylist()
    sizes = compute.binary_length(compute.struct_field(values, "bytes")).to_pylist()
    return [
        (size if size is not None else _size(path), Path(path or "").name)
        for size, path in zip(sizes, paths, strict=True)
    ]


def _size(path: str | None) -> int | None:
    return Path(path).stat().st_size if path and Path(path).is_file() else None


def _image(table: Any, column: str, names: Sequence[str], index: int) -> Any:
    stored = table[index][column]
    if stored is None or (stored["bytes"] is None and stored["path"] is None):
        raise BadSampleError(names[index], "no image")
    data = stored["bytes"]
    if data is None:
        try:
            data = Path(stored["path"]).read_bytes()
        except OSError as error:
            raise BadSampleError(names[index], error.strerror or str(error)) from error
    return decode(data, names[index])


def _text(table: Any, column: str, names: Sequence[str], index: int) -> str:
    text = table[index][column]
    if not isinstance(text, str) or not text.strip():
        raise BadSampleError(names[index], "an empty text", "a text")
    return text
