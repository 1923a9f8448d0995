"""Model x dataset -> features on disk: a frozen forward pass, shard by shard, resumable.

Samples are read and prepared by threads, a bounded window ahead of the network; batches never cross a
shard, and a shard on disk is finished; so a killed run goes on with the first that is missing and computes
the very same batches. Knows no model and no dataset: sources/ does.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import fnmatch
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, StoreError, check_name, said, unknown
from critmass.features.features import Features, Split, check_no_view, in_order, view_name
from critmass.features.labels import Classes, Task, check_classes, encode, targets_of_splits
from critmass.features.shards import rows_of_a_shard
from critmass.features.store import (
    MANIFEST,
    Header,
    StoreWriter,
    holds,
    is_store,
    open_store,
    remove_store,
    rename_store,
    spec_ids,
)
from critmass.io.files import check_writable, file_name
from critmass.io.ids import ExtractSpec, content_id, validated
from critmass.linalg import rng
from critmass.linalg.arrays import Indices, require_finite
from critmass.progress import Progress, counted, silent
from critmass.sources import open_dataset, open_model
from critmass.sources.inputs.images import without_warnings
from critmass.sources.inputs.transforms import ImageTransform
from critmass.sources.models.module import wrap
from critmass.sources.protocols import (
    OUTPUT,
    PENULTIMATE,
    POOLINGS,
    Activations,
    BadSampleError,
    Dataset,
    DatasetRequest,
    Network,
    Samples,
)
from critmass.sources.selection import describe_selection, select

SHARD_ROWS = 8192
"""Rows of a shard at most: what a killed run computes again."""
SHARE, FEW_ROWS = 16, 512
"""A shard is a sixteenth of the largest split, or this many rows, whichever is more."""
BATCH_SIZES = {"cpu": 64, "accelerator": 512}
"""Batches to begin with where none is asked for; halved until one fits in memory."""


def extract(
    model: Any,
    dataset: str | Dataset,
    *,
    out: str | os.PathLike[str],
    layer: str | Sequence[str] = PENULTIMATE,
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
) -> Any:
    """Extract activations of a frozen model on a dataset into stores, and return them opened from there.

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
        With several layers: the folder of one store for each.
    layer : str or sequence of str
        "penultimate", "output", or modules by name or glob (``critmass list layers MODEL``); all in one
        pass. A sequence or a glob gives a dict of Features by layer.
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
        Name of the features; by default the model's and the dataset's. Of several layers, each but the
        penultimate adds its own. A store that is reused takes it, too.
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
    Features, or dict of str to Features

    Raises
    ------
    InputError
        For anything that cannot be used, naming it; a store is finished or can be resumed, never half.
    """
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
    named = [layer] if isinstance(layer, str) else list(layer)
    layers = _resolved(network, named)
    single = isinstance(layer, str) and layers == [layer]
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
            shard_rows=SHARD_ROWS,
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
            _extract(
                network,
                _Labelled.of(chosen, views),
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
    features = {each: Features.open(folder) for each, folder in folders.items()}
    return features[layers[0]] if single else features


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
            raise InputError("transform", said("given"), "none with a model by name, which has its own")
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


def _check_existing(
    folder: Path, spec: dict[str, Any], existing: Literal["reuse", "replace"], on_bad: str
) -> None:
    if not is_store(folder):
        return
    made = open_store(folder).manifest if (folder / MANIFEST).exists() else None
    left_out = made.provenance.get("left_out", []) if made else []
    if existing == "replace" and (left_out or spec_ids(folder) != {content_id(spec)}):
        remove_store(folder)
    elif made and made.spec_id != content_id(spec):
        raise StoreError(
            str(folder),
            said(f"another extraction: {_difference(made.provenance, spec)}"),
            "the same extraction",
            "choose another folder, or replace it with existing='replace'",
        )
    elif left_out and on_bad == "stop":
        raise StoreError(
            str(folder),
            said(f"a store without {len(left_out)} unreadable samples ({left_out[0]['sample']})"),
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


@dataclass(frozen=True)
class _Labelled:
    """What is read, and what is stored beside it, by the split's name in the store."""

    samples: Mapping[str, Samples]
    view: Mapping[str, int]
    task: Task | None
    classes: Classes | None
    groups: tuple[str, ...] | None
    y: Mapping[str, NDArray[Any]]
    group: Mapping[str, Indices]

    @classmethod
    def of(cls, chosen: Mapping[str, Samples], views: int) -> _Labelled:
        """Check labels and groups of all splits together; add the augmented views of the training split."""
        check_no_view("splits", chosen)
        labels = {name: samples.labels for name, samples in chosen.items() if samples.labels is not None}
        rows = {name: np.broadcast_to(np.float32(0), (len(samples), 1)) for name, samples in chosen.items()}
        task, classes, y = targets_of_splits(labels, rows, "auto")
        if classes is not None:
            advice = "take more samples with limit=, or fewer classes with classes="
            check_classes(classes, len(chosen["train"]), advice)
        in_order({name: Split(x, y.get(name)) for name, x in rows.items()}, task)  # as opening the store will
        texts = {name: samples.groups for name, samples in chosen.items() if samples.groups is not None}
        names = tuple(map(str, encode(np.concatenate(list(texts.values())))[0])) if texts else None
        group = {name: np.searchsorted(np.array(names), text) for name, text in texts.items()}
        samples, view = dict(chosen), dict.fromkeys(chosen, 0)
        for number in range(1, views + 1):
            copy = view_name(number)
            samples[copy], view[copy] = chosen["train"], number
            for home in (y, group):
                if "train" in home:
                    home[copy] = home["train"]
        return cls(samples, view, task, classes, names, y, group)


