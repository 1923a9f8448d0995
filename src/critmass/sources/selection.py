"""Which splits, classes and samples of a dataset are used. No sample is read."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, unknown, verbatim
from critmass.features.labels import encode, most_classes
from critmass.features.readers import SPLIT_NAMES
from critmass.linalg import rng
from critmass.linalg.matrices import Indices
from critmass.sources.protocols import Sample, Samples

Limit = int | Mapping[str, int]

N_IMAGENET = 1000


def select(
    dataset_splits: Mapping[str, Samples],
    *,
    splits: Mapping[str, str] | None = None,
    classes: Sequence[str | int] | None = None,
    limit: Limit | None = None,
    tests: Mapping[str, Mapping[str, Samples]] | None = None,
    seed: int = 0,
) -> dict[str, Samples]:
    """Return the splits to use: train, validation, test, and further tests by any other name.

    Parameters
    ----------
    dataset_splits : mapping
        Every split of the dataset, by its own name.
    splits : mapping, optional
        Our names -> the dataset's own; those not named are left out. All of them as they are by default.
    classes : sequence of str or int, optional
        The classes whose samples are used.
    limit : int or mapping of split to int, optional
        How many samples of a split are used at most: a seeded sample, even over the classes, with one of
        each class at least, in the dataset's order. Training samples must be two for each class or more.
    tests : mapping, optional
        Further tests by name, each the splits of another dataset, of which "test" is used, else
        "validation", else the only one. Class indices become WordNet ids where the training labels are the
        1,000 ids of ImageNet, index i being the i-th id in sorted order.
    seed : int
        Of the sample that `limit` draws.

    Examples
    --------
    >>> whole = Samples(["a", "b", "c", "d"], "abcd".__getitem__, np.array([0, 1, 0, 1]))
    >>> chosen = select({"train": whole, "val": whole}, splits={"train": "train", "test": "val"}, limit=2)
    >>> {name: len(samples) for name, samples in chosen.items()}
    {'train': 2, 'test': 2}
    """
    chosen = _mapped(dataset_splits, splits)
    if "train" not in chosen:
        raise InputError(
            "splits",
            verbatim(", ".join(chosen)),
            "one called train",
            "say which one is: splits={'train': ...}",
        )
    for name, others in (tests or {}).items():
        if name in chosen:
            raise InputError("tests", name, f"a name other than {', '.join(chosen)}")
        chosen[name] = _like_training(name, _test_of(name, others), chosen["train"])
    if classes is not None:
        chosen = _with_classes(chosen, classes)
    for name, most in _limits(limit, chosen).items():
        chosen[name] = take(chosen[name], _spread(chosen[name], most, rng.stream(seed, "limit", name), name))
    return chosen


def describe_selection(
    *,
    splits: Mapping[str, str] | None = None,
    classes: Sequence[str | int] | None = None,
    limit: Limit | None = None,
    tests: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what `select` was asked, as JSON values; `tests` are the datasets' descriptions by name."""
    asked: dict[str, Any] = {}
    if splits is not None:
        asked["splits"] = dict(splits)
    if classes is not None:
        asked["classes"] = sorted(set(classes), key=str)
    if limit is not None:
        asked["limit"] = dict(limit) if isinstance(limit, Mapping) else limit
        asked["seed"] = seed
    if tests:
        asked["tests"] = {name: dict(description) for name, description in tests.items()}
    return asked


def take(samples: Samples, rows: Indices) -> Samples:
    """Return the samples at these rows."""
    return replace(
        samples,
        names=[samples.names[row] for row in rows.tolist()],
        read=functools.partial(_read, samples, rows),
        labels=None if samples.labels is None else samples.labels[rows],
        groups=None if samples.groups is None else samples.groups[rows],
    )


def _read(samples: Samples, rows: Indices, index: int) -> Sample:
    return samples.read(int(rows[index]))


def _mapped(own: Mapping[str, Samples], splits: Mapping[str, str] | None) -> dict[str, Samples]:
    if splits is None:
        return dict(own)
    keys: dict[str, str] = {}
    for name, asked in splits.items():
        key = asked if asked in own else SPLIT_NAMES.get(asked.lower(), asked)
        if key not in own:
            raise unknown(f"split for {name!r}", asked, own)
        if key in keys.values():
            raise InputError(f"split for {name!r}", asked, "a split that has no other use")
        keys[name] = key
    return {name: own[key] for name, key in keys.items()}


