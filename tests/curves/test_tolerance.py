"""Tolerance bounds over parts: the binomial law, the normal one, and what they promise in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import critmass as cm
from critmass.curves.tolerance import lower_bounds, rank
from critmass.testing import made_up


@given(n=st.integers(1, 3000), coverage=st.floats(0.5, 0.99), confidence=st.floats(0.5, 0.99))
def test_the_rank_is_the_largest_that_the_binomial_law_allows(n, coverage, confidence):
    found = rank(n, coverage=coverage, confidence=confidence)
    assert stats.binom.sf(found - 1, n, 1 - coverage) >= confidence - 1e-12
    assert stats.binom.sf(found, n, 1 - coverage) <= confidence + 1e-12


def test_known_ranks():
    assert [rank(n, coverage=0.95) for n in (58, 59, 200, 500, 1000)] == [0, 1, 5, 17, 39]


@pytest.mark.parametrize("n", [5, 20, 59, 200])
@pytest.mark.parametrize("law", ["normal", "skewed"])
def test_bounds_hold_as_often_as_they_say(n, law):
    """1,000 simulated measurements, in one go: each column is one."""
    generator = np.random.default_rng(n)
    drawn = stats.norm if law == "normal" else stats.gamma(4.0)  # skewed towards high scores
    if law == "skewed" and n < 59:
        pytest.skip("the normal bound is for scores that are not skewed")
    scores = drawn.rvs(size=(n, 1000), random_state=generator)
    bounds = lower_bounds(scores, coverage=0.95)
    held = drawn.sf(bounds) >= 0.95
    # Four standard errors of a share of 1,000.
    assert held.mean() >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / 1000)
    assert held.mean() <= (0.96 if n < 59 else 0.99) + 4 * np.sqrt(0.05 * 0.95 / 1000)


def test_few_parts_that_are_skewed_towards_low_scores_get_no_bound():
    generator = np.random.default_rng(0)
    scores = -stats.gamma(0.5).rvs(size=(40, 500), random_state=generator)
    bounds = lower_bounds(scores, coverage=0.95)
    given = np.isfinite(bounds)
    assert given.mean() < 0.1
    assert (lower_bounds(np.full((4, 3), 0.7), coverage=0.9) == 0.7).all()
    assert np.isneginf(lower_bounds(scores[:2], coverage=0.95)).all()


@pytest.mark.parametrize("name", ["coverage", "confidence"])
def test_shares_are_between_0_and_1(name):
    for bad in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(cm.InputError, match=name):
            lower_bounds(np.zeros((5, 2)), **{"coverage": 0.9, name: bad})


def test_redundancy_by_the_coverage_of_parts():
    x, y = made_up(n=600, d=30, classes=3)
    fs = cm.Features.from_arrays((x[:300], y[:300]), test=(x[300:], y[300:]))
    curve = cm.measure(fs, sizes="all", repeats=60)
    mean, nearly = curve.redundancy(0.8), curve.redundancy(0.8, coverage=0.95)
    assert mean.nearly_all == nearly.dr == nearly.sustained == nearly.headline
    assert 0 < nearly.dr < mean.dr
    assert (nearly.low, nearly.high, nearly.coverage, mean.coverage) == (None, None, 0.95, None)
    # The lowest of 60 parts, at this size and all larger ones, keeps δ; at the next smaller it does not.
    lowest = curve.measurement.scores.min(axis=0) >= 0.8 * curve.whole - 1e-12
    smallest = len(lowest) - np.argmin(lowest[::-1]) if not lowest.all() else 0
    assert nearly.critical_mass == curve.sizes[smallest]
    assert curve.redundancy(0.8, coverage=0.5).dr >= nearly.dr
    one = cm.measure(fs, parts="first", sizes=[5])
    assert one.redundancy(0.8).nearly_all is None
    with pytest.raises(cm.InputError, match=r"coverage: found 0\.95; .*measure more repeats"):
        one.redundancy(0.8, coverage=0.95)
