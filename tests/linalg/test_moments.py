"""Moments add, and are the sums they say they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critmass.errors import InputError
from critmass.linalg.devices import Device
from critmass.linalg.matrices import BLOCK_ROWS
from critmass.linalg.moments import Moments, accumulate, shift_of
from critmass.testing import made_up

FIELDS = ("n_rows", "weight", "sum", "gram", "target_sum", "cross", "squares", "mixed")


def close(a: Moments, b: Moments) -> None:
    for name in FIELDS:
        first, second = getattr(a, name), getattr(b, name)
        if first is None:
            assert second is None
        else:
            np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 80), cut=st.integers(1, 79))
def test_parts_of_the_rows_add_up_to_all_of_them(seed, n, cut):
    x, target = np.split(np.random.default_rng(seed).normal(size=(n, 7)) + 1, [5], axis=1)
    cut = min(cut, n - 1)
    shift = shift_of(x)

    def of(rows):
        (moments,) = accumulate(x[rows], targets=lambda r: target[rows][r], fourth_moments=True, shift=shift)
        return moments

    whole, first, second = of(slice(0, n)), of(slice(0, cut)), of(slice(cut, n))
    close(first + second, whole)
    close((first + second) - second, first)


def test_the_sums_themselves_weighted_and_over_blocks():
    n = BLOCK_ROWS + 100
    x, y = made_up(n=n, d=6)
    weights = np.random.default_rng(0).uniform(0, 2, n)
    target = np.column_stack([y, y**2]).astype(float)
    (m,) = accumulate(x, targets=lambda rows: target[rows], weights=weights)
    mean = weights @ x / weights.sum()
    np.testing.assert_allclose(m.mean, mean)
    np.testing.assert_allclose(m.scatter, (x - mean).T @ (weights[:, None] * (x - mean)), rtol=1e-8)
    np.testing.assert_allclose(m.target_mean, weights @ target / weights.sum())
    expected = (x - mean).T @ (weights[:, None] * (target - m.target_mean))
    np.testing.assert_allclose(m.target_scatter, expected, rtol=1e-7, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(m.scale**2, weights @ (x - mean) ** 2 / weights.sum())


def test_fourth_order_sums():
    x, _ = made_up(n=30, d=4)
    (m,) = accumulate(x, fourth_moments=True)
    z = x - m.shift
    np.testing.assert_allclose(m.squares, (z**2).T @ z**2)
    np.testing.assert_allclose(m.mixed, z.T @ z**2, atol=1e-6 * np.abs(z.T @ z**2).max())


def test_roles_split_one_pass():
    x, target = np.split(np.random.default_rng(0).normal(size=(50, 6)) + 1, [4], axis=1)
    group_index = np.arange(50) % 3
    found = accumulate(x, targets=lambda rows: target[rows], group_index=group_index)
    for role, moments in enumerate(found):
        rows = group_index == role
        (alone,) = accumulate(x[rows], targets=lambda r, rows=rows: target[rows][r], shift=moments.shift)
        close(moments, alone)


def test_memory_does_not_grow_with_rows():
    import tracemalloc

    class Endless:
        dtype = np.dtype(np.float32)

        def __init__(self, n):
            self.shape = (n, 64)

        def __getitem__(self, rows):
            start, stop, _ = rows.indices(self.shape[0])
            return np.random.default_rng(start).normal(size=(stop - start, 64)).astype(np.float32)

    peaks = []
    for n in (4 * BLOCK_ROWS, 40 * BLOCK_ROWS):
        tracemalloc.start()
        accumulate(Endless(n), fourth_moments=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_constant_neuron_has_scale_one():
    x, _ = made_up(n=40, d=3)
    x[:, 1] = 0.1 + 0.2
    (m,) = accumulate(x)
    assert m.scale[1] == 1.0


def test_what_does_not_add_is_refused():
    x, _ = made_up(n=20, d=3)
    (a,), (b,) = accumulate(x), accumulate(x, shift=np.zeros(3))
    with pytest.raises(InputError, match="different shifts"):
        a + b
    (c,) = accumulate(x, fourth_moments=True)
    with pytest.raises(InputError, match="squares in one only"):
        a + c


def test_not_finite_is_named_by_row_and_neuron():
    x = np.zeros((BLOCK_ROWS + 5, 3))
    x[BLOCK_ROWS + 2, 1] = np.inf
    with pytest.raises(InputError, match=f"inf at row {BLOCK_ROWS + 2}, neuron 1"):
        accumulate(x)


def test_torch_sums_what_numpy_sums():
    pytest.importorskip("torch")
    x, y = made_up(n=BLOCK_ROWS + 50, d=7)
    weights, target = np.linspace(0.5, 2, len(x)), np.column_stack([y, y**2]).astype(float)
    for options in ({"fourth_moments": True}, {"weights": weights, "targets": lambda rows: target[rows]}):
        (one,), (other,) = (accumulate(x, device=Device(name), **options) for name in ("cpu", "torch:cpu"))
        for entry in dataclasses.fields(one):
            mine, theirs = getattr(one, entry.name), getattr(other, entry.name)
            if mine is not None:
                np.testing.assert_allclose(theirs, mine, rtol=1e-10)


def test_a_neuron_constant_over_these_rows_has_scale_one_whatever_the_shift():
    x = np.zeros((300, 3))
    x[:, 1] = np.linspace(-1e-6, 1e-6, 300)
    moments = accumulate(x, shift=np.array([0.0123, 0.0, 1e5 / 3]))[0]
    np.testing.assert_allclose(moments.scale, [1.0, x[:, 1].std(), 1.0], rtol=1e-9)
