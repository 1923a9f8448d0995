"""Images in folders, or in a .zip of folders, read in place.

Layouts: SPLIT/CLASS/.../file; CLASS/.../file (all of it is "train"); the same without class folders, for
images without labels (SPLIT/file, or files alone). Folders are splits where one of them is called train,
test, validation or the like; beside such, a folder of any other name is a further test split. One folder
around everything is looked through. Hidden files, __MACOSX and files that are no images are left out and
counted. Classes are the names of the folders, and those of other splits must be among those of "train".
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, unknown, verbatim
from critmass.features.readers import SPLIT_NAMES
from critmass.sources.datasets.trees import Tree, open_tree
from critmass.sources.protocols import Dataset, DatasetRequest, Kind, Samples


def load(rest: str, _request: DatasetRequest) -> Dataset:
    """Return the dataset in the folder or .zip `rest`."""
    return ImageFolder(*open_tree("folder", rest))


@dataclass(frozen=True)
class ImageFolder:
    """Images in a tree of folders."""

    name: str
    tree: Tree
    kind: Kind = "image"

    def describe(self) -> dict[str, Any]:
        """Return a hash of the files' paths and sizes (in a .zip, CRC-32 too), and what was left out."""
        found = self._layout
        return {
            "name": self.name,
            "sha256": self.tree.digest(),
            "sha256_of": self.tree.identity,
            "splits": {split: len(rows) for split, rows in found.splits.items()},
            "ignored": self.tree.ignored + found.outside,
        }

    def splits(self) -> Mapping[str, Samples]:
        """Return every split by its name, as `readers.SPLIT_NAMES` spells it."""
        depth = self._layout.class_depth
        return {
            split: Samples(
                [self.tree.paths[row] for row in rows.tolist()],
                functools.partial(_read, self.tree, rows),
                None if depth is None else _parts(self.tree, rows, depth),
            )
            for split, rows in self._layout.splits.items()
        }

    @functools.cached_property
    def _layout(self) -> Layout:
        return layout(self.tree, self.name)


@dataclass(frozen=True)
class Layout:
    """Rows of a tree by split, and which part of a path names the class; `outside` counts stray images."""

    splits: Mapping[str, NDArray[np.intp]]
    class_depth: int | None
    outside: int = 0


def layout(tree: Tree, name: str) -> Layout:
    """Return how a tree is laid out, or raise InputError."""
    if not tree.paths:
        found = verbatim(f"no image among {tree.ignored} files")
        raise InputError(name, found, "image files in SPLIT/CLASS/ or CLASS/")
    depth = wrapped(tree)
    heights = np.array([path.count("/") for path in tree.paths]) - depth
    inside = np.flatnonzero(heights > 0)
    outside = len(heights) - len(inside)
    if not len(inside):
        return Layout({"train": np.arange(len(heights))}, None)
    tops = _parts(tree, inside, depth)
    if not _are_splits(set(np.unique(tops).tolist()), heights):
        _check_classes(tree, {"train": inside}, depth, name)
        return Layout({"train": inside}, depth, outside)
    splits = _splits(tree, tops, inside, depth, name)
    flat = np.flatnonzero(heights == 1)
    if len(flat) == len(inside):
        return Layout(splits, None, outside)
    if len(flat):
        raise InputError(
            f"{name} {tree.paths[flat[0]]}",
            verbatim("an image outside a class folder"),
            "every image in SPLIT/CLASS/",
            "move or remove it",
        )
    _check_classes(tree, splits, depth + 1, name)
    return Layout(splits, depth + 1, outside)


def _parts(tree: Tree, rows: NDArray[np.intp], depth: int) -> NDArray[np.str_]:
    return np.array([tree.paths[row].split("/", depth + 1)[depth] for row in rows.tolist()])


def _splits(
    tree: Tree, tops: NDArray[np.str_], rows: NDArray[np.intp], depth: int, name: str
) -> dict[str, NDArray[np.intp]]:
    splits: dict[str, NDArray[np.intp]] = {}
    found = sorted(np.unique(tops).tolist(), key=_split_order)
    for top in found:
        split = SPLIT_NAMES.get(top.lower(), top)
        if split in splits:
            raise InputError(
                f"{name} {top}", verbatim(f"a second folder for {split!r}"), "one folder a split", "join them"
            )
        splits[split] = rows[tops == top]
    for folder in sorted(tree.folders):
        top = folder.split("/")[-1]
        if folder.count("/") == depth and top.lower() in SPLIT_NAMES and top not in found:
            raise InputError(f"{name} {folder}", verbatim("no image"), "images in every split", "remove it")
    return splits


def wrapped(tree: Tree) -> int:
    """Return 1 where one folder that is no split lies around everything, else 0."""
    tops = {path.split("/")[0] for path in tree.paths}
    deep = all(path.count("/") >= 2 for path in tree.paths)
    return int(len(tops) == 1 and deep and next(iter(tops)).lower() not in SPLIT_NAMES)


def _are_splits(tops: set[str], heights: NDArray[np.intp]) -> bool:
    """Tell splits from classes, of which one may be called "train" (as in CIFAR-100)."""
    known = {top for top in tops if top.lower() in SPLIT_NAMES}
    return bool(known) and (known == tops or len(known) > 1 or not (heights == 1).any())


def _split_order(top: str) -> tuple[int, str]:
    first = ("train", "validation", "test")
    split = SPLIT_NAMES.get(top.lower(), top)
    return (first.index(split) if split in first else len(first), top)


def _check_classes(tree: Tree, splits: Mapping[str, NDArray[np.intp]], depth: int, name: str) -> None:
    """Raise InputError for an empty class folder, one class, or classes that "train" has not."""
    full = {tree.paths[row].rsplit("/", 1)[0] for rows in splits.values() for row in rows.tolist()}
    full = {"/".join(folder.split("/")[: depth + 1]) for folder in full}
    parents = {folder.rpartition("/")[0] for folder in full}
    for folder in sorted(tree.folders - full):
        if folder.count("/") == depth and folder.rpartition("/")[0] in parents:
            raise InputError(
                f"{name} {folder}", verbatim("a class folder without images"), "images", "remove it"
            )
    classes = {split: np.unique(_parts(tree, rows, depth)).tolist() for split, rows in splits.items()}
    train = classes.get("train")
    if train is None:
        return
    if len(train) == 1:
        raise InputError(
            name,
            verbatim(f"one class only ({train[0]!r})"),
            "two class folders or more",
            "for images without labels put no folder around them",
        )
    for split, names in classes.items():
        if strange := [each for each in names if each not in train]:
            raise unknown(f"{name} class in {split!r}", strange[0], train)


def _read(tree: Tree, rows: NDArray[np.intp], index: int) -> Any:
    return tree.read(int(rows[index]))
