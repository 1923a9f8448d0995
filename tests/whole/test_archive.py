"""A small file of every released version is kept and read again, for ever. Never rewrite these files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import critmass as cm
from critmass.curves.cells import load_curves
from critmass.features.store import open_store

ARCHIVE = Path(__file__).parent / "archive"
X = ((np.arange(60) ** 3 * 7919 + 13) % 101 / 8).reshape(20, 3).astype(np.float32)


def test_features_version_1():
    folder = ARCHIVE / "features-v1"
    assert open_store(folder).verify() == 5
    fs = cm.Features.open(folder)
    assert (fs.name, fs.task, fs.classes, fs.groups) == (
        "archived",
        "classification",
        ("ant", "bee"),
        ("a", "b"),
    )
    assert fs.splits["train"].x[:].tolist() == X[:12].tolist()
    assert fs.splits["test"].x[:].tolist() == X[12:].tolist()
    assert fs.splits["train"].y.tolist() == [0, 1] * 6
    assert fs.splits["train"].weight.tolist() == (np.arange(1, 13) / 4).tolist()
    assert [view[:].tolist() for view in fs.splits["train"].views] == [(X[:12] + 1).tolist()]
    assert fs.splits["train"].group is None
    assert fs.splits["test"].group.tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert dict(fs.provenance) == {"source": "made for the archive"}


def test_results_version_1_and_todays_measurement_agree():
    (kept,) = load_curves(ARCHIVE / "results-v1")
    today = cm.measure(ARCHIVE / "features-v1", sizes="all", repeats=2, regularisation=1.0)
    np.testing.assert_allclose(kept.measurement.scores, today.measurement.scores)
    assert kept.parts.orders.tolist() == today.parts.orders.tolist()
    assert kept.redundancy(0.9).record() == today.redundancy(0.9).record()
    assert kept.by_group.equals(today.by_group)
    assert kept.frame.columns == today.frame.columns
    assert kept.described == today.described == "ridge (accuracy, λ = 1)"
