"""DR against its definition, its interval against textbook formulas and against simulation."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from helpers_intervals import DELTA, WHOLE, scenarios
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from critmass.curves.redundancy import difference_bounds, redundancy
from critmass.errors import InputError
from critmass.scores.protocols import Measurement

CHECKED = [
    key for key, found in scenarios().items() if found.rows <= 200 and len(found.sizes) * found.repeats <= 200
]


def measured(scores, whole, covariance=None, n=0):
    scores = np.asarray(scores, dtype=float)
    return Measurement(scores, whole, covariance, n, np.ones(scores.shape, dtype=bool))


def of_rows(right, whole):
    """Measurement of credits `right`, shape (n_repeats, n_sizes, n_rows), and `whole`, shape (n_rows,)."""
    credit = np.concatenate([right, np.broadcast_to(whole, (1, *right.shape[1:]))])
    covariance = np.stack([np.cov(credit[:, k]) for k in range(right.shape[1])])
    return measured(right.mean(axis=2), whole.mean(), covariance, len(whole))


@given(
    scores=hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 8)), elements=st.floats(0, 2)),
    delta=st.sampled_from([0.5, 0.8, 0.9, 1.0]),
    whole=st.sampled_from([0.5, 1.0]),
    fine=st.booleans(),
)
def test_is_the_papers_definition(scores, delta, whole, fine):
    scores[:, -1] = whole
    sizes = np.arange(1, scores.shape[1] + 1)
    sizes = sizes if fine else np.cumsum(sizes) + 1
    found = redundancy(measured(scores, whole), sizes=sizes, delta=delta)
    ratios = (scores / whole).mean(axis=0)
    assume(
        (np.abs(ratios - delta) > 1e-9).all() or (ratios[-1] == delta and (ratios[:-1] < delta - 1e-9).all())
    )
    reach = [k for k, ratio in zip(sizes, ratios, strict=True) if ratio >= delta]
    assert found.critical_mass == min(reach)
    assert found.dr == pytest.approx(1 - min(reach) / sizes[-1])
    lasting = [k for k in sizes if all(j in reach for j in sizes if j >= k)]
    assert found.sustained == pytest.approx(1 - min(lasting) / sizes[-1])
    assert found.sustained <= found.dr
    assert (found.headline, found.headline_mass) == (
        (found.sustained, min(lasting)) if fine else (found.dr, min(reach))
    )
    at = scores[:, list(sizes).index(min(reach))] / whole
    assert found.spread.worst == at.min()
    assert found.spread.std == (None if len(at) == 1 else pytest.approx(np.std(at, ddof=1)))
    assert (found.reached, found.low, found.high) == (True, None, None)


@pytest.mark.parametrize("repeats", [1, 3, 5])
@pytest.mark.parametrize("rows", [7, 50, 96])
@pytest.mark.parametrize("delta", ["0.5", "0.7", "0.8", "0.9", "0.95", "0.99", "1"])
def test_exact_equality_reaches_delta_and_one_right_answer_less_does_not(rows, repeats, delta):
    """All accuracies of so many rows, as a fraction of all of the whole's, in exact arithmetic."""
    right = np.arange(repeats * rows + 1)  # in all repeats together
    shared = (right + np.arange(repeats)[:, None]) // repeats
    assert (shared.sum(axis=0) == right).all()
    sizes = np.arange(1, len(right) + 2)
    for whole in range(1, rows + 1):
        counts = np.concatenate([shared, np.full((repeats, 1), whole)], axis=1)
        # Where neither rows nor repeats vary, both bounds are the value.
        still = np.zeros((len(sizes), 2, 2)) if repeats == 1 else None
        found = redundancy(
            measured(counts / rows, whole / rows, still, rows), sizes=sizes, delta=float(delta)
        )
        assert found.critical_mass == sizes[math.ceil(Fraction(delta) * whole * repeats)]
        assert found.sustained == found.dr
        if still is not None:
            assert found.low == found.dr == found.high


def test_never_reached():
    found = redundancy(measured([[0.1, 0.2]], 1.0), sizes=np.array([1, 4]), delta=0.9)
    assert (found.reached, found.dr, found.sustained, found.critical_mass) == (False, 0.0, 0.0, 4)


@pytest.mark.parametrize("delta", [0, -1, 1.01, float("nan")])
def test_bad_delta(delta):
    with pytest.raises(InputError, match="delta"):
        redundancy(measured([[1.0]], 1.0), sizes=np.array([3]), delta=delta)


