"""Commands that measure features: measure, choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from critmass.cli.flags import takes
from critmass.cli.options import Json, Numbers, Reading
from critmass.cli.printing import emit, print_redundancy, shown
from critmass.curves.request import MeasureRequest
from critmass.errors import InputError


@takes(MeasureRequest)
def measure(
    features: Path,
    *,
    asked: MeasureRequest,
    delta: Numbers = (0.8, 0.9, 0.95, 0.99),
    device: str = "cpu",
    out: Path | None = None,
    existing: str = "reuse",
    memory_gib: float | None = None,
    name: str | None = None,
    reading: Reading = Reading(),
    json: Json = False,
) -> None:
    """Measure how well parts of a layer do against the whole, and how much of it is redundant.

    Example: critmass measure features.npz --score ridge --sizes paper --delta .9 .95 --out results

    Parameters
    ----------
    features
        A features store, or a .npz, .safetensors, .npy or .parquet file.
    delta
        Shares of the whole's score to keep.
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
    from critmass.curves import measure as measuring
    from critmass.curves.redundancy import check_deltas
    from critmass.features.readers import load_npy

    given: dict[str, Any] = {**asked.model_dump(), "device": device, "existing": existing}
    if asked.parts.endswith(".npy"):
        given["parts"] = load_npy(Path(asked.parts), "parts")
    check_deltas(delta)
    with shown() as progress:
        curve = measuring.measure(
            reading.open(features, seed=asked.seed),
            memory_gib=measuring.MEMORY_GIB if memory_gib is None else memory_gib,
            out=out,
            name=name,
            progress=progress,
            **given,
        )
    written = [] if out is None else [out / "results.parquet"]
    print_redundancy([curve], delta, json=json, written=written)


@takes(MeasureRequest, only=("score", "sizes", "repeats", "seed", "settings"))
def choose(
    features: Path,
    *,
    asked: MeasureRequest,
    out: Path,
    by: str = "worst-class",
    candidates: int = 20,
    device: str = "cpu",
    reading: Reading = Reading(),
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
    given: dict[str, Any] = asked.model_dump(include={"score", "sizes", "repeats", "seed", "settings"})
    given["by"] = by
    with shown() as progress:
        chosen = choose_parts(
            reading.open(features, seed=asked.seed),
            candidates=candidates,
            device=device,
            progress=progress,
            **given,
        )

    create_atomic(out, lambda stream: np.save(stream, chosen.masks))
    rows = chosen.frame.group_by("size", maintain_order=True).mean().to_dicts()
    lines = [
        f"{r['size']} neurons: {by} {r['chosen']:.3f} on validation rows (the best of {candidates}, so "
        f"optimistic; their mean {r['candidates_mean']:.3f})"
        for r in rows
    ]
    emit({"masks": str(out), "sizes": rows}, json=json, text="\n".join([*lines, f"wrote {out}"]))
