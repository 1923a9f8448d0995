"""What a score allocates at its peak, held against the bytes that it says it needs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import critmass as cm
from critmass.parts.making import make_parts
from critmass.parts.plan import Plan
from critmass.scores import SCORES, Run, make_score
from critmass.testing import made_up


@pytest.mark.parametrize("family", ["random", "random-projection"])
@pytest.mark.parametrize("name", [name for name in SCORES if name.startswith("cka")])
def test_many_batches_and_groups_take_no_more_than_cka_says(name, family):
    """7 batches of the minibatch estimator, 32 groups of the jackknife."""
    x, y = made_up(n=2600, d=256, dtype=np.float32)
    fs = cm.Features.from_arrays((x[:600], y[:600]), test=(x[600:], y[600:]))
    parts = make_parts(family, 256, repeats=3, features=fs)
    score, plan = make_score(name), Plan.of(parts, parts.resolve([20, 100]))
    ((way, stated),) = score.memory(fs, plan).items()
    tracemalloc.start()
    try:
        score.measure(fs, plan, Run(memory=1.01 * stated, way=way))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 2 * stated
