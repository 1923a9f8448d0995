"""Commands that make features: demo, extract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from critmass.cli.options import Json, Tokens, limit_of, pairs
from critmass.cli.printing import emit, print_redundancy, shown
from critmass.io.files import file_name


def demo(*, out: Path = Path("critmass-demo"), json: Json = False) -> None:
    """Measure a real network on real images, with nothing to download: about two minutes.

    Example: critmass demo --out critmass-demo

    Parameters
    ----------
    out
        Folder for features, results and the report. A second run reuses what is there.
    json
        Print one JSON object instead of tables.
    """
    from critmass import demo as demonstration
    from critmass.report.summary import DELTAS

    with shown() as progress:
        curves, written = demonstration.run(out, progress=progress)
    print_redundancy(curves, DELTAS, json=json, written=written)


def extract(
    model: str,
    dataset: str,
    *,
    out: Path,
    layer: Tokens = ("penultimate",),
    pooling: str = "auto",
    image_size: int | None = None,
    splits: Tokens = (),
    classes: Tokens = (),
    limit: Tokens = (),
    tests: Tokens = (),
    columns: Tokens = (),
    root: Path | None = None,
    name: str | None = None,
    views: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "cpu",
    precision: str = "float32",
    dtype: str = "float32",
    workers: int | None = None,
    on_bad: str = "stop",
    existing: str = "reuse",
    json: Json = False,
) -> None:
    """Extract layers' activations on a dataset into features stores; resumes where it was stopped.

    Example: critmass extract lite0: mnist5k: --out features/lite0-mnist5k --image-size 112

    Example: critmass extract timm:resnet50.tv_in1k folder:imagenette.zip --splits train=train test=val
    --layer penultimate "layer*" --device cuda --out features/r50

    Parameters
    ----------
    model
        Such as timm:resnet50.tv_in1k (critmass list models).
    dataset
        Such as torchvision:CIFAR10 (critmass list datasets).
    out
        The store's folder; with several layers, the folder of one store for each.
    layer
        penultimate, output, or modules by name or glob (critmass list layers MODEL), all in one pass.
    pooling
        What becomes of places of an image or tokens: auto, avg, max, cls, last, flatten, none.
    image_size
        Side of the images given to the model; by default the model's own.
    splits
        Our splits from the dataset's own: --splits train=train test=val
    classes
        Only these classes.
    limit
        At most so many samples of each split, or train=1000 test=500; seeded, stratified.
    tests
        Further test splits from other datasets: --tests v2=imagenetv2:path
    columns
        Columns of a table by role (text, image, label, group, split): --columns label=category
    root
        Folder of downloaded datasets.
    name
        What the features are called; by default after the model and the dataset.
    views
        Augmented copies of the training images to extract beside the evaluation view.
    seed
        Seed of samples taken and of augmentations.
    batch_size
        Samples in one forward pass; by default what fits, 64 on the CPU.
    device
        cpu, cuda, cuda:1, mps.
    precision
        float32, tf32, bfloat16 or float16.
    dtype
        How activations are stored: float32 or float16.
    workers
        Threads that read and prepare samples; by default one a core.
    on_bad
        A sample that cannot be read: stop, or list (leave it out and say so in the store).
    existing
        Where --out holds another extraction: reuse (refuse to go on) or replace.
    json
        Print one JSON object.
    """
    from critmass.extraction import extract as extraction

    one = len(layer) == 1 and not set(layer[0]) & set("*?[")
    options: dict[str, Any] = {
        "pooling": pooling,
        "image_size": image_size,
        "splits": pairs("--splits", splits) or None,
        "classes": list(classes) or None,
        "limit": limit_of(limit),
        "tests": pairs("--tests", tests) or None,
        "columns": pairs("--columns", columns) or None,
        "root": root,
        "name": name,
        "views": views,
        "seed": seed,
        "batch_size": batch_size,
        "device": device,
        "precision": precision,
        "dtype": dtype,
        "workers": workers,
        "on_bad": on_bad,
        "existing": existing,
    }
    with shown() as progress:
        if one:
            features = extraction.extract(
                model, dataset, out=out, layer=layer[0], progress=progress, **options
            )
            stores = {out: features}
        else:
            found = extraction.extract_layers(
                model, dataset, out=out, layers=layer, progress=progress, **options
            )
            stores = {out / file_name(each): features for each, features in found.items()}
    records = []
    for folder, features in stores.items():
        rows = {name: split.x.shape[0] for name, split in features.splits.items()}
        left_out = len(features.provenance.get("left_out", ()))
        records.append(
            {
                "features": str(folder),
                "name": features.name,
                "n_neurons": features.n_neurons,
                "rows": rows,
                "left_out": left_out,
            }
        )
    lines = [
        f"{r['features']}: {r['n_neurons']} neurons; rows: {r['rows']}"
        + (f"; {r['left_out']} samples left out" if r["left_out"] else "")
        for r in records
    ]
    emit(records[0] if one else {"stores": records}, json=json, text="\n".join(lines))
