"""Fixtures that several files share: real features, made once a session from packages alone."""

from __future__ import annotations

import pytest
from sklearn.datasets import load_digits

import critmass as cm


@pytest.fixture(scope="session")
def real_store(tmp_path_factory):
    """The demo's own features: EfficientNet-Lite0 on 5,000 MNIST digits, d = 1280."""
    folder = tmp_path_factory.mktemp("real") / "features"
    cm.extract("lite0:", "mnist5k:", out=folder, image_size=112)
    return folder


@pytest.fixture(scope="session")
def real_features(real_store):
    return cm.Features.open(real_store)


@pytest.fixture(scope="session")
def digits():
    """1,797 real digits, 64 pixels each, some of them constant."""
    x, y = load_digits(return_X_y=True)
    return cm.Features.from_arrays((x, y), name="digits")
