"""What passes between processes passes whole: questions and answers pickle and copy, and stay the same."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from helpers_data import blobs

from critmass.curves.curve import Curve
from critmass.curves.measure import measure
from critmass.features.features import Features
from critmass.parts.making import make_parts
from critmass.scores import SCORES, make_score


def travelled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301


def same(curve: Curve, other: Curve) -> None:
    assert other.frame.equals(curve.frame)
    assert other.redundancy(0.9).record() == curve.redundancy(0.9).record()
    for size in curve.sizes:
        np.testing.assert_array_equal(other.indices(repeat=0, size=size), curve.indices(repeat=0, size=size))


@pytest.mark.parametrize("travel", [copy.deepcopy, travelled], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", SCORES)
def test_a_score_and_its_curve(tmp_path, name, travel):
    fs = Features.from_arrays(blobs(120, 5)).save(tmp_path / "store", shard_rows=11)
    score = make_score(name)
    curve = measure(fs, score=score, sizes=[2, 4], repeats=2)
    same(curve, travel(curve))
    same(curve, measure(travel(fs), score=travel(score), sizes=[2, 4], repeats=2))


@pytest.mark.parametrize("travel", [copy.deepcopy, travelled], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("family", ["random", "first"])
def test_parts(family, travel):
    parts = make_parts(family, 12, repeats=3)
    again = travel(parts)
    np.testing.assert_array_equal(again.orders, parts.orders)
