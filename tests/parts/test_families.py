"""What every family of parts must do, with every score; a part scores what its columns do as a layer."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import critmass as cm
from critmass.curves.cells import load_cell, save_cell
from critmass.parts.families import FAMILIES
from critmass.parts.making import make_family, make_parts
from critmass.parts.plan import Plan
from critmass.scores import SCORES, Run, make_score
from critmass.testing import made_up

D, SIZES = 12, [1, 2, 5, 9]


def masks():
    """Two parts of each of three sizes, of which none is in another."""
    out = np.zeros((2, 3, D), dtype=bool)
    for repeat in range(2):
        for place, (start, size) in enumerate(((0, 2), (2, 5), (3, 9))):
            out[repeat, place, (np.arange(size) + start + 4 * repeat) % D] = True
    return out


GIVEN = {"order": np.random.default_rng(0).permutation(D), "masks": masks()}
EVERY = {**{name: name for name in FAMILIES}, **GIVEN}
DENSE = [name for name in FAMILIES if make_family(name).unit != "neurons"]
RANDOM = [name for name in FAMILIES if make_family(name).random]


@pytest.fixture(scope="module")
def features():
    x, y = made_up(n=400, d=D)
    generator = np.random.default_rng(1)
    return cm.Features.from_arrays(
        (x[:150], y[:150]),
        test=(x[150:], y[150:]),
        tests={"more": (x[200:] * 1.01, y[200:])},
        groups={"test": generator.integers(0, 3, 250).astype(str)},
    )


def parts_of(name, features, *, seed=0, standardise=False):
    return make_parts(EVERY[name], D, repeats=2, seed=seed, features=features, standardise=standardise)


def measured(name, features, **more):
    sizes = {} if name == "masks" else {"sizes": SIZES}
    return cm.measure(features, parts=EVERY[name], repeats=2, **{**sizes, **more})


def basis_of(name, parts, repeat, size):
    """Return the part as a matrix over the neurons, shape (D, size), from what the family is."""
    if name in DENSE:
        return parts.matrices[repeat][:, :size]
    return np.eye(D)[:, parts.indices(repeat, size)]


def as_layers(features, name, parts, repeat, size, *, standardise):
    """Return features whose layer is one part: of standardised columns where the score standardises."""
    train = np.asarray(features.splits["train"].x[:])
    mean, scale = (train.mean(axis=0), train.std(axis=0)) if standardise else (0.0, 1.0)
    basis = basis_of(name, parts, repeat, size)
    rows = {
        split: (((np.asarray(s.x[:]) - mean) / scale) @ basis, s.y) for split, s in features.splits.items()
    }
    return cm.Features.from_arrays(rows["train"], test=rows["test"], tests={"more": rows["more"]})


def mean_probe(train, test):
    """Right or wrong for each test row, by the nearest class mean."""
    means = np.stack([train.x[train.y == c].mean(axis=0) for c in range(train.y.max() + 1)])
    return ((test.x[:, None] - means) ** 2).sum(axis=2).argmin(axis=1) == test.y


FIXED = {
    "ridge": ("ridge", {"regularisation": 3.0}),
    "ridge, raw": ("ridge", {"regularisation": 3.0, "standardise": False}),
    "logistic": ("logistic", {"regularisation": 3.0}),
    "knn": ("knn", {"n_neighbours": 4}),
    "knn, euclidean": ("knn", {"n_neighbours": 4, "distance": "euclidean", "standardise": True}),
    "centroid": ("centroid", {"standardise": True}),
    "centroid, cosine": ("centroid", {"distance": "cosine"}),
    "function": (mean_probe, {}),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("score", FIXED)
def test_a_part_scores_what_its_columns_do_as_a_layer_of_their_own(name, score, features):
    kind, settings = FIXED[score]
    curve = measured(name, features, score=kind, settings=settings)
    standardise = bool(curve.spec["settings"].get("standardise"))
    parts = parts_of(name, features, standardise=standardise)
    own = {**settings, **({"standardise": False} if standardise else {})}
    scores = {split: curve.on(split).measurement.scores for split in ("test", "more")}
    for repeat in range(parts.repeats):
        for place, size in enumerate(curve.sizes.tolist()):
            if size < D or name in DENSE:
                layer = as_layers(features, name, parts, repeat, size, standardise=standardise)
                alone = cm.measure(layer, score=kind, settings=own, parts="first", sizes=[size])
                for split, found in scores.items():
                    # A row of 200 may lie on the boundary between two classes.
                    assert found[repeat, place] == pytest.approx(alone.on(split).whole, abs=0.006)


@pytest.fixture(scope="module")
def once(features):
    """Return the curve of a family and score, measured once."""

    @functools.cache
    def curve(name, score):
        return measured(name, features, score=score, settings=SETTINGS.get(score, {}))

    return curve


SETTINGS = {"sgd": {"epochs": 3}}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("score", SCORES)
class TestWithEveryScore:
    def test_what_is_measured_is_whole(self, name, score, once):
        curve = once(name, score)
        for measurement in (curve.on(split).measurement for split in ("test", "more")):
            shape = (curve.repeats, len(curve.sizes))
            assert measurement.scores.shape == measurement.converged.shape == shape
            assert np.isfinite(measurement.scores).all()
            assert all(values.shape == shape for values in measurement.chosen.values())
            assert (measurement.scores[:, -1] == measurement.whole).all() or name in DENSE
            if measurement.covariance is not None:
                assert (np.linalg.eigvalsh(measurement.covariance) > -1e-9).all()

    def test_the_whole_is_that_of_the_raw_layer(self, name, score, once):
        curve = once(name, score)
        if score != "sgd" or name in DENSE:  # the start of sgd is drawn in the first order
            assert curve.whole == once("first", score).whole
        if curve.measurement.by_class is not None:
            assert curve.by_class.height == curve.frame.height * 3
            assert curve.by_group.height == curve.frame.height * 3
        curve.redundancy(0.9)

    def test_a_cell_keeps_it(self, name, score, once, tmp_path):
        curve = once(name, score)
        path = save_cell(tmp_path, curve)
        kept = load_cell(path)
        assert kept.frame.equals(curve.frame)
        assert (kept.parts.family, kept.repeats, kept.n_neurons) == (curve.parts.family, curve.repeats, D)
        assert save_cell(tmp_path / "again", kept).read_bytes() == path.read_bytes()


TWO_WAYS = ("ridge", "cka", "cka-biased", "cka-minibatch")


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("score", TWO_WAYS)
def test_both_ways_agree(name, score):
    """On fewer rows than neurons, where `measure` may take either way."""
    x, _ = made_up(n=22, d=D)
    y = np.arange(22) % 3
    fs = cm.Features.from_arrays((x[:11], y[:11]), test=(x[11:], y[11:]), tests={"more": (x[12:], y[12:])})
    made = make_score(score)
    parts = parts_of(name, fs, standardise=bool(getattr(made, "standardise", False)))
    plan = Plan.of(parts, parts.resolve("paper" if name == "masks" else SIZES))
    assert list(made.memory(fs, plan)) == ["moments", "rows"]
    ways = [made.measure(fs, plan, Run(way=way)) for way in made.memory(fs, plan)]
    assert ways[0].keys() == ways[1].keys() == {"test", "more"}
    for split, one in ways[0].items():
        other = ways[1][split]
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-9)
        assert one.whole == pytest.approx(other.whole, abs=1e-12)
        assert (one.covariance is None) == (other.covariance is None)
        if one.covariance is not None:
            np.testing.assert_allclose(one.covariance, other.covariance, atol=1e-7)
        assert one.chosen.keys() == other.chosen.keys()
        for key, values in one.chosen.items():
            np.testing.assert_allclose(values, other.chosen[key])


@pytest.mark.parametrize("name", EVERY)
class TestFamily:
    def test_repeats_only_where_it_is_random(self, name, features):
        expected = {"order": 1, "masks": 2, "matrix": 1}
        assert parts_of(name, features).repeats == expected.get(name, 2 if name in RANDOM else 1)

    def test_the_seed_matters_exactly_where_it_is_random(self, name, features):
        a, b, c = (parts_of(name, features, seed=seed).array for seed in (5, 5, 6))
        assert (a == b).all()
        assert (a == c).all() == (name not in RANDOM)

    def test_repeats_differ_where_it_is_random(self, name, features):
        if name in RANDOM:
            one, other = parts_of(name, features).array
            assert (one != other).any()

    def test_one_neuron(self, name):
        if name in GIVEN:
            pytest.skip("given for twelve")
        x, y = made_up(n=60, d=1)
        curve = cm.measure(cm.Features.from_arrays((x, y)), parts=name, repeats=2, regularisation=1.0)
        assert curve.sizes.tolist() == [1]
        assert curve.measurement.scores == pytest.approx(curve.whole, abs=0.1)

    def test_the_container_of_the_rows_is_no_matter_to_the_last_bit(self, name, features, tmp_path):
        stored = features.save(tmp_path / "store", shard_rows=37)
        for score in ("ridge", "cka"):
            one, other = (measured(name, fs, score=score).measurement for fs in (features, stored))
            assert one.scores.tobytes() == other.scores.tobytes()
            assert one.covariance.tobytes() == other.covariance.tobytes()

    def test_neurons_of_a_part_are_named_exactly_where_it_has_some(self, name, features):
        curve = measured(name, features)
        if name in DENSE:
            with pytest.raises(
                cm.InputError, match=rf"indices: found {name} part 0 of size 2, columns mixed"
            ):
                curve.indices(repeat=0, size=2)
            return
        for size in curve.sizes.tolist():
            neurons = curve.indices(repeat=curve.repeats - 1, size=size)
            assert len(set(neurons.tolist())) == size
            assert set(neurons.tolist()) <= set(range(D))

    def test_rows_that_no_probe_may_fit_on_change_nothing(self, name, features):
        test = features.splits["test"]
        moved = cm.Features.from_arrays(
            (features.splits["train"].x, features.splits["train"].y), test=(test.x * 3 + 100, test.y)
        )
        one, other = (parts_of(name, fs).array for fs in (features, moved))
        assert one.tobytes() == other.tobytes()
