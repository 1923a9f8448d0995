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
    from critmass.deploy.choose import Chosen, choose_parts
    from critmass.deploy.fit import fit_part
    from critmass.errors import CritmassError, InputError
    from critmass.extraction.extract import extract, extract_layers
    from critmass.features.features import Features
    from critmass.parts.families import Family, Whole
    from critmass.parts.parts import Parts
    from critmass.parts.plan import Plan
    from critmass.scores.cka import cka
    from critmass.scores.head import FittedPart, Head, Selector
    from critmass.scores.probes import Probe
    from critmass.scores.protocols import Measurement, Run, Score

_HOMES = {
    "Chosen": "critmass.deploy.choose",
    "CritmassError": "critmass.errors",
    "Curve": "critmass.curves.curve",
    "Family": "critmass.parts.families",
    "Features": "critmass.features.features",
    "FittedPart": "critmass.scores.head",
    "Head": "critmass.scores.head",
    "Inequality": "critmass.curves.inequality",
    "InputError": "critmass.errors",
    "Measurement": "critmass.scores.protocols",
    "Parts": "critmass.parts.parts",
    "Plan": "critmass.parts.plan",
    "Probe": "critmass.scores.probes",
    "Redundancy": "critmass.curves.redundancy",
    "Run": "critmass.scores.protocols",
    "Score": "critmass.scores.protocols",
    "Selector": "critmass.scores.head",
    "Similarity": "critmass.curves.similarity",
    "Whole": "critmass.parts.families",
    "choose_parts": "critmass.deploy.choose",
    "cka": "critmass.scores.cka",
    "extract": "critmass.extraction.extract",
    "extract_layers": "critmass.extraction.extract",
    "fit_part": "critmass.deploy.fit",
    "inequality": "critmass.curves.inequality",
    "measure": "critmass.curves.measure",
    "similarity": "critmass.curves.similarity",
}

__all__ = [
    "Chosen",
    "CritmassError",
    "Curve",
    "Family",
    "Features",
    "FittedPart",
    "Head",
    "Inequality",
    "InputError",
    "Measurement",
    "Parts",
    "Plan",
    "Probe",
    "Redundancy",
    "Run",
    "Score",
    "Selector",
    "Similarity",
    "Whole",
    "choose_parts",
    "cka",
    "extract",
    "extract_layers",
    "fit_part",
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
