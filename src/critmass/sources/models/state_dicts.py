"""A file of weights -> its tensors by name, without running anything that is pickled in it.

Reads safetensors, torch's files (zip archives and the older pickles) with ``weights_only``, and the .npz
files of Vision Transformers that Google publishes, with their tensors renamed and laid out as in timm.
Beside tensors a pickle may hold plain data: numbers, texts, lists, NumPy scalars, argparse.Namespace,
paths. Everything else is refused by name.
"""

from __future__ import annotations

import argparse
import codecs
import pathlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from critmass.errors import InputError, first_line, require, said

PURPOSE = "reading files of weights"
WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "teacher", "student", "net", "network"),
    *("state_dict_ema", "model_ema", "ema", "weights", "params", "module"),
)
"""Keys under which a training script puts the weights, in order of preference."""

LARGEST_INFLATION = 20
"""Weights hardly compress; a file that unpacks to more than this many times its size is no weights."""


@dataclass(frozen=True)
class StateDict:
    """The tensors of a file.

    Attributes
    ----------
    tensors : mapping of str to torch.Tensor
    wrapper : str
        The keys that lead to them, such as "model", joined by "/"; empty where they are at the top.
    """

    tensors: Mapping[str, Any]
    wrapper: str = ""


def read_state_dict(path: Path) -> StateDict:
    """Return the tensors of a .safetensors, .npz or torch file, on the CPU.

    Raises
    ------
    InputError
        If there is no such file, or it is damaged, or holds pickled code, or no tensors.
    """
    if not path.is_file():
        raise InputError("file of weights", str(path), "a file that exists")
    if path.stat().st_size == 0:
        raise _unreadable(path, "a file of 0 bytes")
    _check_archive(path)
    if path.suffix == ".safetensors":
        return StateDict(_from_safetensors(path))
    if path.suffix == ".npz":
        return StateDict(_from_flax(path))
    return _inner(path, _from_torch(path))


def _from_safetensors(path: Path) -> dict[str, Any]:
    safetensors = require("safetensors.torch", package="torch", extra="torch", purpose=PURPOSE)
    try:
        found: dict[str, Any] = safetensors.load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _unreadable(path, str(error)) from error
    return found


def _from_torch(path: Path) -> Any:
    torch = require("torch", package="torch", extra="torch", purpose=PURPOSE)
    try:
        with torch.serialization.safe_globals(_plain_data()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise _refused(path, error) from None
    except (AttributeError, IndexError, AssertionError, OSError, MemoryError, OverflowError) as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: BaseException) -> InputError:
    """Return the error for a file that `torch.load` will not read: pickled code by name, or damage."""
    text = first_line(error)
    if isinstance(error, pickle.UnpicklingError):
        # Torch's own words come after general ones.
        said_last = str(error).rpartition("WeightsUnpickler error: ")[2].splitlines()
        text = next((line for line in said_last if line and not line.startswith(_GENERAL)), text)
        pickled = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.\w+)", text)
        if pickled:
            return InputError(
                str(path),
                said(f"pickled code, {pickled[1]}, which could do anything; nothing of it was run"),
                "weights alone",
                "if you trust it, convert it in Python: safetensors.torch.save_file("
                "torch.load(PATH, weights_only=False)['state_dict'], 'weights.safetensors')",
            )
    return _unreadable(path, text)


_GENERAL = ("Weights only load failed", "Check the documentation")


def _plain_data() -> list[Any]:
    """Return the classes and functions that a pickle may name: they only hold or rebuild plain data.

    Of NumPy, numbers and texts and arrays of them; not its records and objects, whose bytes are addresses.
    """
    scalar, rebuild = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    kinds = np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?SU"
    return [
        argparse.Namespace,
        *((path, f"{module}.{path.__name__}") for path in _paths() for module in _PATH_MODULES),
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        *((rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(kind)) for kind in kinds},
        # How pickles of protocol 2 write bytes.
        (codecs.encode, "_codecs.encode"),
    ]


_PATH_MODULES = ("pathlib", "pathlib._local")


def _paths() -> tuple[type, ...]:
    return (pathlib.PurePosixPath, pathlib.PureWindowsPath, type(pathlib.Path()))


