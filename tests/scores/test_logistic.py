"""The logistic probe against scikit-learn: objective, coefficients, predictions; λ against the naive loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import critmass as cm
from critmass.linalg.devices import Device
from critmass.linalg.moments import accumulate
from critmass.parts.making import make_parts
from critmass.parts.plan import Plan
from critmass.parts.sizes import resolve_sizes
from critmass.scores import Run
from critmass.scores.logistic import PENALTIES, Logistic
from critmass.scores.logistic_fit import Fitter
from critmass.scores.logistic_objective import Side
from critmass.scores.probes import row_weights
from critmass.testing import made_up

RUN = Run()
EXACT = Logistic(tolerance=1e-9)
"""For comparing coefficients, which move much further than the objective and the predictions do."""


def fitted(features, penalty, *, sizes, repeats=1, score=None, run=RUN, weights=None):
    """Return the fitter, and the probes of all parts at one λ."""
    score = score or Logistic()
    train = features.splits["train"]
    parts, counts = (
        make_parts("random", features.n_neurons, repeats=repeats),
        resolve_sizes(sizes, features.n_neurons),
    )
    (moments,) = accumulate(train.x, weights=weights)
    fitter = Fitter.of(
        features,
        train,
        weights,
        moments,
        standardise=score.standardise,
        iterations=score.iterations,
        plan=Plan.of(parts, counts),
        run=run,
        each=lambda work, items: [work(item) for item in items],
    )
    penalties = np.full((repeats + 1, len(counts)), penalty)
    return fitter, fitter.fit(penalties, None, score.tolerance, "fitting")


def objective(x, y, weights, intercepts, penalty):
    """Return Σ loss + λ/2 ‖W‖², in float64."""
    z = x @ weights.T + intercepts
    if len(weights) == 1:
        losses = np.logaddexp(0, z[:, 0]) - y * z[:, 0]
    else:
        losses = np.logaddexp.reduce(z, axis=1) - z[np.arange(len(y)), y]
    return losses.sum() + penalty / 2 * (weights.astype(np.float64) ** 2).sum()


def standardised(features):
    train, test = features.splits["train"], features.splits["test"]
    x, xt = (np.asarray(split.x[:], dtype=np.float64) for split in (train, test))
    scaler = StandardScaler().fit(x)
    return scaler.transform(x), train.y, scaler.transform(xt), test.y


def assert_equals_sklearn(features, penalty, *, sizes, repeats=1, coefficients=1e-3):
    x, y, xt, _ = standardised(features)
    raw = np.asarray(features.splits["test"].x[:], dtype=np.float64)
    fitter, probes = fitted(features, penalty, sizes=sizes, repeats=repeats, score=EXACT)
    predicted = fitter.predictions(probes, raw)
    agree, rows = 0, 0
    for (repeat, size), probe in probes.by_part.items():
        part = np.arange(features.n_neurons) if repeat == repeats else fitter.plan.parts.orders[repeat, :size]
        model = LogisticRegression(C=1 / penalty, tol=1e-6, max_iter=20_000).fit(x[:, part], y)
        ours = objective(x[:, part], y, probe.weights, probe.intercepts, penalty)
        theirs = objective(x[:, part], y, model.coef_, model.intercept_, penalty)
        assert probe.converged
        assert ours <= theirs * (1 + 1e-5)
        error = np.linalg.norm(probe.weights - model.coef_) / np.linalg.norm(model.coef_)
        assert error < coefficients, (repeat, size, error)
        column = int(np.searchsorted(fitter.plan.sizes, size))
        agree += np.count_nonzero(predicted[repeat, :, column] == model.predict(xt[:, part]))
        rows += len(xt)
    assert agree >= 0.998 * rows


@pytest.mark.parametrize("penalty", [10.0, 300.0])
def test_real_image_features_equal_sklearn(real_features, penalty):
    assert_equals_sklearn(real_features, penalty, sizes=[128])


def test_fewer_rows_than_neurons_equal_sklearn(real_features):
    train, test = real_features.splits["train"], real_features.splits["test"]
    few = np.sort(np.random.default_rng(0).permutation(train.x.shape[0])[:400])
    fs = cm.Features.from_arrays((train.x[few], train.y[few]), test=(test.x[:], test.y))
    assert_equals_sklearn(fs, 20.0, sizes=[64, 600])


@pytest.mark.parametrize("penalty", [0.5, 20.0])
def test_real_digits_equal_sklearn(digits, penalty):
    assert_equals_sklearn(digits, penalty, sizes=[1, 3, 9, 20, 40], repeats=2)


def assert_the_default_is_near_enough(features, penalty, sizes):
    """Hold every part's default fit to scikit-learn's: its objective, and what it predicts on test rows."""
    x, y, xt, _ = standardised(features)
    raw = np.asarray(features.splits["test"].x[:], dtype=np.float64)
    fitter, probes = fitted(features, penalty, sizes=sizes)
    predicted = fitter.predictions(probes, raw)
    agree = []
    for (walk, size), probe in probes.by_part.items():
        part = np.arange(features.n_neurons) if walk == 1 else fitter.plan.parts.orders[0, :size]
        model = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=50_000).fit(x[:, part], y)
        ours = objective(x[:, part], y, probe.weights, probe.intercepts, penalty)
        theirs = objective(x[:, part], y, model.coef_, model.intercept_, penalty)
        assert abs(ours / theirs - 1) <= 1e-5, (size, ours, theirs)
        column = int(np.searchsorted(fitter.plan.sizes, size))
        agree.append(predicted[walk, :, column] == model.predict(xt[:, part]))
    assert np.mean(agree) >= 0.998


@pytest.mark.parametrize("penalty", [0.5, 20.0, 2000.0])
def test_the_default_tolerance_is_near_enough_on_digits(digits, penalty):
    assert_the_default_is_near_enough(digits, penalty, [4, 16, 50])


def test_the_default_tolerance_is_near_enough_with_fewer_rows_than_neurons(real_features):
    train, test = real_features.splits["train"], real_features.splits["test"]
    few = np.sort(np.random.default_rng(0).permutation(train.x.shape[0])[:400])
    fs = cm.Features.from_arrays((train.x[few], train.y[few]), test=(test.x[:], test.y))
    assert_the_default_is_near_enough(fs, 20.0, [64, 600])


@pytest.mark.realdata
def test_the_default_tolerance_is_near_enough_on_77_classes(banking77):
    assert_the_default_is_near_enough(banking77, 10.0, [32, 128])


@pytest.mark.parametrize("regularisation", [5.0, None])
def test_one_whole_one_number_whatever_is_asked_beside_it(digits, monkeypatch, regularisation):
    train, test = digits.splits["train"], digits.splits["test"]
    fs = cm.Features.from_arrays(
        (train.x[:].astype(np.float32), train.y), test=(test.x[:].astype(np.float32), test.y)
    )
    fits = []
    fit = Fitter.fit

    def spied(self, *args):
        fits.append((len(self.plan.groups) - 1, fit(self, *args)))
        return fits[-1][1]

    monkeypatch.setattr(Fitter, "fit", spied)
    found = set()
    for parts, sizes, repeats in (
        ("random", [0.1], 1),
        ("random", "paper", 5),
        ("first", [0.8, 0.9], 1),
        ("pca", [0.1, 0.9], 1),
    ):
        curve = cm.measure(
            fs, score="logistic", parts=parts, sizes=sizes, repeats=repeats, regularisation=regularisation
        )
        walk, probes = fits[-1]
        whole = probes.by_part[walk, fs.n_neurons]
        found.add((curve.whole, whole.weights.tobytes(), whole.intercepts.tobytes()))
    assert len(found) == 1


def test_two_classes_equal_sklearn(digits):
    x, y, xt, yt = standardised(digits)
    fs = cm.Features.from_arrays((x, y % 2), test=(xt, yt % 2))
    assert_equals_sklearn(fs, 5.0, sizes=[2, 11, 40], repeats=2)
    curve = cm.measure(fs, score="logistic", sizes=[11], regularisation=5.0, repeats=1)
    part = curve.indices(repeat=0, size=11)
    model = LogisticRegression(C=1 / 5.0, tol=1e-6).fit(x[:, part], y % 2)
    assert curve.frame["score"][0] == pytest.approx(model.score(xt[:, part], yt % 2), abs=1.5 / len(yt))


@pytest.mark.realdata
def test_short_texts_of_77_classes_equal_sklearn(banking77):
    assert len(banking77.classes) == 77
    assert_equals_sklearn(banking77, 10.0, sizes=[32, 128])


def test_weights_and_class_weights_equal_sklearn(digits):
    x, y, xt, yt = standardised(digits)
    own = np.random.default_rng(0).uniform(0.2, 3.0, len(y))
    fs = cm.Features.from_arrays((x, y), test=(xt, yt), weights={"train": own})
    for given_weight in (None, "balanced", {3: 5.0, "7": 0.5}):
        score = replace(EXACT, standardise=False, class_weight=given_weight)
        weights = row_weights(fs, fs.splits["train"], given_weight)
        _, probes = fitted(fs, 10.0, sizes=[20], score=score, weights=weights)
        part = make_parts("random", 64, repeats=1).orders[0, :20]
        theirs = {3: 5.0, 7: 0.5} if isinstance(given_weight, dict) else given_weight
        model = LogisticRegression(C=0.1, tol=1e-6, max_iter=5000, class_weight=theirs)
        model.fit(x[:, part], y, sample_weight=own)
        found = probes.by_part[0, 20]
        assert np.linalg.norm(found.weights - model.coef_) < 1e-3 * np.linalg.norm(model.coef_)


def test_more_weight_is_the_same_as_more_rows():
    x, y = made_up(n=90, d=8)
    weights = np.random.default_rng(1).integers(1, 4, 60).astype(float)
    again = np.repeat(np.arange(60), weights.astype(int))
    test = (x[60:], y[60:])
    weighted = cm.Features.from_arrays((x[:60], y[:60]), test=test, weights={"train": weights})
    repeated = cm.Features.from_arrays((x[:60][again], y[:60][again]), test=test)
    for score in ("logistic", "ridge"):
        one, other = (
            cm.measure(fs, score=score, regularisation=2.0, sizes="all", repeats=2)
            for fs in (weighted, repeated)
        )
        np.testing.assert_allclose(one.measurement.scores, other.measurement.scores, atol=1e-12)


def test_the_chosen_penalty_is_the_naive_loops(digits):
    x, y = np.asarray(digits.splits["train"].x[:]), digits.splits["train"].y
    held = digits.validation_rows(0)
    fit = np.setdiff1d(np.arange(len(y)), held)
    scaler = StandardScaler().fit(x[fit])
    a, b = scaler.transform(x[fit]), scaler.transform(x[held])
    unit = len(fit) * (a.var(axis=0).mean())
    curve = cm.measure(digits, score="logistic", sizes=[4, 16], repeats=2)
    tables = []
    for repeat in range(2):
        for size in (4, 16):
            part = curve.indices(repeat=repeat, size=size)
            found = []
            for penalty in PENALTIES:
                model = LogisticRegression(C=1 / (penalty * unit), tol=1e-6, max_iter=5000)
                found.append(model.fit(a[:, part], y[fit]).score(b[:, part], y[held]))
            chosen = curve.frame.filter(repeat=repeat, size=size)["regularisation"][0] / (
                unit * len(y) / len(fit)
            )
            place = int(np.argmin(np.abs(np.log(np.array(PENALTIES) / chosen))))
            assert PENALTIES[place] == pytest.approx(chosen)
            tables.append(max(found) - found[place])
    # A looser fit may trade places with its neighbour, by a row or two of the 270.
    assert max(tables) <= 2 / len(held)
    assert np.mean(np.array(tables) == 0) >= 0.5


def test_test_rows_are_never_seen_by_the_choice(digits):
    x, y = np.asarray(digits.splits["train"].x[:]), digits.splits["train"].y
    xt, yt = np.asarray(digits.splits["test"].x[:]), digits.splits["test"].y
    honest, wrong = (
        cm.measure(cm.Features.from_arrays((x, y), test=(xt, labels)), score="logistic", sizes=[5], repeats=2)
        for labels in (yt, (yt + 1) % 10)
    )
    assert (honest.measurement.chosen["regularisation"] == wrong.measurement.chosen["regularisation"]).all()


def test_what_did_not_converge_is_said(digits):
    curve = cm.measure(
        digits, score="logistic", sizes=[20], repeats=2, regularisation=1e-3, settings={"iterations": 2}
    )
    assert not curve.frame["converged"].any()
    assert curve.warnings == [
        "4 of 4 logistic probes did not converge: raise iterations or regularisation, or loosen the tolerance"
    ]
    assert cm.measure(digits, score="logistic", sizes=[20], repeats=2, regularisation=10.0).warnings == []


def test_many_classes_and_one_row_classes():
    generator = np.random.default_rng(0)
    y = np.concatenate([np.repeat(np.arange(300), 3), [300]])
    means = generator.normal(size=(301, 24)) * 2
    x = means[y] + generator.normal(size=(len(y), 24))
    fs = cm.Features.from_arrays((x, y), test=(means[:300], np.arange(300)))
    curve = cm.measure(fs, score="logistic", sizes=[6, 12], repeats=2, regularisation=1.0)
    assert curve.measurement.converged.all()
    model = LogisticRegression(C=1.0, tol=1e-6, max_iter=5000)
    scaler = StandardScaler().fit(x)
    model.fit(scaler.transform(x), y)
    assert curve.whole == pytest.approx(model.score(scaler.transform(means[:300]), np.arange(300)), abs=0.01)


def test_constant_and_duplicate_neurons_do_no_harm():
    x, y = made_up(n=150, d=6)
    x = np.column_stack([x, x[:, 0], np.full(150, 3.3)])
    fs = cm.Features.from_arrays((x[:100], y[:100]), test=(x[100:], y[100:]))
    curve = cm.measure(fs, score="logistic", sizes="all", repeats=2)
    assert np.isfinite(curve.measurement.scores).all()
    assert curve.measurement.converged.all()


def test_targets_are_refused_with_the_next_step():
    x, _ = made_up(n=60, d=4)
    fs = cm.Features.from_arrays((x, x[:, 0] * 1.5))
    with pytest.raises(cm.InputError, match="use ridge"):
        cm.measure(fs, score="logistic")


@pytest.mark.parametrize("name", ["regularisation", "tolerance", "iterations"])
def test_settings_out_of_range_are_named(name):
    for value in (0, -1.0, float("nan"), "much", True):
        with pytest.raises(cm.InputError, match=name):
            Logistic(**{name: value})


def test_rows_read_again_at_every_pass_give_the_same_bits(digits, tmp_path):
    stored = digits.save(tmp_path / "store", shard_rows=100)
    kept, streamed = [], []
    for features in (digits, stored):
        for memory, home in ((8 * 2.0**30, kept), (1e5, streamed)):
            fitter, probes = fitted(features, 5.0, sizes=[5, 30], repeats=2, run=Run(memory=memory))
            assert fitter.rows.keep == (memory > 1e6)
            home.append({key: probe.weights.tobytes() for key, probe in probes.by_part.items()})
    assert kept[0] == kept[1] == streamed[0] == streamed[1]


def test_torch_and_numpy_find_the_same_probes(digits):
    one, other = (
        fitted(digits, 5.0, sizes=[3, 20, 40], repeats=2, score=EXACT, run=Run(device=Device(name)))[1]
        for name in ("cpu", "torch:cpu")
    )
    for key, probe in one.by_part.items():
        found = other.by_part[key].weights.numpy()
        assert np.linalg.norm(found - probe.weights) < 1e-3 * np.linalg.norm(probe.weights)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=8, unique=True).map(sorted),
    outputs=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**16),
)
def test_probes_side_by_side_give_what_each_gives_alone(sizes, outputs, seed):
    generator = np.random.default_rng(seed)
    weights = [generator.normal(size=(outputs, size)) for size in sizes]
    intercepts = [generator.normal(size=outputs) for _ in sizes]
    order, x = generator.permutation(200), generator.normal(size=(200, 7))
    side = Side.of(order, weights, intercepts, np)
    found = side.outputs(side.ordered(x)).reshape(len(sizes), outputs, 7)
    for own, intercept, size, output in zip(weights, intercepts, sizes, found, strict=True):
        np.testing.assert_allclose(output, own @ x[order[:size]] + intercept[:, None], atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), penalty=st.floats(1e-2, 1e2), classes=st.sampled_from([2, 3, 5]))
def test_the_gradient_vanishes_at_the_solution(seed, penalty, classes):
    x, y = made_up(n=80, d=10, classes=classes, seed=seed)
    y[:classes] = np.arange(classes)
    fs = cm.Features.from_arrays((x, y), test=(x, y))
    a, _, _, _ = standardised(fs)
    _, probes = fitted(fs, penalty, sizes=[4], score=Logistic(tolerance=1e-12))
    probe, part = probes.by_part[0, 4], make_parts("random", 10, repeats=1).orders[0, :4]
    z = a[:, part] @ probe.weights.T + probe.intercepts
    if classes == 2:
        error = 1 / (1 + np.exp(-z)) - y[:, None]
    else:
        p = np.exp(z - z.max(axis=1, keepdims=True))
        error = p / p.sum(axis=1, keepdims=True) - np.eye(classes)[y]
    gradient = error.T @ a[:, part] + penalty * probe.weights
    start = (np.eye(classes)[y] - 1 / classes).T @ a[:, part]
    assert np.linalg.norm(gradient) < 1e-4 * np.linalg.norm(start)
    assert np.abs(error.sum(axis=0)).max() < 1e-3 * len(y)


@pytest.mark.parametrize("family", ["pca", "random-projection"])
def test_dense_bases_equal_sklearn_on_the_projected_rows(digits, family):
    x, y, xt, yt = standardised(digits)
    parts = make_parts(family, 64, repeats=2, features=digits, standardise=True)
    curve = cm.measure(digits, score="logistic", parts=family, sizes=[12], regularisation=5.0, repeats=2)
    for repeat, basis in enumerate(parts.matrices):
        for place, size in enumerate((12, 64)):
            model = LogisticRegression(C=1 / 5.0, tol=1e-6, max_iter=5000).fit(x @ basis[:, :size], y)
            expected = model.score(xt @ basis[:, :size], yt)
            assert curve.measurement.scores[repeat, place] == pytest.approx(expected, abs=1.5 / len(yt))
    model = LogisticRegression(C=1 / 5.0, tol=1e-6, max_iter=5000).fit(x, y)
    assert curve.whole == pytest.approx(model.score(xt, yt), abs=1.5 / len(yt))


def test_a_rotation_of_the_whole_chooses_and_scores_as_the_whole(digits):
    curve = cm.measure(digits, score="logistic", parts="pca", sizes=[10])
    whole = cm.measure(digits, score="logistic", parts="first", sizes=[10])
    assert curve.whole == whole.whole
    rows = digits.splits["test"].x.shape[0]
    assert curve.measurement.scores[0, -1] == pytest.approx(whole.whole, abs=1.5 / rows)
    assert curve.measurement.chosen["regularisation"][0, -1] == pytest.approx(
        whole.measurement.chosen["regularisation"][0, -1]
    )
