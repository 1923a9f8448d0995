"""What a Python object computes with, as one hash: so that no function's features are taken for another's.

Code, constants, defaults, what a function closes over and the globals it names; the arguments of a partial;
the class, the attributes and the content of an object; the weights and the plain attributes of a module. Of
what installed packages and Python itself define, name and version. What lies beyond (a file, a service, a
module of one's own that is used by its name, state that is kept in C) cannot be known, and is not guessed.
"""

from __future__ import annotations

import collections
import dis
import functools
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import sys
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_SCALARS = (type(None), type(...), bool, float, complex, str, bytes)
_LISTS = (list, tuple, collections.deque)
_CONTENT: tuple[Any, ...] = (int, float, complex, str, bytes, tuple, list, dict, set, frozenset)
"""Types with content of their own, by which a subclass is known beside its class and attributes."""

_OF_CLASSES = ("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "_abc_impl")
_REACH_ALL = ("globals", "locals", "vars", "eval", "exec", "compile", "__import__")
"""Builtins by which code reaches what it does not name."""


class UnknownError(Exception):
    """An object of which nobody can tell what it computes; its argument says which."""


def identity(value: Any, *, weights: bool = True) -> str:
    """Return the SHA-256 of all that an object computes with.

    Parameters
    ----------
    weights : bool
        False for a torch module that is put into evaluation mode and whose `state_dict` has a hash of its
        own: these tensors and the mode are left out.

    Raises
    ------
    UnknownError
        If something it uses cannot be identified.
    """
    try:
        walk = _Walk({} if weights else value.state_dict(keep_vars=True), modes=weights)
        walk.add(value)
    except UnknownError:
        raise
    except Exception as error:  # properties, slots and sparse tensors may raise anything
        raise UnknownError(f"{type(value).__qualname__} ({type(error).__name__})") from error
    return walk.digest.hexdigest()


class _Walk:
    """A walk over an object and all that it is made of, each once.

    Parameters
    ----------
    known : mapping of str to tensor
        Tensors that are known by other means.
    modes : bool
        Whether modules are told apart by training and evaluation mode.
    """

    def __init__(self, known: Mapping[str, Any], *, modes: bool) -> None:
        self.digest = hashlib.sha256()
        self.seen: dict[int, int] = {}
        self.kept: list[Any] = []  # so that no id is given twice
        self.known = {id(tensor): name for name, tensor in known.items()}
        self.modes = modes

    def add(self, value: Any) -> None:
        """Take a value into account, and all that it is made of."""
        if type(value) in _SCALARS:
            self._say(type(value).__name__, repr(value))
        elif type(value) is int:
            self._say("int", hex(value))
        elif id(value) in self.seen:
            self._say("again", str(self.seen[id(value)]))
        else:
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
        kind = type(value)
        if kind in _LISTS:
            self._all(kind.__name__, *value)
        elif kind in (dict, collections.OrderedDict, types.MappingProxyType):
            self._all(kind.__name__, *(part for item in value.items() for part in item))
        elif kind in (set, frozenset):
            self._all(kind.__name__, *sorted(identity(each) for each in value))
        elif kind is bytearray:
            self._all("bytearray", bytes(value))
        elif kind in (range, slice):
            self._all(kind.__name__, value.start, value.stop, value.step)
        elif kind is np.ndarray or isinstance(value, np.generic):
            self._array(value)
        elif torch is not None and kind in (torch.Tensor, torch.nn.Parameter):
            self._tensor(value, torch)
        elif torch is not None and kind in (torch.dtype, torch.device):
            self._say("torch", str(value))
        elif isinstance(value, pathlib.PurePath):
            self._say("path", kind.__name__, str(value))
        elif kind is types.CodeType:
            self._code(value)
        elif kind is types.FunctionType:
            self._function(value)
        elif kind is functools.partial:
            self._all("partial", value.func, value.args, value.keywords)
        elif kind is types.MethodType:
            self._all("method", value.__func__, value.__self__)
        elif kind is types.ModuleType:
            self._named(value.__name__, value.__name__)
        elif isinstance(value, type):
            self._class(value)
        elif kind in (staticmethod, classmethod):
            self._all(kind.__name__, value.__func__)
        elif kind is property:
            self._all("property", value.fget, value.fset, value.fdel)
        elif kind is functools.cached_property:
            self._all("cached property", value.func)
        elif kind in (types.MemberDescriptorType, types.GetSetDescriptorType):
            self._say("descriptor", value.__name__)
        elif kind in (
            types.BuiltinFunctionType,
            types.WrapperDescriptorType,
            types.MethodDescriptorType,
            np.ufunc,
        ):
            self._built_in(value)
        else:
            self._object(value, torch)

    def _array(self, value: Any) -> None:
        if value.dtype.hasobject or value.dtype.kind == "T":
            raise UnknownError(f"an array of {value.dtype}")
        self._all("array", json.dumps(value.dtype.descr), value.shape, value.tobytes())

    def _tensor(self, value: Any, torch: Any) -> None:
        if id(value) in self.known:
            self._say("known", self.known[id(value)])
            return
        dense = value.layout == torch.strided and not (value.is_quantized or value.is_meta)
        if not dense:
            raise UnknownError(f"a tensor of layout {value.layout}, {value.dtype}, on {value.device}")
        stored = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        raw = stored.view(-1).view(torch.uint8).numpy().tobytes() if stored.numel() else b""
        self._all("tensor", str(value.dtype), tuple(value.shape), raw)

    def _code(self, code: types.CodeType) -> None:
        for instruction in dis.get_instructions(code):
            if instruction.opname == "IMPORT_NAME" and _release(instruction.argval) is None:
                raise UnknownError(f"the module {instruction.argval}")
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars)
        table = getattr(code, "co_exceptiontable", b"")
        self._all("code", code.co_code, table, counts, names, code.co_consts)

    def _function(self, function: types.FunctionType) -> None:
        if _is_installed(function) and function.__closure__ is None:
            self._named(function.__module__, function.__qualname__)
            return
        names = sorted(_names(function.__code__))
        space = function.__globals__
        for name in names:
            if name in _REACH_ALL and name not in space:
                raise UnknownError(f"what {function.__qualname__} reaches with {name}()")
        cells = [cell.cell_contents if _is_full(cell) else None for cell in function.__closure__ or ()]
        used = {name: space[name] for name in names if name in space}
        defaults = (function.__defaults__, function.__kwdefaults__)
        self._all("function", function.__code__, defaults, cells, used, vars(function))

    def _class(self, value: type) -> None:
        if not _is_python(value) or _is_installed(value):
            self._named(value.__module__, value.__qualname__)
            foreign = {
                name: each
                for name, each in vars(value).items()
                if type(each) is types.FunctionType and _release(each.__module__) is None
            }
            if foreign:  # somebody has replaced its methods
                self.add(foreign)
            return
        own = {name: each for name, each in vars(value).items() if name not in _OF_CLASSES}
        maker = () if type(value) is type else (type(value),)
        self._all("class", value.__qualname__, own, *value.__bases__, *maker)

    def _built_in(self, value: Any) -> None:
        owner: Any = getattr(value, "__self__", None) or getattr(value, "__objclass__", None)
        name: str = getattr(value, "__qualname__", "") or value.__name__
        if isinstance(value, np.ufunc):
            if getattr(np, name, None) is not value:
                raise UnknownError(f"the ufunc {name}")
            self._named("numpy", name)
        elif owner is None or isinstance(owner, types.ModuleType):
            self._named(str(getattr(value, "__module__", None) or getattr(owner, "__name__", "")), name)
        else:
            self._all("built-in", owner, name)

    def _object(self, value: Any, torch: Any) -> None:
        kind = type(value)
        if kind.__name__ == "_tuplegetter":  # a field of a named tuple
            self._all("field", *value.__reduce__()[1])
            return
        if hasattr(value, "__qualname__") and _is_installed(value):  # functions made in C
            self._named(value.__module__, value.__qualname__)
            return
        content = [base(value) for base in _CONTENT if isinstance(value, base)][:1]
        in_c = [each for each in kind.__mro__ if each is not object and not _is_python(each)]
        if set(in_c) - set(_CONTENT):
            raise UnknownError(f"{kind.__module__}.{kind.__qualname__}")
        state = dict(getattr(value, "__dict__", {}))
        slots = {name: getattr(value, name) for name in _slots(kind) if hasattr(value, name)}
        if torch is not None and isinstance(value, torch.nn.Module):
            # Hooks are kept by numbers that count all that were ever made.
            state = {
                name: list(each.values()) if "_hooks" in name and isinstance(each, dict) else each
                for name, each in state.items()
                if self.modes or name != "training"
            }
        self._all("object", kind, content, state, slots)

    def _named(self, module: str, name: str) -> None:
        release = _release(module)
        if release is None:
            raise UnknownError(f"{module}.{name}" if module != name else f"the module {name}")
        self._say("named", module, name, release)