@pytest.mark.parametrize("whole", [0.0, -0.3])
def test_a_whole_that_is_worth_nothing_is_refused(whole):
    with pytest.raises(InputError, match=r"score of the whole layer: found .*; allowed: a positive score"):
        redundancy(measured([[whole]], whole), sizes=np.array([3]), delta=0.9)


def test_bounds_with_one_repeat_are_the_paired_t_interval():
    generator = np.random.default_rng(0)
    whole = (generator.random(400) < 0.9).astype(float)
    part = (generator.random(400) < 0.8).astype(float)
    lower, upper = difference_bounds(of_rows(part[None, None], whole), delta=0.9)
    expected = stats.ttest_1samp(part - 0.9 * whole, 0).confidence_interval(0.95)
    assert (lower[0], upper[0]) == pytest.approx((expected.low, expected.high))


def test_bounds_with_repeats_are_the_two_way_crossed_anova():
    generator = np.random.default_rng(1)
    n, repeats, delta = 300, 4, 0.9
    ability, luck = generator.normal(size=n), generator.normal(size=(repeats, 1))
    right = (ability + 0.5 * luck + generator.normal(size=(repeats, n)) > -0.5).astype(float)
    whole = (ability + generator.normal(size=n) > -1).astype(float)
    lower, upper = difference_bounds(of_rows(right[:, None], whole), delta=delta)
    d = (right - delta * whole).T
    grand, rows, columns = d.mean(), d.mean(axis=1), d.mean(axis=0)
    ms_rows = repeats * ((rows - grand) ** 2).sum() / (n - 1)
    ms_columns = n * ((columns - grand) ** 2).sum() / (repeats - 1)
    ms_both = ((d - rows[:, None] - columns + grand) ** 2).sum() / ((n - 1) * (repeats - 1))
    variance = (ms_rows + ms_columns - ms_both) / (n * repeats)
    freedom = (variance * n * repeats) ** 2 / (
        ms_rows**2 / (n - 1) + ms_columns**2 / (repeats - 1) + ms_both**2 / ((n - 1) * (repeats - 1))
    )
    margin = stats.t.ppf(0.975, freedom) * np.sqrt(variance)
    assert (lower[0], upper[0]) == pytest.approx((grand - margin, grand + margin))


def test_the_interval_holds_both_estimates():
    generator = np.random.default_rng(2)
    for _ in range(50):
        right = (generator.random((3, 12, 200)) < np.linspace(0.3, 0.9, 12)[:, None]).astype(float)
        right[:, -1] = right[0, -1]
        measurement = of_rows(right, right[0, -1])
        for delta in (0.6, 0.8, 0.95, 1.0):
            found = redundancy(measurement, sizes=np.arange(1, 13), delta=delta)
            assert found.low <= found.sustained <= found.dr <= found.high


@pytest.mark.parametrize(("shape", "data", "repeats"), CHECKED)
def test_coverage_of_a_known_dr(shape, data, repeats):
    """95% intervals of simulated rows and parts hold the known DR in 93% of runs or more."""
    scenario = scenarios()[shape, data, repeats]
    held, width = scenario.coverage(2000, seed=repeats)
    assert held >= 0.93
    assert width < 1


def test_the_simulation_has_the_accuracies_that_it_says():
    scenario = scenarios()["flat, exactly δ at a size", "200 rows, parts differ", 5]
    right = scenario.credits(400, np.random.default_rng(0))
    assert right.shape == (400, 6, 8, 200)
    np.testing.assert_allclose(right[:, :5].mean(axis=(0, 1, 3)), WHOLE * scenario.ratios, atol=0.008)
    assert scenario.ratios[3 + 1] == DELTA
    assert scenario.dr == 1 - 16 / 64
    whole = right[:, -1]
    assert (whole == whole[:, :1]).all()
    assert (right[:, 0, -1] == whole[:, 0]).all()


def test_more_repeats_and_more_rows_narrow_the_interval():
    shape = "sharp rise"
    widths = [
        scenarios()[shape, data, repeats].coverage(200)[1]
        for data, repeats in (
            ("40 rows, parts differ", 2),
            ("200 rows, parts differ", 2),
            ("200 rows, parts differ", 5),
        )
    ]
    assert widths[0] > 1.1 * widths[1] > 1.2 * widths[2]
