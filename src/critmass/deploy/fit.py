"""The part to keep and its probe, as plain arrays: fitted again just as it was for its curve."""

from __future__ import annotations

import inspect
import os
from dataclasses import replace
from typing import Any

from critmass.curves.curve import Curve
from critmass.curves.measure import MEMORY_GIB, way_that_fits
from critmass.errors import InputError, verbatim
from critmass.features.features import Features
from critmass.linalg.devices import resolve_device
from critmass.parts.families import FAMILIES
from critmass.parts.making import make_parts
from critmass.parts.parts import Bases
from critmass.parts.plan import Plan
from critmass.progress import Progress, silent
from critmass.scores import Run, Score, factory_of, make_score, registered
from critmass.scores.head import FittedPart, no_head
from critmass.scores.probes import Probe


def fit_part(
    features: Features | str | os.PathLike[str],
    curve: Curve,
    *,
    size: int,
    repeat: int = 0,
    parts: Any = None,
    score: Score | None = None,
    device: str = "cpu",
    memory_gib: float = MEMORY_GIB,
    progress: Progress | None = None,
) -> FittedPart:
    """Return one part of a measured curve and its probe: what to keep of the layer, and what reads it.

    Parameters
    ----------
    features : Features or path
        Those that the curve was measured on.
    curve : Curve
        Of a linear probe: ridge, lda, logistic, sgd.
    size : int
        Columns of the part; one of the curve's sizes.
    repeat : int
        Which of the parts of this size.
    parts : array, Family or function, optional
        The dense basis that the curve's parts were given as; a curve does not keep it.
    score : Score, optional
        The probe, where it was not given to `measure` by its name.

    Returns
    -------
    FittedPart
        ``selector.transform(X)`` takes the part's columns; ``head.predict`` reads them.

    Raises
    ------
    InputError
        For a size or repeat that the curve has not, or a score without a linear head.

    Examples
    --------
    >>> import numpy as np
    >>> from critmass.curves.measure import measure
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(200) % 2
    >>> fs = Features.from_arrays((rng.normal(size=(200, 16)) + y[:, None], y))
    >>> kept = fit_part(fs, measure(fs, sizes=[4], repeats=2), size=4)
    >>> kept.selector.neurons.shape, kept.head.coefficients.shape
    ((4,), (1, 4))
    """
    if not isinstance(features, Features):
        features = Features.open(features, seed=curve.spec["seed"])
    if size not in curve.sizes:
        raise InputError("size", size, ", ".join(map(str, curve.sizes.tolist())))
    if not 0 <= repeat < curve.repeats:
        raise InputError("repeat", repeat, f"0 to {curve.repeats - 1}")
    probe = _probe(curve) if score is None else score
    if not isinstance(probe, Probe):
        raise no_head(curve.score)
    spec, taken = curve.spec, curve.parts
    if isinstance(taken, Bases):
        if spec["parts"] not in FAMILIES and parts is None:
            advice = "give what was given to measure(parts=)"
            raise InputError("parts", verbatim("nothing"), f"the parts of family {spec['parts']!r}", advice)
        taken = make_parts(
            spec["parts"] if parts is None else parts,
            features.n_neurons,
            settings=spec["parts_settings"],
            repeats=spec["repeats"],
            seed=spec["seed"],
            seeding=spec["seeding"],
            features=features,
            standardise=bool(getattr(probe, "standardise", False)),
        )
    plan = Plan.of(taken, curve.sizes)
    whole = size == curve.n_neurons and taken.ends_whole
    run = Run(spec["seed"], resolve_device(device), memory_gib * 2**30, progress or silent)
    run = replace(run, way=way_that_fits(features, probe, plan, run))
    part = plan.only(repeat, size)
    return probe.fit(features, part, run).part(plan.n_repeats if whole else repeat, size)


def _probe(curve: Curve) -> Score | None:
    """Return the probe that a curve says it was measured with; None where that is no probe."""
    factory = factory_of(curve.score) if curve.score in registered() else None
    if not (inspect.isclass(factory) and issubclass(factory, Probe)):
        return None
    return make_score(curve.score, curve.spec["settings"])
