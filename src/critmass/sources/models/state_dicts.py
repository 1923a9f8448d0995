"""A file of weights -> its tensors by name, without running anything that is pickled in it.

Reads safetensors, torch's files (zip archives and the older pickles) with ``weights_only``, and the .npz
files of Vision Transformers that Google publishes, which timm lays out.
Beside tensors a pickle may hold plain data: numbers, texts, lists, NumPy scalars, argparse.Namespace,
paths. Everything else is refused by name.
"""

from __future__ import annotations

import argparse
import codecs
import copy
import pathlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from critmass.errors import InputError, first_line, require, verbatim

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


def read_state_dict(path: Path, module: Any) -> StateDict:
    """Return the tensors of a .safetensors, .npz or torch file, on the CPU.

    Parameters
    ----------
    module : torch.nn.Module
        What the tensors are for; timm lays out those of an .npz as this module of its own has them.

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
        return StateDict(_from_flax(path, module))
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


def _from_flax(path: Path, module: Any) -> dict[str, Any]:
    """Return the tensors of a Vision Transformer's .npz as timm's own loader lays them out.

    The loader resizes and skips what does not fit, in silence. Here all that the module has must be in the
    file, as large as it is there: it is filled with NaN before, and numbers are counted.
    """
    torch = require("torch", package="torch", extra="torch", purpose=PURPOSE)
    if not hasattr(module, "load_pretrained"):
        found = verbatim(f"a .npz file for {type(module).__name__}")
        raise InputError(
            str(path), found, "one of timm's Vision Transformers", "such as timm/vit_small_patch16_224"
        )
    target = copy.deepcopy(module)
    arrays: dict[str, Any] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if "pre_logits/" not in name}
        head = next((len(value) for name, value in arrays.items() if name.endswith("head/bias")), 0)
        target.reset_classifier(head)
        for tensor in target.state_dict().values():
            tensor.fill_(torch.nan)
        target.load_pretrained(str(path))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, first_line(error)) from error
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _no_flax(path, f"{', '.join(list(arrays)[:4])}, ... ({first_line(error)})") from error
    tensors: dict[str, Any] = target.state_dict()
    missing = [name for name, tensor in tensors.items() if torch.isnan(tensor).any()]
    if missing:
        raise _no_flax(path, f"nothing for {', '.join(missing[:3])}")
    in_file, in_module = (
        sum(value.size for value in arrays.values()),
        sum(t.numel() for t in tensors.values()),
    )
    if in_file != in_module:
        raise _no_flax(path, f"{in_file:,} numbers where the architecture has {in_module:,}")
    return tensors


def _no_flax(path: Path, found: str) -> InputError:
    return InputError(
        str(path),
        verbatim(found),
        "the arrays of this Vision Transformer, as Flax names them",
        "name its architecture",
    )


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
                verbatim(f"pickled code, {pickled[1]}, which could do anything; nothing of it was run"),
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
        verbatim(f"{found}{where}"),
        f"tensors by name, at the top or under {', '.join(WRAPPERS[:4])}, ...",
        "save the model's state_dict()",
    )


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
        found = verbatim("a TorchScript program")
        raise InputError(str(path), found, "weights alone", "save its state_dict() instead")


def _unreadable(path: Path, found: str) -> InputError:
    return InputError(str(path), verbatim(found), "a whole file of weights", "fetch it again, or convert it")
