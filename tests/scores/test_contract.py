"""Every score of ours passes the suite that others' scores are asked to pass."""

from __future__ import annotations

import numpy as np
import pytest

import critmass as cm
from critmass.curves.measure import measure
from critmass.parts.plan import Plan
from critmass.scores import SCORES, make_score
from critmass.testing import ScoreContract, made_up


@pytest.mark.parametrize("name", SCORES)
class TestScores(ScoreContract):
    @pytest.fixture(autouse=True)
    def _named(self, name):
        self.name = name

    def make(self):
        return self.name


class TestFunction(ScoreContract):
    def make(self):
        return nearest_mean


def nearest_mean(train, test):
    """Right or wrong for each test row, by the nearest class mean."""
    means = np.stack([train.x[train.y == c].mean(axis=0) for c in range(train.y.max() + 1)])
    return ((test.x[:, None] - means) ** 2).sum(axis=2).argmin(axis=1) == test.y


def test_a_layer_too_wide_for_moments_is_measured_from_rows():
    x, y = made_up(n=60, d=400)
    fs = cm.Features.from_arrays((x, y))
    for name in ("ridge", "cka"):
        narrow = measure(fs, score=name, sizes=[5, 100], repeats=2)
        needed = make_score(name).memory(fs, Plan.of(narrow.parts, narrow.sizes))
        assert needed["rows"] < needed["moments"]
        wide = measure(fs, score=name, sizes=[5, 100], repeats=2, memory_gib=needed["rows"] * 1.01 / 2**30)
        np.testing.assert_allclose(wide.measurement.scores, narrow.measurement.scores, atol=1e-9)


def test_settings_of_a_probe_are_refused_elsewhere():
    with pytest.raises(cm.InputError, match=r"regularisation: found 1\.0; allowed: nothing: the settings of"):
        make_score("cka", {"regularisation": 1.0})
    with pytest.raises(cm.InputError, match="did you mean 'ridge'"):
        make_score("rigde")
