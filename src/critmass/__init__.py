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
    from critmass.inequalities import Inequality, inequality
    from critmass.measuring import measure
    from critmass.mitigation import choose_parts
    from critmass.pairwise import Similarity, similarity
    from critmass.redundancy import Redundancy
    from critmass.scores.cka import cka

_HOMES = {
    "Curve": "critmass.curve",
    "CritmassError": "critmass.errors",
    "Features": "critmass.features",
    "Inequality": "critmass.inequalities",
    "InputError": "critmass.errors",
    "Redundancy": "critmass.redundancy",
    "Similarity": "critmass.pairwise",
    "choose_parts": "critmass.mitigation",
    "cka": "critmass.scores.cka",
    "extract": "critmass.extraction",
    "inequality": "critmass.inequalities",
    "measure": "critmass.measuring",
    "similarity": "critmass.pairwise",
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
