"""What a curve says of itself: names, rows, and where the critical mass lies as the measured sizes tell."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers_data import blobs

import critmass as cm
from critmass.curves.cells import load_cell, load_curves
from critmass.testing import made_up


def coarse(sizes):
    """Return a curve whose small parts all fail at δ = 0.95."""
    x, y = made_up(n=300, d=16)
    return cm.measure(cm.Features.from_arrays((x, y)), sizes=sizes, regularisation=1.0)


def test_the_bracket_ends_above_the_largest_size_that_fails():
    """Against the definition: of the sizes measured, the largest below the critical mass fails."""
    every = coarse("all")
    sizes = np.arange(1, 17)
    reached = every.measurement.scores.mean(axis=0) / every.whole
    delta = float(reached[3] + reached[7]) / 2
    few = coarse([2, 4, 8])
    found = few.redundancy(delta)
    assert found.critical_mass == 8
    bracket = few.bracket(found)
    assert (bracket.low, bracket.high) == (5, 8)
    exact = every.redundancy(delta)
    assert (every.bracket(exact).low, every.bracket(exact).high) == (exact.critical_mass,) * 2
    assert sizes[reached >= delta][0] == exact.critical_mass
    assert bracket.low <= exact.critical_mass <= bracket.high


def test_an_interval_reaches_up_to_what_no_measured_size_rules_out():
    few = coarse([1, 2])
    measured = few.measurement
    scores = np.where(few.sizes < 16, 0.5 * measured.whole, measured.scores)
    sure = dataclasses.replace(measured, scores=scores, covariance=1e-9 * measured.covariance)
    few = dataclasses.replace(few, measurement=sure)
    found = few.redundancy(0.9)
    assert (found.dr, found.low, found.high) == (0.0, 0.0, 0.0)
    bracket = few.bracket(found)
    assert (bracket.low, bracket.high, bracket.dr_low) == (3, 16, 0.0)
    assert bracket.dr_high == pytest.approx(13 / 16)
    every = coarse("all")
    found = every.redundancy(0.9)
    bracket = every.bracket(found)
    assert (bracket.dr_low, bracket.dr_high) == pytest.approx((found.low, found.high))


def test_rows_and_units_are_known():
    x, y = blobs(100)
    fs = cm.Features.from_arrays((x[:60], y[:60]), test=(x[60:], y[60:]), tests={"v2": (x[:9], y[:9])})
    curve = cm.measure(fs, sizes=[2], regularisation=1.0)
    assert dict(curve.rows) == {"train": 60, "test": 40, "v2": 9}
    assert curve.unit == "neurons"
    for family, unit in (("pca-least", "components"), ("random-projection", "directions")):
        assert cm.measure(fs, parts=family, sizes=[2], regularisation=1.0).unit == unit


def test_a_measurements_name_is_kept_and_changes_nothing_else(tmp_path):
    fs = cm.Features.from_arrays(blobs(80))
    first = cm.measure(fs, sizes=[2], regularisation=1.0, out=tmp_path, name="λ = 1, mine")
    assert first.name == "λ = 1, mine"
    assert "λ = 1, mine" in first.title
    (cell,) = (tmp_path / "cells").iterdir()
    assert load_cell(cell).name == "λ = 1, mine"
    assert cm.measure(fs, sizes=[2], regularisation=1.0, out=tmp_path).name == "λ = 1, mine"
    renamed = cm.measure(fs, sizes=[2], regularisation=1.0, out=tmp_path, name="other")
    assert (renamed.id, renamed.name) == (first.id, "other")
    assert [curve.name for curve in load_curves(tmp_path)] == ["other"]
    for bad in ("", "  ", "a\nb"):
        with pytest.raises(cm.InputError, match="name: found .*; allowed: one line of text"):
            cm.measure(fs, sizes=[2], name=bad)
