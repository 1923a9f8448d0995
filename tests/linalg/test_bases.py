"""Bases and orders from data, against scikit-learn, plain loops and the laws they are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from sklearn.random_projection import GaussianRandomProjection
from threadpoolctl import threadpool_limits

import critmass as cm
from critmass.linalg import bases
from critmass.linalg.kernels import add_product
from critmass.testing import made_up


def aligned(found, expected):
    """Return components, columns of `found`, with the signs of the rows of `expected`."""
    return found.T * np.sign((found.T * expected).sum(axis=1))[:, None]


@pytest.mark.parametrize("standardise", [False, True])
def test_components_are_sklearns_up_to_sign(standardise):
    x, _ = made_up(n=300, d=12)
    rows = StandardScaler().fit_transform(x) if standardise else x
    found = bases.principal(x, None, standardise=standardise)
    np.testing.assert_allclose(
        aligned(found, PCA().fit(rows).components_), PCA().fit(rows).components_, atol=1e-8
    )
    assert (np.take_along_axis(found, np.abs(found).argmax(axis=0)[None], axis=0) > 0).all()


def test_components_of_real_features_are_sklearns(real_features):
    x = np.asarray(real_features.splits["train"].x[:], dtype=np.float64)
    found = bases.principal(real_features.splits["train"].x, None, standardise=True)
    model = PCA().fit(StandardScaler().fit_transform(x))
    # Components of clearly different variance are well determined; here the first 100 are.
    np.testing.assert_allclose(aligned(found, model.components_)[:100], model.components_[:100], atol=1e-6)
    np.testing.assert_allclose(found.T @ found, np.eye(1280), atol=1e-10)


def test_constant_neurons_come_last(digits):
    x = np.asarray(digits.splits["train"].x[:])
    found = bases.principal(x, None, standardise=True)
    alive = x.std(axis=0) > 0
    assert 0 < (~alive).sum() < 10
    np.testing.assert_allclose(found[~alive, : alive.sum()], 0.0, atol=1e-10)


def test_weights_count_as_repeated_rows():
    x, _ = made_up(n=60, d=5)
    counts = np.random.default_rng(0).integers(1, 4, 60)
    weights, repeated = counts.astype(float), np.repeat(x, counts, axis=0)
    np.testing.assert_allclose(
        bases.principal(x, weights, standardise=True),
        bases.principal(repeated, None, standardise=True),
        atol=1e-8,
    )
    for what in ("variance", "norm"):
        by_weight, by_rows = bases.sorted_by(what, x, weights), bases.sorted_by(what, repeated, None)
        assert by_weight.tolist() == by_rows.tolist()


def test_orders_are_those_of_a_loop(digits):
    for x in (made_up(n=90, d=30)[0], np.asarray(digits.splits["train"].x[:])):
        variances = [float(np.var(column)) for column in x.T]
        norms = [float(np.linalg.norm(column)) for column in x.T]
        # Constant pixels of digits tie at 0; of equals the first comes first.
        for values, found in (
            (variances, bases.sorted_by("variance", x, None)),
            (norms, bases.sorted_by("norm", x, None)),
        ):
            assert found.tolist() == sorted(range(x.shape[1]), key=lambda i: -values[i])


def test_the_gaussian_law_is_sklearns():
    d = 300
    found = bases.gaussian(d, np.random.default_rng(0)) * np.sqrt(d)
    # Scikit-learn's entries have variance 1 / n_components: with all d of them, ours.
    theirs = GaussianRandomProjection(d, random_state=0).fit(np.zeros((1, d))).components_ * np.sqrt(d)
    for entries in (found, theirs):
        assert stats.kstest(entries.ravel(), "norm").pvalue > 0.01
    assert stats.ks_2samp(found.ravel(), theirs.ravel()).pvalue > 0.01


def test_the_orthogonal_law_is_haars():
    q = np.stack([bases.orthogonal(6, np.random.default_rng(i)) for i in range(2000)])
    np.testing.assert_allclose(q.transpose(0, 2, 1) @ q, np.broadcast_to(np.eye(6), q.shape), atol=1e-12)
    # Under Haar's law a column is uniform on the sphere: squared entries are Beta(1/2, (d - 1)/2).
    assert stats.kstest(q[:, 2, 3] ** 2, stats.beta(0.5, 2.5).cdf).pvalue > 0.01
    assert stats.binomtest(int((np.linalg.det(q) > 0).sum()), 2000).pvalue > 0.01
    # Without fixing the signs of R the diagonal would lean to one side.
    assert abs(q[:, 0, 0].mean()) < 4 / np.sqrt(6 * 2000)


def test_the_uniform_law():
    found = bases.uniform(200, np.random.default_rng(0))
    assert stats.kstest(found.ravel(), "uniform").pvalue > 0.01


def test_a_product_is_of_shifted_rows():
    x, _ = made_up(n=50, d=6)
    basis = bases.gaussian(6, np.random.default_rng(1))
    product = bases.Product(x.astype(np.float32), x.mean(axis=0), basis)
    assert (product.shape, product.dtype) == ((50, 6), np.float64)
    np.testing.assert_allclose(product[3:9], (x.astype(np.float32)[3:9] - x.mean(axis=0)) @ basis)


def test_rows_that_are_not_finite_are_named():
    x, y = made_up(n=50, d=6)
    x[4, 2] = np.inf
    fs = cm.Features.from_arrays((x, y), test=(x[:4], y[:4]))
    for family in ("pca", "variance", "norm"):
        with pytest.raises(cm.InputError, match=r"X of 'train': found inf at row 4, neuron 2"):
            cm.measure(fs, parts=family)


def test_products_have_the_same_bits_on_any_number_of_threads():
    x, basis = np.random.default_rng(0).normal(size=(750, 300)), bases.gaussian(300, np.random.default_rng(1))
    found = []
    for limit in (1, 2):
        with threadpool_limits(limit, user_api="blas"):
            total = add_product(np.zeros((300, 300), order="F"), x, x @ np.eye(300))
            found.append((bases.times(x, basis).tobytes(), total.tobytes()))
    assert found[0] == found[1]
    np.testing.assert_allclose(bases.times(x, basis), x @ basis, atol=1e-12)
    np.testing.assert_allclose(total, x.T @ x, atol=1e-9)


def naive_gain(x, y, penalty, chosen, j):
    """Return by how much neuron j lowers the ridge objective beside those chosen, by solving twice."""

    def objective(neurons):
        part = x[:, neurons]
        w = np.linalg.solve(part.T @ part + penalty * np.eye(len(neurons)), part.T @ y)
        return ((y - part @ w) ** 2).sum() + penalty * (w**2).sum()

    return (objective(chosen) if chosen else (y**2).sum()) - objective([*chosen, j])


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**16), targets=st.integers(1, 4), worst=st.booleans())
def test_greedy_takes_what_brute_force_takes(seed, targets, worst):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(40, 9)) @ generator.normal(size=(9, 9))
    y = generator.normal(size=(40, targets))
    order = bases.greedy(x.T @ x, x.T @ y, 2.0, worst=worst).tolist()
    assert sorted(order) == list(range(9))
    for k in range(9):
        gains = {j: naive_gain(x, y, 2.0, order[:k], j) for j in range(9) if j not in order[:k]}
        best = min(gains.values()) if worst else max(gains.values())
        assert gains[order[k]] == pytest.approx(best, rel=1e-6, abs=1e-8)


def test_the_first_50_picks_on_real_features_equal_brute_force(real_features):
    train = real_features.splits["train"]
    x = StandardScaler().fit_transform(np.asarray(train.x[:], dtype=np.float64))
    y = np.eye(10)[train.y] - np.eye(10)[train.y].mean(axis=0)
    gram, cross, penalty = x.T @ x, x.T @ y, 10.0
    order = bases.greedy(gram, cross, penalty)
    for k in range(50):
        chosen = order[:k]
        inverse = np.linalg.inv(gram[np.ix_(chosen, chosen)] + penalty * np.eye(k))
        others = np.setdiff1d(np.arange(len(gram)), chosen)
        # What the Schur complement says of all others at once, in place of two solutions for each.
        left = gram[np.ix_(others, others)].diagonal() + penalty
        left = left - np.einsum(
            "ij,jk,ik->i", gram[np.ix_(others, chosen)], inverse, gram[np.ix_(others, chosen)]
        )
        residual = cross[others] - gram[np.ix_(others, chosen)] @ inverse @ cross[chosen]
        gains = (residual**2).sum(axis=1) / left
        assert others[gains.argmax()] == order[k]
