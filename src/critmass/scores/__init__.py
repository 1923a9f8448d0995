"""Scores by name: what is measured on a part."""

from __future__ import annotations

from collections.abc import Callable

from critmass.errors import InputError, unknown
from critmass.scores.base import MomentScore, Score
from critmass.scores.cka import CKA
from critmass.scores.ridge import Ridge

SCORES: dict[str, tuple[str, Callable[..., MomentScore]]] = {
    "ridge": ("test performance of a ridge probe trained on the part", Ridge),
    "cka": ("debiased linear CKA of the part with the whole, test rows; no labels", CKA),
    "cka-biased": ("biased linear CKA, as in feature space", lambda: CKA("biased")),
    "cka-minibatch": ("minibatch linear CKA, as the paper's authors compute it", lambda: CKA("minibatch")),
}


def make_score(
    name: str, *, metric: str | None = None, regularisation: float | None = None, standardise: bool = True
) -> MomentScore:
    """Return the score called `name`, with the settings of a probe where it is one.

    Raises
    ------
    InputError
        For an unknown score, or a probe's setting given to a score that is none.
    """
    if name not in SCORES:
        raise unknown("score", name, SCORES)
    _, make = SCORES[name]
    if name == "ridge":
        return make(regularisation=regularisation, standardise=standardise, metric=metric)
    for setting, value in (("metric", metric), ("regularisation", regularisation)):
        if value is not None:
            raise InputError(setting, value, f"nothing for score {name!r}, which trains no probe")
    return make()


__all__ = ["SCORES", "MomentScore", "Score", "make_score"]
