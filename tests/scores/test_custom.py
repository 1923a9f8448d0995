"""Functions and entry points as scores; what a measurement does with them."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

import critmass as cm
from critmass import scores
from critmass.features.splits import Split
from critmass.parts.making import make_parts
from critmass.parts.plan import Plan
from critmass.scores import Run, make_score
from critmass.scores.ridge import Ridge
from critmass.testing import made_up


def bayes(train, test):
    return GaussianNB().fit(train.x, train.y).predict(test.x) == test.y


def accuracy(train, test):
    return bayes(train, test).mean()


@pytest.fixture
def features():
    x, y = made_up(n=240, d=10)
    return cm.Features.from_arrays((x[:120], y[:120]), test=(x[120:], y[120:]))


def test_a_function_is_called_with_every_parts_columns(features):
    curve = cm.measure(features, score=bayes, sizes=[2, 5], repeats=3)
    train, test = features.splits["train"], features.splits["test"]
    for row in curve.frame.iter_rows(named=True):
        part = curve.indices(repeat=row["repeat"], size=row["size"])
        part = part if row["size"] < 10 else np.arange(10)
        model = GaussianNB().fit(train.x[:, part], train.y)
        assert row["score"] == pytest.approx(model.score(test.x[:, part], test.y), abs=1e-12)


def test_credits_have_an_interval_and_a_number_has_none(features):
    by_row, whole = (cm.measure(features, score=score, sizes="all") for score in (bayes, accuracy))
    np.testing.assert_allclose(by_row.measurement.scores, whole.measurement.scores, atol=1e-12)
    assert by_row.redundancy(0.8).low is not None
    assert whole.redundancy(0.8).low is None
    right = np.array([bayes(*(Split(s.x, s.y) for s in features.splits.values()))]).astype(float)
    assert by_row.measurement.covariance[-1, -1, -1] == pytest.approx(right.var(ddof=1))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros(3), r"shape \(3,\).*one for each of the 120 test rows"),
        (float("nan"), "not all finite"),
    ],
)
def test_what_a_function_returns_is_checked(features, value, words):
    with pytest.raises(cm.InputError, match=words):
        cm.measure(features, score=lambda train, test: value, sizes=[2])


def test_entry_points_are_scores_by_name(features, monkeypatch):
    points = [
        importlib.metadata.EntryPoint("bayes", f"{__name__}:bayes", scores.ENTRY_POINTS),
        importlib.metadata.EntryPoint("their-ridge", "critmass.scores.ridge:Ridge", scores.ENTRY_POINTS),
    ]
    found = importlib.metadata.entry_points
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda group: points if group == scores.ENTRY_POINTS else found(group=group),
    )
    assert scores.registered()["bayes"] == f"from {__name__}:bayes"
    assert make_score("their-ridge", {"regularisation": 3.0}) == Ridge(regularisation=3.0)
    assert cm.measure(features, score="bayes", sizes=[2]).score == "bayes"
    with pytest.raises(cm.InputError, match="nothing for a score that is made already"):
        make_score("bayes", {"regularisation": 3.0})
    with pytest.raises(cm.InputError, match="did you mean 'bayes'"):
        make_score("bayse")


def test_what_is_no_score_is_refused():
    for value in (3, Ridge):
        with pytest.raises(cm.InputError, match="a score's name, a Score, or a function of two splits"):
            make_score(value)


def test_settings_by_name_and_apart(features):
    for given, allowed in (({"penalty": 1.0}, "regularisation"), ({"epochs": 3}, "class_weight")):
        with pytest.raises(cm.InputError, match=allowed):
            cm.measure(features, score="ridge", settings=given)
    with pytest.raises(cm.InputError, match="nothing beside regularisation=2.0"):
        cm.measure(features, regularisation=2.0, settings={"regularisation": 1.0})
    one = cm.measure(features, regularisation=2.0, sizes=[3])
    other = cm.measure(features, settings={"regularisation": 2.0}, sizes=[3])
    assert one.id == other.id
    assert one.frame.equals(other.frame)


def test_devices_that_are_not_there_are_named(features):
    for name in ("cuda:99", "tpu", "torch:abacus"):
        with pytest.raises(cm.InputError, match=r"device: found .*allowed: cpu \(NumPy\), torch:cpu, cuda"):
            cm.measure(features, device=name)


def test_ridge_with_class_weights_is_the_same_both_ways(features):
    x, y = made_up(n=200, d=12, classes=4)
    fs = cm.Features.from_arrays(
        (x[:120], y[:120]), test=(x[120:], y[120:]), weights={"train": np.linspace(0.5, 2, 120)}
    )
    plan = Plan.of(make_parts("random", 12, repeats=2), np.array([3, 7, 12]))
    for penalty in (None, 5.0):
        score = Ridge(regularisation=penalty, class_weight="balanced")
        ways = [score.measure(fs, plan, Run(way=way))["test"] for way in ("moments", "rows")]
        np.testing.assert_allclose(ways[0].scores, ways[1].scores, atol=1e-12)
        np.testing.assert_allclose(ways[0].chosen["regularisation"], ways[1].chosen["regularisation"])


def test_weights_and_views_survive_every_container(tmp_path):
    x, y = (values[:60] for values in made_up(n=80, d=5))
    weights = np.linspace(0.1, 3.0, 60)
    fs = cm.Features.from_arrays((x, y), test=(x, y), weights={"train": weights}, views=[x + 1, x + 2])
    np.savez(
        tmp_path / "a.npz",
        X_train=x,
        y_train=y,
        X_test=x,
        y_test=y,
        weights_train=weights,
        **{"X_train.view1": x + 1, "X_train.view2": x + 2},
    )
    stored = fs.save(tmp_path / "store", shard_rows=17)
    for found in (stored, cm.Features.open(tmp_path / "a.npz"), fs):
        train = found.splits["train"]
        assert found.tests == ("test",)
        assert (train.weight == weights).all()
        assert [float((np.asarray(view[:]) - x).mean().round(9)) for view in train.views] == [1.0, 2.0]
    carved = cm.Features.from_arrays((x, y), weights={"train": weights}, views=[x + 1])
    train = carved.splits["train"]
    assert len(train.weight) == train.x.shape[0] == train.views[0].shape[0] == 45
    np.testing.assert_array_equal(train.views[0][:], train.x[:] + 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": {"train": np.zeros(60)}}, "finite numbers above 0"),
        ({"weights": {"train": np.ones(59)}}, r"shape \(60,\)"),
        ({"weights": {"test": np.ones(60)}}, "weights of 'train' only"),
        ({"weights": {"v2": np.ones(60)}}, "no rows for them"),
        ({"views": [np.ones((59, 5))]}, "60 rows, as in 'train'"),
        ({"views": [np.ones((60, 4))]}, "5 neurons, as in 'train'"),
    ],
)
def test_weights_and_views_are_checked(options, words):
    x, y = (values[:60] for values in made_up(n=80, d=5))
    with pytest.raises(cm.InputError, match=words):
        cm.Features.from_arrays((x, y), test=(x, y), **options)
