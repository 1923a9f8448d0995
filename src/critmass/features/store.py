"""The on-disk format of features: shards of rows, a manifest written last, checksums. See docs/format.md.

A folder with a manifest is a finished store; a folder without one is work that can be resumed. Knows
matrices and label codes, not what they mean: that is features.py.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from critmass.errors import StoreError, verbatim
from critmass.features.shards import SHARD_NAME, Record, Shard, ShardedMatrix, check_shard
from critmass.io.files import PART, check_writable, sha256
from critmass.io.records import is_sound, read_json, write_record
from critmass.io.tensors import load_sealed, read_tensors, safetensors_label, save_sealed, tensor_digest
from critmass.linalg.matrices import BLOCK_ROWS, Indices, Matrix

FORMAT: Literal["critmass-features"] = "critmass-features"
VERSION = 1
MANIFEST = "manifest.json"
COLUMNS = ("y", "group", "weight")
_SPLIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SHARD_NAME = re.compile(SHARD_NAME)


Columns = tuple[Matrix, NDArray[Any] | None, Indices | None, NDArray[np.float64] | None]
"""Rows, label codes or targets, group codes, weights of one split."""


class StoredSplit(Record):
    """The rows of one split, in order."""

    n_rows: int = Field(ge=1)
    shards: tuple[Shard, ...]
    x_sha256: str | None = None


class Header(Record):
    """What the rows mean; everything in a manifest that is known before the first row."""

    name: str
    task: Literal["classification", "regression"] | None
    classes: tuple[int | str, ...] | None
    groups: tuple[str, ...] | None
    dtype: Literal["float16", "float32", "float64"]
    n_neurons: int = Field(ge=1)
    spec_id: str
    provenance: dict[str, Any]


class Manifest(Header):
    """The file that makes a folder a store."""

    format: Literal["critmass-features"]
    version: int
    splits: dict[str, StoredSplit]
    sha256: str


@dataclass(frozen=True)
class OpenStore:
    """An opened store: its manifest, and for each split its rows and columns."""

    folder: Path
    manifest: Manifest

    def rows(self, split: str) -> ShardedMatrix:
        """Rows of `split`, shape (n_samples, n_neurons)."""
        stored = self.manifest.splits[split]
        n_neurons, dtype = self.manifest.n_neurons, self.manifest.dtype
        return ShardedMatrix(self.folder.absolute(), stored.shards, n_neurons, dtype, stored.x_sha256)

    def columns(self, split: str) -> dict[str, NDArray[Any]]:
        """Labels or targets ("y"), groups ("group") and weights ("weight") of `split`, where it has them."""
        shards = self.manifest.splits[split].shards
        found = [self._columns_of(shard) for shard in shards]
        keys = {key for tensors in found for key in tensors} | {"y"}
        if self.manifest.task is None:
            keys.discard("y")
        for key in keys:
            for shard, tensors in zip(shards, found, strict=True):
                if key not in tensors or tensors[key].shape != (shard.rows,):
                    raise _damaged(self.folder / shard.file, f"no {key} for {shard.rows} rows")
        columns = {key: np.concatenate([tensors[key] for tensors in found]) for key in keys}
        for key, names in (("y", self.manifest.classes), ("group", self.manifest.groups)):
            codes = columns.get(key)
            if codes is None or names is None:
                continue
            if codes.dtype != np.int64 or codes.min() < 0 or codes.max() >= len(names):
                found_codes = f"codes of {key} from {codes.min()} to {codes.max()} for {len(names)} names"
                raise _damaged(self.folder / MANIFEST, f"{found_codes} in {split!r}")
        return columns

    def _columns_of(self, shard: Shard) -> dict[str, NDArray[Any]]:
        """Return a shard's labels, groups and weights, their checksums verified."""
        path = self.folder / shard.file
        if shard.columns is None:  # a store of the first days, whose manifest has but one checksum a shard
            check_shard(self.folder, shard)
            return read_tensors(path, COLUMNS)
        tensors = read_tensors(path, COLUMNS)
        if {key: tensor_digest(key, tensor) for key, tensor in tensors.items()} != shard.columns:
            raise _damaged(path, "labels, groups or weights that do not match their checksums")
        return tensors

    def verify(self) -> int:
        """Check every byte against the manifest; return the number of shards checked."""
        for name, split in self.manifest.splits.items():
            digest = rows_digest(self.rows(name))  # which checks every shard
            if split.x_sha256 not in (None, digest):
                raise _damaged(self.folder / MANIFEST, f"another checksum of the rows of {name!r}")
        return sum(len(split.shards) for split in self.manifest.splits.values())


