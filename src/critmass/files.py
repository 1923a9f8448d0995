"""Files that are whole or absent: written beside, fsynced, renamed; and their checksums.

A process killed at any moment leaves either the old file, or the new one, or a stray ``.part`` file
that nothing reads and the next writer of the same file replaces.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from critmass.errors import InputError, said

PART = ".part"
FOLDERS_FLUSH = os.name != "nt"
"""Whether a folder can be opened and flushed; Windows writes its entries by itself."""


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
        _flush(beside)
        os.replace(beside, path)
        _flush_folder(path.parent)
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
    import filelock  # takes longer than the rest of this module, and most commands lock nothing

    make_folder(path.parent)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=wait)
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield True
    finally:
        lock.release()


def file_name(text: str) -> str:
    """Return `text` as the name of one file on any system, what none may hold percent-encoded.

    Examples
    --------
    >>> file_name("blocks.0"), file_name("/conv1/Conv_output:0")
    ('blocks.0', '%2Fconv1%2FConv_output%3A0')
    """
    return re.sub(r'[<>:"/\\|?*%\x00-\x1f]', lambda found: f"%{ord(found[0]):02X}", text)


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    # Windows flushes through handles that may write, and no others.
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def _flush_folder(path: Path) -> None:
    """Put a folder's entries, so also a rename in it, on the disk."""
    if not FOLDERS_FLUSH:
        return
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
