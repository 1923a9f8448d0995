"""CKA against the n x n definitions, its invariances, and all prefixes against one at a time."""

from __future__ import annotations

import numpy as np
import pytest
from helpers_cka import NAIVE, naive_biased, naive_debiased, naive_hsic_debiased
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

import critmass as cm
from critmass.parts.making import make_parts
from critmass.parts.parts import Orders, from_array
from critmass.parts.plan import Plan
from critmass.parts.sizes import resolve_sizes
from critmass.scores import Run, make_score
from critmass.scores import hsic as module
from critmass.testing import made_up


@pytest.mark.parametrize("estimator", NAIVE)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-8), (np.float32, 1e-6)])
@pytest.mark.parametrize("n", [4, 30, 500])
def test_equals_the_n_by_n_formula(estimator, dtype, tolerance, n):
    generator = np.random.default_rng(n)
    x = generator.normal(size=(n, 7)).astype(dtype) + 2
    y = (x[:, :5] @ generator.normal(size=(5, 9))).astype(dtype) + generator.normal(size=(n, 9)).astype(dtype)
    expected = NAIVE[estimator](x.astype(np.float64) - x.mean(0), y.astype(np.float64) - y.mean(0))
    assert cm.cka(x, y, estimator=estimator) == pytest.approx(expected, abs=tolerance)


def test_minibatch_is_the_mean_of_debiased_hsics_over_batches():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(700, 6))
    y = x @ generator.normal(size=(6, 4)) + generator.normal(size=(700, 4))
    sums = np.zeros(3)
    for rows in (slice(0, 350), slice(350, 700)):
        k, m = x[rows] @ x[rows].T, y[rows] @ y[rows].T
        sums += [naive_hsic_debiased(k, m), naive_hsic_debiased(k, k), naive_hsic_debiased(m, m)]
    expected = sums[0] / np.sqrt(sums[1] * sums[2])
    assert cm.cka(x, y, estimator="minibatch") == pytest.approx(expected, abs=1e-10)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(5, 60),
    d=st.integers(2, 40),
    estimator=st.sampled_from(["biased", "debiased"]),
)
def test_unchanged_by_rotation_shift_and_scale(seed, n, d, estimator):
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(n, d)), generator.normal(size=(n, 3)) + generator.normal(size=(n, 1))
    turned = 7.5 * x @ ortho_group.rvs(d, random_state=generator) + 100 * generator.normal(size=d)
    expected = NAIVE[estimator](x, y)
    if np.isfinite(expected):
        assert cm.cka(x, y, estimator=estimator) == pytest.approx(expected, abs=1e-8)
        assert cm.cka(turned, y, estimator=estimator) == pytest.approx(expected, abs=1e-7)
        assert cm.cka(y, turned, estimator=estimator) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("estimator", NAIVE)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-8), (np.float32, 1e-6)])
def test_every_prefix_equals_the_formula_on_that_part(estimator, dtype, tolerance):
    x, _ = made_up(n=90, d=20, dtype=dtype)
    parts = make_parts("random", 20, repeats=3)
    sizes = resolve_sizes("all", 20)
    found = module.prefixes(module.kernel(x, estimator), parts.orders, sizes)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(0)
    for repeat, order in enumerate(parts.orders):
        for index, size in enumerate(sizes):
            expected = NAIVE[estimator](centred[:, order[:size]], centred)
            assert found[repeat, index] == pytest.approx(expected, abs=tolerance)


def test_real_features_all_sizes(real_features):
    x = np.asarray(real_features.splits["test"].x[:300], dtype=np.float64)
    order = make_parts("random", 1280).orders[:1]
    sizes = resolve_sizes("paper", 1280)
    for estimator, naive in NAIVE.items():
        found = module.prefixes(module.kernel(x, estimator), order, sizes)[0]
        expected = [naive(x[:, order[0, :k]], x) for k in sizes]
        alive = np.isfinite(expected) & (x[:, order[0, 0]].std() > 0)
        assert np.abs(found - expected)[alive].max() < 1e-8


