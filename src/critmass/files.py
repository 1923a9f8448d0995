"""Files that are whole or absent: written beside, fsynced, renamed; and their checksums.

A process killed at any moment leaves either the old file, or the new one, or a stray ``.part`` file
that nothing reads and the next writer of the same file replaces.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from critmass.errors import InputError, said

PART = ".part"


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees all of it or nothing.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    """
    create_atomic(path, lambda beside: beside.write_bytes(data))


def create_atomic(path: Path, create: Callable[[Path], object]) -> None:
    """Let `create` write a file beside `path`, then fsync it and move it to `path`."""
    beside = path.with_name(path.name + PART)
    make_folder(path.parent)
    try:
        create(beside)
        _fsync(beside)
        os.replace(beside, path)
        _fsync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Create the folder `path` where it does not exist, or raise one clear InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def check_writable(folder: Path) -> None:
    """Raise InputError unless files can be made in `folder`, which need not exist yet. Makes nothing."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise InputError("folder", str(folder), "a folder, or a new name", f"{existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise _unwritable(folder, PermissionError(13, "Permission denied"))


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file against other processes; give whether it is held. A killed holder lets go of it."""
    make_folder(path.parent)
    with path.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritable(path: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(
        "output", str(path), "a place that can be written to", said(f"{reason}; choose another folder")
    )
