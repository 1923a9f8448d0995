"""Sums in a fixed tree: the leaves, the order of the additions, and moments that do not depend on how."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from critmass.linalg import moments, tree
from critmass.linalg.moments import accumulate
from critmass.testing import made_up


@given(n=st.integers(1, 10**12))
def test_leaves_cut_all_rows_at_block_boundaries_and_are_not_too_many(n):
    width = len(tree.leaves(min(n, 10**9))[0])
    found = tree.leaves(min(n, 10**9))
    assert len(found) <= tree.MOST_LEAVES
    assert [leaf.start for leaf in found] == [i * width for i in range(len(found))]
    assert found[-1].stop == min(n, 10**9)
    assert all(leaf.start % (64 * 2048) == 0 for leaf in found)


def naive(values):
    """Return the sum as the documentation has it: level by level, four neighbours at a time."""
    while len(values) > 1:
        groups = [values[i : i + 4] for i in range(0, len(values), 4)]
        values = [functools_sum(group) for group in groups]
    return values[0]


def functools_sum(group):
    total = group[0]
    for value in group[1:]:
        total = f"({total}{value})"
    return total


@given(n=st.integers(1, 300))
def test_the_order_of_additions_is_that_of_a_tree_built_whole(n):
    values = [chr(0x4E00 + i) for i in range(n)]
    assert tree.fold(iter(values), lambda a, b: f"({a}{b})") == naive(values)


@given(n_leaves=st.integers(1, 4096))
def test_no_more_sums_are_held_than_it_says(n_leaves):
    most = held = 0

    class Sum:
        def __init__(self):
            nonlocal held, most
            held += 1
            most = max(most, held)

        def __del__(self):
            nonlocal held
            held -= 1

    tree.fold((Sum() for _ in range(n_leaves)), lambda _a, _b: Sum())
    width = tree.LEAF_BLOCKS * 2048
    # The last that came, what is summed so far, and what an addition makes.
    assert most <= tree.held_at_once(n_leaves * width) + 3


@settings(deadline=None, max_examples=10)
@given(n=st.integers(2, 400), seed=st.integers(0, 99))
def test_moments_of_many_leaves_are_those_of_one(n, seed):
    x, y = made_up(n=max(n, 12), d=5, seed=seed)
    targets = np.eye(3)[y]
    one = accumulate(x, targets=lambda rows: targets[rows], fourth_moments=True)[0]
    leaf, block = tree.LEAF_BLOCKS, moments.blocks
    try:
        tree.LEAF_BLOCKS = 1
        small = {"size": 16}
        moments.blocks = lambda *args, **more: block(*args, **more, **small)
        tree.BLOCK_ROWS = 16
        many = accumulate(x, targets=lambda rows: targets[rows], fourth_moments=True)[0]
    finally:
        tree.LEAF_BLOCKS, moments.blocks, tree.BLOCK_ROWS = leaf, block, 2048
    for name in ("sum", "gram", "cross", "squares", "mixed", "target_sum"):
        np.testing.assert_allclose(getattr(many, name), getattr(one, name), rtol=1e-9, atol=1e-6)
    assert (many.n_rows, many.weight) == (one.n_rows, one.weight)
