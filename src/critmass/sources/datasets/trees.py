"""Image files below a folder or inside a .zip, read in place: nothing is ever extracted.

A tree is the sorted posix paths of its image files with their sizes (and CRC-32 in a zip), kept as plain
strings and arrays, so that a million files cost what their names cost. A sample's file is opened, read
and closed, so any number of threads and processes may read.

Zips are taken as hostile: any member that is absolute, climbs (..), carries a drive letter or a backslash,
is a link, encrypted or twice there, and any image of a declared size or compression ratio that no image
has, makes the whole zip refused. What is read of a member is never more than it declared.

Links in folders are followed wherever they lead (subsets of large datasets are often made of links; only
image files are read, and none is written). Links that lead nowhere, or back to a folder above, are refused.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, verbatim
from critmass.io.files import sha256
from critmass.sources.inputs.images import MAX_BYTES, SUFFIXES, decode
from critmass.sources.protocols import BadSampleError

MAX_RATIO, RATIO_FREE_BYTES = 200, 2**20
_LOCAL_HEADER, _SIGNATURE = struct.Struct("<4s22xHH"), b"PK\3\4"
_ENCRYPTED, _UTF8 = 0x1, 0x800


@dataclass(frozen=True)
class Tree:
    """The image files of a folder.

    Attributes
    ----------
    paths : list of str
        Posix paths below `root`, sorted.
    sizes : array of int64, shape (n_files,)
    folders : set of str
        Posix paths of all visible folders.
    ignored : int
        Files, or whole folders, that are hidden; files that are no images.
    """

    root: Path
    paths: list[str]
    sizes: NDArray[np.int64]
    folders: frozenset[str]
    ignored: int

    identity = "paths and SHA-256 of the files"

    def read(self, index: int) -> Any:
        """Return the RGB image of a file, or raise BadSampleError."""
        name = self.paths[index]
        if self.sizes[index] > MAX_BYTES:
            raise BadSampleError(name, f"{self.sizes[index]} bytes", f"files up to {MAX_BYTES} bytes")
        try:
            data = self._bytes(index)
        except (OSError, zlib.error, struct.error) as error:
            raise BadSampleError(name, f"{type(error).__name__}: {_reason(error)}") from error
        return decode(data, name)

    def digest(self) -> str:
        """Return a SHA-256 over all that `identity` says."""
        found = hashlib.sha256()
        for path, *facts in zip(self.paths, *self._facts(), strict=True):
            found.update(f"{path}\0{facts}\n".encode())
        return found.hexdigest()

    def _facts(self) -> tuple[Sequence[Any], ...]:
        with ThreadPoolExecutor(thread_name_prefix="critmass-hash") as pool:
            return (list(pool.map(self._sha256, self.paths)),)

    def _sha256(self, path: str) -> str:
        try:
            return sha256(self.root / path)
        except OSError as error:  # whoever reads it as a sample will say so
            return f"unreadable: {error.strerror}"

    def _bytes(self, index: int) -> bytes:
        return (self.root / self.paths[index]).read_bytes()


@dataclass(frozen=True)
class ZipTree(Tree):
    """The image files of a .zip; `offsets` and `packed` say where each lies, and how many bytes.

    `names` are CRC-32 of the names in the zip's directory, as bytes: each member repeats its own.
    """

    offsets: NDArray[np.int64]
    packed: NDArray[np.int64]
    crcs: NDArray[np.uint32]
    deflated: NDArray[np.bool_]
    names: NDArray[np.uint32]

    identity = "paths, sizes and CRC-32 of the members"

    def _facts(self) -> tuple[Sequence[Any], ...]:
        return self.sizes.tolist(), self.crcs.tolist()

    def _bytes(self, index: int) -> bytes:
        size = int(self.sizes[index])
        with self.root.open("rb", buffering=0) as stream:
            stream.seek(int(self.offsets[index]))
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
            if signature != _SIGNATURE:
                raise zlib.error("no member of the zip where there should be one")
            if zlib.crc32(_exactly(stream, name_length)) != self.names[index]:
                raise zlib.error("another name than the zip's directory has for it")
            stream.seek(extra_length, os.SEEK_CUR)
            data = _exactly(stream, int(self.packed[index]))
        if self.deflated[index]:
            # One byte more than declared, so that a member that lies is seen without being unpacked.
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        if len(data) != size or zlib.crc32(data) != self.crcs[index]:
            raise zlib.error("bytes that do not agree with the zip's checksum")
        return data


def open_tree(prefix: str, rest: str) -> tuple[str, Tree]:
    """Return the name of the dataset ``PREFIX:REST``, without its place, and the tree, a folder or a .zip."""
    path, name = Path(rest).expanduser(), f"{prefix}:{rest}"
    return f"{prefix}:{path.resolve().stem}", _tree(path, name)


def _tree(path: Path, name: str) -> Tree:
    if path.is_dir():
        return _folder(path, name)
    if path.is_file() and path.suffix.lower() == ".zip":
        return _zip(path, name)
    advice = "unpack the archive" if path.is_file() else "check the path"
    raise InputError("dataset", name, "a folder or a .zip that exists", advice)


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _folder(root: Path, name: str) -> Tree:
    found: list[tuple[str, int]] = []
    folders: set[str] = set()
    ignored = 0
    for path, entry in _walk(root, "", (os.path.realpath(root),), name):
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise InputError("dataset", name, "file names in UTF-8", verbatim(f"rename {path!a}")) from error
        if entry.is_dir() and not _hidden(entry.name):
            folders.add(path)
        elif _is_image(path) and not _hidden(entry.name) and entry.is_file():
            found.append((path, entry.stat().st_size))
        else:
            ignored += 1
    found.sort()
    sizes = np.array([size for _, size in found], dtype=np.int64)
    return Tree(root, [path for path, _ in found], sizes, frozenset(folders), ignored)


def _walk(
    folder: Path, prefix: str, above: tuple[str, ...], name: str
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield everything below a folder but what hidden folders hold."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(
            "dataset", name, "a folder that can be read", f"{prefix}: {error.strerror}"
        ) from error
    for entry in entries:
        path = prefix + entry.name
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise InputError(
                f"{name} {path}", verbatim("a link that leads nowhere"), "links to files or folders"
            )
        if not entry.is_dir() or _hidden(entry.name):
            yield path, entry
        else:
            real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}{os.sep}{entry.name}"
            if real in above:
                raise InputError(
                    f"{name} {path}",
                    verbatim("a link to a folder above"),
                    "links that do not lead back",
                    "remove it",
                )
            yield path, entry
            yield from _walk(Path(entry.path), path + "/", (*above, real), name)


def _zip(path: Path, name: str) -> Tree:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise InputError(
            "dataset", name, "a whole .zip", verbatim(f"{type(error).__name__}: {error}; copy it again")
        ) from error
    size = path.stat().st_size
    seen: set[str] = set()
    folders: dict[str, bool] = {"": True}
    kept: list[zipfile.ZipInfo] = []
    for member in members:
        inside = _check_member(member, name, size)
        whole = member.filename.removesuffix("/")
        if whole in seen:
            _refuse(name, member, "a name that is there twice", "one member of each name")
        seen.add(whole)
        if (visible := folders.get(inside)) is None:
            visible = folders[inside] = _are_visible(inside, folders)
        if visible and not member.is_dir() and _is_image(whole) and not _hidden(whole.rpartition("/")[2]):
            _check_image(member, name)
            kept.append(member)
    kept.sort(key=lambda member: member.filename)
    ignored = sum(not member.is_dir() for member in members) - len(kept)
    del folders[""]

    def column(attribute: str, dtype: str) -> NDArray[Any]:
        return np.array([getattr(member, attribute) for member in kept], dtype=dtype)

    return ZipTree(
        path,
        [member.filename for member in kept],
        column("file_size", "int64"),
        frozenset(folder for folder, visible in folders.items() if visible),
        ignored,
        offsets=column("header_offset", "int64"),
        packed=column("compress_size", "int64"),
        crcs=column("CRC", "uint32"),
        deflated=column("compress_type", "int64") == zipfile.ZIP_DEFLATED,
        names=np.array([zlib.crc32(_raw_name(member)) for member in kept], dtype=np.uint32),
    )


def _raw_name(member: zipfile.ZipInfo) -> bytes:
    return member.orig_filename.encode("utf-8" if member.flag_bits & _UTF8 else "cp437")


def _are_visible(folder: str, folders: dict[str, bool]) -> bool:
    """Tell whether no part of a folder's path is hidden; adds the folders above it to `folders`."""
    above, _, last = folder.rpartition("/")
    if above not in folders:
        folders[above] = _are_visible(above, folders)
    return folders[above] and not _hidden(last)


