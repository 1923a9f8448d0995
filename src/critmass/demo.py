"""The main job on real input: a pre-trained network, real images, all sizes, DR with intervals, a page."""

from __future__ import annotations

from pathlib import Path

from critmass.curves.curve import Curve
from critmass.curves.measure import measure
from critmass.extraction.extract import extract
from critmass.progress import Progress
from critmass.report import write_report

MODEL, DATASET, IMAGE_SIZE = "lite0:", "mnist5k:", 112
SCORES = ("cka", "ridge")


def run(out: Path, *, limit: int | None = None, progress: Progress) -> tuple[list[Curve], list[Path]]:
    """Extract (or reuse) features below `out`, measure CKA and ridge for all sizes, write the report.

    With `limit`, at most so many images of each split are used: a shorter look.
    """
    features = extract(
        MODEL, DATASET, out=out / "features", image_size=IMAGE_SIZE, limit=limit, progress=progress
    )
    curves = [
        measure(
            features, score=score, parts="random", sizes="all", repeats=5, seed=0, out=out, progress=progress
        )
        for score in SCORES
    ]
    return curves, [out / "results.parquet", *write_report(out)]
