"""Safetensors files as memory maps: arrays on disk that cannot run code.

The safetensors library judges whether a file is sound; here its tensors become NumPy views of the file.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import weakref
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from critmass.errors import StoreError, verbatim
from critmass.io.files import write_atomic
from critmass.io.ids import canonical_json

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
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise _unsound(path, f"no sound safetensors file ({error})") from None


def safetensors_label(path: Path) -> dict[str, Any]:
    """Return the JSON that critmass wrote into a safetensors header; empty where there is none."""
    _, header = _safetensors_header(path)
    try:
        label = json.loads(header.get("__metadata__", {}).get("critmass", "{}"))
    except (ValueError, RecursionError):
        label = None
    if not isinstance(label, dict):
        raise _unsound(path, "a label that is no JSON object")
    return label


def save_sealed(path: Path, label: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write tensors and a label with a checksum over both, whole or not at all."""
    tensors = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
    sealed = {**label, "sha256": _seal(label, tensors)}
    write_atomic(path, safetensors_bytes(tensors, metadata={"critmass": canonical_json(sealed)}))


def load_sealed(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the label and the tensors, mapped, of a file that `save_sealed` wrote, its checksum verified.

    Raises
    ------
    StoreError
        If the file is damaged.
    """
    label, tensors = safetensors_label(path), map_tensors(path)
    checksum = label.pop("sha256", None)
    if checksum != _seal(label, tensors):
        raise _unsound(path, "content that does not match its own checksum")
    return label, tensors


def tensor_digest(name: str, tensor: NDArray[Any]) -> str:
    """Return the SHA-256 of a tensor's name, type, shape and bytes."""
    digest = hashlib.sha256()
    _add(digest, name, tensor)
    return digest.hexdigest()


def _seal(label: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(canonical_json(label).encode())
    for key in sorted(tensors):
        _add(digest, key, tensors[key])
    return digest.hexdigest()


def _add(digest: Any, name: str, tensor: NDArray[Any]) -> None:
    digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
    digest.update(np.ascontiguousarray(tensor).data)


def _safetensors_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where the tensors start, and the header, once the safetensors library finds the file sound."""
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = json.loads(stream.read(size))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise _unsound(path, f"no sound safetensors file ({error})") from None
    return 8 + size, header


class DamagedError(StoreError):
    """A safetensors file is no sound one."""


def _unsound(path: Path, found: str) -> DamagedError:
    return DamagedError(str(path), verbatim(found), "a sound file", "restore it from a copy or make it again")
