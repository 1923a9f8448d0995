"""One family of exceptions: what was given, what is allowed, what to do next.

Every message is one line made of the same four pieces, so that a person can act on it and a test can
check it. Nothing here prints; the command line turns these into exit code 2.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import numbers
import re
import sys
from collections.abc import Iterable
from typing import Any


class CritmassError(Exception):
    """Base of every error that critmass raises on purpose."""


class InputError(CritmassError, ValueError):
    """A value from outside cannot be used.

    Parameters
    ----------
    name : str
        What the value is called: an argument, a file, a key.
    found : object
        The value that was found.
    allowed : str
        What would have been allowed.
    advice : str, optional
        The next step for the person who sees the message.
    """

    def __init__(self, name: str, found: object, allowed: str, advice: str = "") -> None:
        self.name, self.found, self.allowed, self.advice = name, found, allowed, advice
        tail = f"; {advice}" if advice else ""
        super().__init__(f"{name}: found {_short(found)}; allowed: {allowed}{tail}")


class StoreError(InputError):
    """A folder or file of ours is missing, unfinished, damaged, or of another version."""


class MissingExtraError(CritmassError, ImportError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs the package "{package}"; next: {installing(extra, package)}')


class BrokenPackageError(CritmassError, ImportError):
    """An optional dependency is installed and cannot be imported."""

    def __init__(self, package: str, error: BaseException, *, purpose: str) -> None:
        found = f"{type(error).__name__}: {_short(verbatim(str(error)))}"
        if "torchvision::" in str(error):
            # Whichever package was asked for: several import torchvision, and fail with it.
            cause = f"torchvision, whose compiled operators are built for another torch ({found})"
            command = "pip install --force-reinstall torch torchvision"
            advice = f"install matching builds of the two from one index: {command}"
        else:
            cause = f'the package "{package}", which fails to import ({found})'
            advice = "reinstall it in a version that fits the other packages"
        super().__init__(f"{purpose} needs {cause}; next: {advice}")


def installing(extra: str, package: str) -> str:
    """Return the command that installs an extra, also where no index has critmass: its packages by name.

    They come from the metadata of the installed critmass; `package` alone where critmass is not installed,
    as when it runs from its source.
    """
    try:
        asked = importlib.metadata.requires("critmass") or []
    except importlib.metadata.PackageNotFoundError:
        asked = [f"{package}; extra == '{extra}'"]
    of_extra = re.compile(rf"\s*(.+?)\s*;.*extra == ['\"]{extra}['\"]")
    names = [found[1] for found in map(of_extra.match, asked) if found]
    return " ".join(["pip install", *(f'"{name}"' for name in names)])


_LISTED = 40
"""Names that a message lists; where there are more, it counts them."""


def unknown(kind: str, found: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is in no registry, with near matches.

    Examples
    --------
    >>> str(unknown("score", "rigde", ["ridge", "cka"]))
    "score: found 'rigde'; allowed: cka, ridge; did you mean 'ridge'?"
    """
    names = sorted(known)
    near = difflib.get_close_matches(found, names, n=2, cutoff=0.5)
    advice = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
    allowed = ", ".join(names) if len(names) <= _LISTED else f"one of {len(names)} names"
    return InputError(kind, found, allowed, advice)


def check_name(name: str | None) -> None:
    """Raise InputError for a name that is no line of text; None is no name."""
    if name is not None and (not name.strip() or not name.isprintable()):
        raise InputError("name", name, "one line of text")


def check_number(
    name: str,
    value: object,
    allowed: str,
    *,
    above: float = 0.0,
    most: float = sys.float_info.max,
    whole: bool = False,
) -> None:
    """Raise InputError, naming it, unless a value is a (whole) number above one limit and up to another.

    No text, no truth value, and neither NaN nor infinity is; nor an integer that no float holds.
    """
    number: Any = value
    kind = numbers.Integral if whole else numbers.Real
    good = isinstance(value, kind) and not isinstance(value, bool)
    if not (good and above < number <= most):
        raise InputError(name, value, allowed)


def _short(value: object, limit: int = 120) -> str:
    text = " ".join((value if isinstance(value, _Verbatim) else repr(value)).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


class _Verbatim(str):
    """Text that an error shows as it is, without quotes."""


def verbatim(text: str) -> str:
    """Mark `text` as a description rather than a value, so that an error shows it without quotes."""
    return _Verbatim(text)


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, or the kind of error where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def require(module: str, *, package: str, extra: str, purpose: str) -> Any:
    """Import and return an optional module, or raise MissingExtraError saying how to get it.

    A package that is there and fails for a reason of its own, such as a library built for another version
    of torch, is a BrokenPackageError.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(package, extra=extra, purpose=purpose) from error
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise BrokenPackageError(package, error, purpose=purpose) from error