def rows_digest(x: Matrix) -> str:
    """Return the SHA-256 of all rows in order: little-endian, whatever holds them and however it is cut."""
    digest, dtype = hashlib.sha256(), x.dtype.newbyteorder("<")
    for start in range(0, x.shape[0], BLOCK_ROWS):
        digest.update(np.ascontiguousarray(x[start : start + BLOCK_ROWS], dtype=dtype).data)
    return digest.hexdigest()


def is_store(path: Path) -> bool:
    """Return whether `path` is a folder that holds a finished or unfinished store."""
    return path.is_dir() and ((path / MANIFEST).exists() or any(_shards_in(path)))


def open_store(folder: Path) -> OpenStore:
    """Open a finished store: check its manifest and the presence and size of its shards.

    Raises
    ------
    StoreError
        If it is unfinished, damaged, or of a newer version.
    """
    path = folder / MANIFEST
    if not path.exists():
        found = sum(1 for _ in _shards_in(folder))
        raise StoreError(
            str(folder),
            verbatim(f"an unfinished store ({found} shards, no {MANIFEST})"),
            "a finished store",
            "run the same extract again to finish it",
        )
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise _damaged(path, f"format {content.get('format')!r}")
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise StoreError(
            str(path),
            verbatim(f"format version {version}"),
            f"version {VERSION} or lower",
            "upgrade critmass",
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not is_sound(content):
        raise _damaged(path, "content that does not match its own checksum")
    if "train" not in manifest.splits:
        raise _damaged(path, "no train split")
    with os.scandir(folder) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    for name, split in manifest.splits.items():
        if sum(shard.rows for shard in split.shards) != split.n_rows:
            raise _damaged(path, f"shards of {name!r} that do not add up to {split.n_rows} rows")
        for shard in split.shards:
            size = sizes.get(shard.file)
            if size != shard.bytes:
                is_there = "no file" if size is None else f"{size} bytes"
                raise StoreError(
                    str(folder / shard.file),
                    verbatim(is_there),
                    f"{shard.bytes} bytes",
                    "restore it from a copy, or delete the folder and extract again",
                )
    return OpenStore(folder, manifest)


def holds(folder: Path, spec_id: str) -> bool:
    """Return whether `folder` holds the finished store that was made from this very spec."""
    return (folder / MANIFEST).exists() and open_store(folder).manifest.spec_id == spec_id


@dataclass(frozen=True)
class StoreWriter:
    """Writes a store shard by shard; a second writer with the same header goes on where one stopped.

    Raises
    ------
    StoreError
        If the folder holds a store, finished or not, that was made from something else.
    """

    folder: Path
    header: Header
    sizes: Mapping[str, int]
    shard_rows: int

    def __post_init__(self) -> None:
        for split in self.sizes:
            if not _SPLIT_NAME.fullmatch(split):
                raise StoreError("split name", split, "letters, digits, '_', '-' and '.'", "rename the split")
        for one, other in itertools.combinations(self.sizes, 2):
            if one.casefold() == other.casefold():  # one file on some systems
                found = verbatim(f"{one!r} and {other!r}")
                raise StoreError(
                    "split names", found, "names that differ in more than capitals", "rename one"
                )
        check_writable(self.folder)
        if not self.folder.exists():
            return
        others = [path.name for path in _shards_in(self.folder) if self._foreign(path)]
        foreign = [
            path.name
            for path in self.folder.iterdir()
            if not (_SHARD_NAME.fullmatch(path.name) or _is_beside(path.name) or self._is_finished(path))
        ]
        if others or foreign:
            found = f"files of something else ({(others + foreign)[0]})"
            raise StoreError(
                str(self.folder),
                verbatim(found),
                "an empty folder or the same extraction",
                "choose another folder",
            )

    def missing(self) -> Iterator[tuple[str, int, slice]]:
        """Yield (split, shard number, rows) of every shard that is not on disk yet, or damaged there."""
        for split, n_rows in self.sizes.items():
            for index, start in enumerate(range(0, n_rows, self.shard_rows)):
                if not _is_sound(self._path(split, index)):
                    yield split, index, slice(start, min(start + self.shard_rows, n_rows))

    def write(
        self,
        split: str,
        index: int,
        x: NDArray[Any],
        *,
        y: NDArray[Any] | None = None,
        group: Indices | None = None,
        weight: NDArray[np.float64] | None = None,
        left_out: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Write one shard, whole or not at all; rows that were to be in it and are not, are named in it."""
        if x.shape[1] != self.header.n_neurons:
            found = verbatim(f"{x.shape[1]} neurons")
            raise StoreError(
                f"activations of {split!r}", found, f"{self.header.n_neurons}, as the source says"
            )
        tensors: dict[str, NDArray[Any]] = {"x": np.ascontiguousarray(x, dtype=self.header.dtype)}
        if y is not None:
            tensors["y"] = np.ascontiguousarray(y, dtype=np.int64 if self.header.classes else np.float64)
        if group is not None:
            tensors["group"] = np.ascontiguousarray(group, dtype=np.int64)
        if weight is not None:
            tensors["weight"] = np.ascontiguousarray(weight, dtype=np.float64)
        label: dict[str, Any] = {"spec": self.header.spec_id, "split": split, "index": index}
        if left_out:
            label["left_out"] = list(left_out)
        save_sealed(self._path(split, index), label, tensors)

    def finish(self, **provenance: Any) -> OpenStore:
        """Write the manifest, which makes the folder a store, and open it.

        `provenance` is added to the header's; so are the rows left out, under "left_out".
        """
        splits: dict[str, StoredSplit] = {}
        left_out: list[dict[str, str]] = []
        for split, planned in self.sizes.items():
            shards, content = [], hashlib.sha256()
            for index in range(-(-planned // self.shard_rows)):
                path = self._path(split, index)
                label, tensors = load_sealed(path)
                left_out += [{"split": split, **row} for row in label.get("left_out", ())]
                if rows := len(tensors["x"]):
                    content.update(tensors["x"].data)
                    columns = {key: tensor_digest(key, tensors[key]) for key in COLUMNS if key in tensors}
                    size = path.stat().st_size
                    shards.append(
                        Shard(file=path.name, rows=rows, bytes=size, sha256=sha256(path), columns=columns)
                    )
            if not shards:
                raise StoreError(f"rows of {split!r}", verbatim("every row left out"), "a row at least")
            splits[split] = StoredSplit(
                n_rows=sum(shard.rows for shard in shards),
                shards=tuple(shards),
                x_sha256=content.hexdigest(),
            )
        added = {**self.header.provenance, **provenance, **({"left_out": left_out} if left_out else {})}
        manifest: dict[str, Any] = {
            **self.header.model_copy(update={"provenance": added}).model_dump(mode="json"),
            "format": FORMAT,
            "version": VERSION,
            "splits": {name: split.model_dump(mode="json") for name, split in splits.items()},
        }
        write_record(self.folder / MANIFEST, manifest)
        return open_store(self.folder)

    def _is_finished(self, path: Path) -> bool:
        """Whether this is the manifest of the same store, which another process has finished meanwhile."""
        return path.name == MANIFEST and holds(self.folder, self.header.spec_id)

    def _foreign(self, path: Path) -> bool:
        try:
            return safetensors_label(path).get("spec") != self.header.spec_id
        except StoreError:
            return True

    def _path(self, split: str, index: int) -> Path:
        return self.folder / f"{split}-{index:05d}.safetensors"


def write_store(
    folder: Path,
    header: Header,
    splits: Mapping[str, Columns],
    *,
    shard_rows: int,
) -> OpenStore:
    """Write whole splits as a store."""
    if holds(folder, header.spec_id):
        return open_store(folder)
    sizes = {name: x.shape[0] for name, (x, *_) in splits.items()}
    writer = StoreWriter(folder, header, sizes, shard_rows)
    for split, index, rows in writer.missing():
        x, y, group, weight = splits[split]
        writer.write(
            split,
            index,
            x[rows],
            y=None if y is None else y[rows],
            group=None if group is None else group[rows],
            weight=None if weight is None else weight[rows],
        )
    return writer.finish()


def spec_ids(folder: Path) -> set[str]:
    """Return the ids of the specs that a folder's shards were made from."""
    return {str(safetensors_label(path).get("spec")) for path in _shards_in(folder)}


def remove_store(folder: Path) -> None:
    """Remove a store, finished or not, from its folder: the manifest first, so that half of it is none."""
    if is_store(folder):
        for path in (folder / MANIFEST, *_shards_in(folder)):
            path.unlink(missing_ok=True)


def rename_store(folder: Path, name: str) -> None:
    """Give a finished store another name; its rows, and what they were made from, stay as they are."""
    content = {**open_store(folder).manifest.model_dump(mode="json"), "name": name}
    write_record(folder / MANIFEST, content)


def _is_beside(name: str) -> bool:
    """Whether a file's name is that of a shard or manifest in the making."""
    made = re.fullmatch(rf"(.+)\.\d+{re.escape(PART)}", name)
    return made is not None and (made[1] == MANIFEST or _SHARD_NAME.fullmatch(made[1]) is not None)


def _is_sound(path: Path) -> bool:
    """Whether a shard is there, and is what was written."""
    if not path.exists():
        return False
    try:
        load_sealed(path)
    except StoreError:
        return False
    return True


def _shards_in(folder: Path) -> Sequence[Path]:
    return [path for path in sorted(folder.iterdir()) if _SHARD_NAME.fullmatch(path.name)]


def _damaged(path: Path, found: str) -> StoreError:
    return StoreError(
        str(path), verbatim(found), f"a file of {FORMAT}", "restore it from a copy or make it again"
    )
