"""Scores by name: what is measured on a part. Other packages add theirs as entry points.

An entry point in the group "critmass.scores" is a class whose instances are scores (see protocols.py), made
with a user's settings as keyword arguments; or a function of two splits (see custom.py).
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from critmass.errors import InputError, unknown, verbatim
from critmass.scores.centroid import Centroid
from critmass.scores.cka import CKA
from critmass.scores.custom import Custom
from critmass.scores.lda import LDA
from critmass.scores.logistic import Logistic
from critmass.scores.neighbours import KNN, NeighbourOverlap
from critmass.scores.protocols import Run, Score
from critmass.scores.ridge import Ridge
from critmass.scores.settings import checked
from critmass.scores.sgd import SGD

ENTRY_POINTS = "critmass.scores"

SCORES: dict[str, tuple[str, Callable[..., Score]]] = {
    "ridge": ("test performance of a ridge probe trained on the part", Ridge),
    "lda": ("test performance of linear discriminant analysis of the part", LDA),
    "sgd": ("test performance of a softmax probe trained by SGD, as in the paper", SGD),
    "logistic": ("test performance of a multinomial logistic probe trained on the part", Logistic),
    "knn": ("test performance of the part's nearest neighbours", KNN),
    "centroid": ("test performance of the part's nearest class mean", Centroid),
    "neighbour-overlap": (
        "nearest neighbours in the whole that are nearest in the part (recall@k); no labels",
        NeighbourOverlap,
    ),
    "cka": (
        "debiased linear CKA of the part with the whole, test rows; no labels",
        functools.partial(CKA, "debiased"),
    ),
    "cka-biased": ("biased linear CKA, as in feature space", functools.partial(CKA, "biased")),
    "cka-minibatch": (
        "minibatch linear CKA, as the paper's authors compute it",
        functools.partial(CKA, "minibatch"),
    ),
}


def registered() -> dict[str, str]:
    """Return the name and description of every score: ours, then those of installed packages."""
    ours = {name: description for name, (description, _) in SCORES.items()}
    return ours | {name: f"from {point.value}" for name, point in _entry_points().items()}


def make_score(score: str | Score | Callable[..., Any], settings: Mapping[str, Any] | None = None) -> Score:
    """Return the score that is meant: by name, itself, or made of a function of two splits.

    Parameters
    ----------
    score : str, Score or callable
    settings : mapping, optional
        Settings by name, for a score by name; a score has its own defaults for the others.

    Raises
    ------
    InputError
        For an unknown score, or a setting that the score does not have, or not with this value.

    Examples
    --------
    >>> make_score("ridge", {"regularisation": 1.0}).regularisation
    1.0
    """
    settings = dict(settings or {})
    if not isinstance(score, str):
        found: Any = score
        if inspect.isclass(score) or not (isinstance(score, Score) or callable(score)):
            kind = score.__name__ if inspect.isclass(score) else type(score).__name__
            raise InputError("score", verbatim(kind), "a score's name, a Score, or a function of two splits")
        if settings:
            advice = "give them where the score is made"
            raise InputError("settings", sorted(settings), "nothing for a score that is made already", advice)
        return found if isinstance(found, Score) else Custom(found)
    points = _entry_points()
    factory: Any
    if score in SCORES:
        _, factory = SCORES[score]
    elif score in points:
        factory = points[score].load()
        if not inspect.isclass(factory):
            return make_score(factory, settings)
    else:
        raise unknown("score", score, [*SCORES, *points])
    known = list(inspect.signature(factory).parameters)
    for name in settings:
        if name not in known:
            allowed = ", ".join(known) or "nothing"
            raise InputError(name, settings[name], f"{allowed}: the settings of score {score!r}")
    made: Score = factory(**checked(factory, settings))
    return made


def factory_of(score: str) -> Any:
    """Return what makes the score of this name, which there is: ours, or that of an installed package."""
    return SCORES[score][1] if score in SCORES else _entry_points()[score].load()


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return {point.name: point for point in found if point.name not in SCORES}


__all__ = [
    "ENTRY_POINTS",
    "SCORES",
    "Run",
    "Score",
    "factory_of",
    "make_score",
    "registered",
]