def test_a_kernel_of_all_rows_needs_no_sums_of_third_order(monkeypatch):
    x, _ = made_up(n=300, d=15)
    expected = module.kernel(x, "debiased")

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr("critmass.linalg.moments.add_product", refuse)
    for estimator in module.ESTIMATORS:
        module.kernel(x, estimator)
    centred = x - x.mean(axis=0)
    pair = naive_hsic_debiased(*(np.outer(centred[:, i], centred[:, i]) for i in (2, 9)))
    assert expected[2, 9] == pytest.approx(pair, rel=1e-9, abs=1e-12 * np.abs(expected).max())


def test_pairs_of_any_parts():
    x, _ = made_up(n=50, d=12)
    generator = np.random.default_rng(1)
    masks = generator.random((5, 12)) < 0.5
    masks[:, 0] = True
    for estimator, naive in NAIVE.items():
        found = module.pairs(module.kernel(x, estimator), masks, masks[:3])
        centred = x - x.mean(0)
        expected = [[naive(centred[:, a], centred[:, b]) for b in masks[:3]] for a in masks]
        np.testing.assert_allclose(found, expected, atol=1e-8)


DENSE = ("pca", "pca-least", "random-projection", "random-projection-orthogonal", "random-projection-uniform")


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("estimator", NAIVE)
def test_dense_bases_equal_the_formula_against_the_raw_whole(family, estimator):
    x, y = made_up(n=160, d=9)
    fs = cm.Features.from_arrays((x[:70], y[:70]), test=(x[70:], y[70:]))
    score = "cka" if estimator == "debiased" else "cka-biased"
    curve = cm.measure(fs, score=score, parts=family, sizes="all", repeats=2)
    parts = make_parts(family, 9, repeats=2, features=fs)
    test = x[70:] - x[70:].mean(0)
    for row in curve.frame.iter_rows(named=True):
        part = test @ parts.matrices[row["repeat"]][:, : row["size"]]
        assert row["score"] == pytest.approx(NAIVE[estimator](part, test), abs=1e-9)
    rotation = family.startswith("pca") or family.endswith("orthogonal")
    assert (np.abs(curve.measurement.scores[:, -1] - 1) < 1e-12).all() == rotation
    assert curve.whole == 1.0


def test_dense_minibatch_is_of_the_same_batches():
    x, y = made_up(n=700, d=5)
    fs = cm.Features.from_arrays((x, y), test=(x, y))
    curve = cm.measure(fs, score="cka-minibatch", parts="random-projection", sizes="all", repeats=2)
    parts = make_parts("random-projection", 5, repeats=2)
    for row in curve.frame.iter_rows(named=True):
        sums = np.zeros(3)
        for rows in (x[:350], x[350:]):
            part = rows @ parts.matrices[row["repeat"]][:, : row["size"]]
            k, m = part @ part.T, rows @ rows.T
            sums += [naive_hsic_debiased(k, m), naive_hsic_debiased(k, k), naive_hsic_debiased(m, m)]
        assert row["score"] == pytest.approx(sums[0] / np.sqrt(sums[1] * sums[2]), abs=1e-9)


