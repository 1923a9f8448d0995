"""The benchmarks' features: EfficientNet-Lite0 on CIFAR-10 and MNIST, all-MiniLM-L6-v2 on banking77.

Of toy size, what packages carry stands for CIFAR-10, and texts of made-up words for banking77.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from claims import Run

import critmass as cm


def cifar10(run: Run) -> cm.Features:
    """Return EfficientNet-Lite0 on 10,000 training and 3,000 test images, at 128 pixels, d = 1,280."""
    images = "mnist5k:" if run.toy else f"folder:{run.data / 'cifar10.zip'}"
    rows = {"train": 200, "test": 100} if run.toy else {"train": 10_000, "test": 3_000}
    out = run.cache / "cifar10"
    cm.extract("lite0:", images, out=out, image_size=32 if run.toy else 128, limit=rows)
    return cm.Features.open(out, name="lite0-cifar10")


def mnist(run: Run, limit: int | None = None) -> cm.Features:
    """Return EfficientNet-Lite0 on 5,000 digits (the demo's), or on fewer of the training ones, d = 1,280."""
    most = min(limit or 3750, 100 if run.toy else 3750)
    rows = {"train": most, "test": 100 if run.toy else 1250}
    out = run.cache / f"mnist-{most}"
    cm.extract("lite0:", "mnist5k:", out=out, image_size=32 if run.toy else 112, limit=rows)
    return cm.Features.open(out, name="lite0-mnist")


def banking77(run: Run) -> cm.Features:
    """Return all-MiniLM-L6-v2 on 10,003 training and 3,080 test texts of 77 classes, d = 384."""
    folder = made_up_texts(run.cache / "texts") if run.toy else run.data
    out = run.cache / "banking77"
    cm.extract("minilm:", f"csv:{folder / 'banking77_*.csv'}", out=out)
    return cm.Features.open(out, name="minilm-banking77")


def made_up_texts(folder: Path) -> Path:
    """Write texts of five classes, a few words each, as banking77's files are; return the folder."""
    generator = np.random.default_rng(0)
    words = ["card", "transfer", "refund", "cash", "rate", "please", "how", "why", "my", "the"]
    folder.mkdir(parents=True, exist_ok=True)
    for split, n in (("train", 200), ("test", 100)):
        chosen = generator.integers(5, 10, size=(n, 4))
        rows = [
            (" ".join([words[i % 5], *(words[j] for j in some)]), f"class {i % 5}")
            for i, some in enumerate(chosen)
        ]
        pl.DataFrame(rows, schema=["text", "category"], orient="row").write_csv(
            folder / f"banking77_{split}.csv"
        )
    return folder


def wordllama(run: Run) -> cm.Features:
    """Return wordllama's static embeddings, trained with the Matryoshka loss, on banking77, d = 256."""
    folder = made_up_texts(run.cache / "texts") if run.toy else run.data
    out = run.cache / "wordllama"
    cm.extract("wordllama:", f"csv:{folder / 'banking77_*.csv'}", out=out)
    return cm.Features.open(out, name="wordllama-banking77")


def imagenette(run: Run) -> cm.Features:
    """Return EfficientNet-Lite0 on Imagenette, 1,500 training and 600 test images, d = 1,280."""
    out = run.cache / "imagenette"
    cm.extract(
        "lite0:",
        f"folder:{run.data / 'imagenette224.zip'}",
        out=out,
        splits={"train": "train", "test": "val"},
    )
    return cm.Features.open(out, name="lite0-imagenette")