def _extract(
    network: Network,
    data: _Labelled,
    stores: Mapping[str, tuple[Path, dict[str, Any]]],
    *,
    names: Mapping[str, str],
    batch_size: int | None,
    device: str,
    workers: int | None,
    on_bad: str,
    progress: Progress,
) -> None:
    """Write every shard that is missing in any of the stores, one for each layer."""
    some = next(iter(stores.values()))[1]

    def prepare(job: tuple[str, int]) -> Any:
        split, row = job
        view = data.view[split]
        try:
            sample = data.samples[split].read(row)
            return network.prepare(sample, rng.stream(some["seed"], "view", view, row) if view else None)
        except BadSampleError as error:
            return error

    first = _first_sample(prepare, data, on_bad)
    run = functools.partial(network.start, layers=tuple(stores), pooling=some["pooling"])
    widths = {layer: x.shape[1] for layer, x in run([first])().items()}
    batch = _batch_size(run, first, device) if batch_size is None else batch_size
    sizes = {split: len(samples) for split, samples in data.samples.items()}
    cuts = {layer: _shard_rows(sizes, width, some["dtype"]) for layer, width in widths.items()}
    writers = {
        layer: StoreWriter(
            folder,
            Header(
                name=names[layer],
                task=data.task,
                classes=data.classes,
                groups=data.groups,
                dtype=spec["dtype"],
                n_neurons=widths[layer],
                spec_id=content_id(spec),
                provenance={**spec, "batch_size": batch},
            ),
            sizes,
            cuts[layer],
        )
        for layer, (folder, spec) in stores.items()
    }
    missing = {layer: {shard[:2] for shard in writer.missing()} for layer, writer in writers.items()}
    # A piece is a shard of the widest layer; those of narrower layers are made of whole pieces.
    step = min(cuts.values())
    pieces = [
        (split, start, min(start + step, n))
        for split, n in sizes.items()
        for start in range(0, n, step)
        if any((split, start // cuts[layer]) in missing[layer] for layer in writers)
    ]
    count = counted(progress, "extracting", sum(sizes.values()))
    count(sum(sizes.values()) - sum(stop - start for _, start, stop in pieces))
    window = step if network.kind == "text" else 4 * batch
    jobs = ((split, row) for split, start, stop in pieces for row in range(start, stop))
    parts: dict[str, list[NDArray[Any]]] = {layer: [] for layer in writers}
    kept: dict[str, list[int]] = {layer: [] for layer in writers}
    left_out: dict[str, list[dict[str, str]]] = {layer: [] for layer in writers}
    with _ahead(prepare, jobs, window, workers or os.cpu_count() or 1) as prepared:
        for split, start, stop in pieces:
            rows: list[int] = []
            unread: list[dict[str, str]] = []
            inputs = _whole(zip(range(start, stop), prepared), rows, unread, on_bad)  # noqa: B905
            x = _activations(run, inputs, batch, by_length=network.kind == "text", count=count)
            count(len(unread))
            for layer, writer in writers.items():
                index = start // cuts[layer]
                if (split, index) not in missing[layer]:
                    continue
                found = x[layer] if rows else np.empty((0, widths[layer]))
                parts[layer].append(_stored(found, some["dtype"], split, rows))
                kept[layer] += rows
                left_out[layer] += unread
                if stop in (sizes[split], (index + 1) * cuts[layer]):
                    writer.write(
                        split,
                        index,
                        np.concatenate(parts[layer]),
                        y=data.y[split][kept[layer]] if split in data.y else None,
                        group=data.group[split][kept[layer]] if split in data.group else None,
                        left_out=left_out[layer],
                    )
                    for home in (parts, kept, left_out):
                        home[layer] = []
    for writer in writers.values():
        writer.finish()


def _shard_rows(sizes: Mapping[str, int], n_neurons: int, dtype: str) -> int:
    """Return the rows of a shard: a power of two, so that shards of a wider layer fill those of a narrower.

    Few enough for `TARGET_BYTES`, and for a killed run to lose little; what the request says decides it, and
    nothing else, so that whoever resumes cuts alike.
    """
    share = 1 << (max(max(sizes.values()) // SHARE, FEW_ROWS) - 1).bit_length()
    return min(share, SHARD_ROWS, rows_of_a_shard(n_neurons, dtype))


@contextlib.contextmanager
def _ahead(
    work: Callable[[Any], Any], jobs: Iterator[Any], window: int, workers: int
) -> Iterator[Iterator[Any]]:
    """Give the results of jobs in order, worked on by threads, at most `window` of them ahead."""
    with concurrent.futures.ThreadPoolExecutor(workers, "critmass-read") as pool:
        waiting = collections.deque(pool.submit(work, job) for job in itertools.islice(jobs, window))

        def results() -> Iterator[Any]:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(work, job) for job in itertools.islice(jobs, 1))

        try:
            yield results()
        finally:
            pool.shutdown(cancel_futures=True)


def _whole(
    prepared: Iterator[tuple[int, Any]], kept: list[int], left_out: list[dict[str, str]], on_bad: str
) -> Iterator[Any]:
    """Give the samples that could be read, noting their rows, and the others by name."""
    for row, sample in prepared:
        if not isinstance(sample, BadSampleError):
            kept.append(row)
            yield sample
        elif on_bad == "stop":
            raise sample
        else:
            left_out.append({"sample": sample.name, "found": str(sample.found)})


def _activations(
    run: Callable[[Sequence[Any]], Callable[[], Activations]],
    inputs: Iterator[Any],
    batch_size: int,
    *,
    by_length: bool,
    count: Callable[[int], None],
) -> Activations:
    """Return the activations of prepared samples by layer, in order.

    A batch is started before the one ahead of it is waited for, so that a device never waits for Python.
    With `by_length`, samples of like length share a batch, so that little is spent on padding.
    """
    order: Indices | None = None
    if by_length:
        samples = list(inputs)
        order = np.argsort([-len(sample) for sample in samples], kind="stable")
        inputs = (samples[i] for i in order)
    started: collections.deque[Callable[[], Activations]] = collections.deque()
    done: list[Activations] = []
    while batch := list(itertools.islice(inputs, batch_size)):
        started.append(run(batch))
        if len(started) > 1:
            done.append(started.popleft()())
        count(len(batch))
    done += [wait() for wait in started]
    x = {layer: np.concatenate([found[layer] for found in done]) for layer in (done[0] if done else ())}
    return x if order is None else {layer: rows[np.argsort(order)] for layer, rows in x.items()}


def _first_sample(prepare: Callable[[tuple[str, int]], Any], data: _Labelled, on_bad: str) -> Any:
    """Return the first sample that can be read, prepared."""
    for split, samples in data.samples.items():
        for row in range(len(samples)):
            sample = prepare((split, row))
            if not isinstance(sample, BadSampleError):
                return sample
            if on_bad == "stop":
                raise sample
    raise InputError("dataset", said("no sample that can be read"), "one at least")


def _batch_size(run: Callable[[Sequence[Any]], Callable[[], Activations]], sample: Any, device: str) -> int:
    """Return the largest batch, halving, that fits in the device's memory; a fixed one on the CPU."""
    if device == "cpu":
        return BATCH_SIZES["cpu"]
    size = BATCH_SIZES["accelerator"]
    while True:
        try:
            run([sample] * size)()
        except MemoryError:
            if size == 1:
                raise
            size //= 2
        else:
            return size


def _stored(x: NDArray[Any], dtype: str, split: str, rows: Sequence[int]) -> NDArray[Any]:
    """Return activations as they are stored, or raise InputError for one that is not finite."""
    name = f"activations of {split!r}"
    require_finite(name, x, rows)
    with np.errstate(over="ignore"):
        stored = x.astype(dtype)
    if not np.isfinite(stored).all():
        found = said(f"{np.abs(x).max():.3g}, above {np.finfo(np.float16).max:.3g}")
        raise InputError(name, found, "numbers that float16 holds", "store them with dtype='float32'")
    return stored
