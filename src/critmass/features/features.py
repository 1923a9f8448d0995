"""The whole: one layer of one model on one dataset, split by split, with what is known about it.

Checks everything that can be checked without reading the rows (shapes, labels, splits); the passes over
the rows check that they are finite. Says nothing about parts or scores.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from critmass.errors import InputError, StoreError, unknown, verbatim
from critmass.features import readers, validation
from critmass.features.labels import (
    Classes,
    Task,
    check_classes,
    encode,
    stratified,
    targets_of,
    targets_of_splits,
)
from critmass.features.shards import ShardedMatrix, rows_of_a_shard
from critmass.features.splits import (
    TEST_FRACTION,
    Split,
    check_matrix,
    check_no_view,
    checked_weights,
    in_order,
    take_views,
    view_name,
)
from critmass.features.store import (
    MANIFEST,
    Columns,
    Header,
    OpenStore,
    is_store,
    open_store,
    rows_digest,
    write_store,
)
from critmass.io.ids import canonical_json, content_id
from critmass.linalg import rng
from critmass.linalg.matrices import Indices, Matrix

VALIDATION_FRACTION = 0.2


@dataclass(frozen=True, repr=False)
class Features:
    """A layer's activations on a dataset. Make one with `from_arrays`, `open` or `critmass.extract`.

    Attributes
    ----------
    name : str
    task : "classification", "regression" or None (no labels)
    classes : tuple of int or str, or None
        Class names in code order.
    groups : tuple of str, or None
        Group names in code order.
    splits : mapping of str to Split
        "train" and "test" always; "validation" where given; any other name is a further test split.
    provenance : mapping
        Where the rows come from.
    """

    name: str
    task: Task | None
    classes: Classes | None
    groups: tuple[str, ...] | None
    splits: Mapping[str, Split]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", MappingProxyType(dict(self.splits)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A store's rows travel as paths. What was computed travels too: the fingerprint.
        known = {"fingerprint": self.__dict__["fingerprint"]} if "fingerprint" in self.__dict__ else {}
        values = (self.name, self.task, self.classes, self.groups, dict(self.splits), dict(self.provenance))
        return Features, values, known

    def __repr__(self) -> str:
        rows = ", ".join(f"{name}: {split.x.shape[0]}" for name, split in self.splits.items())
        return f"Features({self.name!r}, {self.task}, {self.n_neurons} neurons, rows: {rows})"

    @property
    def n_neurons(self) -> int:
        """Width of the layer, d."""
        return int(self.splits["train"].x.shape[1])

    def targets(self, split: Split) -> Callable[[slice], NDArray[np.float64]]:
        """Return a function of rows of a split: their targets, one-hot for classes, (n_rows, n_targets)."""
        if split.y is None:
            raise InputError("features", verbatim("no labels"), "labels or targets")
        return targets_of(split.y, None if self.classes is None else len(self.classes))

    @property
    def tests(self) -> tuple[str, ...]:
        """Names of the test splits, "test" first."""
        return ("test", *(name for name in self.splits if name not in ("train", "validation", "test")))

    @property
    def most_test_rows(self) -> int:
        """Number of rows of the largest test split."""
        return max(self.splits[name].x.shape[0] for name in self.tests)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the task, the classes and every row, label and group.

        The same for the same content, in memory or in a store, however it is cut into shards. One read of
        the rows, but for a store, whose manifest has their checksum.
        """
        digest = hashlib.sha256(canonical_json([self.task, self.classes, self.groups]).encode())
        for name, split in self.splits.items():
            digest.update(f"{name} {split.x.shape} {split.x.dtype.newbyteorder('<').str}".encode())
            digest.update(_digest(split.x).encode())
            for column in (split.y, split.group):
                digest.update(b"none" if column is None else np.ascontiguousarray(column).tobytes())
            if split.weight is not None:
                digest.update(b"weight" + split.weight.tobytes())
            for view in split.views:
                digest.update(b"view" + _digest(view).encode())
        return digest.hexdigest()

    @classmethod
    def from_arrays(
        cls,
        train: Any,
        *,
        test: Any = None,
        validation: Any = None,
        tests: Mapping[str, Any] | None = None,
        groups: Mapping[str, ArrayLike] | None = None,
        weights: Mapping[str, ArrayLike] | None = None,
        views: Sequence[Any] = (),
        task: Literal["auto", "classification", "regression"] = "auto",
        name: str = "arrays",
        test_fraction: float = TEST_FRACTION,
        seed: int = 0,
        provenance: Mapping[str, Any] | None = None,
    ) -> Features:
        """Build Features from in-memory arrays.

        Parameters
        ----------
        train, test, validation : (X, y), or X alone
            X of shape (n_samples, n_neurons): an array, memory map, tensor, sparse matrix or table (pandas,
            polars, Arrow) of floats, integers or booleans. Integers of 8 and 16 bits and booleans are read as
            float32, wider integers as float64: both exact. y of shape (n_samples,): class labels (integers,
            text, categories or booleans) or continuous targets (floats). All splits have labels, or none has.
        tests : mapping of str to (X, y)
            Further test splits, such as a shifted one; the same probes are scored on each.
        groups : mapping of split name to array of shape (n_samples,)
            A group for every row of the splits named.
        weights : mapping {"train": array of shape (n_samples,)}
            How much each training row counts when a probe is fitted; finite and above 0.
        views : sequence of arrays of shape (n_samples, n_neurons)
            Augmented copies of the training rows, which the sgd probe cycles through.
        task : "auto", "classification" or "regression"
            "auto": floats that are not all whole numbers are regression targets, all else are classes.
        test_fraction : float
            Where no test split is given: the share of the training rows that becomes one, seeded by
            `seed` and stratified by class.

        Raises
        ------
        InputError
            For anything that cannot be used, naming it.

        Examples
        --------
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X, y = rng.normal(size=(40, 8)), np.arange(40) % 2
        >>> fs = Features.from_arrays((X, y))
        >>> fs.n_neurons, fs.task, fs.splits["test"].x.shape
        (8, 'classification', (10, 8))
        """
        given = {"train": train, "validation": validation, "test": test}
        for split in given.keys() & (tests or {}).keys():
            raise InputError("tests", split, f"names other than {', '.join(given)}", f"give it as {split}=")
        check_no_view("tests", tests or {})
        raw = readers.Raw()
        for split, value in {**given, **(tests or {})}.items():
            if value is None:
                continue
            pair = value if isinstance(value, tuple) else (value, None)
            if len(pair) != 2:
                raise InputError(split, verbatim(f"a tuple of {len(pair)}"), "(X, y), or X alone")
            raw.x[split] = pair[0]
            if pair[1] is not None:
                raw.y[split] = pair[1]
        raw.groups, raw.weights = dict(groups or {}), dict(weights or {})
        raw.x.update({view_name(number): view for number, view in enumerate(views, start=1)})
        return _checked(raw, task, name, test_fraction, seed, provenance or {"source": "arrays"})

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        task: Literal["auto", "classification", "regression"] = "auto",
        test_fraction: float = TEST_FRACTION,
        seed: int = 0,
        embedding: str | None = None,
        label: str | None = None,
        split: str | None = None,
        group: str | None = None,
    ) -> Features:
        """Open features on disk: a store, or a .npz, .safetensors, .npy or .parquet file.

        Parameters
        ----------
        path : path
            A store folder; .npz or .safetensors with keys X_train y_train X_test y_test and optionally
            X_validation y_validation groups_* (any other X_NAME is a further test split), or X and y alone;
            X.npy with y.npy beside it; .parquet with one column of vectors, or one column for each neuron.
        embedding, label, split, group : str, optional
            Parquet columns; by default the only column of vectors, or all columns of numbers that have no
            other use, and "label", "split", "group" where they exist. `embedding` may be a glob: ``"f_*"``.

        Raises
        ------
        InputError
            If the file is missing, unreadable or holds something that cannot be used.
        """
        path = Path(path)
        columns = {"embedding": embedding, "label": label, "split": split, "group": group}
        if any(columns.values()) and path.suffix != ".parquet":
            role = next(role for role, value in columns.items() if value)
            raise InputError(
                role, columns[role], "a column of a .parquet file", f"{path.name} has no columns"
            )
        if path.is_dir():
            if not is_store(path):
                raise StoreError(
                    str(path), verbatim(f"a folder with no {MANIFEST}"), "a features store", "check the path"
                )
            store = open_store(path)
            if task not in ("auto", store.manifest.task):
                raise InputError("task", task, f"{store.manifest.task!r}, as the store says, or 'auto'")
            return cls._from_store(store, name, test_fraction, seed)
        raw = readers.read(path, columns=columns)
        provenance = {"source": path.name}
        return _checked(raw, task, name or path.stem, test_fraction, seed, provenance)

    @classmethod
    def _from_store(cls, store: OpenStore, name: str | None, test_fraction: float, seed: int) -> Features:
        manifest = store.manifest
        matrices = {split: store.rows(split) for split in manifest.splits}
        views = take_views(matrices)
        splits = {}
        for split, x in matrices.items():
            columns = store.columns(split)
            home = views if split == "train" else ()
            splits[split] = Split(x, columns.get("y"), columns.get("group"), columns.get("weight"), home)
        return cls(
            name or manifest.name,
            manifest.task,
            manifest.classes,
            manifest.groups,
            in_order(splits, manifest.task, test_fraction, seed),
            manifest.provenance,
        )

    def save(self, folder: str | os.PathLike[str], *, shard_rows: int | None = None) -> Features:
        """Write these features as a store in `folder` and return them opened from there.

        A file has `shard_rows` rows at most; by default about 64 MiB of them.
        """
        dtypes = {split.x.dtype.name for split in self.splits.values()}
        dtype: Literal["float16", "float32", "float64"] = (
            "float64" if "float64" in dtypes else "float32" if "float32" in dtypes else "float16"
        )
        shard_rows = shard_rows or rows_of_a_shard(self.n_neurons, dtype)
        header = Header(
            name=self.name,
            task=self.task,
            classes=self.classes,
            groups=self.groups,
            dtype=dtype,
            n_neurons=self.n_neurons,
            spec_id=content_id([self.fingerprint, shard_rows]),
            provenance=dict(self.provenance),
        )
        content: dict[str, Columns] = {}
        for name, split in self.splits.items():
            content[name] = (split.x, split.y, split.group, split.weight)
            for number, view in enumerate(split.views, start=1):
                content[view_name(number)] = (view, split.y, split.group, split.weight)
        write_store(Path(folder), header, content, shard_rows=shard_rows)
        return Features.open(folder)

    def validation_rows(self, seed: int) -> Indices:
        """Return the training rows to choose regularisation on where no validation split was given.

        A seeded 20% of them, ascending, stratified by class; every class keeps a row to fit on.
        """
        train = self.splits["train"]
        codes = train.y if self.task == "classification" else None
        return stratified(train.x.shape[0], codes, VALIDATION_FRACTION, rng.stream(seed, "validation"))


