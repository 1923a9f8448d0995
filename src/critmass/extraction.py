"""Model x dataset -> features on disk: a frozen forward pass, shard by shard, resumable.

A shard on disk is finished; a killed run goes on with the first that is missing. Batches never cross a
shard, so a resumed run computes the very same batches. Knows no model and no dataset: sources/ does.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from critmass.arrays import require_finite
from critmass.errors import unknown
from critmass.features import Features
from critmass.labels import codes_of, encode
from critmass.progress import Progress, counted, silent
from critmass.sources import Dataset, Model, open_dataset, open_model
from critmass.specs import ExtractSpec, content_id, validated
from critmass.store import Header, StoreWriter, holds

SHARD_ROWS = 512
BATCH_SIZE = 64


def extract(
    model: str | Model,
    dataset: str | Dataset,
    *,
    out: str | os.PathLike[str],
    layer: str = "penultimate",
    image_size: int | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Features:
    """Extract a layer's activations on a dataset into a store, and return them opened from there.

    Parameters
    ----------
    model, dataset : str, or objects that offer the same (critmass.sources.base)
        Names such as ``lite0:`` and ``mnist5k:``; ``critmass list models`` and ``datasets`` show them.
    out : path
        The store's folder. One that holds the same extraction, finished or not, is reused or resumed.
    image_size : int, optional
        Side of the square images given to the model; by default the model's own.

    Raises
    ------
    InputError
        For an unknown name or layer, or a folder that holds something else.
    """
    model = open_model(model) if isinstance(model, str) else model
    dataset = open_dataset(dataset) if isinstance(dataset, str) else dataset
    if layer not in model.layers:
        raise unknown(f"layer of {model.name}", layer, model.layers)
    spec: ExtractSpec = validated(
        ExtractSpec,
        model=model.describe(),
        dataset=dataset.describe(),
        layer=layer,
        image_size=model.image_size if image_size is None else image_size,
        batch_size=batch_size,
        shard_rows=SHARD_ROWS,
    )
    folder, spec_id = Path(out), content_id(spec.model_dump(mode="json"))
    if holds(folder, spec_id):
        return Features.open(folder)
    splits = dataset.splits()
    classes, _ = encode(splits["train"].labels)
    header = Header(
        name=f"{model.name.strip(':')}-{dataset.name.strip(':')}",
        task="classification",
        classes=classes,
        groups=None,
        dtype="float32",
        n_neurons=model.layers[layer],
        spec_id=spec_id,
        provenance=spec.model_dump(mode="json"),
    )
    codes = {name: codes_of(name, split.labels, classes) for name, split in splits.items()}
    writer = StoreWriter(folder, header, {name: len(y) for name, y in codes.items()}, SHARD_ROWS)
    missing = list(writer.missing())
    count = counted(progress or silent, "extracting", sum(writer.sizes.values()))
    count(sum(writer.sizes.values()) - sum(rows.stop - rows.start for _, _, rows in missing))
    forward = model.load(layer=layer, image_size=spec.image_size)
    for split, index, rows in missing:
        batches = []
        for start in range(rows.start, rows.stop, batch_size):
            images = splits[split].images[start : min(start + batch_size, rows.stop)]
            batches.append(forward(images))
            count(len(images))
        x = np.concatenate(batches)
        require_finite(f"activations of {split!r}", x, range(rows.start, rows.stop))
        writer.write(split, index, x, y=codes[split][rows])
    writer.finish()
    return Features.open(folder)
