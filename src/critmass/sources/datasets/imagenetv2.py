"""ImageNetV2 (Recht et al. 2019): folders 0 to 999, in a folder or a .zip. One split, "test".

Its labels are class indices in the order of the sorted WordNet ids; beside an ImageNet whose labels are
those ids, `selection.select` turns them into ids. It has no training rows: use it as a further test.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from critmass.errors import InputError, verbatim
from critmass.sources.datasets.folder import wrapped
from critmass.sources.datasets.trees import Tree, open_tree
from critmass.sources.protocols import Dataset, DatasetRequest, Kind, Samples

N_CLASSES = 1000


def load(rest: str, _request: DatasetRequest) -> Dataset:
    """Return the dataset in the folder or .zip `rest`."""
    return ImageNetV2(*open_tree("imagenetv2", rest))


@dataclass(frozen=True)
class ImageNetV2:
    """Images of 1,000 classes in folders called by number."""

    name: str
    tree: Tree
    kind: Kind = "image"

    def describe(self) -> dict[str, Any]:
        """Return a hash of the files' paths and sizes (in a .zip, CRC-32 too), and what was left out."""
        return {
            "name": self.name,
            "sha256": self.tree.digest(),
            "sha256_of": self.tree.identity,
            "ignored": self.tree.ignored,
        }

    def splits(self) -> Mapping[str, Samples]:
        """Return the one split, "test"."""
        return {"test": Samples(self.tree.paths, self.tree.read, self._labels)}

    @functools.cached_property
    def _labels(self) -> Any:
        depth = wrapped(self.tree)
        labels = []
        for path in self.tree.paths:
            folder, *rest = path.split("/")[depth:]
            if not (rest and folder.isascii() and folder.isdigit() and int(folder) < N_CLASSES):
                raise InputError(
                    f"{self.name} {path}",
                    verbatim("an image in no folder called 0 to 999"),
                    "ImageNetV2's folders",
                    "for other trees use folder:PATH",
                )
            labels.append(int(folder))
        if not labels:
            raise InputError(self.name, verbatim("no image"), "ImageNetV2's folders, 0 to 999")
        return np.array(labels, dtype=np.int64)