def _inner(path: Path, found: Any) -> StateDict:
    """Return the tensors under whatever a training script wrapped them in."""
    torch = require("torch", package="torch", extra="torch", purpose=PURPOSE)
    keys: list[str] = []
    for _ in range(4):
        if not isinstance(found, Mapping):
            raise _no_tensors(path, keys, type(found).__name__)
        tensors = {key: v for key, v in found.items() if isinstance(key, str) and isinstance(v, torch.Tensor)}
        wrapper = next((key for key in WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if tensors and (wrapper is None or len(tensors) > len(found) / 2):
            return StateDict(tensors, "/".join(keys))
        if wrapper is None:
            break
        keys.append(wrapper)
        found = found[wrapper]
    names = ", ".join(map(str, list(found)[:8])) if isinstance(found, Mapping) else type(found).__name__
    raise _no_tensors(path, keys, f"the keys {names}" if names else "an empty dictionary")


def _no_tensors(path: Path, keys: list[str], found: str) -> InputError:
    where = f" under {'/'.join(keys)!r}" if keys else ""
    return InputError(
        str(path),
        said(f"{found}{where}"),
        f"tensors by name, at the top or under {', '.join(WRAPPERS[:4])}, ...",
        "save the model's state_dict()",
    )


def _from_flax(path: Path) -> dict[str, Any]:
    torch = require("torch", package="torch", extra="torch", purpose=PURPOSE)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise _unreadable(path, str(error)) from error
    try:
        return {name: torch.from_numpy(np.array(value)) for name, value in _as_in_timm(arrays).items()}
    except (KeyError, ValueError, TypeError) as error:
        found = said(f"arrays {', '.join(list(arrays)[:4])}, ... ({error})")
        raise InputError(
            str(path), found, "the arrays of a Vision Transformer, as Flax names them"
        ) from error


def _as_in_timm(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a Flax Vision Transformer, named and laid out as timm's module has them."""
    found = {
        "cls_token": arrays["cls"],
        "pos_embed": arrays["Transformer/posembed_input/pos_embedding"],
        "patch_embed.proj.weight": arrays["embedding/kernel"].transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": arrays["embedding/bias"],
        **_norm("norm", "Transformer/encoder_norm", arrays),
    }
    if "head/kernel" in arrays:
        found |= _linear("head", "head", arrays)
    index = 0
    while f"Transformer/encoderblock_{index}/LayerNorm_0/scale" in arrays:
        ours, theirs = f"blocks.{index}", f"Transformer/encoderblock_{index}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        found |= _norm(f"{ours}.norm1", f"{theirs}/LayerNorm_0", arrays)
        found |= _norm(f"{ours}.norm2", f"{theirs}/LayerNorm_2", arrays)
        found |= _linear(f"{ours}.mlp.fc1", f"{theirs}/MlpBlock_3/Dense_0", arrays)
        found |= _linear(f"{ours}.mlp.fc2", f"{theirs}/MlpBlock_3/Dense_1", arrays)
        parts = [(arrays[f"{attention}/{part}/kernel"], arrays[f"{attention}/{part}/bias"]) for part in _QKV]
        width = len(parts[0][0])
        found[f"{ours}.attn.qkv.weight"] = np.concatenate([k.reshape(width, -1).T for k, _ in parts])
        found[f"{ours}.attn.qkv.bias"] = np.concatenate([b.reshape(-1) for _, b in parts])
        found[f"{ours}.attn.proj.weight"] = arrays[f"{attention}/out/kernel"].reshape(-1, width).T
        found[f"{ours}.attn.proj.bias"] = arrays[f"{attention}/out/bias"]
        index += 1
    return found


_QKV = ("query", "key", "value")


def _norm(ours: str, theirs: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {f"{ours}.weight": arrays[f"{theirs}/scale"], f"{ours}.bias": arrays[f"{theirs}/bias"]}


def _linear(ours: str, theirs: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {f"{ours}.weight": arrays[f"{theirs}/kernel"].T, f"{ours}.bias": arrays[f"{theirs}/bias"]}


def _check_archive(path: Path) -> None:
    """Raise InputError for an archive that unpacks to far more than its size, or that is a program."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise _unreadable(path, first_line(error)) from error
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > LARGEST_INFLATION * path.stat().st_size:
        raise _unreadable(path, f"an archive of {path.stat().st_size:,} bytes that claims {unpacked:,}")
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        found = said("a TorchScript program")
        raise InputError(str(path), found, "weights alone", "save its state_dict() instead")


def _unreadable(path: Path, found: str) -> InputError:
    return InputError(str(path), said(found), "a whole file of weights", "fetch it again, or convert it")