def _names(code: types.CodeType) -> set[str]:
    """Return the names that code looks up, in functions inside it, too."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _slots(kind: type) -> Iterable[str]:
    """Return the names of the slots of a class and its bases, as attributes have them."""
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            private = name.startswith("__") and not name.endswith("__")
            yield f"_{base.__name__.lstrip('_')}{name}" if private else name


def _is_python(kind: type) -> bool:
    """Return whether a class was made by a class statement; one made in C has descriptors of C's own."""
    made_in_c = (types.WrapperDescriptorType, types.MethodDescriptorType, types.GetSetDescriptorType)
    return not any(
        type(each) in made_in_c and each.__objclass__ is kind and name not in ("__dict__", "__weakref__")
        for name, each in vars(kind).items()
    )


def _is_full(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _is_installed(value: Any) -> bool:
    """Return whether a function or class is the one that an installed package, or Python, has by its name."""
    if _release(getattr(value, "__module__", None)) is None:
        return False
    found: Any = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


@functools.cache
def _release(module: str | None) -> str | None:
    """Return the version of the installed package, or of Python, that a module is of; None for others."""
    package = (module or "").partition(".")[0]
    if package in sys.stdlib_module_names and package != "__main__":
        return platform.python_version()
    if package == "critmass":  # also where it is installed to be worked on
        return _own_version()
    for name in _distributions().get(package, ()):
        found = importlib.metadata.distribution(name)
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        return None if origin.get("dir_info", {}).get("editable") else found.version
    return None


def _own_version() -> str | None:
    try:
        return importlib.metadata.version("critmass")
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
