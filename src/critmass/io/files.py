"""Files that are whole or absent: written beside, fsynced, renamed; names for them; and their checksums.

A process killed at any moment leaves either the old file, or the new one, or a stray ``.part`` file that
nothing reads and a later writer of the same file removes. Any number of processes may write one file: each
writes its own beside it, and the last to finish wins, whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from critmass.errors import InputError, verbatim

PART = ".part"
POSIX = os.name != "nt"
"""Whether folders can be flushed and open files renamed. Windows writes a folder's entries by itself."""

LONGEST_NAME = 150
"""Bytes of a file's name before `file_name` shortens it: systems allow 255, and endings are to come."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` so that a reader sees all of it or nothing.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    """
    make_folder(path.parent)
    try:
        with _beside(path) as (stream, beside):
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            if not POSIX:  # where an open file cannot be renamed, and no lock is held
                stream.close()
            os.replace(beside, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def create_atomic(path: Path, create: Callable[[io.BytesIO], object]) -> None:
    """Write to `path` what `create` writes into a stream, so that a reader sees all of it or nothing."""
    stream = io.BytesIO()
    create(stream)
    write_atomic(path, stream.getbuffer())


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[io.BufferedWriter, Path]]:
    """Give a new file beside `path`, open, its name, and remove it if it still has that name at the end.

    Nobody else writes it: it is made under a name that was free, never through a link, and locked as long as
    it is written; so a file under such a name that no one has locked was left over by a process that is gone.
    """
    names = (path.with_name(f"{path.name}.{slot}{PART}") for slot in itertools.count())
    for beside in names:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):
            flags |= getattr(os, name, 0)
        try:
            handle = os.open(beside, flags, 0o666)
        except FileExistsError:
            _remove_left_over(beside)
            continue
        if _lock(handle) is not False and _is(handle, beside):
            break
        os.close(handle)
    for other in itertools.takewhile(os.path.lexists, names):
        _remove_left_over(other)
    try:
        with os.fdopen(handle, "wb") as stream:
            try:
                yield stream, beside
            finally:
                if POSIX:
                    _remove(stream.fileno(), beside)
    finally:
        if not POSIX:
            with contextlib.suppress(OSError):
                beside.unlink()


def _remove_left_over(beside: Path) -> None:
    """Remove a file that a process left beside another, unless one that is alive is still writing it."""
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(beside.lstat().st_mode):
            return
        handle = os.open(beside, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            if POSIX and _lock(handle):  # where there are no locks, nobody can tell: it stays
                _remove(handle, beside)
        finally:
            os.close(handle)


def _remove(handle: int, beside: Path) -> None:
    """Remove an open file that still has this name; what is wrong with the disk, the write has said."""
    with contextlib.suppress(OSError):
        if _is(handle, beside):
            beside.unlink()


def _lock(handle: int) -> bool | None:
    """Lock an open file; return whether nobody else has it, or None where there are no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is(handle: int, path: Path) -> bool:
    """Return whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def make_folder(path: Path) -> None:
    """Create the folder `path` where it does not exist, or raise one clear InputError."""
    new = list(itertools.takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
    try:
        path.mkdir(parents=True, exist_ok=True)
        for folder in new:
            _flush_folder(folder.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def check_writable(folder: Path) -> None:
    """Raise InputError unless files can be made in `folder`, which need not exist yet. Makes nothing."""
    existing = folder
    while not os.path.exists(existing) and existing != existing.parent:
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
    """Return `text` as the name of one file, on any system, inside the folder it is put in.

    Characters that some system does not allow, or may change, are percent-encoded, so
    `urllib.parse.unquote(name, errors="surrogatepass")` gives the text back, but for "~" and a checksum at
    the end: of a text with capitals, as some systems hold them for small letters; and of one longer than
    `LONGEST_NAME`, which is cut. Different texts have different names, on all systems.

    Examples
    --------
    >>> file_name("blocks.0"), file_name("/conv1/output:0"), file_name("..")
    ('blocks.0', '%2Fconv1%2Foutput%3A0', '%2E%2E')
    >>> file_name("Conv"), file_name("conv")
    ('Conv~c0bd66cc', 'conv')
    """
    name = "".join(character if _is_plain(character) else _encoded(character) for character in text)
    if not unicodedata.is_normalized("NFC", name):
        name = "".join(character if character.isascii() else _encoded(character) for character in name)
    if name[-1:] in (".", " ") and len(name) > 1:
        name = name[:-1] + _encoded(name[-1])
    if name[:1] in ("", ".", " ") or _RESERVED.fullmatch(name):
        name = _encoded(name[:1]) + name[1:]
    whole, cased = name.encode(), any(map(_has_case, text))
    if len(whole) > LONGEST_NAME - 9 * cased:
        checksum = hashlib.sha256(whole).hexdigest()[:32]
        return f"{whole[: LONGEST_NAME - 33].decode(errors='ignore')}~{checksum}"
    return f"{name}~{hashlib.sha256(whole).hexdigest()[:8]}" if cased else name


def _is_plain(character: str) -> bool:
    """Whether a character may stand in any file's name, and no system changes it."""
    if character.isascii():
        return character.isalnum() or character in " !#$&'()+,-.;=@[]^_`{}"
    return character.isprintable() and not unicodedata.combining(character)


def _has_case(character: str) -> bool:
    """Whether some system may take a character for another, in small letters."""
    return character.casefold() != character or character.upper().casefold() != character


def _encoded(character: str) -> str:
    """Return a character percent-encoded; for none, a lone percent sign, which no text has otherwise."""
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass")) or "%"


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush_folder(path: Path) -> None:
    """Put a folder's entries, so also a rename in it, on the disk."""
    if not POSIX:
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritable(path: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(
        "output", str(path), "a place that can be written to", verbatim(f"{reason}; choose another folder")
    )
