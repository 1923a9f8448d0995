"""What a Python object computes with, as one hash: so that no function's features are taken for another's.

Code, constants, defaults, what a function closes over and the globals it names; the arguments of a partial;
the class and the attributes of an object; the weights and the plain attributes of a module. Of installed
packages and of Python itself, name and version. What lies beyond (a file, a service, a module of one's own
that is used by its name, an object without attributes) cannot be known, and is not guessed.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import pathlib
import platform
import sys
import types
from typing import Any

import numpy as np


class UnknownError(Exception):
    """An object of which nobody can tell what it computes; its argument says which."""


def identity(value: Any, *, weights: bool = True) -> str:
    """Return the SHA-256 of all that an object computes with, or of all but the weights of its modules.

    Raises
    ------
    UnknownError
        If something it uses cannot be identified.
    """
    walk = _Walk(weights)
    walk.add(value)
    return walk.digest.hexdigest()


class _Walk:
    def __init__(self, weights: bool) -> None:  # noqa: FBT001
        self.left_out = ("training",) if weights else ("training", "_parameters", "_buffers")
        self.digest = hashlib.sha256()
        self.seen: dict[int, int] = {}
        self.kept: list[Any] = []  # so that no id is given twice

    def add(self, value: Any) -> None:
        """Take a value into account, and all that it is made of."""
        if (
            value is None
            or value is Ellipsis
            or isinstance(value, bool | int | float | complex | str | bytes)
        ):
            self._say(type(value).__name__, repr(value))
            return
        if id(value) in self.seen:
            self._say("again", str(self.seen[id(value)]))
            return
        self.seen[id(value)] = len(self.seen)
        self.kept.append(value)
        self._add(value)

    def _say(self, *words: str) -> None:
        for word in words:
            text = word.encode(errors="surrogatepass")
            self.digest.update(f"{len(text)} ".encode() + text)

    def _all(self, kind: str, *values: Any) -> None:
        self._say(kind, str(len(values)))
        for value in values:
            self.add(value)

    def _add(self, value: Any) -> None:
        torch = sys.modules.get("torch")
        if isinstance(value, list | tuple):
            return self._all(type(value).__name__, *value)
        if isinstance(value, dict):
            return self._all("dict", *(part for item in value.items() for part in item))
        if isinstance(value, set | frozenset):
            return self._all("set", *sorted(identity(each) for each in value))
        if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
            return self._all("array", value.dtype.str, value.shape, value.tobytes())
        if torch is not None and isinstance(value, torch.Tensor):
            stored = value.detach().cpu().contiguous()
            return self._all("tensor", str(value.dtype), tuple(value.shape), _bytes(stored, torch))
        if torch is not None and isinstance(value, torch.dtype | torch.device):
            return self._say("torch", str(value))
        if isinstance(value, pathlib.PurePath):
            return self._say("path", str(value))
        if isinstance(value, types.CodeType):
            return self._all("code", value.co_code, value.co_names, value.co_freevars, *value.co_consts)
        if isinstance(value, types.FunctionType) and _release(value.__module__) is None:
            return self._function(value)
        if isinstance(value, functools.partial):
            return self._all("partial", value.func, value.args, value.keywords)
        if isinstance(value, types.MethodType):
            return self._all("method", value.__func__, value.__self__)
        if isinstance(value, types.ModuleType):
            return self._named(value.__name__, value.__name__)
        if isinstance(value, type) and _release(value.__module__) is None:
            own = {k: v for k, v in vars(value).items() if k not in _OF_CLASSES}
            return self._all("class", value.__qualname__, own, *value.__bases__)
        if isinstance(value, staticmethod | classmethod):
            return self._all("wrapped", value.__func__)
        if isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
            return self._say("slot", value.__name__)
        if isinstance(value, property):
            return self._all("property", value.fget, value.fset)
        if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | np.ufunc):
            module = getattr(value, "__module__", None) or type(value).__module__
            owner = getattr(value, "__self__", None)
            if owner is not None and not isinstance(owner, types.ModuleType):
                self.add(owner)
            return self._named(module, getattr(value, "__qualname__", value.__name__))
        return self._object(value, torch)

    def _function(self, function: types.FunctionType) -> None:
        cells = [cell.cell_contents if _is_full(cell) else None for cell in function.__closure__ or ()]
        used = {
            name: function.__globals__[name]
            for name in sorted(_names(function.__code__))
            if name in function.__globals__
        }
        self._all("function", function.__code__, function.__defaults__, function.__kwdefaults__, cells, used)

    def _object(self, value: Any, torch: Any) -> None:
        state = getattr(value, "__dict__", None)
        slots = {
            name: getattr(value, name)
            for base in type(value).__mro__
            for name in getattr(base, "__slots__", ())
            if hasattr(value, name)
        }
        if state is None and not slots:
            raise UnknownError(f"{type(value).__module__}.{type(value).__qualname__}")
        if state is not None and torch is not None and isinstance(value, torch.nn.Module):
            # Hooks are kept by numbers that count all that were ever made.
            state = {
                name: list(each.values()) if "_hooks" in name and isinstance(each, dict) else each
                for name, each in state.items()
                if name not in self.left_out
            }
        self._all("object", type(value), {**(state or {}), **slots})

    def _named(self, module: str, name: str) -> None:
        release = _release(module)
        if release is None:
            raise UnknownError(f"{module}.{name}" if module != name else f"the module {name}")
        self._say("named", module, name, release)


_OF_CLASSES = ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__")


def _names(code: types.CodeType) -> set[str]:
    """Return the names that code looks up, in functions inside it, too."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _is_full(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _bytes(tensor: Any, torch: Any) -> bytes:
    raw: bytes = tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return raw


@functools.cache
def _release(module: str | None) -> str | None:
    """Return the version of the installed package, or of Python, that a module is of; None for others."""
    package = (module or "").partition(".")[0]
    if package in sys.stdlib_module_names and package != "__main__":
        return platform.python_version()
    found = _distributions().get(package)
    return None if not found else importlib.metadata.version(found[0])


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
