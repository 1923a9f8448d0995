"""Commands that measure features: measure, choose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from critmass.cli.options import Json, Numbers, Reading, Tokens, settings_of, sizes_of
from critmass.cli.printing import emit, print_redundancy, shown
from critmass.errors import InputError


def measure(
    features: Path,
    *,
    score: str = "ridge",
    parts: str = "random",
    sizes: Tokens = ["paper"],  # noqa: B006
    repeats: int = 5,
    seed: int = 0,
    seeding: str = "critmass",
    delta: Numbers = [0.8, 0.9, 0.95, 0.99],  # noqa: B006
    metric: str | None = None,
    regularisation: float | None = None,
    standardise: bool | None = None,
    settings: Annotated[list[str], Parameter(name="--set", consume_multiple=True, negative="")] = [],  # noqa: B006
    device: str = "cpu",
    out: Path | None = None,
    existing: str = "reuse",
    memory_gib: float | None = None,
    name: str | None = None,
    reading: Reading = Reading(),  # noqa: B008
    json: Json = False,
) -> None:
    """Measure how well parts of a layer do against the whole, and how much of it is redundant.

    Example: critmass measure features.npz --score ridge --sizes paper --delta .9 .95 --out results

    Parameters
    ----------
    features
        A features store, or a .npz, .safetensors, .npy or .parquet file.
    score
        What is measured on a part (critmass list scores).
    parts
        Family of parts (critmass list parts), or a .npy file with an order of all neurons.
    sizes
        paper, all, or numbers: 128 is 128 neurons, .1 a tenth of them, 1 one neuron, 1.0 the whole.
    repeats
        Random orders to draw.
    seed
        Seed of the orders, and of the rows set aside to choose regularisation on and for testing.
    seeding
        critmass, or authors: the orders that the paper's own code draws.
    delta
        Shares of the whole's score to keep.
    metric
        accuracy or balanced-accuracy for classes; r2 for continuous targets.
    regularisation
        Fixed strength of a probe's penalty; by default it is chosen on validation rows.
    standardise
        Scale neurons to unit variance before a probe; by default the score's own choice.
    settings
        Further settings of the score, as name=value: --score sgd --set epochs=20 lr=0.05
    device
        Where products run: cpu, torch:cpu, cuda, cuda:1.
    out
        Results folder: a cell for this measurement, and results.parquet over all cells.
    existing
        reuse or replace a result that is already in --out.
    memory_gib
        Refuse work that needs more memory than this; 8 by default.
    name
        What this measurement is called in tables, charts and legends.
    json
        Print one JSON object.
    """
    import numpy as np

    from critmass.curves import measure as measuring
    from critmass.curves.redundancy import check_deltas
    from critmass.features.readers import load_npy

    order: str | np.ndarray = parts
    if parts.endswith(".npy"):
        order = load_npy(Path(parts), "parts")
    check_deltas(delta)
    with shown() as progress:
        curve = measuring.measure(
            reading.open(features, seed=seed),
            score=score,
            parts=order,
            sizes=sizes_of(sizes),
            repeats=repeats,
            seed=seed,
            seeding=seeding,  # type: ignore[arg-type]
            metric=metric,
            regularisation=regularisation,
            standardise=standardise,
            settings=settings_of(settings),
            device=device,
            out=out,
            existing=existing,  # type: ignore[arg-type]
            name=name,
            memory_gib=measuring.MEMORY_GIB if memory_gib is None else memory_gib,
            progress=progress,
        )
    written = [] if out is None else [out / "results.parquet"]
    print_redundancy([curve], delta, json=json, written=written)


def choose(
    features: Path,
    *,
    out: Path,
    by: str = "worst-class",
    candidates: int = 20,
    score: str = "ridge",
    sizes: Tokens = ["paper"],  # noqa: B006
    repeats: int = 5,
    seed: int = 0,
    settings: Annotated[list[str], Parameter(name="--set", consume_multiple=True, negative="")] = [],  # noqa: B006
    device: str = "cpu",
    reading: Reading = Reading(),  # noqa: B008
    json: Json = False,
) -> None:
    """Choose, of several random parts of each size, the one that spares the worst class on validation rows.

    What the choice is worth on test rows: critmass measure FEATURES --parts masks.npy

    Example: critmass choose features/lite0-mnist5k --sizes .05 .1 --out masks.npy

    Parameters
    ----------
    features
        A features store or file.
    out
        File for the masks, .npy.
    by
        worst-class, worst-group or mean.
    candidates
        Random parts that compete for each size and repeat.
    score
        The probe.
    sizes
        paper, all, or numbers: 128 is 128 neurons, .1 a tenth of them, 1 one neuron.
    repeats
        Choices for each size.
    seed
        Seed of the candidates, and of the rows set aside to choose on.
    settings
        Settings of the probe, as name=value.
    device
        Where products run.
    json
        Print one JSON object.
    """
    import numpy as np

    from critmass.deploy.choose import choose_parts
    from critmass.io.files import create_atomic

    if out.suffix != ".npy":
        raise InputError("out", str(out), "a file ending in .npy")
    with shown() as progress:
        chosen = choose_parts(
            reading.open(features, seed=seed),
            by=by,  # type: ignore[arg-type]
            candidates=candidates,
            score=score,
            sizes=sizes_of(sizes),
            repeats=repeats,
            seed=seed,
            settings=settings_of(settings),
            device=device,
            progress=progress,
        )

    create_atomic(out, lambda stream: np.save(stream, chosen.masks))
    rows = chosen.frame.group_by("size", maintain_order=True).mean().to_dicts()
    lines = [
        f"{r['size']} neurons: {by} {r['chosen']:.3f} on validation rows (the best of {candidates}, so "
        f"optimistic; their mean {r['candidates_mean']:.3f})"
        for r in rows
    ]
    emit({"masks": str(out), "sizes": rows}, json=json, text="\n".join([*lines, f"wrote {out}"]))