def _test_of(name: str, splits: Mapping[str, Samples]) -> Samples:
    for own in ("test", "validation"):
        if own in splits:
            return splits[own]
    if len(splits) == 1:
        return next(iter(splits.values()))
    raise InputError(
        f"tests {name!r}", verbatim(f"splits {', '.join(splits)}"), "one called test or validation"
    )


def _like_training(name: str, test: Samples, train: Samples) -> Samples:
    """Return the test with its labels of the same kind as the training labels."""
    if train.labels is None or test.labels is None:
        if train.labels is None and test.labels is None:
            return test
        bare = "'train'" if train.labels is None else "the test"
        raise InputError(f"tests {name!r}", verbatim(f"no labels in {bare}"), "labels in both, or in neither")
    if (test.labels.dtype.kind in "US") == (train.labels.dtype.kind in "US"):
        return test
    ids = np.unique(train.labels)
    if train.labels.dtype.kind in "US" and test.labels.dtype.kind in "iu" and _is_imagenet(ids):
        if test.labels.min() < 0 or test.labels.max() >= N_IMAGENET:
            raise InputError(
                f"tests {name!r}", verbatim(f"class index {test.labels.max()}"), f"0 to {N_IMAGENET - 1}"
            )
        return replace(test, labels=ids[test.labels])
    raise InputError(
        f"tests {name!r}",
        verbatim(f"labels such as {test.labels[:1].tolist()}"),
        f"labels like those of 'train', such as {train.labels[:1].tolist()}",
        "class indices are understood beside the 1,000 WordNet ids of ImageNet only",
    )


def _is_imagenet(ids: NDArray[Any]) -> bool:
    return len(ids) == N_IMAGENET and all(re.fullmatch("n[0-9]{8}", each) for each in ids.tolist())


def _with_classes(splits: Mapping[str, Samples], classes: Sequence[str | int]) -> dict[str, Samples]:
    for name, samples in splits.items():
        if samples.labels is None or samples.labels.dtype.kind == "f":
            found = verbatim(f"no labels in {name!r}" if samples.labels is None else f"targets in {name!r}")
            raise InputError("classes", found, "a dataset with classes", "leave classes out")
    known = np.unique(np.asarray(splits["train"].labels))
    by_text = {str(value): value for value in known.tolist()}
    for asked in classes:
        if str(asked) not in by_text:
            raise unknown("class", str(asked), by_text)
    wanted = np.array([by_text[str(asked)] for asked in classes], dtype=known.dtype)
    found_splits = {}
    for name, samples in splits.items():
        rows = np.flatnonzero(np.isin(np.asarray(samples.labels), wanted))
        if not len(rows):
            raise InputError("classes", list(classes), f"classes of which {name!r} has samples")
        found_splits[name] = take(samples, rows)
    return found_splits


def _limits(limit: Limit | None, splits: Mapping[str, Samples]) -> dict[str, int]:
    """Return the limit of every split that has more samples than that."""
    if limit is None:
        return {}
    limits = dict(limit) if isinstance(limit, Mapping) else dict.fromkeys(splits, limit)
    for name, most in limits.items():
        if name not in splits:
            raise unknown("limit", name, splits)
        if most < 1:
            raise InputError(f"limit of {name!r}", most, "1 or more samples")
    return {name: most for name, most in limits.items() if most < len(splits[name])}


def _spread(samples: Samples, count: int, generator: np.random.Generator, name: str) -> Indices:
    """Return `count` rows, ascending: one of each class, the others in proportion to the classes' sizes."""
    order = generator.permutation(len(samples))
    if samples.labels is None or samples.labels.dtype.kind == "f":
        return np.sort(order[:count])
    names, codes = encode(samples.labels)
    order = order[np.argsort(codes[order], kind="stable")]
    first = np.diff(codes[order], prepend=-1) != 0
    if name == "train" and len(names) > min(count, most_classes(count)):
        raise InputError(
            "limit of 'train'",
            count,
            f"{2 * len(names)} or more, two for each of {len(names)} classes",
            "take more samples, or fewer classes with classes=",
        )
    if count < len(names):
        return np.sort(order[_steps(len(order), count, generator)])
    others = order[~first]
    return np.sort(np.r_[order[first], others[_steps(len(others), count - len(names), generator)]])


def _steps(n: int, count: int, generator: np.random.Generator) -> Indices:
    """Return `count` different positions below n, at even steps from a random start."""
    steps: Indices = np.floor((np.arange(count) + generator.random()) * (n / max(count, 1))).astype(np.intp)
    return steps
