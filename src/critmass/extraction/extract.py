"""Model x dataset -> features on disk: a frozen forward pass, shard by shard, resumable.

Samples are read and prepared by threads, a bounded window ahead of the network; batches never cross a
shard, and a shard on disk is finished; so a killed run goes on with the first that is missing and computes
the very same batches. Knows no model and no dataset: sources/ does.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from critmass.errors import InputError, StoreError, check_name, unknown, verbatim
from critmass.extraction import pipeline
from critmass.extraction.pipeline import Labelled, extract_layers_into
from critmass.features.features import Features
from critmass.features.store import (
    MANIFEST,
    holds,
    is_store,
    open_store,
    remove_store,
    rename_store,
    spec_ids,
)
from critmass.io.files import check_writable, file_name
from critmass.io.ids import ExtractSpec, content_id, validated
from critmass.progress import Progress, silent
from critmass.sources import open_dataset, open_model
from critmass.sources.inputs.images import without_warnings
from critmass.sources.inputs.transforms import ImageTransform
from critmass.sources.models.module import wrap
from critmass.sources.protocols import OUTPUT, PENULTIMATE, POOLINGS, Dataset, DatasetRequest, Network
from critmass.sources.selection import describe_selection, select


def extract(
    model: Any,
    dataset: str | Dataset,
    *,
    out: str | os.PathLike[str],
    layer: str = PENULTIMATE,
    pooling: str = "auto",
    image_size: int | None = None,
    transform: ImageTransform | None = None,
    splits: Mapping[str, str] | None = None,
    classes: Sequence[str | int] | None = None,
    limit: int | Mapping[str, int] | None = None,
    tests: Mapping[str, str | Dataset] | None = None,
    columns: Mapping[str, str] | None = None,
    root: str | os.PathLike[str] | None = None,
    name: str | None = None,
    version: str | None = None,
    views: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "cpu",
    precision: str = "float32",
    dtype: Literal["float16", "float32"] = "float32",
    workers: int | None = None,
    on_bad: Literal["stop", "list"] = "stop",
    existing: Literal["reuse", "replace"] = "reuse",
    progress: Progress | None = None,
) -> Features:
    """Extract a layer's activations of a frozen model on a dataset into a store; return it opened from there.

    Parameters
    ----------
    model : str, torch.nn.Module, callable or Network
        A name such as ``timm:resnet50.tv_in1k`` (``critmass list models``); a module that takes images;
        or a function from a list of samples (PIL images or texts) to floats of shape (n, n_neurons).
    dataset : str or Dataset
        A name such as ``torchvision:CIFAR10`` (``critmass list datasets``), or an object that offers the
        same (sources/base.py).
    out : path
        The store's folder. One that holds the same extraction, finished or not, is reused or resumed.
    layer : str
        "penultimate", "output", or a module by its name (``critmass list layers MODEL``).
    pooling : "auto", "avg", "max", "cls", "last", "flatten" or "none"
        What becomes of activations that have positions (places of an image, tokens).
    image_size : int, optional
        Side of the square images given to the model; by default the model's own.
    transform : ImageTransform, optional
        For a torch.nn.Module; ImageNet's usual one by default.
    splits : mapping, optional
        Our splits (train, validation, test, or a further test split) from the dataset's own, such as
        ``{"train": "train", "test": "val"}``.
    classes, limit
        Only these classes; at most so many samples of each split (a seeded sample, even over the classes; of
        the training split two for each class or more).
    tests : mapping, optional
        Further test splits from other datasets, such as ``{"v2": "imagenetv2:path"}``.
    columns, root
        Columns of a table by role (text, image, label, group, split); where downloads are kept.
    name : str, optional
        Name of the features; by default the model's and the dataset's. A store that is reused takes it, too.
    version : str, optional
        For a module or function: what tells it from every other of its name. By default all that it
        computes with: code, constants, closures, attributes, weights. Where something cannot be known (a
        module of your own that is used by name, an object without attributes), its features are never
        reused without a version.
    views : int
        Augmented copies of the training images to extract beside the evaluation view (the paper's
        augmentations, seeded for each image).
    batch_size : int, optional
        By default the largest power of two, up to 64 on the CPU and 512 elsewhere, that fits in memory.
    device, precision
        Such as "cuda"; "float32", "tf32", "bfloat16" or "float16".
    dtype : "float32" or "float16"
        How activations are stored.
    workers : int, optional
        Threads that read and prepare samples; as many as there are cores by default.
    on_bad : "stop" or "list"
        What to do with a sample that cannot be read: stop, or leave it out and list it in the store's
        provenance under "left_out".
    existing : "reuse" or "replace"
        What to do where `out` holds another extraction: refuse, or replace it.

    Returns
    -------
    Features

    Raises
    ------
    InputError
        For anything that cannot be used, naming it; a store is finished or can be resumed, never half.
    """
    if not isinstance(layer, str) or set(layer) & set("*?["):
        raise InputError(
            "layer", layer, "one layer by its full name", "extract_layers takes several, and globs"
        )
    options = {name: value for name, value in locals().items() if name not in ("model", "dataset", "layer")}
    (features,) = _extracted(model, dataset, layers=[layer], single=True, **options).values()
    return features


def extract_layers(
    model: Any,
    dataset: str | Dataset,
    *,
    out: str | os.PathLike[str],
    layers: Sequence[str],
    **options: Any,
) -> dict[str, Features]:
    """Extract several layers' activations in one pass; return the features by layer.

    Parameters
    ----------
    model, dataset
        As of `extract`.
    out : path
        A folder: of one store for each layer.
    layers : sequence of str
        "penultimate", "output", or modules by name or glob, such as ``"layer*"``.
    **options
        Further arguments of `extract`. Of the `name`, each layer but the penultimate adds its own.

    Raises
    ------
    InputError
        As of `extract`.
    """
    named = [layers] if isinstance(layers, str) else list(layers)
    return _extracted(model, dataset, out=out, layers=named, single=False, **options)


def _extracted(
    model: Any,
    dataset: str | Dataset,
    *,
    out: str | os.PathLike[str],
    layers: Sequence[str],
    single: bool,
    pooling: str = "auto",
    image_size: int | None = None,
    transform: ImageTransform | None = None,
    splits: Mapping[str, str] | None = None,
    classes: Sequence[str | int] | None = None,
    limit: int | Mapping[str, int] | None = None,
    tests: Mapping[str, str | Dataset] | None = None,
    columns: Mapping[str, str] | None = None,
    root: str | os.PathLike[str] | None = None,
    name: str | None = None,
    version: str | None = None,
    views: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "cpu",
    precision: str = "float32",
    dtype: str = "float32",
    workers: int | None = None,
    on_bad: str = "stop",
    existing: str = "reuse",
    progress: Progress | None = None,
) -> dict[str, Features]:
    """Extract what `extract` and `extract_layers` are asked for."""
    check_name(name)
    for argument, value, allowed in (
        ("pooling", pooling, POOLINGS),
        ("on_bad", on_bad, ("stop", "list")),
        ("existing", existing, ("reuse", "replace")),
    ):
        if value not in allowed:
            raise unknown(argument, str(value), allowed)
    for argument, number in (("batch_size", batch_size), ("workers", workers)):
        if number is not None and number < 1:
            raise InputError(argument, number, "1 or more")
    check_writable(Path(out))
    request = DatasetRequest(dict(columns or {}), None if root is None else Path(root), progress or silent)
    opened = open_dataset(dataset, request) if isinstance(dataset, str) else dataset
    others = {
        test: open_dataset(other, request) if isinstance(other, str) else other
        for test, other in (tests or {}).items()
    }
    for test, other in others.items():
        if re.fullmatch(r"train\.view\d+", test):
            raise InputError("tests", test, "another name: this is what augmented views are called")
        if other.kind != opened.kind:
            raise InputError(
                f"tests {test!r}", other.name, f"a dataset of {opened.kind}s, as {opened.name} is"
            )
    network = _network(model, image_size, transform, version, opened, request.progress).place(
        device, precision
    )
    layers = _resolved(network, layers)
    selection = describe_selection(
        splits=splits,
        classes=classes,
        limit=limit,
        tests={test: other.describe() for test, other in others.items()},
        seed=seed,
    )
    folders = {each: Path(out) if single else Path(out) / file_name(each) for each in layers}
    base = name or f"{network.name.strip(':')}-{opened.name.strip(':')}"
    names = {each: base if each == PENULTIMATE or (name and single) else f"{base}-{each}" for each in layers}
    about = {"model": network.describe(), "dataset": opened.describe(), "selection": selection}
    specs: dict[str, dict[str, Any]] = {
        each: validated(
            ExtractSpec,
            **about,
            layer=each,
            pooling=pooling,
            dtype=dtype,
            views=views,
            seed=seed,
            shard_rows=pipeline.SHARD_ROWS,
        ).model_dump(mode="json")
        for each in layers
    }
    for each, folder in folders.items():
        _check_existing(folder, specs[each], existing, on_bad)
    todo = [each for each in layers if not holds(folders[each], content_id(specs[each]))]
    if todo:
        further = {test: other.splits() for test, other in others.items()}
        chosen = select(
            opened.splits(), splits=splits, classes=classes, limit=limit, tests=further, seed=seed
        )
        with without_warnings():
            extract_layers_into(
                network,
                Labelled.of(chosen, views),
                {each: (folders[each], specs[each]) for each in todo},
                names=names,
                batch_size=batch_size,
                device=device,
                workers=workers,
                on_bad=on_bad,
                progress=progress or silent,
            )
    for each in set(layers) - set(todo) if name else ():
        if open_store(folders[each]).manifest.name != names[each]:
            rename_store(folders[each], names[each])
    return {each: Features.open(folder) for each, folder in folders.items()}


def _network(
    model: Any,
    image_size: int | None,
    transform: ImageTransform | None,
    version: str | None,
    dataset: Dataset,
    progress: Progress,
) -> Network:
    if isinstance(model, str):
        if transform is not None:
            raise InputError("transform", verbatim("given"), "none with a model by name, which has its own")
        if version is not None:
            raise InputError("version", version, "none with a model by name, which has its own")
        network = open_model(model, image_size=image_size, progress=progress)
    else:
        network = wrap(model, transform, image_size, version)
    if network.kind not in (None, dataset.kind):
        raise InputError(
            "dataset", dataset.name, f"a dataset of {network.kind}s, which {network.name} takes in"
        )
    return network


def _resolved(network: Network, named: Sequence[str]) -> list[str]:
    """Return the layers that names and globs stand for, in the order of the network."""
    if all(name == PENULTIMATE for name in named) and named:
        return [PENULTIMATE]
    known = list(network.layers())
    found: set[str] = set()
    for name in named:
        matching = [name] if name in known else fnmatch.filter(known, name)
        if not matching:
            raise unknown(f"layer of {network.name}", name, known)
        found.update(matching)
    if not found:
        raise InputError(
            "layer", list(named), "a layer at least", f"{PENULTIMATE}, {OUTPUT}, or a module's name"
        )
    return [name for name in known if name in found]


def _check_existing(folder: Path, spec: dict[str, Any], existing: str, on_bad: str) -> None:
    if not is_store(folder):
        return
    made = open_store(folder).manifest if (folder / MANIFEST).exists() else None
    left_out = made.provenance.get("left_out", []) if made else []
    if existing == "replace" and (left_out or spec_ids(folder) != {content_id(spec)}):
        remove_store(folder)
    elif made and made.spec_id != content_id(spec):
        raise StoreError(
            str(folder),
            verbatim(f"another extraction: {_difference(made.provenance, spec)}"),
            "the same extraction",
            "choose another folder, or replace it with existing='replace'",
        )
    elif left_out and on_bad == "stop":
        raise StoreError(
            str(folder),
            verbatim(f"a store without {len(left_out)} unreadable samples ({left_out[0]['sample']})"),
            "a store of every sample",
            "accept it with on_bad='list', or repair them and extract with existing='replace'",
        )


def _difference(made: Any, asked: Any, path: str = "") -> str:
    """Return the first place where two records differ, and both values."""
    if isinstance(made, Mapping) and isinstance(asked, Mapping):
        for key in asked:
            if made.get(key) != asked[key]:
                return _difference(made.get(key), asked[key], f"{path}.{key}" if path else str(key))
        for key in made:
            if key not in asked and path:
                return f"{path}.{key} {made[key]!r}, asked for none"
    return f"{path or 'something else'} {made!r}, asked for {asked!r}"
