"""How many neurons of a pre-trained representation does a task need.

The public names, loaded when first used; nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from critmass.curves.curve import Curve
    from critmass.curves.inequality import Inequality, inequality
    from critmass.curves.measure import measure
    from critmass.curves.redundancy import Redundancy
    from critmass.curves.similarity import Similarity, similarity
    from critmass.deploy.choose import choose_parts
    from critmass.errors import CritmassError, InputError
    from critmass.extraction.extract import extract
    from critmass.features.features import Features
    from critmass.scores.cka import cka

_HOMES = {
    "Curve": "critmass.curves.curve",
    "CritmassError": "critmass.errors",
    "Features": "critmass.features.features",
    "Inequality": "critmass.curves.inequality",
    "InputError": "critmass.errors",
    "Redundancy": "critmass.curves.redundancy",
    "Similarity": "critmass.curves.similarity",
    "choose_parts": "critmass.deploy.choose",
    "cka": "critmass.scores.cka",
    "extract": "critmass.extraction.extract",
    "inequality": "critmass.curves.inequality",
    "measure": "critmass.curves.measure",
    "similarity": "critmass.curves.similarity",
}

__all__ = [
    "CritmassError",
    "Curve",
    "Features",
    "Inequality",
    "InputError",
    "Redundancy",
    "Similarity",
    "choose_parts",
    "cka",
    "extract",
    "inequality",
    "measure",
    "similarity",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'critmass' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
