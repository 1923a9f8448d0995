"""The same question gives the same bytes, whatever the number of threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from threadpoolctl import threadpool_limits

import critmass as cm
from critmass.scores import SCORES
from critmass.testing import made_up

CODE = """
import sys, critmass as cm
for score, parts in (("ridge", "random"), ("cka", "random"), ("ridge", "pca"), ("cka", "pca")):
    cm.measure(sys.argv[1], score=score, parts=parts, sizes="paper", repeats=3, out=sys.argv[2])
"""


def test_results_do_not_depend_on_threads(real_store, tmp_path):
    written = []
    for threads in ("1", "2"):
        out = tmp_path / threads
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", CODE, real_store, out], env=environment, check=True)
        written.append({path.name: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()})
    assert len(written[0]) == 6  # cells, their table and its lock
    assert written[0] == written[1]


@pytest.mark.parametrize("score", SCORES)
def test_no_score_depends_on_threads(score, tmp_path):
    x, y = made_up(n=900, d=40)
    features = cm.Features.from_arrays((x[:500], y[:500]), test=(x[500:], y[500:]))
    written = []
    for threads in (1, 3):
        out = tmp_path / str(threads)
        with threadpool_limits(threads, user_api="blas"):
            cm.measure(features, score=score, sizes=[3, 25], repeats=3, out=out)
        written.append({path.name: path.read_bytes() for path in out.rglob("*.safetensors")})
    assert len(written[0]) == 1
    assert written[0] == written[1]


def test_block_boundaries_decide_the_sums_not_the_reader(real_features):
    import numpy as np

    from critmass.linalg.moments import accumulate

    split = real_features.splits["train"]
    (stored,), (held,) = accumulate(split.x), accumulate(np.asarray(split.x[:]))
    assert stored.gram.tobytes() == held.gram.tobytes()
    with pytest.raises(cm.InputError):
        stored + accumulate(np.asarray(split.x[:]), shift=np.zeros(1280))[0]
