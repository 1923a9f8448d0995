"""Families of the user's own: functions, matrices, objects, settings, and those of other packages."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

import numpy as np
import pytest

import critmass as cm
from critmass.parts import making
from critmass.testing import made_up

D = 14


@pytest.fixture(scope="module")
def features():
    x, y = made_up(n=300, d=D)
    return cm.Features.from_arrays((x[:150], y[:150]), test=(x[150:], y[150:]))


def by_class_spread(whole, repeat):
    """Neurons by how far class means are apart; a random half of the rows for each repeat."""
    rows = whole.stream("spread", repeat).permutation(len(whole.train.y))[:75]
    x, y = np.asarray(whole.train.x[:])[rows], whole.train.y[rows]
    means = np.stack([x[y == c].mean(axis=0) for c in range(3)])
    return np.argsort(-means.var(axis=0) / x.var(axis=0))


def rotation(whole, repeat):
    return np.linalg.qr(whole.stream("rotation", repeat).normal(size=(whole.n_neurons,) * 2))[0]


@dataclass(frozen=True)
class EveryOther:
    """The even neurons first, or the odd ones."""

    odd: bool = False
    random = False
    unit = "neurons"

    def make(self, whole, _repeat):
        order = np.arange(whole.n_neurons)
        return np.concatenate([order[self.odd :: 2], order[not self.odd :: 2]])


def test_a_function_that_returns_orders(features):
    curve = cm.measure(features, parts=by_class_spread, sizes=[3, 7], repeats=3)
    assert (curve.parts.family, curve.repeats, curve.unit) == ("by_class_spread", 3, "neurons")
    whole = cm.Whole(D, features=features)
    orders = np.stack([by_class_spread(whole, repeat) for repeat in range(3)])
    assert curve.indices(repeat=2, size=7).tolist() == orders[2, :7].tolist()
    given = cm.measure(features, parts=orders, sizes=[3, 7])
    np.testing.assert_array_equal(curve.measurement.scores, given.measurement.scores)


def test_a_function_that_returns_matrices(features):
    curve = cm.measure(features, parts=rotation, sizes=[3, 7], repeats=2)
    assert (curve.unit, curve.repeats) == ("columns", 2)
    assert (curve.measurement.scores[:, -1] == curve.whole).all()


@pytest.mark.parametrize("score", ["ridge", "lda", "cka", "cka-biased", "knn", "logistic"])
def test_a_matrix_with_fewer_columns_than_neurons(features, score):
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
    # λ that is chosen is in proportion to the mean variance of a basis's columns.
    fixed = {"regularisation": 1.0} if score in ("ridge", "lda", "logistic") else {}
    every = cm.measure(features, score=score, parts=basis, sizes=[2, 5], **fixed)
    few = cm.measure(features, score=score, parts=basis[:, :5], sizes=[2, 5], **fixed)
    np.testing.assert_allclose(few.measurement.scores[0, :2], every.measurement.scores[0, :2], atol=1e-9)
    assert few.measurement.scores[0, 2] == few.whole == every.whole  # then the whole is the whole
    named = cm.measure(features, score=score, parts=basis[:, :5])
    assert named.sizes.tolist() == [1, 2, 3, 4, 5, D]
    if few.measurement.covariance is not None:
        np.testing.assert_allclose(
            few.measurement.covariance[:2], every.measurement.covariance[:2], atol=1e-7
        )


def test_a_family_of_ones_own(features, tmp_path):
    even = cm.measure(features, parts=EveryOther(), sizes=[3], out=tmp_path)
    odd = cm.measure(features, parts=EveryOther(odd=True), sizes=[3], out=tmp_path)
    assert even.parts.family == odd.parts.family == "EveryOther"
    assert [c.indices(repeat=0, size=3).tolist() for c in (even, odd)] == [[0, 2, 4], [1, 3, 5]]
    assert len(list((tmp_path / "cells").iterdir())) == 2
    again = cm.measure(features, parts=EveryOther(odd=True), sizes=[3], out=tmp_path)
    assert again.frame.equals(odd.frame)
    assert len(list((tmp_path / "cells").iterdir())) == 2


def test_a_basis_given_is_known_again_from_its_cell(features, tmp_path):
    basis = np.eye(D)[:, :6]
    one = cm.measure(features, parts=basis, sizes="all", out=tmp_path)
    again = cm.measure(features, parts=basis, sizes="all", out=tmp_path)
    assert again.frame.equals(one.frame)
    assert (again.unit, again.parts.n_columns) == ("columns", D + 6)
    cm.measure(features, parts=2 * basis, sizes="all", out=tmp_path)
    assert len(list((tmp_path / "cells").iterdir())) == 2


def test_settings_of_a_family_by_name(features, tmp_path):
    one = cm.measure(features, score="cka", parts="pca", sizes=[1], out=tmp_path)
    other = cm.measure(
        features, score="cka", parts="pca", parts_settings={"centre": False}, sizes=[1], out=tmp_path
    )
    assert other.spec["parts_settings"] == {"centre": False}
    assert one.id != other.id
    assert one.measurement.scores[0, 0] != other.measurement.scores[0, 0]
    with pytest.raises(cm.InputError, match=r"centred: found True; allowed: centre, least: the settings of"):
        cm.measure(features, parts="pca", parts_settings={"centred": True})
    with pytest.raises(cm.InputError, match="nothing but for a family given by its name"):
        cm.measure(features, parts=rotation, parts_settings={"a": 1})


def test_families_of_other_packages(features, monkeypatch):
    points = [
        importlib.metadata.EntryPoint("every-other", f"{__name__}:EveryOther", making.ENTRY_POINTS),
        importlib.metadata.EntryPoint("rotation", f"{__name__}:rotation", making.ENTRY_POINTS),
    ]
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda point: globals()[point.attr])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    assert making.registered()["rotation"].startswith("from ")
    curve = cm.measure(features, parts="every-other", parts_settings={"odd": True}, sizes=[2])
    assert curve.indices(repeat=0, size=2).tolist() == [1, 3]
    assert cm.measure(features, parts="rotation", sizes=[2], repeats=2).repeats == 2
    with pytest.raises(cm.InputError, match="did you mean 'rotation'"):
        cm.measure(features, parts="rotatoin")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros((D, D + 1)), rf"a matrix of shape \(14, 15\); allowed: shape \({D}, k\)"),
        (np.zeros(D), r"a matrix of shape \(14,\)"),
        (np.full((D, 2), np.nan), "values that are not finite"),
        (lambda whole, repeat: np.arange(whole.n_neurons - 1), "each of the neurons 0..13 once"),
        (lambda whole, repeat: np.eye(whole.n_neurons)[:, : 2 + repeat], "one shape and dtype for all"),
        (EveryOther, "a Family, made, or a function"),
    ],
)
def test_what_is_no_family_is_named(features, bad, words):
    with pytest.raises(cm.InputError, match=words):
        cm.measure(features, parts=bad, sizes="paper", repeats=2)


def test_greedy_beats_random_and_the_worst_loses(features):
    scores = {
        name: cm.measure(features, parts=name, sizes=[3], repeats=20).measurement.scores[:, 0].mean()
        for name in ("greedy", "random", "greedy-worst", "greedy-unlabelled")
    }
    assert scores["greedy-worst"] < scores["random"] < scores["greedy"]
    bare = cm.Features.from_arrays(np.asarray(features.splits["train"].x))
    assert cm.measure(bare, score="cka", parts="greedy-unlabelled", sizes=[3]).whole == 1.0
    with pytest.raises(cm.InputError, match="use greedy-unlabelled"):
        cm.measure(bare, score="cka", parts="greedy", sizes=[3])
    with pytest.raises(cm.InputError, match="strength"):
        cm.measure(features, parts="greedy", parts_settings={"strength": 0.0})
