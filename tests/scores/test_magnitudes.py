"""Every score on rows of any magnitude, and on rows that do not vary: the same answer, or one clear line."""

from __future__ import annotations

import numpy as np
import pytest

import critmass as cm
from critmass.parts.making import make_parts
from critmass.parts.plan import Plan
from critmass.parts.sizes import resolve_sizes
from critmass.scores import SCORES, Run, make_score
from critmass.testing import made_up

X, Y = made_up(n=700, d=12)
TWO_WAYS = ("ridge", "cka", "cka-biased", "cka-minibatch")
OWN = {"sgd": {"standardise": True}}  # else its learning rate has the rows' scale


def features_of(x, n_train=180):
    return cm.Features.from_arrays((x[:n_train], Y[:n_train]), test=(x[n_train:], Y[n_train:]))


WAYS = [(name, way) for name in SCORES for way in ("moments", "rows") if name in TWO_WAYS or way == "rows"]


def scores_of(name, fs, way="rows"):
    plan = Plan.of(make_parts("random", fs.n_neurons, repeats=2), resolve_sizes([1, 5], fs.n_neurons))
    return make_score(name, OWN.get(name)).measure(fs, plan, Run(way=way))["test"].scores


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-61, 1e-30, 1e30, 1e55, 1e100, 1e300])
@pytest.mark.parametrize(("name", "way"), WAYS)
def test_any_scale_gives_the_same_scores_or_is_refused(name, scale, way):
    if 1e-62 < scale < 1e60:
        found = scores_of(name, features_of(X * scale), way)
        np.testing.assert_allclose(found, scores_of(name, features_of(X), way), atol=1e-6)
    else:
        with pytest.raises(cm.InputError, match="magnitudes of 1e-60 to 1e.60; multiply all rows by one"):
            scores_of(name, features_of(X * scale), way)


@pytest.mark.parametrize("scale", [1e-160, 1e100])
@pytest.mark.parametrize("estimator", ["debiased", "biased", "minibatch"])
@pytest.mark.parametrize("n", [20, 700])
def test_cka_of_two_representations_refuses_them_as_well(n, estimator, scale):
    for pair in ((X[:n] * scale, X[:n]), (X[:n], X[:n] * scale)):
        with pytest.raises(cm.InputError, match="multiply all rows by one number"):
            cm.cka(*pair, estimator=estimator)


@pytest.mark.parametrize("way", ["rows", "moments"])
@pytest.mark.parametrize("name", [name for name in SCORES if name.startswith("cka")])
@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 1e9 / 7, "each"])
@pytest.mark.parametrize("n", [30, 700])
def test_rows_that_are_all_alike_have_no_cka(n, value, name, way):
    row = np.random.default_rng(n).normal(size=12) if value == "each" else np.full(12, value)
    fs = cm.Features.from_arrays(X[:n], test=np.tile(row, (n, 1)))
    with pytest.raises(cm.InputError, match="no variance that can be measured"):
        scores_of(name, fs, way)
    for pair in ((fs.splits["test"].x, X[:n]), (X[:n], fs.splits["test"].x)):
        with pytest.raises(cm.InputError, match="no variance that can be measured"):
            cm.cka(*pair, estimator=make_score(name).estimator)


@pytest.mark.parametrize("way", ["rows", "moments"])
@pytest.mark.parametrize("name", [name for name in SCORES if name.startswith("cka")])
def test_a_neuron_that_is_constant_shares_nothing(name, way):
    x = X.copy()
    x[:, 3] = 0.1
    fs = cm.Features.from_arrays(X, test=x)
    parts = make_parts(np.roll(np.arange(12), -3), 12)
    found = make_score(name).measure(fs, Plan.of(parts, np.array([1, 12])), Run(way=way))["test"].scores
    assert found.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("name", ["ridge", "logistic"])
def test_a_probe_of_a_layer_that_is_constant_is_refused_in_one_line(name):
    with pytest.raises(cm.InputError, match="a layer that is constant has no probe"):
        cm.measure(features_of(np.full_like(X, 0.1)), score=name)
