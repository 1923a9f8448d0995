"""JSON files that say themselves whether they are whole: an object with a checksum over its other keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from critmass.errors import StoreError, verbatim
from critmass.io.files import write_atomic
from critmass.io.ids import canonical_json

CHECKSUM = "sha256"


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` and its checksum, whole or not at all."""
    sealed = {**content, CHECKSUM: checksum(content)}
    text = json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of a record, its checksum verified and left out.

    Raises
    ------
    FileNotFoundError
    StoreError
        If the file is damaged, or no record.
    """
    content = read_json(path)
    if not is_sound(content):
        raise damaged(path, "content that does not match its own checksum")
    return {key: value for key, value in content.items() if key != CHECKSUM}


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, checksum and all, unverified; errors as `read_record`'s."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, f"no valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise damaged(path, f"JSON that is no object ({type(content).__name__})")
    return content


def is_sound(content: Mapping[str, Any]) -> bool:
    """Return whether a record is the one that its checksum was made of."""
    try:
        return bool(content.get(CHECKSUM) == checksum(content))
    except ValueError:  # a number that is none, a text that is none
        return False


def checksum(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of a record without its checksum."""
    rest = {key: value for key, value in content.items() if key != CHECKSUM}
    return hashlib.sha256(canonical_json(rest).encode()).hexdigest()


def damaged(path: Path, found: str) -> StoreError:
    """Return the error for a record that is none."""
    return StoreError(str(path), verbatim(found), "a file that critmass wrote", "restore it or make it again")
