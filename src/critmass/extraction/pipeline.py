"""Samples -> batches -> activations -> shards: read ahead by threads, one batch in flight."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, verbatim
from critmass.features.labels import Classes, Task, check_classes, encode, targets_of_splits
from critmass.features.shards import rows_of_a_shard
from critmass.features.splits import Split, check_no_view, in_order, view_name
from critmass.features.store import Header, StoreWriter
from critmass.io.ids import content_id
from critmass.linalg import rng
from critmass.linalg.matrices import Indices, require_finite
from critmass.progress import Progress, counted
from critmass.sources.protocols import Activations, BadSampleError, Network, Samples

SHARD_ROWS = 8192
"""Rows of a shard at most: what a killed run computes again."""
SHARE, FEW_ROWS = 16, 512
"""A shard is a sixteenth of the largest split, or this many rows, whichever is more."""
BATCH_SIZES = {"cpu": 64, "accelerator": 512}
"""Batches to begin with where none is asked for; halved until one fits in memory."""


@dataclass(frozen=True)
class Labelled:
    """What is read, and what is stored beside it, by the split's name in the store."""

    samples: Mapping[str, Samples]
    view: Mapping[str, int]
    task: Task | None
    classes: Classes | None
    groups: tuple[str, ...] | None
    y: Mapping[str, NDArray[Any]]
    group: Mapping[str, Indices]

    @classmethod
    def of(cls, chosen: Mapping[str, Samples], views: int) -> Labelled:
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


def extract_layers_into(
    network: Network,
    data: Labelled,
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
    cuts = {layer: shard_rows_for(sizes, width, some["dtype"]) for layer, width in widths.items()}
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


def shard_rows_for(sizes: Mapping[str, int], n_neurons: int, dtype: str) -> int:
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


def _first_sample(prepare: Callable[[tuple[str, int]], Any], data: Labelled, on_bad: str) -> Any:
    """Return the first sample that can be read, prepared."""
    for split, samples in data.samples.items():
        for row in range(len(samples)):
            sample = prepare((split, row))
            if not isinstance(sample, BadSampleError):
                return sample
            if on_bad == "stop":
                raise sample
    raise InputError("dataset", verbatim("no sample that can be read"), "one at least")


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
        found = verbatim(f"{np.abs(x).max():.3g}, above {np.finfo(np.float16).max:.3g}")
        raise InputError(name, found, "numbers that float16 holds", "store them with dtype='float32'")
    return stored