def _check_member(member: zipfile.ZipInfo, name: str, size: int) -> str:
    """Return the folder that a member is, or is in, or raise InputError."""
    raw = member.orig_filename
    parts = member.filename.removesuffix("/").split("/")
    if "\\" in raw or "\0" in raw or ":" in raw[:2] or any(part in ("", ".", "..") for part in parts):
        _refuse(name, member, "a path that leads out of the zip", "relative paths with forward slashes")
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        _refuse(name, member, "a link or a device", "files and folders")
    if member.flag_bits & _ENCRYPTED:
        _refuse(name, member, "an encrypted member", "members without a password")
    if member.header_offset + member.compress_size > size:
        _refuse(name, member, "a member beyond the end of the file", "a whole .zip")
    return "/".join(parts if member.is_dir() else parts[:-1])


def _check_image(member: zipfile.ZipInfo, name: str) -> None:
    if member.file_size > MAX_BYTES:
        _refuse(name, member, f"{member.file_size} bytes", f"images up to {MAX_BYTES} bytes")
    if member.file_size > max(RATIO_FREE_BYTES, MAX_RATIO * member.compress_size):
        found = f"{member.file_size} bytes packed into {member.compress_size}"
        _refuse(name, member, found, f"images compressed up to {MAX_RATIO} times")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        _refuse(name, member, f"compression method {member.compress_type}", "stored or deflated members")


def _refuse(name: str, member: zipfile.ZipInfo, found: str, allowed: str) -> None:
    raise InputError(
        f"{name} member {ascii(member.orig_filename)[1:-1]}", verbatim(found), allowed, "make the zip again"
    )


def _exactly(stream: Any, count: int) -> bytes:
    """Return `count` bytes; an unbuffered read may give fewer at a time."""
    data: bytes = stream.read(count)
    while len(data) < count and (more := stream.read(count - len(data))):
        data += more
    return data


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
