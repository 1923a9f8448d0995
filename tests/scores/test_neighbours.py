"""Nearest neighbours of every part against scikit-learn and plain sorting; ties, blocks, invariances."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors
from sklearn.preprocessing import StandardScaler

import critmass as cm
from critmass.linalg import devices
from critmass.linalg.devices import Device
from critmass.parts.making import make_parts
from critmass.parts.plan import Plan
from critmass.parts.sizes import resolve_sizes
from critmass.scores import make_score
from critmass.scores.nearest import TIE, Search
from critmass.scores.neighbours import NEIGHBOURS
from critmass.scores.protocols import Run
from critmass.testing import made_up

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def rows_of(features, split):
    return np.asarray(features.splits[split].x[:], dtype=np.float64), features.splits[split].y


def found(x, queries, k, *, distance="cosine", parts=None, sizes=(), standardise=False, **run):
    """Return the k nearest rows of all queries and their distances, (n_parts, n_queries, k) each."""
    d = x.shape[1]
    parts = make_parts("first", d) if parts is None else parts
    search = Search.of(
        x, "x", distance, Plan.of(parts, resolve_sizes(list(sizes), d)), standardise=standardise
    )
    near = list(search.run(queries, "queries", k, Run(**run)))
    return tuple(np.concatenate([getattr(n, kind) for n in near], axis=1) for kind in ("rows", "distances"))


def distances(x, queries, distance):
    """Return all distances (cosine) or squared distances, by their definition."""
    if distance == "euclidean":
        return ((queries[:, None] - x) ** 2).sum(axis=2)
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(x, axis=1)
    return 1 - np.divide(queries @ x.T, norms, out=np.zeros_like(norms), where=norms > 0)


def sorted_rows(gaps, k, decimals):
    """Return the k nearest rows, ties to the lower row."""
    rounded = np.round(gaps, decimals)
    return np.stack([np.lexsort((np.arange(gaps.shape[1]), row))[:k] for row in rounded])


@pytest.fixture(scope="module")
def untied(digits):
    """Digits that no two distances tie."""
    generator = np.random.default_rng(0)
    splits = {}
    for name in ("train", "test"):
        x, y = rows_of(digits, name)
        splits[name] = (x + 0.1 * generator.normal(size=x.shape), y)
    return cm.Features.from_arrays(splits["train"], test=splits["test"])


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_neighbours_are_the_nearest_rows_and_of_equals_the_first(digits, distance, k):
    (x, _), (queries, _) = rows_of(digits, "train"), rows_of(digits, "test")
    parts = make_parts("random", 64, repeats=2)
    rows, near = found(x, queries, k, distance=distance, parts=parts, sizes=[1, 2, 9])
    orders = [(order[:size]) for order in parts.orders for size in (1, 2, 9)] + [np.arange(64)]
    assert rows.shape == (7, len(queries), k)
    for part, neurons in enumerate(orders):
        gaps = distances(x[:, neurons], queries[:, neurons], distance)
        np.testing.assert_array_equal(rows[part], sorted_rows(gaps, k, 9))
        if distance == "cosine":
            np.testing.assert_allclose(near[part], np.sort(gaps, axis=1)[:, :k], atol=1e-12)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [7, 3000])
def test_blocks_of_the_database_change_nothing(distance, k):
    x = 0.5 + np.random.default_rng(0).normal(size=(5300, 6))
    queries, x = x[5000:], x[:5000].copy()
    x[4000:4100] = x[100:200]
    rows, _ = found(x, queries, k, distance=distance, sizes=[2])
    for part, neurons in ((0, slice(0, 2)), (1, slice(0, 6))):
        gaps = distances(x[:, neurons], queries[:, neurons], distance)
        np.testing.assert_array_equal(rows[part], sorted_rows(gaps, k, 12))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_every_part_equals_sklearn_on_real_features(real_features, distance):
    (x, y), (queries, truth) = rows_of(real_features, "train"), rows_of(real_features, "test")
    parts, sizes, k = make_parts("random", 1280, repeats=1), [5, 100], 10
    rows, _ = found(x, queries, k, distance=distance, parts=parts, sizes=sizes)
    asked = {"n_neighbours": k, "distance": distance}
    scores = cm.measure(real_features, score="knn", sizes=sizes, repeats=1, settings=asked).measurement.scores
    for part, size in enumerate([*sizes, 1280]):
        neurons = parts.orders[0][:size]
        model = KNeighborsClassifier(k, algorithm="brute", metric=distance).fit(x[:, neurons], y)
        gaps, expected = model.kneighbors(queries[:, neurons], k + 1)
        clear = gaps[:, k] - gaps[:, k - 1] > 1e-7 * gaps[:, k]
        assert (np.sort(rows[part], axis=1) == np.sort(expected[:, :k], axis=1))[clear].all()
        if size > 5:  # on five neurons most rows are alike: many are silent
            assert clear.all()
            assert scores[0, part] == pytest.approx(model.score(queries[:, neurons], truth))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("k", [1, 4, 25])
def test_classification_equals_sklearn(untied, distance, weights, standardise, k):
    asked = {"n_neighbours": k, "distance": distance, "weights": weights, "standardise": standardise}
    curve = cm.measure(untied, score="knn", sizes=[2, 9, 33], repeats=2, settings=asked)
    (x, y), (queries, truth) = rows_of(untied, "train"), rows_of(untied, "test")
    if standardise:
        scaler = StandardScaler().fit(x)
        x, queries = scaler.transform(x), scaler.transform(queries)
    for row in curve.frame.iter_rows(named=True):
        part = curve.indices(repeat=row["repeat"], size=row["size"])
        model = KNeighborsClassifier(k, algorithm="brute", metric=distance, weights=weights)
        assert row["score"] == pytest.approx(model.fit(x[:, part], y).score(queries[:, part], truth))
        assert row["n_neighbours"] == k


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_regression_equals_sklearn(untied, distance, weights):
    (x, _), (queries, _) = rows_of(untied, "train"), rows_of(untied, "test")
    y, truth = np.sqrt(1 + x[:, 20]), np.sqrt(1 + queries[:, 20])
    fs = cm.Features.from_arrays((x, y), test=(queries, truth), task="regression")
    asked = {"n_neighbours": 6, "distance": distance, "weights": weights}
    curve = cm.measure(fs, score="knn", sizes=[12, 40], repeats=2, settings=asked)
    for row in curve.frame.iter_rows(named=True):
        part = curve.indices(repeat=row["repeat"], size=row["size"])
        model = KNeighborsRegressor(6, algorithm="brute", metric=distance, weights=weights).fit(x[:, part], y)
        assert row["score"] == pytest.approx(r2_score(truth, model.predict(queries[:, part])), abs=1e-9)


def accuracy(y, predicted, metric):
    right = predicted == y
    return np.mean([right[y == c].mean() for c in np.unique(y)]) if metric else right.mean()


def naive_choice(features, part, metric):
    """The loop that a user would write: try the grid on validation rows, ties to the larger k."""
    x, y = rows_of(features, "train")
    if "validation" in features.splits:
        fit, (val_x, val_y) = np.ones(len(x), dtype=bool), rows_of(features, "validation")
    else:
        fit = ~np.isin(np.arange(len(x)), features.validation_rows(3))
        val_x, val_y = x[~fit], y[~fit]

    def score(k):
        model = KNeighborsClassifier(k, algorithm="brute", metric="cosine").fit(x[fit][:, part], y[fit])
        return accuracy(val_y, model.predict(val_x[:, part]), metric)

    return max([k for k in NEIGHBOURS if k <= fit.sum()], key=lambda k: (round(score(k), 12), k))


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("metric", [None, "balanced-accuracy"])
@pytest.mark.parametrize("n", [1000, 40])
def test_k_is_what_the_naive_loop_chooses(untied, explicit, metric, n):
    (x, y), test = rows_of(untied, "train"), rows_of(untied, "test")
    fs = cm.Features.from_arrays(
        (x[:n], y[:n]), test=test, validation=(x[1000:1200], y[1000:1200]) if explicit else None
    )
    curve = cm.measure(fs, score="knn", sizes=[2, 6, 30], repeats=3, seed=3, metric=metric)
    for row in curve.frame.iter_rows(named=True):
        part = curve.indices(repeat=row["repeat"], size=row["size"])
        k = naive_choice(fs, part, metric)
        assert row["n_neighbours"] == k
        model = KNeighborsClassifier(k, algorithm="brute", metric="cosine").fit(x[:n, part], y[:n])
        expected = accuracy(test[1], model.predict(test[0][:, part]), metric)
        assert row["score"] == pytest.approx(expected)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_rows_at_distance_0_are_the_only_ones_that_count(untied, distance):
    (x, y), (queries, truth) = rows_of(untied, "train"), rows_of(untied, "test")
    other = (truth + 1) % 10
    x, y = np.concatenate([x, queries, 2 + x]), np.concatenate([y, other, y])
    fs = cm.Features.from_arrays((x, y), test=(queries, other))
    asked = {"n_neighbours": 20, "distance": distance, "weights": "distance"}
    curve = cm.measure(fs, score="knn", sizes=[50], repeats=1, settings=asked)
    assert (curve.measurement.scores == 1.0).all()
    rows, near = found(x, queries, 2, distance=distance)
    assert (rows[-1, :, 0] == len(untied.splits["train"].y) + np.arange(len(queries))).all()
    assert (near[-1, :, 0] <= TIE).all()
    assert (near[-1, :, 1] > TIE).all()


def test_a_row_of_zeros_has_cosine_0_with_every_row():
    x = np.random.default_rng(0).normal(size=(50, 4))
    x[7] = 0
    queries = np.concatenate([np.zeros((1, 4)), x[:3]])
    rows, near = found(x, queries, 50)
    assert (rows[0, 0] == np.arange(50)).all()
    assert (near[0, 0] == 1).all()
    gaps, expected = (
        NearestNeighbors(n_neighbors=50, metric="cosine", algorithm="brute").fit(x).kneighbors(x[:3])
    )
    assert (rows[0, 1:] == expected).all()
    np.testing.assert_allclose(near[0, 1:], gaps, atol=1e-12)


def test_an_outlier_and_an_offset_do_no_harm():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 5))
    queries = generator.normal(size=(30, 5))
    expected = sorted_rows(distances(x, queries, "euclidean"), 20, 12)
    x[3] += 1e5
    rows, _ = found(x + 1e6, queries + 1e6, 20, distance="euclidean")
    replaced = (expected == 3).any(axis=1)
    assert (rows[0] == expected)[~replaced].all()
    assert not (rows[0] == 3).any()


def by_the_rule(x, queries, k, distance):
    """Return the k nearest rows in extended precision, and for which queries rounding decides."""
    exact = distances(x.astype(np.longdouble), queries.astype(np.longdouble), distance)
    if distance == "euclidean":
        centre = x.mean(axis=0)
        squares = ((queries - centre) ** 2).sum(axis=1) + ((x - centre) ** 2).sum(axis=1).mean()
        exact = exact / squares[:, None]
    order = np.argsort(exact, axis=1, kind="stable")[:, : k + 20]
    steps = np.diff(np.take_along_axis(exact, order, axis=1), axis=1)
    runs = np.cumsum(steps > TIE, axis=1)
    runs = np.concatenate([np.zeros((len(runs), 1), dtype=int), runs], axis=1)
    rows = np.sort(runs * len(x) + order, axis=1)[:, :k] % len(x)
    return rows, ((steps > TIE / 10) & (steps < 3 * TIE))[:, : k + 8].any(axis=1)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("apart", [0.0, 1e-15, 1e-9, 1e-8, 1e-7])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_rows_that_float32_cannot_tell_apart_are_in_the_order_of_float64(distance, apart, offset):
    generator = np.random.default_rng(1)
    x = generator.normal(size=(300, 40)) + offset
    x = np.concatenate([x + apart * generator.normal(size=x.shape) for _ in range(8)])
    x = x[generator.permutation(len(x))]
    queries = np.concatenate([generator.normal(size=(60, 40)) + offset, x[:20]])
    rows, _ = found(x, queries, 12, distance=distance, sizes=[3, 11])
    compared = 0
    for part, size in enumerate((3, 11, 40)):
        expected, decided = by_the_rule(x[:, :size], queries[:, :size], 12, distance)
        np.testing.assert_array_equal(rows[part][~decided], expected[~decided])
        compared += (~decided).sum()
    # Far from the origin cosines hardly differ, and rounding decides nearly all.
    assert compared > 60 or (offset > 0 and distance == "cosine")


@needs_torch
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("standardise", [False, True])
def test_sifting_finds_what_float64_finds(distance, standardise):
    """Torch searches everything in float64: duplicates, crowds, rows of zeros, sorted and extreme rows."""
    generator = np.random.default_rng(2)
    x = np.maximum(generator.normal(size=(6000, 24)) - 0.5, 0)
    x[5000:5300] = x[:300]
    x[:400] *= 1e-25
    x[1000:1010] *= 1e8
    x[3000:4000] = np.round(x[3000:4000])
    x = np.concatenate([x[np.argsort(x[:, 0])], x[:500] + 1e-9 * generator.normal(size=(500, 24))])
    queries = np.concatenate(
        [x[::23], np.zeros((2, 24)), 1e-25 * x[:9], np.maximum(generator.normal(size=(99, 24)), 0)]
    )
    asked = {"distance": distance, "standardise": standardise, "sizes": [1, 3, 8, 20]}
    parts = make_parts("random", 24, repeats=2)
    (rows, near), (expected, gaps) = (
        found(x, queries, 15, parts=parts, **asked, device=Device(name)) for name in ("cpu", "torch:cpu")
    )
    assert (rows == expected).all()
    np.testing.assert_allclose(near, gaps, atol=TIE)


@needs_torch
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_torch_and_any_number_of_threads_find_the_same_rows(digits, distance, monkeypatch):
    (x, _), (queries, _) = rows_of(digits, "train"), rows_of(digits, "test")
    parts = make_parts("random", 64, repeats=2)
    x = np.concatenate([x, x + 1])

    def search(device="cpu", count=2):
        monkeypatch.setattr(devices, "threads", lambda: count)
        asked = {"distance": distance, "parts": parts, "sizes": [1, 3, 20]}
        return found(x, queries, 10, **asked, device=Device(device))

    rows, near = search()
    for other_rows, other_near in (search(count=1), search("torch:cpu")):
        assert (other_rows == rows).all()
        np.testing.assert_allclose(other_near, near, atol=TIE)
    assert search(count=1)[1].tobytes() == near.tobytes()


@pytest.mark.parametrize("name", ["knn", "neighbour-overlap"])
def test_little_memory_reads_the_database_again_and_gives_the_same_bits(name, tmp_path):
    x, y = made_up(n=3900, d=16, dtype=np.float32)
    fs = cm.Features.from_arrays((x[:2500], y[:2500]), test=(x[2500:], y[2500:]))
    stored = fs.save(tmp_path / "store", shard_rows=301)
    ample = cm.measure(fs, score=name, sizes="all", repeats=2)
    needed = make_score(name).memory(fs, Plan.of(ample.parts, ample.sizes))["rows"]
    steps = []
    tight = cm.measure(
        stored,
        score=name,
        sizes="all",
        repeats=2,
        memory_gib=1.001 * needed / 2**30,
        progress=lambda what, done, total: steps.append((what, done, total)),
    )
    assert tight.measurement.scores.tobytes() == ample.measurement.scores.tobytes()
    assert tight.measurement.covariance.tobytes() == ample.measurement.covariance.tobytes()
    _, done, total = [step for step in steps if step[0].startswith("neighbours")][-1]
    assert done == total >= 4 * 2500


def naive_overlap(x, queries, part, k, distance):
    def nearest(neurons):
        return sorted_rows(distances(x[:, neurons], queries[:, neurons], distance), k, 12)

    pairs = zip(nearest(part), nearest(slice(None)), strict=True)
    return np.array([len(np.intersect1d(own, whole)) / k for own, whole in pairs])


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_overlap_is_the_share_of_common_neighbours(untied, distance):
    (x, _), (queries, _) = rows_of(untied, "train"), rows_of(untied, "test")
    asked = {"n_neighbours": 7, "distance": distance}
    curve = cm.measure(untied, score="neighbour-overlap", sizes=[3, 20, 63], repeats=3, settings=asked)
    for column, size in enumerate([3, 20, 63]):
        credit = [naive_overlap(x, queries, order[:size], 7, distance) for order in curve.parts.orders]
        np.testing.assert_allclose(curve.measurement.scores[:, column], np.mean(credit, axis=1), atol=1e-12)
        expected = np.cov([*credit, np.ones(len(queries))])
        np.testing.assert_allclose(curve.measurement.covariance[column], expected, atol=1e-12)
    assert (curve.measurement.scores[:, -1] == 1.0).all()
    assert curve.whole == 1.0
    assert curve.measurement.n_units == len(queries)
    interval = curve.redundancy(0.5)
    assert 0 <= interval.low <= interval.dr <= interval.high <= 1


def test_overlap_of_some_queries(untied):
    asked = {"n_queries": 100}
    some = cm.measure(untied, score="neighbour-overlap", sizes=[20], repeats=2, settings=asked)
    again = cm.measure(untied, score="neighbour-overlap", sizes=[20], repeats=2, settings=asked)
    assert (some.measurement.scores == again.measurement.scores).all()
    assert some.measurement.n_units == 100
    every = cm.measure(untied, score="neighbour-overlap", sizes=[20], repeats=2)
    assert every.measurement.n_units == 449
    np.testing.assert_allclose(some.measurement.scores, every.measurement.scores, atol=0.1)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), n=st.integers(8, 60), d=st.integers(2, 12))
def test_overlap_is_unchanged_by_what_its_distance_ignores(seed, n, d):
    generator = np.random.default_rng(seed)
    x, queries = generator.normal(size=(n, d)), generator.normal(size=(20, d))

    def scores(x, queries, distance, order):
        fs = cm.Features.from_arrays(x, test=queries)
        asked = {"distance": distance, "n_neighbours": 5}
        curve = cm.measure(fs, score="neighbour-overlap", parts=order, sizes="all", settings=asked)
        return curve.measurement.scores

    order = np.stack([generator.permutation(d) for _ in range(2)])
    cosine, euclidean = (scores(x, queries, distance, order) for distance in ("cosine", "euclidean"))
    lengths = 10.0 ** generator.uniform(-3, 3, size=(n, 1))
    assert (scores(lengths * x, 7 * queries, "cosine", order) == cosine).all()
    shift = 100 * generator.normal(size=d)
    assert (scores(3 * x + shift, 3 * queries + shift, "euclidean", order) == euclidean).all()
    moved = generator.permutation(d)
    place = np.argsort(moved)
    assert (scores(x[:, moved], queries[:, moved], "cosine", place[order]) == cosine).all()
    assert (scores(x[:, moved], queries[:, moved], "euclidean", place[order]) == euclidean).all()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), n=st.integers(8, 60), d=st.integers(2, 12))
def test_neighbours_in_the_whole_are_unchanged_by_rotation(seed, n, d):
    generator = np.random.default_rng(seed)
    x, queries = generator.normal(size=(n, d)), generator.normal(size=(20, d))
    turn, shift = ortho_group.rvs(d, random_state=generator), 10 * generator.normal(size=d)
    for distance, moved in (("cosine", 0.0), ("euclidean", shift)):
        rows, _ = found(x, queries, 5, distance=distance)
        turned, _ = found(x @ turn + moved, queries @ turn + moved, 5, distance=distance)
        assert (rows == turned).all()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("standardise", [False, True])
def test_duplicate_rows_and_silent_neurons_leave_the_whole_at_1(distance, standardise):
    x, _ = made_up(n=300, d=9)
    x, queries = np.concatenate([x[:200]] * 12), x[200:]
    x, queries = (np.column_stack([rows, np.zeros((len(rows), 3))]) for rows in (x, queries))
    fs = cm.Features.from_arrays(x, test=queries)
    asked = {"distance": distance, "standardise": standardise, "n_neighbours": 30}
    order = np.stack([np.r_[np.random.default_rng(i).permutation(9), 9, 10, 11] for i in range(4)])
    curve = cm.measure(fs, score="neighbour-overlap", parts=order, sizes=[9, 11], settings=asked)
    assert (curve.measurement.scores == 1.0).all()


def test_labels_are_not_needed_for_overlap_and_weights_are_refused_by_knn():
    x, y = made_up(n=100, d=5)
    bare = cm.Features.from_arrays(x)
    assert bare.task is None
    assert cm.measure(bare, score="neighbour-overlap", sizes=[4]).whole == 1.0
    heavy = cm.Features.from_arrays((x, y), weights={"train": np.full(100, 2.0)}, test=(x, y))
    with pytest.raises(cm.InputError, match=r"weights of 'train': .*; use ridge or logistic, or leave"):
        cm.measure(heavy, score="knn")
    assert cm.measure(heavy, score="neighbour-overlap", sizes=[4]).whole == 1.0


def test_more_neighbours_than_rows_are_refused():
    x, y = made_up(n=80, d=5)
    fs = cm.Features.from_arrays((x[:60], y[:60]), test=(x[60:], y[60:]))
    with pytest.raises(
        cm.InputError,
        match=r"n_neighbours: found 61; allowed: 1 to 60, the number of rows searched; X of 'train'",
    ):
        cm.measure(fs, score="knn", settings={"n_neighbours": 61})
    with pytest.raises(cm.InputError, match=r"n_neighbours: found 60; allowed: fewer than the 60 rows"):
        cm.measure(fs, score="neighbour-overlap", settings={"n_neighbours": 60})
    most = cm.measure(fs, score="knn", sizes=[2], settings={"n_neighbours": 60})
    assert (most.measurement.scores == np.mean(y[60:] == np.bincount(y[:60]).argmax())).all()


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("knn", {"n_neighbours": 0}, "n_neighbours: found 0; allowed: a whole number from 1"),
        ("knn", {"n_neighbours": 2.5}, r"n_neighbours: found 2\.5; allowed: a whole number"),
        ("knn", {"distance": "cosin"}, "did you mean 'cosine'"),
        ("knn", {"weights": "equal"}, "weights: found 'equal'; allowed: distance, uniform"),
        ("knn", {"standardise": 1}, "standardise: found 1; allowed: true or false"),
        ("neighbour-overlap", {"n_neighbours": True}, "n_neighbours: found True"),
        ("neighbour-overlap", {"n_queries": 0}, "n_queries: found 0"),
        ("neighbour-overlap", {"distance": "dot"}, "distance: found 'dot'; allowed: cosine, euclidean"),
        ("neighbour-overlap", {"metric": "accuracy"}, "metric: found 'accuracy'; allowed: n_neighbours"),
    ],
)
def test_settings_that_are_none_are_refused(name, asked, message):
    with pytest.raises(cm.InputError, match=message):
        make_score(name, asked)


@pytest.mark.parametrize("name", ["knn", "neighbour-overlap"])
def test_rows_that_are_not_finite_are_named(name):
    x, y = made_up(n=100, d=5)
    for split, rows, message in (("train", x[:60], "X of 'train'"), ("test", x[60:], "X of 'test'")):
        bad = rows.copy()
        bad[9, 2] = np.inf
        given = {"train": (x[:60], y[:60]), "test": (x[60:], y[60:])}
        given[split] = (bad, given[split][1])
        fs = cm.Features.from_arrays(given["train"], test=given["test"])
        with pytest.raises(cm.InputError, match=f"{message}: found inf at row 9, neuron 2"):
            cm.measure(fs, score=name, settings={"n_neighbours": 3})


def test_further_test_splits_and_one_query():
    x, y = made_up(n=100, d=5)
    fs = cm.Features.from_arrays((x[:60], y[:60]), test=(x[60:], y[60:]), tests={"one": (x[60:61], y[60:61])})
    for name in ("knn", "neighbour-overlap"):
        curve = cm.measure(fs, score=name, sizes=[2], repeats=2)
        assert curve.on("one").measurement.covariance is None
        assert dataclasses.asdict(make_score(name))["distance"] == "cosine"
