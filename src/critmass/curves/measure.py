"""Features + score + parts -> curve: the question put together, answered, and kept.

Chooses between a score's two ways (moments, or rows for layers much wider than there are samples) by
what fits in memory, and refuses with advice what fits neither way.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from critmass.curves import cells
from critmass.curves.curve import Curve
from critmass.curves.redundancy import require_something_learned
from critmass.errors import InputError, check_name, check_number, unknown, verbatim
from critmass.features.features import Features
from critmass.io.files import check_writable
from critmass.io.ids import MeasureSpec, validated
from critmass.linalg.devices import require_memory, resolve_device
from critmass.parts.families import FAMILIES, Family, Seeding, Whole
from critmass.parts.making import described, described_by_array, make_parts
from critmass.parts.parts import recorded
from critmass.parts.plan import Plan
from critmass.parts.sizes import Sizes
from critmass.progress import Progress, silent
from critmass.scores import Run, Score, make_score
from critmass.scores.settings import IDENTITY, settings_of
from critmass.scores.tally import resolve_metric

MEMORY_GIB = 8.0


def measure(
    features: Features | str | os.PathLike[str],
    *,
    score: str | Score | Callable[..., Any] = "ridge",
    parts: str | Family | Callable[[Whole, int], ArrayLike] | ArrayLike = "random",
    parts_settings: Mapping[str, Any] | None = None,
    sizes: Sizes = "paper",
    repeats: int = 5,
    seed: int = 0,
    seeding: Seeding = "critmass",
    metric: str | None = None,
    regularisation: float | None = None,
    standardise: bool | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    out: str | os.PathLike[str] | None = None,
    existing: Literal["reuse", "replace"] = "reuse",
    table: bool = True,
    name: str | None = None,
    memory_gib: float = MEMORY_GIB,
    progress: Progress | None = None,
) -> Curve:
    """Return the curve of a score over sizes of parts.

    Parameters
    ----------
    features : Features or path
        A path is opened with `Features.open` and this `seed`.
    score : str, Score or callable
        A name (`critmass list scores`); a Score made with settings of its own; or a function of two
        splits, ``score(train, test)``: see scores/custom.py. A function, and a score of another package,
        is told from others of its name by all that it computes with; where nobody can know that (it uses
        a module of your own by its name, say), results are never reused from `out`.
    parts : str, array, Family or function
        A family (`critmass list parts`): "random", "first", "pca", "random-projection", "variance", ...; an
        explicit order of all neurons, shape (n_neurons,) or (n_repeats, n_neurons); masks, booleans of
        shape (n_sizes, n_neurons) or (n_repeats, n_sizes, n_neurons), each row a part; a matrix of shape
        (n_neurons, k) or (n_repeats, n_neurons, k), whose first columns are the parts; or a function
        ``(whole, repeat)`` that returns an order or a matrix: see parts/families.py. What depends on the
        data is fitted on the training rows. Where the score standardises, PCA and projections are of the
        standardised columns, and their own columns are not standardised again.
    parts_settings : mapping, optional
        Settings of a family by name, such as ``{"centre": False}`` of pca.
    sizes : "paper", "all", or numbers
        Integers are neurons, floats fractions. The whole layer is always measured. Masks have sizes of their
        own: leave it out.
    repeats : int
        Parts to draw of each size; families without chance run one.
    seed : int
        For the parts that are drawn, the rows that λ is chosen on, and the rows set aside for testing where
        a path has no test split.
    seeding : "critmass" or "authors"
        "authors" draws the orders that the paper's code draws (seed 0: its seeds 1..5).
    metric : str, optional
        For probes: "accuracy" (default), "balanced-accuracy"; "r2" for continuous targets.
    regularisation : float, optional
        For probes: λ (scikit-learn's alpha on standardised columns). By default chosen on validation
        rows for each size and repeat; test rows are never seen.
    standardise : bool, optional
        For probes: scale columns to unit variance. By default the score's own choice: true for ridge
        and logistic.
    settings : mapping, optional
        Further settings of the score by name, such as ``{"epochs": 20}`` of sgd.
    device : str
        Where products run: "cpu" (NumPy), "torch:cpu", "cuda", "cuda:1". Changes results by rounding.
    out : path, optional
        Results folder. The finished cell is written there, and cells.parquet brought up to date.
    existing : "reuse" or "replace"
        What to do where `out` holds the answer to this very question.
    table : bool
        Whether to bring cells.parquet up to date, which reads every cell of `out`.
    name : str, optional
        What this measurement is called in tables, charts and legends. The same question under another name
        has the same answer: a cell that is reused is written again under it.
    memory_gib : float
        Refuse work whose matrices need more than this. Rows that fit are kept in memory.
    progress : callable (what, done, total), optional

    Returns
    -------
    Curve

    Raises
    ------
    InputError
        For input that cannot be used; nothing is written then.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(200) % 2
    >>> X = rng.normal(size=(200, 16)) + y[:, None]
    >>> curve = measure(Features.from_arrays((X, y)), sizes=[1, 4, 16], repeats=3)
    >>> curve.frame.shape, curve.redundancy(0.9).n_neurons
    ((9, 8), 16)
    """
    if not isinstance(features, Features):
        features = _opened(features, seed)
    check_number("memory_gib", memory_gib, "a number of GiB above 0")
    check_name(name)
    if existing not in ("reuse", "replace"):
        raise unknown("existing", str(existing), ["reuse", "replace"])
    chosen = make_score(score, _all_settings(settings, metric, regularisation, standardise))
    target = resolve_device(device)
    if not chosen.label_free and features.task is None:
        allowed = "a score that needs no labels: cka, neighbour-overlap"
        raise InputError("score", chosen.name, allowed, "or give labels")
    asked = settings_of(chosen)
    if "metric" in asked:
        asked["metric"] = resolve_metric(asked["metric"], features.task)
    make = functools.partial(
        make_parts,
        parts,
        features.n_neurons,
        settings=parts_settings,
        repeats=repeats,
        seed=seed,
        seeding=seeding,
        features=features,
        standardise=bool(getattr(chosen, "standardise", False)),
        memory=memory_gib * 2**30,
    )
    ours = isinstance(parts, str) and parts in FAMILIES
    made = None if ours else make()
    known = asked.get(IDENTITY, "") is not None
    spec = validated(
        MeasureSpec,
        features=features.fingerprint if out is not None else "",
        score=chosen.name,
        **(
            described_by_array(made, sizes)
            if made is not None
            else described(str(parts), parts_settings, features.n_neurons, sizes, repeats, seeding)
        ),
        seed=seed,
        settings=asked,
    ).model_dump(mode="json")
    if out is not None:
        check_writable(Path(out) / cells.CELLS)
        path = cells.cell_path(Path(out), spec)
        if existing == "reuse" and known and path.exists():
            kept = cells.load_cell(path)
            curve = dataclasses.replace(kept, features=features.name, name=name or kept.name)
            if curve.name != kept.name:
                cells.save_cell(Path(out), curve)
            if table:
                cells.write_table(Path(out))
            return curve
    run = Run(seed, target, memory_gib * 2**30, progress or silent)
    plan = Plan.of(made or make(), np.array(spec["sizes"]))
    curve = dataclasses.replace(_measured(features, chosen, plan, spec, run), name=name)
    if not known:  # by what came of it
        asked[IDENTITY] = hashlib.sha256(curve.measurement.scores.tobytes()).hexdigest()
        curve = dataclasses.replace(curve, spec={**spec, "settings": asked})
    if out is not None:
        cells.save_cell(Path(out), curve)
        if table:
            cells.write_table(Path(out))
    return curve


def _opened(path: Any, seed: int) -> Features:
    if not isinstance(path, str | os.PathLike):
        advice = "make features of arrays with Features.from_arrays((X, y))"
        raise InputError("features", verbatim(type(path).__name__), "Features or a path", advice)
    return Features.open(path, seed=seed)


def _all_settings(settings: Mapping[str, Any] | None, *named: Any) -> dict[str, Any]:
    """Return the settings given by name and those given apart, refusing what is given twice."""
    found = dict(settings or {})
    for name, value in zip(("metric", "regularisation", "standardise"), named, strict=True):
        if value is None:
            continue
        if name in found:
            raise InputError(f"settings of {name}", found[name], f"nothing beside {name}={value!r}")
        found[name] = value
    return found


def _measured(features: Features, score: Score, plan: Plan, spec: dict[str, Any], run: Run) -> Curve:
    run = dataclasses.replace(run, way=way_that_fits(features, score, plan, run))
    measured = dict(score.measure(features, plan, run))
    require_something_learned(measured["test"])
    return Curve(
        features=features.name,
        score=score.name,
        split="test",
        metric=spec["settings"].get("metric"),
        sizes=plan.sizes,
        parts=recorded(plan.parts),
        measurement=measured.pop("test"),
        classes=features.classes,
        groups=features.groups,
        spec=spec,
        provenance={
            "features": dict(features.provenance),
            "rows": {name: int(split.x.shape[0]) for name, split in features.splits.items()},
            "versions": versions(),
        },
        others=measured,
    )


def way_that_fits(features: Features, score: Score, plan: Plan, run: Run) -> str:
    """Return the first of the score's ways that fits in memory.

    Raises
    ------
    InputError
        Where none does.
    """
    needed = {way: plan.parts.memory + size for way, size in score.memory(features, plan).items()}
    advice = "use fewer neurons or repeats, or raise memory_gib"
    what = f"{score.name} of {plan.n_neurons} neurons"
    require_memory(what, min(needed.values()), run.memory, advice)
    return next(way for way, size in needed.items() if size <= run.memory)


def versions() -> dict[str, str]:
    """Return the versions that can change a result's last digits."""
    packages = {name: importlib.metadata.version(name) for name in ("critmass", "numpy", "scipy")}
    return {**packages, "python": platform.python_version(), "machine": platform.machine()}