def test_components_of_real_features(real_features):
    train, test = real_features.splits["train"], real_features.splits["test"]
    few = np.asarray(test.x[:300], dtype=np.float64)[:, :400]
    fs = cm.Features.from_arrays(np.asarray(train.x[:])[:, :400], test=few.astype(np.float32))
    parts = make_parts("pca", 400, features=fs)
    for score, naive in (("cka-biased", naive_biased), ("cka", naive_debiased)):
        curve = cm.measure(fs, score=score, parts="pca", sizes=[1, 10, 100])
        for size, found in zip(curve.sizes, curve.measurement.scores[0], strict=True):
            part = (few - few.mean(0)) @ parts.matrices[0][:, :size]
            assert found == pytest.approx(naive(part, few - few.mean(0)), abs=1e-8)
        assert curve.measurement.scores[0, -1] == pytest.approx(1, abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10**6), score=st.sampled_from(["cka", "cka-biased", "cka-minibatch", "ridge", "knn"])
)
def test_a_permutation_as_a_matrix_and_turned_signs_change_nothing(seed, score):
    generator = np.random.default_rng(seed)
    x, y = made_up(n=120, d=6, seed=seed)
    y[:3], y[60:63] = np.arange(3), np.arange(3)
    fs = cm.Features.from_arrays((x[:60], y[:60]), test=(x[60:], y[60:]))
    orders = np.stack([generator.permutation(6) for _ in range(2)])
    matrices = np.stack([np.eye(6)[:, order] for order in orders])
    signs = generator.choice([-1.0, 1.0], size=(2, 1, 6))
    made, sizes = make_score(score, {"regularisation": 1.0} if score == "ridge" else {}), np.array([1, 3, 6])
    kinds = [Orders("o", orders), from_array("b", matrices, 6), from_array("s", matrices * signs, 6)]
    one, *others = (made.measure(fs, Plan.of(parts, sizes), Run())["test"] for parts in kinds)
    for other in others:
        np.testing.assert_allclose(other.scores, one.scores, atol=1e-9)
        assert other.whole == one.whole
        if one.covariance is not None:
            np.testing.assert_allclose(other.covariance, one.covariance, atol=1e-8)


def test_jackknife_units_are_scores_without_a_group():
    x, y = made_up(n=80, d=10)
    fs = cm.Features.from_arrays((x, y), test=(x, y))
    curve = cm.measure(fs, score="cka-biased", sizes=[3], repeats=2)
    order = curve.parts.orders
    groups = 32
    everything, without = np.empty(2), np.empty((groups, 2))
    for repeat in range(2):
        everything[repeat] = naive_biased(x[:, order[repeat, :3]], x)
        for group in range(groups):
            keep = np.arange(80) % groups != group
            without[group, repeat] = naive_biased(x[keep][:, order[repeat, :3]], x[keep])
    pseudo = groups * everything - (groups - 1) * without
    np.testing.assert_allclose(
        curve.measurement.covariance[0, :2, :2], np.cov(pseudo.T), rtol=1e-6, atol=1e-9
    )
    assert curve.measurement.n_units == groups


def test_a_constant_part_shares_nothing_and_a_constant_whole_is_refused():
    x, y = made_up(n=40, d=6)
    x[:, 2] = 7.0
    fs = cm.Features.from_arrays((x, y))
    order = [2, 0, 1, 3, 4, 5]
    for score in ("cka", "cka-biased"):
        assert cm.measure(fs, score=score, parts=order, sizes=[1, 2]).measurement.scores[0, 0] == 0.0
    constant = cm.Features.from_arrays((np.ones((40, 3)), y))
    with pytest.raises(cm.InputError, match="no variance"):
        cm.measure(constant, score="cka")


def test_bad_input_is_named():
    x = np.ones((5, 2)) * np.arange(5)[:, None]
    with pytest.raises(cm.InputError, match=r"y: found 4 samples; allowed: 5 samples"):
        cm.cka(x, x[:4])
    with pytest.raises(cm.InputError, match="did you mean 'debiased'"):
        cm.cka(x, x, estimator="debaised")
    with pytest.raises(cm.InputError, match="4 rows or more"):
        cm.cka(x[:3], x[:3])
    with pytest.raises(cm.InputError, match="row 1, neuron 0"):
        cm.cka(np.array([[0.0], [np.nan], [1], [2]]), x[:4])
    with pytest.raises(cm.InputError, match="y: found no variance"):
        cm.cka(x, np.ones((5, 2)))
