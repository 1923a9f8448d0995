"""Small data, places and looks at the disk that several tests share. Plain functions; no fixtures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
"""The project."""

REAL = ROOT.parent / "shared" / "data"
"""Real data that is not in the repository; tests that need it skip, saying so, where it is missing."""


def blobs(n: int = 120, d: int = 6, *, n_classes: int = 3, seed: int = 0, dtype: str = "float32"):
    """Return X of shape (n, d), classes that its neurons tell apart, and y of shape (n,)."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.normal(size=(n, d)) + 3.0 * rng.normal(size=(n_classes, d))[y]
    return X.astype(dtype), y


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return every path below `folder`, with the bytes of files and None for folders."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def flip(path: Path, position: int) -> None:
    """Change one byte of a file, by one bit."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
