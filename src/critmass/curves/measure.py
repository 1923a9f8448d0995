"""Features + score + parts -> curve: the question put together, answered, and kept.

Chooses between a score's two ways (moments, or rows for layers much wider than there are samples) by
what fits in memory, and refuses with advice what fits neither way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from critmass.curves import cells
from critmass.curves.curve import Curve
from critmass.curves.redundancy import require_something_learned
from critmass.errors import InputError, check_name, check_number, said, unknown
from critmass.features.features import Features
from critmass.io.files import check_writable
from critmass.io.ids import MeasureSpec, validated
from critmass.linalg.arrays import Indices, require_memory, resolve_device
from critmass.parts.parts import Parts, Seeding, described, make_parts, recorded
from critmass.progress import Progress, silent
from critmass.scores import MomentScore, Run, Score, make_score
from critmass.scores.protocols import resolve_metric
from critmass.scores.settings import IDENTITY, settings_of

MEMORY_GIB = 8.0


def measure(
    features: Features | str | os.PathLike[str],
    *,
    score: str | Score | Callable[..., Any] = "ridge",
    parts: str | ArrayLike = "random",
    sizes: str | float | Sequence[int | float] = "paper",
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
    parts : str or array
        A family (`critmass list parts`): "random", "first", "pca", "random-projection", "variance", ...; an
        explicit order of all neurons, shape (n_neurons,) or (n_repeats, n_neurons); or masks, booleans of
        shape (n_sizes, n_neurons) or (n_repeats, n_sizes, n_neurons), each row a part. What depends on the
        data is fitted on the training rows. Where the score standardises, PCA and projections are of the
        standardised columns, and their own columns are not standardised again.
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
    known = asked.get(IDENTITY, "") is not None
    spec = validated(
        MeasureSpec,
        features=features.fingerprint if out is not None else "",
        score=chosen.name,
        **described(parts, features.n_neurons, sizes=sizes, repeats=repeats, seeding=seeding),
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
    taken = make_parts(
        parts,
        features.n_neurons,
        repeats=repeats,
        seed=seed,
        seeding=seeding,
        train=features.splits["train"],
        standardise=bool(asked.get("standardise")),
        memory=run.memory,
    )
    curve = _measured(features, chosen, taken, np.array(spec["sizes"]), spec, run)
    if not known:  # by what came of it
        asked[IDENTITY] = hashlib.sha256(curve.measurement.scores.tobytes()).hexdigest()
        curve = dataclasses.replace(curve, spec={**spec, "settings": asked})
    curve = dataclasses.replace(curve, name=name)
    if out is not None:
        cells.save_cell(Path(out), curve)
        if table:
            cells.write_table(Path(out))
    return curve


def _opened(path: Any, seed: int) -> Features:
    if not isinstance(path, str | os.PathLike):
        advice = "make features of arrays with Features.from_arrays((X, y))"
        raise InputError("features", said(type(path).__name__), "Features or a path", advice)
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


def _measured(
    features: Features, score: Score, parts: Parts, sizes: Indices, spec: dict[str, Any], run: Run
) -> Curve:
    needed = {way: parts.memory + size for way, size in score.memory(features, parts, sizes).items()}
    if isinstance(score, MomentScore) and needed["moments"] <= run.memory:
        way = score.from_moments
    else:
        advice = "use fewer neurons or repeats, or raise memory_gib"
        require_memory(f"{score.name} of {parts.n_neurons} neurons", min(needed.values()), run.memory, advice)
        way = score.from_rows
    measured = dict(way(features, parts, sizes, run))
    require_something_learned(measured["test"])
    return Curve(
        features=features.name,
        score=score.name,
        split="test",
        metric=spec["settings"].get("metric"),
        sizes=sizes,
        parts=recorded(parts),
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


def versions() -> dict[str, str]:
    """Return the versions that can change a result's last digits."""
    packages = {name: importlib.metadata.version(name) for name in ("critmass", "numpy", "scipy")}
    return {**packages, "python": platform.python_version(), "machine": platform.machine()}
