"""A study that takes a second: what its file says, and the tables it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

TEXTS = ("cheap flight to a far place", "soup with bread and salt", "the match ended in a draw")


def tiny(folder: Path) -> dict[str, Any]:
    """Return a study of two tables of texts, which it writes, and of a model that needs no framework."""
    rng = np.random.default_rng(0)
    for name in ("small", "large"):
        for split, n in (("train", 90), ("test", 60)):
            words = [" ".join(rng.permutation(TEXTS[i % 3].split())[:4]) for i in range(n)]
            noise = rng.integers(0, 50, size=n)
            frame = pl.DataFrame(
                {
                    "text": [f"{w} {k}" for w, k in zip(words, noise, strict=True)],
                    "label": [f"topic {i % 3}" for i in range(n)],
                }
            )
            frame.write_csv(folder / f"{name}_{split}.csv")
    return {
        "name": "tiny",
        "data": str(folder),
        "results": str(folder / "results"),
        "models": {"words": {"model": "words:", "labels": {"architecture": "embeddings", "width": "32"}}},
        "datasets": {name: {"dataset": f"csv:{{data}}/{name}_*.csv"} for name in ("small", "large")},
        "features": [{"models": ["words"], "datasets": ["small", "large"]}],
        "measure": [
            {"scores": ["ridge", "cka"], "parts": ["random", "first"], "sizes": [0.1, 0.5], "repeats": 2},
            {"scores": ["centroid"], "sizes": [8], "datasets": ["small"]},
        ],
        "pairs": [{"sizes": [0.1, 0.5], "pairs": 3}, {"sizes": [0.1], "pairs": 3, "disjoint": True}],
    }


def written(content: dict[str, Any], folder: Path) -> Path:
    """Write what a study says as its file; return that."""
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return folder / "study.yaml"
