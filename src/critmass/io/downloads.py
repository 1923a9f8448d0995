"""Files from the web, kept: fetched once, resumed where a transfer broke off, checked ever after.

A file arrives as NAME.part, goes on there if the server still has the same version (its ETag or date), and
is moved to NAME when it is whole. Its SHA-256 is compared with the one that is known, or else recorded in
NAME.sha256 when the file is first seen and compared with that from then on.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from critmass.errors import InputError, verbatim
from critmass.io.files import PART, make_folder, sha256, write_atomic
from critmass.progress import Progress, silent

CHUNK = 1 << 20
TIMEOUT = 60.0


def cache_root() -> Path:
    """Return the folder for what critmass fetches: $CRITMASS_CACHE, or the platform's own place."""
    chosen = os.environ.get("CRITMASS_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("critmass", appauthor=False)


def fetch(url: str, path: Path, *, hash_known: str | None = None, progress: Progress = silent) -> Path:
    """Return `path`, holding the file at `url`; fetch it where it is not there yet.

    Parameters
    ----------
    url : str
        Of http or https.
    hash_known : str, optional
        The file's SHA-256, where it is published.
    progress : Progress
        Told megabytes.

    Raises
    ------
    InputError
        If the server cannot be reached or has no such file, if the transfer breaks off (the next call goes
        on), or if the file is not the one that was meant.
    """
    if not url.startswith(("https://", "http://")):
        raise InputError("address", url, "one that starts with https://")
    if not path.exists():
        make_folder(path.parent)
        _transfer(url, path, progress)
        _check(path, hash_known, url)
        os.replace(_beside(path, PART), path)
        _beside(path, PART + ".version").unlink(missing_ok=True)
        return path
    _verify(path, hash_known, advice=f"delete it, and it is fetched again from {url}")
    return path


def _verify(path: Path, hash_known: str | None, *, advice: str) -> None:
    """Raise InputError unless a file is the one known, or the one first seen here."""
    record = _beside(path, ".sha256")
    found = sha256(path)
    expected = hash_known or (record.read_text(encoding="utf-8").strip() if record.exists() else None)
    if expected is None:
        write_atomic(record, f"{found}\n".encode())
    elif found != expected:
        raise InputError(str(path), verbatim(f"SHA-256 {found[:16]}..."), f"{expected[:16]}...", advice)


def _check(path: Path, hash_known: str | None, url: str) -> None:
    """Compare a file that has just arrived with its known hash; record the hash where none is known."""
    part = _beside(path, PART)
    found = sha256(part)
    if hash_known is not None and found != hash_known:
        _discard(path)
        raise InputError(
            url, verbatim(f"a file of SHA-256 {found[:16]}..."), f"{hash_known[:16]}...", "nothing was kept"
        )
    write_atomic(_beside(path, ".sha256"), f"{found}\n".encode())


def _transfer(url: str, path: Path, progress: Progress) -> None:
    """Bring the whole of a file to NAME.part, going on where an earlier call stopped."""
    part, version = _beside(path, PART), _beside(path, PART + ".version")
    have = part.stat().st_size if part.exists() and version.exists() else 0
    headers = {"User-Agent": "critmass", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version.read_text(encoding="utf-8")}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:  # noqa: S310
            start = have if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            _note_version(version, answer)
            done, total = _receive(answer, part, start, progress)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            _discard(path)
        raise _unreachable(url, path, f"HTTP {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise _unreachable(url, path, str(getattr(error, "reason", error) or type(error).__name__)) from error
    if total is not None and done != total:
        raise _unreachable(url, path, f"a transfer that broke off after {done:,} of {total:,} bytes")


def _note_version(version: Path, answer: Any) -> None:
    """Remember which version of a file the server sends, or that it does not say."""
    tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    if tag and not tag.startswith("W/"):
        write_atomic(version, tag.encode())
    else:
        version.unlink(missing_ok=True)


def _receive(answer: Any, part: Path, start: int, progress: Progress) -> tuple[int, int | None]:
    """Write an answer's body from byte `start` on; return the bytes there now, and those there should be."""
    length = answer.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    done = start
    with part.open("r+b" if part.exists() else "w+b") as stream:
        stream.seek(start)
        stream.truncate()
        while chunk := answer.read(CHUNK):
            stream.write(chunk)
            done += len(chunk)
            progress(f"fetching {part.stem}", done // 1_000_000, (total or done) // 1_000_000)
        stream.flush()
        os.fsync(stream.fileno())
    return done, total


def _discard(path: Path) -> None:
    for suffix in (PART, PART + ".version"):
        _beside(path, suffix).unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _unreachable(url: str, path: Path, found: str) -> InputError:
    advice = f"try again, or fetch it yourself and put it at {path}"
    return InputError(url, verbatim(found), "a file that can be fetched", advice)
