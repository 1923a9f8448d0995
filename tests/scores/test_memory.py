"""What a score allocates at its peak, held against the bytes that it says it needs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import critmass as cm
from critmass.parts.parts import make_parts
from critmass.scores import SCORES, Run, make_score
from critmass.testing import made_up

QUICK = {"sgd": {"epochs": 2}, "logistic": {"iterations": 20}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["moments", "rows"])
@pytest.mark.parametrize("family", ["random", "random-projection"])
@pytest.mark.parametrize("n", [200, 2000])  # 7 batches of the minibatch estimator
@pytest.mark.parametrize("name", SCORES)
def test_the_peak_is_about_what_the_score_says(name, n, family, way):
    d, score = 256, make_score(name, QUICK.get(name))
    x, y = made_up(n=600 + n, d=d, dtype=np.float32)
    n_train = 200 if n == 200 else 600
    fs = cm.Features.from_arrays((x[:n_train], y[:n_train]), test=(x[-n:], y[-n:]))
    parts = make_parts(family, d, repeats=3, train=fs.splits["train"])
    sizes = parts.resolve([20, 100])
    stated = score.memory(fs, parts, sizes).get(way, np.inf)
    if np.isinf(stated):
        pytest.skip("no way")
    tracemalloc.start()
    try:
        getattr(score, f"from_{way}")(fs, parts, sizes, Run(memory=1.01 * stated))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 2 * stated
