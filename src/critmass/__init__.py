"""How many neurons of a pre-trained representation does a task need.

The public names, loaded when first used; nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from critmass.curve import Curve
    from critmass.errors import CritmassError, InputError
    from critmass.extraction import extract
    from critmass.features import Features
    from critmass.measuring import measure
    from critmass.redundancy import Redundancy
    from critmass.scores.cka import cka

_HOMES = {
    "Curve": "critmass.curve",
    "CritmassError": "critmass.errors",
    "Features": "critmass.features",
    "InputError": "critmass.errors",
    "Redundancy": "critmass.redundancy",
    "cka": "critmass.scores.cka",
    "extract": "critmass.extraction",
    "measure": "critmass.measuring",
}

__all__ = ["CritmassError", "Curve", "Features", "InputError", "Redundancy", "cka", "extract", "measure"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'critmass' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
