"""Safetensors files as memory maps: arrays on disk that cannot run code.

The safetensors library judges whether a file is sound; here its tensors become NumPy views of the file.
"""

from __future__ import annotations

import json
import mmap
import weakref
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from critmass.errors import StoreError, said

DTYPES = {
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

_MAPPED: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def n_mapped() -> int:
    """Return how many files are mapped now: each holds a file descriptor until its last view is gone."""
    return len(_MAPPED)


def map_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a .safetensors file as read-only memory maps.

    Raises
    ------
    StoreError
        If the file is not safetensors, or a tensor's type has no NumPy equivalent (bfloat16).
    """
    start, header = _safetensors_header(path)
    tensors = {}
    with path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    _MAPPED.add(mapped)
    memory = np.frombuffer(mapped, dtype=np.uint8)
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        if entry["dtype"] not in DTYPES:
            raise StoreError(f"{path}: {key}", entry["dtype"], ", ".join(DTYPES), "convert it to float32")
        begin, end = (start + offset for offset in entry["data_offsets"])
        tensors[key] = memory[begin:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def read_tensors(path: Path, keys: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return those of these tensors that a .safetensors file has, read into memory; the file is closed."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys() if key in keys}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise _unsound(path, f"no sound safetensors file ({error})") from None


def safetensors_label(path: Path) -> dict[str, Any]:
    """Return the JSON that critmass wrote into a safetensors header; empty where there is none."""
    _, header = _safetensors_header(path)
    try:
        label = json.loads(header.get("__metadata__", {}).get("critmass", "{}"))
    except ValueError:
        label = None
    if not isinstance(label, dict):
        raise _unsound(path, "a label that is no JSON object")
    return label


def _safetensors_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where the tensors start, and the header, once the safetensors library finds the file sound."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise _unsound(path, f"no sound safetensors file ({error})") from None
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(size))
    return 8 + size, header


def _unsound(path: Path, found: str) -> StoreError:
    return StoreError(str(path), said(found), "a sound file", "restore it from a copy or make it again")
