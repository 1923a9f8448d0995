"""Datasets of torchvision, each in the splits its authors made.

Files are downloaded where torchvision can, into the request's root, as torchvision lays it out; without
one, into ``torchvision/NAME`` below ``$CRITMASS_DATA``, or below critmass's cache. Image files are read by
`images.decode`, not by torchvision. MNIST and its kin are also read from the packed files of any mirror
(idx.py). CIFAR's files are pickles: torchvision compares their MD5 with those
of the authors' files before it opens them, and so do we.

ImageNet and Places365 keep the labels of their test images secret: what they call val is "test" here.
Places365 is the standard set at 256 x 256. DTD is its first partition; FGVCAircraft's classes are variants.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, first_line, require, unknown, verbatim
from critmass.io.downloads import cache_root
from critmass.sources.datasets.idx import unpacked
from critmass.sources.inputs.images import MAX_BYTES, decode, rgb
from critmass.sources.protocols import BadSampleError, Dataset, DatasetRequest, Kind, Samples


@dataclass(frozen=True)
class Recipe:
    """How a class of torchvision is opened and read.

    Attributes
    ----------
    splits : mapping
        Arguments of the constructor by split.
    labels : str
        Attribute with the class indices; of pairs, their second.
    classes : str
        Attribute with the class names; "" where there are none.
    files : callable, optional
        The paths of the image files; where there is none, pixels are in memory.
    home : str
        Folder below the root where fetched files belong.
    downloads : bool
        Whether torchvision can fetch it.
    """

    splits: Mapping[str, Mapping[str, Any]]
    labels: str = "targets"
    classes: str = "classes"
    files: Callable[[Any], list[Any]] | None = None
    home: str = ""
    downloads: bool = True


def _splits(**ours: str) -> dict[str, dict[str, Any]]:
    return {name: {"split": own} for name, own in ours.items()}


def _pairs(attribute: str) -> Callable[[Any], list[Any]]:
    return lambda dataset: [path for path, _ in getattr(dataset, attribute)]


def _attribute(attribute: str) -> Callable[[Any], list[Any]]:
    return lambda dataset: list(getattr(dataset, attribute))


def _caltech(pattern: str) -> Callable[[Any], list[Any]]:
    return lambda dataset: [
        os.path.join(dataset.root, pattern.format(category=dataset.categories[y], code=y + 1, index=index))
        for y, index in zip(dataset.y, dataset.index, strict=True)
    ]


_FLAG: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_WHOLE: dict[str, dict[str, Any]] = {"train": {}}
_TRAIN_TEST = _splits(train="train", test="test")
_THREE = _splits(train="train", validation="val", test="test")
_FILES = _attribute("_image_files")

RECIPES = {
    "CIFAR10": Recipe(_FLAG),
    "CIFAR100": Recipe(_FLAG),
    "Caltech101": Recipe(
        _WHOLE,
        "y",
        "categories",
        _caltech("101_ObjectCategories/{category}/image_{index:04d}.jpg"),
        "caltech101",
    ),
    "Caltech256": Recipe(
        _WHOLE,
        "y",
        "categories",
        _caltech("256_ObjectCategories/{category}/{code:03d}_{index:04d}.jpg"),
        "caltech256",
    ),
    "Country211": Recipe(
        _splits(train="train", validation="valid", test="test"), files=_pairs("samples"), home="country211"
    ),
    "DTD": Recipe(_THREE, "_labels", files=_FILES, home="dtd"),
    "EuroSAT": Recipe(_WHOLE, files=_pairs("samples"), home="eurosat"),
    "FER2013": Recipe(_TRAIN_TEST, "_samples", "", home="fer2013", downloads=False),
    "FGVCAircraft": Recipe(_THREE, "_labels", files=_FILES),
    "FashionMNIST": Recipe(_FLAG, home="FashionMNIST/raw"),
    "Flowers102": Recipe(_THREE, "_labels", files=_FILES, home="flowers-102"),
    "Food101": Recipe(_TRAIN_TEST, "_labels", files=_FILES),
    "GTSRB": Recipe(_TRAIN_TEST, "_samples", "", _pairs("_samples"), "gtsrb"),
    "ImageNet": Recipe(
        _splits(train="train", test="val"), "targets", "wnids", _pairs("samples"), downloads=False
    ),
    "Imagenette": Recipe(_splits(train="train", test="val"), "_samples", "wnids", _pairs("_samples")),
    "KMNIST": Recipe(_FLAG, home="KMNIST/raw"),
    "MNIST": Recipe(_FLAG, home="MNIST/raw"),
    "OxfordIIITPet": Recipe(
        _splits(train="trainval", test="test"),
        "_labels",
        files=_attribute("_images"),
        home="oxford-iiit-pet",
    ),
    "Places365": Recipe(
        {"train": {"split": "train-standard", "small": True}, "test": {"split": "val", "small": True}},
        files=_pairs("imgs"),
    ),
    "RenderedSST2": Recipe(_THREE, "_samples", files=_pairs("_samples"), home="rendered-sst2"),
    "STL10": Recipe(_TRAIN_TEST, "labels"),
    "SUN397": Recipe(_WHOLE, "_labels", files=_FILES, home="SUN397"),
    "SVHN": Recipe(_TRAIN_TEST, "labels", ""),
    "StanfordCars": Recipe(
        _TRAIN_TEST, "_samples", files=_pairs("_samples"), home="stanford_cars", downloads=False
    ),
    "USPS": Recipe(_FLAG, classes=""),
}
_ADDRESSES = (
    ("url", "_URL", "_download_url_prefix", "_DOWNLOAD_URL_PREFIX", "_BASE_URL", "_DATASET_URL", "mirrors"),
    ("_RESOURCES", "_ARCHIVES", "split_list"),
)


def load(rest: str, request: DatasetRequest) -> Dataset:
    """Return the dataset called `rest`, downloaded if it is not there."""
    if rest not in RECIPES:
        raise unknown("torchvision dataset", rest, RECIPES)
    home = require(
        "torchvision.datasets", package="torchvision", extra="vision", purpose=f"torchvision:{rest}"
    )
    return TorchvisionDataset(rest, getattr(home, rest), request.root or default_root(rest))


def default_root(name: str) -> Path:
    """Return where a dataset is kept unless the request says so."""
    if chosen := os.environ.get("CRITMASS_DATA"):
        return Path(chosen).expanduser() / "torchvision" / name
    return cache_root() / "torchvision" / name


@dataclass(frozen=True)
class TorchvisionDataset:
    """A dataset of torchvision below `root`."""

    own_name: str
    home: Any
    root: Path
    kind: Kind = "image"

    @property
    def name(self) -> str:
        """Name with the prefix."""
        return f"torchvision:{self.own_name}"

    def describe(self) -> dict[str, Any]:
        """Return a hash of the labels with the pixels, or with the files' paths and sizes."""
        return {"name": self.name, "sha256": self._digest, "sha256_of": self._identity}

    def splits(self) -> Mapping[str, Samples]:
        """Return every split."""
        return {split: self._samples(split, opened) for split, opened in self._opened.items()}

    @functools.cached_property
    def _opened(self) -> dict[str, Any]:
        return {split: self._open(arguments) for split, arguments in self._recipe.splits.items()}

    @property
    def _recipe(self) -> Recipe:
        return RECIPES[self.own_name]

    def _open(self, arguments: Mapping[str, Any]) -> Any:
        """Open what is there; download where it is not."""
        try:
            return self._try(arguments)
        except Exception as error:
            if (found := self._unpacked(arguments)) is not None:
                return found
            if not self._recipe.downloads:
                raise self._absent(error) from error
        absent = [path for path in (self._home, *self._home.parents) if not path.exists()]
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return self._try({**arguments, "download": True})
        except Exception as error:
            if absent:
                _remove_empty(absent[-1])
            raise self._absent(error) from error

    def _try(self, arguments: Mapping[str, Any]) -> Any:
        return self.home(str(self.root), **arguments)

    def _unpacked(self, arguments: Mapping[str, Any]) -> Any:
        """Return a split of MNIST or its kin from packed files, whoever packed them; None without any."""
        if not hasattr(self.home, "raw_folder"):
            return None
        prefix = "train" if arguments["train"] else "t10k"
        return unpacked((self._home, self.root), prefix, self.home.classes)

    @property
    def _home(self) -> Path:
        """Where fetched files belong."""
        return self.root / self._recipe.home

    def _absent(self, error: Exception) -> InputError:
        address = _address(self.home) or "its authors' page"
        packed = getattr(self.home, "resources", ()) if hasattr(self.home, "raw_folder") else ()
        files = ", ".join(file for file, _ in packed)
        return InputError(
            self.name,
            verbatim(f"no whole copy ({type(error).__name__}: {first_line(error)})"),
            files or "the files as torchvision expects them",
            f"fetch {address} and put it in {self._home}",
        )

    def _samples(self, split: str, opened: Any) -> Samples:
        codes = self._codes(opened)
        if (read_files := self._recipe.files) is not None:
            paths = [os.fspath(path) for path in read_files(opened)]
            names = [Path(os.path.relpath(path, self.root)).as_posix() for path in paths]
            read: Callable[[int], Any] = functools.partial(_read_file, paths, names)
        else:
            names = [f"{self.own_name} {split}, image {index}" for index in range(len(codes))]
            read = functools.partial(_read_pixels, opened)
        return Samples(names, read, self._named(codes))

    def _codes(self, opened: Any) -> NDArray[np.int64]:
        values = getattr(opened, self._recipe.labels)
        if self._recipe.labels == "_samples":
            values = [label for _, label in values]
        if any(value is None for value in values):
            raise InputError(self.name, verbatim("images without labels"), "the version with labels")
        return np.asarray(values, dtype=np.int64)

    def _named(self, codes: NDArray[np.int64]) -> NDArray[Any]:
        first = self._opened["train"]
        if not self._recipe.classes:
            return codes
        classes = np.array([str(name) for name in getattr(first, self._recipe.classes)])
        if len(classes) <= codes.max() or len(set(classes.tolist())) < len(classes):
            found = verbatim(f"{len(classes)} class names for class indices up to {codes.max()}")
            raise InputError(self.name, found, "a name for every class", "fetch the files again")
        return classes[codes]

    @property
    def _identity(self) -> str:
        return "labels and pixels" if self._recipe.files is None else "labels, paths and sizes of the files"

    @functools.cached_property
    def _digest(self) -> str:
        found = hashlib.sha256()
        for split, samples in self.splits().items():
            found.update(f"{split} {np.asarray(samples.labels).tolist()}".encode())
            if self._recipe.files is None:
                for index in range(len(samples)):
                    found.update(np.asarray(samples.read(index)).tobytes())
                continue
            for name in samples.names:
                path = self.root / name
                found.update(f"{name}\0{path.stat().st_size if path.exists() else None}\n".encode())
        return found.hexdigest()


def _remove_empty(folder: Path) -> None:
    """Remove a folder and all below it but what has files in it."""
    for below, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(below)


def _address(home: Any) -> str:
    """Return where a class fetches its files, as far as it says so."""
    plain, nested = _ADDRESSES
    values = [getattr(home, attribute, None) for attribute in (*plain, *nested)]
    while values:
        value = values.pop(0)
        if isinstance(value, str) and value.startswith("http"):
            return value
        if isinstance(value, Mapping):
            values.extend(value.values())
        elif isinstance(value, list | tuple):
            values.extend(value)
    return ""


def _read_file(paths: list[str], names: list[str], index: int) -> Any:
    try:
        if (size := os.path.getsize(paths[index])) > MAX_BYTES:
            raise BadSampleError(names[index], f"{size} bytes", f"files up to {MAX_BYTES} bytes")
        data = Path(paths[index]).read_bytes()
    except OSError as error:
        raise BadSampleError(names[index], error.strerror or str(error)) from error
    return decode(data, names[index])


def _read_pixels(opened: Any, index: int) -> Any:
    return rgb(opened[index][0])
