"""Pairs of random parts: against the n x n formula on their columns, and the law of what they share."""

from __future__ import annotations

import numpy as np
import pytest
from helpers_cka import NAIVE

import critmass as cm
from critmass.curves import similarity as pairwise
from critmass.testing import made_up


@pytest.fixture(scope="module")
def features():
    x, y = made_up(n=150, d=20)
    return cm.Features.from_arrays((x[:80], y[:80]), test=(x[80:], y[80:]))


@pytest.mark.parametrize("estimator", NAIVE)
@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_pair_equals_the_formula_on_its_columns(features, estimator, disjoint, split):
    found = cm.similarity(
        features, sizes="all", pairs=3, disjoint=disjoint, split=split, estimator=estimator, seed=4
    ).frame
    assert len(found) == 3 * (10 if disjoint else 20)
    x = features.splits[split].x[:] - features.splits[split].x[:].mean(axis=0)
    for row in found.iter_rows(named=True):
        first, second = pairwise._orders(20, 4, row["pair"], disjoint=disjoint)[:, : row["size"]]
        naive = NAIVE[estimator]
        assert row["cka"] == pytest.approx(naive(x[:, first], x[:, second]), abs=1e-8)
        assert row["first_whole"] == pytest.approx(naive(x[:, first], x), abs=1e-8)
        assert row["second_whole"] == pytest.approx(naive(x[:, second], x), abs=1e-8)
        assert row["overlap"] == pytest.approx(len(set(first) & set(second)) / row["size"])
        assert row["fraction"] == row["size"] / 20
        assert not disjoint or row["overlap"] == 0
    if not disjoint:
        assert (found.filter(size=20).select("cka", "first_whole", "second_whole") == 1).to_numpy().all()


def test_by_size_is_the_mean_over_pairs(features):
    found = cm.similarity(features, sizes=[3, 10], pairs=4)
    for row in found.by_size.iter_rows(named=True):
        some = found.frame.filter(size=row["size"])
        both = np.concatenate([some["first_whole"], some["second_whole"]])
        assert (row["pairs"], row["mean"], row["std"]) == pytest.approx(
            (4, some["cka"].mean(), some["cka"].std())
        )
        assert (row["whole_mean"], row["whole_std"]) == pytest.approx((both.mean(), both.std(ddof=1)))
    assert found.by_size["size"].to_list() == [3, 10, 20]
    assert cm.similarity(features, pairs=1).by_size["std"].null_count() == len(
        cm.similarity(features, pairs=1).by_size
    )


def test_neurons_in_common_alone_raise_cka():
    x = np.random.default_rng(0).normal(size=(4000, 60))
    fs = cm.Features.from_arrays(x, test=x)
    overlapping = cm.similarity(fs, sizes=[15, 30], pairs=30).by_size
    assert overlapping["mean"][0] == pytest.approx(0.25, abs=0.03)
    assert overlapping["mean"][1] == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(overlapping["mean"], overlapping["overlap"], atol=0.01)
    apart = cm.similarity(fs, sizes=[15, 30], pairs=30, disjoint=True).by_size
    assert np.abs(apart["mean"]).max() < 0.005
    np.testing.assert_allclose(apart["whole_mean"], [0.5, np.sqrt(0.5)], atol=0.02)


def test_real_parts_are_alike_even_without_neurons_in_common(real_features):
    sizes = [0.01, 0.1, 0.2, 0.5]
    found = cm.similarity(real_features, sizes=sizes, disjoint=True).by_size
    assert found["size"].to_list() == [12, 128, 256, 640]
    assert np.all(np.diff(found["mean"]) > 0)
    assert found["mean"][-1] > 0.7
    overlapping = cm.similarity(real_features, sizes=sizes).by_size
    assert (overlapping["mean"][:4] > found["mean"]).all()
    assert (found["whole_mean"] > found["mean"]).all()


def test_the_seed_decides_and_pairs_do_not_depend_on_their_number(features):
    few, many = (cm.similarity(features, pairs=count).frame for count in (2, 5))
    assert many.filter(many["pair"] < 2).equals(few)
    assert not cm.similarity(features, pairs=2, seed=1).frame.equals(few)


def test_a_path_is_opened(features, tmp_path):
    features.save(tmp_path / "store")
    found = cm.similarity(tmp_path / "store", pairs=2).frame
    np.testing.assert_allclose(found["cka"], cm.similarity(features, pairs=2).frame["cka"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pairs": 0}, "pairs: found 0; allowed: 1 or more"),
        ({"split": "tset"}, "split: found 'tset'.*did you mean 'test'"),
        (
            {"sizes": [11, 15], "disjoint": True},
            r"sizes: found \[11, 15\]; allowed: 1 to 10 neurons for disj",
        ),
        ({"sizes": [21]}, "sizes: found 21; allowed: 1 to 20"),
        ({"estimator": "debaised"}, "did you mean 'debiased'"),
        ({"memory_gib": 1e-6}, "CKA of 20 neurons: found work of .*; use fewer neurons or raise memory_gib"),
        ({"seed": -1}, "seed: found -1"),
    ],
)
def test_bad_input_is_named(features, settings, words):
    with pytest.raises(cm.InputError, match=words):
        cm.similarity(features, **settings)


def test_a_layer_that_is_constant_is_refused():
    fs = cm.Features.from_arrays(np.full((60, 8), 0.1), test=np.full((40, 8), 0.1))
    with pytest.raises(cm.InputError, match="no variance that can be measured"):
        cm.similarity(fs)
