"""Sizes and orders, against the authors' own draws in torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critmass.errors import InputError
from critmass.features.features import Features
from critmass.parts.making import make_parts
from critmass.parts.plan import Plan
from critmass.parts.sizes import PAPER_FRACTIONS, resolve_sizes


@pytest.mark.parametrize("d", [1, 2, 10, 384, 1280, 4096])
def test_authors_orders_are_torch_randperm(d):
    torch = pytest.importorskip("torch")

    orders = make_parts("random", d, repeats=5, seeding="authors").orders
    for seed in range(1, 6):
        torch.manual_seed(seed)
        assert orders[seed - 1].tolist() == torch.randperm(d).tolist()


def test_random_orders_are_seeded_permutations_that_differ():
    a, b, c = (make_parts("random", 50, repeats=4, seed=seed).orders for seed in (0, 0, 1))
    assert (a == b).all()
    assert (a != c).any(axis=1).all()
    assert (np.sort(a, axis=1) == np.arange(50)).all()
    assert len({tuple(row) for row in a.tolist()}) == 4


def test_random_orders_put_every_neuron_everywhere_alike():
    # Over many repeats each neuron's mean position is the middle: 6 standard errors.
    orders = make_parts("random", 20, repeats=4000).orders
    position = np.argsort(orders, axis=1).mean(axis=0)
    error = np.sqrt((20**2 - 1) / 12 / 4000)
    assert np.abs(position - 9.5).max() < 6 * error


def test_more_repeats_begin_with_the_same_ones():
    assert (make_parts("random", 9, repeats=2).orders == make_parts("random", 9, repeats=5).orders[:2]).all()


@given(d=st.integers(1, 5000))
def test_paper_sizes(d):
    sizes = resolve_sizes("paper", d)
    assert sizes.tolist() == sorted({max(1, int(f * d)) for f in PAPER_FRACTIONS})
    assert sizes[-1] == d


def test_sizes_by_number_and_fraction():
    assert resolve_sizes([1], 10).tolist() == [1, 10]
    assert resolve_sizes([1.0], 10).tolist() == [10]
    assert resolve_sizes(0.25, 10).tolist() == [2, 10]
    assert resolve_sizes([0.01, 3, 0.3, 10], 10).tolist() == [1, 3, 10]
    assert resolve_sizes("all", 3).tolist() == [1, 2, 3]
    assert resolve_sizes(np.array([2, 4]), 5).tolist() == [2, 4, 5]


@pytest.mark.parametrize("bad", [0, 11, -1, 0.0, 1.5, "some", [True], [None], [float("nan")]])
def test_bad_sizes_are_refused(bad):
    with pytest.raises(InputError, match="sizes"):
        resolve_sizes(bad if isinstance(bad, list | str) else [bad], 10)


def test_explicit_orders():
    assert make_parts([2, 0, 1], 3).orders.tolist() == [[2, 0, 1]]
    assert make_parts(np.array([[2, 0, 1], [0, 1, 2]]), 3).repeats == 2
    for bad in ([0, 1], [0, 0, 1], [[[0, 1, 2]]], [0, 1, 3], ["a", "b", "c"]):
        with pytest.raises(InputError, match=r"each of the neurons 0\.\.2 once"):
            make_parts(bad, 3)


def test_bad_names_are_refused_with_near_matches():
    with pytest.raises(InputError, match="did you mean 'random'"):
        make_parts("radnom", 4)
    with pytest.raises(InputError, match="did you mean 'authors'"):
        make_parts("random", 4, seeding="author")
    with pytest.raises(InputError, match="repeats: found 0"):
        make_parts("random", 4, repeats=0)


def test_masks():
    mask = np.array([[True, False, False], [False, True, True], [True, True, True]])
    parts = make_parts(mask, 3)
    assert (parts.family, parts.repeats, parts.n_neurons) == ("masks", 1, 3)
    assert parts.resolve("paper").tolist() == [1, 2, 3]
    assert [parts.indices(0, size).tolist() for size in (1, 2, 3)] == [[0], [1, 2], [0, 1, 2]]
    *groups, whole = Plan.of(parts, np.array([1, 2, 3])).groups
    assert [group.used.tolist() for group in groups] == [[0], [1, 2]]
    assert (whole.order.tolist(), whole.repeat) == ([0, 1, 2], 1)
    assert make_parts(np.stack([mask, mask[:, ::-1]]), 3).indices(1, 1).tolist() == [2]
    with pytest.raises(InputError, match="size: found 2; allowed: 1, 3"):
        make_parts(mask[[0]], 3).indices(0, 2)
    with pytest.raises(InputError, match=r"sizes: found \[1\]; allowed: nothing beside masks"):
        parts.resolve([1])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros((2, 3), dtype=bool), "sizes from 1 up"),
        (np.eye(3, dtype=bool), "sizes from 1 up, ascending"),
        (np.tri(3, dtype=bool)[::-1], "ascending"),
        (np.stack([np.tri(3, dtype=bool)[:2], np.tri(3, dtype=bool)[1:]]), "the same in every repeat"),
        (np.ones((1, 4), dtype=bool), r"shape \(1, 4\); allowed: shape \(n_sizes, 3\)"),
        (np.ones(3, dtype=bool), r"shape \(3,\)"),
        (np.ones((0, 3), dtype=bool), r"shape \(0, 3\)"),
    ],
)
def test_bad_masks_are_refused(bad, words):
    with pytest.raises(InputError, match=f"parts: found masks of .*{words}"):
        make_parts(bad, 3)


def test_families_that_depend_on_data_need_rows():
    for family in ("pca", "pca-least", "variance", "variance-least", "norm", "norm-least"):
        with pytest.raises(InputError, match="features: found none"):
            make_parts(family, 4)


def test_least_is_the_reverse():
    x = np.random.default_rng(0).normal(size=(40, 6)) * np.arange(1, 7)
    for family in ("variance", "norm"):
        most, least = (
            make_parts(name, 6, features=Features.from_arrays(x)).orders
            for name in (family, f"{family}-least")
        )
        assert (most == least[:, ::-1]).all()
    most, least = (
        make_parts(name, 6, features=Features.from_arrays(x)).matrices for name in ("pca", "pca-least")
    )
    assert (most == least[:, :, ::-1]).all()


def test_the_authors_seeding_is_of_neurons():
    for family in ("random-projection", "random-projection-orthogonal", "random-projection-uniform"):
        with pytest.raises(InputError, match=f"seeding: found 'authors'; allowed: 'critmass' for {family}"):
            make_parts(family, 4, seeding="authors")
    assert make_parts("first", 4, seeding="authors").orders.tolist() == [[0, 1, 2, 3]]


def test_matrices_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"random-projection of 1000 neurons: .*raise memory_gib"):
        make_parts("random-projection", 1000, memory=2**20)


def test_columns_are_the_neurons_then_each_basis():
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    parts = make_parts("random-projection", 4, repeats=2)
    expected = np.concatenate([x, x @ parts.matrices[0], x @ parts.matrices[1]], axis=1)
    np.testing.assert_allclose(parts.columns(x), expected, rtol=1e-6)
    *groups, whole = Plan.of(parts, np.array([2, 4])).groups
    for group in groups:
        np.testing.assert_allclose(parts.columns(x)[:, group.columns], x @ group.basis.matrix, rtol=1e-6)
    assert (parts.columns(x)[:, whole.columns] == x).all()
    assert make_parts("random", 4).columns(x) is x
