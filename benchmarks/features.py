"""The benchmark's features: EfficientNet-Lite0 on CIFAR-10, 10,000 train and 3,000 test images."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

import critmass as cm
from critmass.files import sha256
from critmass.sources import LabelledImages

CACHE = Path(__file__).parent / ".cache"


class Cifar10Zip:
    """JPEG images in a zip of train/CLASS/*.jpg and test/CLASS/*.jpg; seeded samples of either."""

    name = "cifar10"
    rows = (("train", 10_000), ("test", 3_000))

    def __init__(self, path: Path) -> None:
        self.path = path

    def describe(self) -> dict[str, object]:
        return {"name": self.name, "sha256": sha256(self.path), "rows": dict(self.rows), "seed": 0}

    def splits(self) -> Mapping[str, LabelledImages]:
        out = {}
        with zipfile.ZipFile(self.path) as archive:
            for split, count in self.rows:
                names = sorted(
                    n for n in archive.namelist() if f"{split}/" in n and n.endswith((".jpg", ".jpeg"))
                )
                chosen = np.sort(np.random.default_rng(0).permutation(len(names))[:count])
                images = [self._read(archive, names[i]) for i in chosen]
                out[split] = LabelledImages(images, np.array([names[i].split("/")[-2] for i in chosen]))
        return out

    @staticmethod
    def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))


def features(data: Path) -> cm.Features:
    """Return the features, extracted once; of the demo's digits, saying so, where there are no images."""
    if data.exists():
        return cm.extract("lite0:", Cifar10Zip(data), out=CACHE / "cifar10", image_size=128)
    print(f"{data} is missing: measuring on the demo's features (3,750 training rows) instead")
    return cm.extract("lite0:", "mnist5k:", out=CACHE / "mnist5k", image_size=112)