def _checked(
    raw: readers.Raw,
    task: Literal["auto", "classification", "regression"],
    name: str,
    test_fraction: float,
    seed: int,
    provenance: Mapping[str, Any],
) -> Features:
    if task not in ("auto", "classification", "regression"):
        raise unknown("task", str(task), ["auto", "classification", "regression"])
    if "train" not in raw.x:
        raise InputError("splits", sorted(raw.x), "a train split at least", "name the rows X_train")
    matrices = {split: validation.matrix(f"X of {split!r}", x) for split, x in raw.x.items()}
    columns = {
        kind: {split: validation.column(f"{kind} of {split!r}", value) for split, value in home.items()}
        for kind, home in (("labels", raw.y), ("groups", raw.groups), ("weights", raw.weights))
    }
    views = take_views(matrices)
    check_no_view("splits", matrices)
    for kind, home in columns.items():
        for split in home.keys() - matrices.keys():
            raise InputError(
                f"{kind} of {split!r}", verbatim("no rows for them"), f"splits {sorted(matrices)}"
            )
    for split, x in matrices.items():
        check_matrix(split, x, matrices["train"])
        for kind, home in columns.items():
            if split in home and home[split].shape != (x.shape[0],):
                raise InputError(
                    f"{kind} of {split!r}",
                    verbatim(f"shape {home[split].shape}"),
                    f"shape ({x.shape[0]},), one for each row",
                )
    for number, view in enumerate(views, start=1):
        check_matrix(view_name(number), view, matrices["train"])
        rows = matrices["train"].shape[0]
        if view.shape[0] != rows:
            raise InputError(
                view_name(number), verbatim(f"{view.shape[0]} rows"), f"{rows} rows, as in 'train'"
            )
    resolved, classes, targets = targets_of_splits(columns["labels"], matrices, task)
    group_names: tuple[str, ...] | None = None
    codes: dict[str, Indices] = {}
    if columns["groups"]:
        texts = {split: value.astype(str) for split, value in columns["groups"].items()}
        names, _ = encode(np.concatenate(list(texts.values())))
        group_names = tuple(map(str, names))
        codes = {split: np.searchsorted(group_names, text) for split, text in texts.items()}
    weights = {split: checked_weights(split, value) for split, value in columns["weights"].items()}
    splits = {
        split: Split(
            x,
            targets.get(split),
            codes.get(split),
            weights.get(split),
            views if split == "train" else (),
        )
        for split, x in matrices.items()
    }
    if classes is not None:
        check_classes(classes, splits["train"].x.shape[0])
    ordered = in_order(splits, resolved, test_fraction, seed)
    return Features(name, resolved, classes, group_names, ordered, provenance)


def _digest(x: Matrix) -> str:
    return x.content if isinstance(x, ShardedMatrix) and x.content else rows_digest(x)
