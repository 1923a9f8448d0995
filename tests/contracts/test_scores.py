"""What every score must do."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import made_up

import critmass as cm
from critmass.measuring import measure
from critmass.parts import make_parts, resolve_sizes
from critmass.progress import silent
from critmass.scores import SCORES, make_score


@pytest.fixture
def features():
    x, y = made_up(n=800, d=18)  # test rows enough for two batches of minibatch CKA
    return cm.Features.from_arrays(
        (x[:180], y[:180]), test=(x[180:], y[180:]), tests={"more": (x[200:], y[200:])}
    )


@pytest.mark.parametrize("name", SCORES)
class TestScore:
    def test_both_ways_agree(self, name, features):
        score, parts = make_score(name), make_parts("random", 18, repeats=3)
        sizes = resolve_sizes([1, 2, 5, 17], 18)
        ways = [
            way(features, parts, sizes, seed=0, progress=silent)
            for way in (score.from_moments, score.from_rows)
        ]
        assert ways[0].keys() == ways[1].keys() == {"test", "more"}
        for split in ways[0]:
            one, other = ways[0][split], ways[1][split]
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-9)
            assert one.whole == pytest.approx(other.whole)
            if one.covariance is None:
                assert other.covariance is None
            else:
                np.testing.assert_allclose(one.covariance, other.covariance, atol=1e-7)
            assert one.n_units == other.n_units
            if one.regularisation is not None:
                np.testing.assert_allclose(one.regularisation, other.regularisation)

    def test_the_part_of_size_d_is_the_whole(self, name, features):
        curve = measure(features, score=name, sizes="all", repeats=3)
        assert (curve.measurement.scores[:, -1] == curve.whole).all()
        assert curve.redundancy(1.0).reached

    def test_the_order_of_neurons_in_the_layer_is_no_matter(self, name, features):
        shuffle = np.random.default_rng(0).permutation(18)
        x = {k: np.asarray(s.x[:])[:, shuffle] for k, s in features.splits.items()}
        y = {k: s.y for k, s in features.splits.items()}
        moved = cm.Features.from_arrays((x["train"], y["train"]), test=(x["test"], y["test"]))
        order = make_parts("random", 18).orders[:2]
        position = np.argsort(shuffle)
        one = measure(features, score=name, parts=order, sizes=[3, 9])
        other = measure(moved, score=name, parts=position[order], sizes=[3, 9])
        np.testing.assert_allclose(one.measurement.scores, other.measurement.scores, atol=1e-9)

    def test_the_container_of_the_rows_is_no_matter_to_the_last_bit(self, name, features, tmp_path):
        stored = features.save(tmp_path / "store", shard_rows=37)
        one, other = (
            measure(fs, score=name, sizes="all", repeats=2).measurement for fs in (features, stored)
        )
        assert one.scores.tobytes() == other.scores.tobytes()
        if one.covariance is not None:
            assert one.covariance.tobytes() == other.covariance.tobytes()

    def test_labels_are_needed_exactly_where_it_says_so(self, name, features):
        bare = cm.Features.from_arrays(np.asarray(features.splits["train"].x))
        if make_score(name).label_free:
            assert measure(bare, score=name, sizes=[9]).whole > 0
        else:
            with pytest.raises(cm.InputError, match="needs no labels"):
                measure(bare, score=name)

    def test_too_little_memory_is_refused_with_advice(self, name, features):
        with pytest.raises(cm.InputError, match="raise memory_gib"):
            measure(features, score=name, memory_gib=1e-6)

    def test_not_finite_test_rows_are_named(self, name, features):
        x = np.array(features.splits["test"].x)
        x[7, 3] = np.nan
        bad = cm.Features.from_arrays(
            (features.splits["train"].x, features.splits["train"].y), test=(x, features.splits["test"].y)
        )
        with pytest.raises(cm.InputError, match=r"X of 'test': found nan at row 7, neuron 3"):
            measure(bad, score=name)


def test_a_layer_too_wide_for_moments_is_measured_from_rows():
    x, y = made_up(n=60, d=400)
    fs = cm.Features.from_arrays((x, y))
    for name in ("ridge", "cka"):
        narrow = measure(fs, score=name, sizes=[5, 100], repeats=2)
        needed = make_score(name).memory(fs, narrow.parts, narrow.sizes)
        assert needed["rows"] < needed["moments"]
        wide = measure(fs, score=name, sizes=[5, 100], repeats=2, memory_gib=needed["rows"] * 1.01 / 2**30)
        np.testing.assert_allclose(wide.measurement.scores, narrow.measurement.scores, atol=1e-9)


def test_settings_of_a_probe_are_refused_elsewhere():
    with pytest.raises(cm.InputError, match=r"regularisation: found 1\.0; allowed: nothing for score 'cka'"):
        make_score("cka", regularisation=1.0)
    with pytest.raises(cm.InputError, match="did you mean 'ridge'"):
        make_score("rigde")
