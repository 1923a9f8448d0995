"""The benchmarks' features: EfficientNet-Lite0 on CIFAR-10 and MNIST, all-MiniLM-L6-v2 on banking77."""

from __future__ import annotations

from pathlib import Path

import critmass as cm

CACHE = Path(__file__).parent / ".cache"


def cifar10(data: Path) -> cm.Features:
    """Return EfficientNet-Lite0 on 10,000 training and 3,000 test images, at 128 pixels, d = 1,280."""
    images = f"folder:{data / 'cifar10.zip'}"
    rows = {"train": 10_000, "test": 3_000}
    return cm.extract("lite0:", images, out=CACHE / "cifar10", image_size=128, limit=rows)


def mnist() -> cm.Features:
    """Return the demo's features: EfficientNet-Lite0 on 5,000 digits, d = 1,280."""
    return cm.extract("lite0:", "mnist5k:", out=CACHE / "mnist5k", image_size=112)


def banking77(data: Path) -> cm.Features:
    """Return all-MiniLM-L6-v2 on 10,003 training and 3,080 test texts of 77 classes, d = 384."""
    return cm.extract("minilm:", f"csv:{data / 'banking77_*.csv'}", out=CACHE / "banking77")
