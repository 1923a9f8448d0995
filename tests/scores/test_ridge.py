"""The ridge probe against scikit-learn, part by part; λ on validation against the loop it replaces."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import critmass as cm
from critmass.linalg.moments import accumulate
from critmass.parts.groups import PrefixGroup
from critmass.parts.making import make_parts
from critmass.parts.plan import Plan
from critmass.parts.sizes import resolve_sizes
from critmass.scores.linear_solvers import Coefficients, GroupProblem, Job, Sweep, coefficients
from critmass.scores.moment_probes import PENALTIES
from critmass.scores.protocols import Run
from critmass.scores.ridge import Ridge
from critmass.testing import made_up


def rows_of(features, split):
    return np.asarray(features.splits[split].x[:], dtype=np.float64), features.splits[split].y


def standardised(features):
    (x, y), (xt, yt) = rows_of(features, "train"), rows_of(features, "test")
    scaler = StandardScaler().fit(x)
    return scaler.transform(x), y, scaler.transform(xt), yt


def problem_of(features):
    train = features.splits["train"]
    (moments,) = accumulate(train.x, targets=features.targets(train))
    return Ridge().problem(moments, features)


def job_of(problem, order, sizes, penalty):
    group = PrefixGroup(order, sizes, 0, np.arange(len(sizes)))
    return Job(GroupProblem.of(problem, group), sizes, np.arange(len(sizes)), penalty)


@pytest.mark.parametrize("penalty", [1.0, 100.0, 10_000.0])
def test_every_paper_size_and_repeat_equals_sklearn_on_real_features(real_features, penalty):
    x, y, xt, _ = standardised(real_features)
    raw = rows_of(real_features, "test")[0]
    problem = problem_of(real_features)
    sizes = resolve_sizes("paper", 1280)
    agree, rows = 0, 0
    for order in make_parts("random", 1280, repeats=2 if penalty == 100.0 else 1).orders:
        job = job_of(problem, order, sizes, penalty)
        found = coefficients(job)[0].transpose(1, 0, 2)
        ways = [way.outputs(raw) for way in (Coefficients.fit([job]), Sweep.fit(job))]
        for size, weights, (*_, explicit), (*_, swept) in zip(sizes, found, *ways, strict=True):
            part = order[:size]
            model = RidgeClassifier(alpha=penalty, solver="cholesky").fit(x[:, part], y)
            error = np.linalg.norm(weights[:size].T - model.coef_) / np.linalg.norm(model.coef_)
            assert error < 1e-4
            assert not weights[size:].any()
            expected = model.decision_function(xt[:, part])
            np.testing.assert_allclose(explicit.T, expected, atol=1e-7)
            np.testing.assert_allclose(swept.T, expected, atol=1e-7)
            # One neuron that is silent on a row ties the classes that never excite it: rounding decides.
            second, first = np.sort(expected, axis=1)[:, -2:].T
            clear = first - second > 1e-9
            assert clear.all() or size == 1
            agree += (explicit.argmax(axis=0) == expected.argmax(axis=1))[clear].sum()
            rows += clear.sum()
    assert agree / rows >= 0.999


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("sizes", ["all", [1, 7]])
def test_scores_equal_sklearn(dtype, classes, sizes):
    x, y = made_up(n=200, d=24, classes=classes, dtype=dtype)
    fs = cm.Features.from_arrays((x[:150], y[:150]), test=(x[150:], y[150:]))
    curve = cm.measure(fs, regularisation=3.0, sizes=sizes, repeats=2)
    a, ya, b, yb = standardised(fs)
    for row in curve.frame.iter_rows(named=True):
        part = curve.indices(repeat=row["repeat"], size=row["size"])
        expected = RidgeClassifier(alpha=3.0).fit(a[:, part], ya).score(b[:, part], yb)
        assert row["score"] == pytest.approx(expected)
    assert curve.whole == pytest.approx(RidgeClassifier(alpha=3.0).fit(a, ya).score(b, yb))


def test_regression_equals_sklearn():
    x, _ = made_up(n=300, d=16)
    generator = np.random.default_rng(3)
    y = (x - x.mean(0)) / x.std(0) @ generator.normal(size=16) * 40 + 1e4 + generator.normal(size=300) * 30
    fs = cm.Features.from_arrays((x[:200], y[:200]), test=(x[200:], y[200:]), task="regression")
    curve = cm.measure(fs, regularisation=5.0, sizes="all", repeats=3)
    a, ya, b, yb = standardised(fs)
    problem = problem_of(fs)
    for repeat, order in enumerate(curve.parts.orders):
        job = job_of(problem, order, np.arange(1, 17), 5.0)
        for size, weights in zip(job.sizes, coefficients(job)[0].transpose(1, 0, 2), strict=True):
            model = SklearnRidge(alpha=5.0).fit(a[:, order[:size]], ya)
            np.testing.assert_allclose(weights[:size, 0], model.coef_, rtol=1e-7)
            expected = r2_score(yb, model.predict(b[:, order[:size]]))
            assert curve.measurement.scores[repeat, size - 1] == pytest.approx(expected, abs=1e-9)


def test_without_standardising():
    x, y = made_up(n=200, d=12)
    fs = cm.Features.from_arrays((x[:150], y[:150]), test=(x[150:], y[150:]))
    curve = cm.measure(fs, regularisation=3.0, standardise=False, sizes=[5], repeats=1)
    part = curve.indices(repeat=0, size=5)
    model = RidgeClassifier(alpha=3.0).fit(x[:150, part], y[:150])
    assert curve.measurement.scores[0, 0] == pytest.approx(model.score(x[150:, part], y[150:]))


def test_more_neurons_than_rows():
    x, y = made_up(n=60, d=200)
    fs = cm.Features.from_arrays((x[:40], y[:40]), test=(x[40:], y[40:]))
    curve = cm.measure(fs, regularisation=0.5, sizes=[10, 39, 41, 150], repeats=2)
    a, ya, b, yb = standardised(fs)
    for row in curve.frame.iter_rows(named=True):
        part = curve.indices(repeat=row["repeat"], size=row["size"])
        expected = RidgeClassifier(alpha=0.5, solver="svd").fit(a[:, part], ya).score(b[:, part], yb)
        assert row["score"] == pytest.approx(expected)


def naive_choice(features, order, size, seed):
    """The loop that a user would write: standardise on fit rows, try the grid, refit on all rows."""
    x, y = rows_of(features, "train")
    if "validation" in features.splits:
        fit_x, fit_y, (val_x, val_y) = x, y, rows_of(features, "validation")
    else:
        held_out = np.isin(np.arange(len(x)), features.validation_rows(seed))
        fit_x, fit_y, val_x, val_y = x[~held_out], y[~held_out], x[held_out], y[held_out]
    scaler = StandardScaler().fit(fit_x)
    part = order[:size]
    fit_x, val_x = scaler.transform(fit_x), scaler.transform(val_x)
    unit = (fit_x**2).sum() / fit_x.shape[1]
    best = max(
        PENALTIES,
        key=lambda g: (
            RidgeClassifier(alpha=g * unit).fit(fit_x[:, part], fit_y).score(val_x[:, part], val_y),
            g,
        ),
    )
    return best * unit * len(x) / len(fit_x)


@pytest.mark.parametrize("explicit", [False, True])
def test_regularisation_is_what_the_naive_loop_chooses(digits, explicit):
    fs = digits
    if explicit:
        x, y = rows_of(digits, "train")
        fs = cm.Features.from_arrays(
            (x[:800], y[:800]), validation=(x[800:1000], y[800:1000]), test=rows_of(digits, "test")
        )
    curve = cm.measure(fs, sizes=[1, 5, 20], repeats=3, seed=4)
    a, ya, b, yb = standardised(fs)
    for row in curve.frame.iter_rows(named=True):
        part = curve.indices(repeat=row["repeat"], size=row["size"])
        order = curve.parts.orders[row["repeat"]] if row["size"] < 64 else np.arange(64)
        alpha = naive_choice(fs, order, row["size"], 4)
        assert row["regularisation"] == pytest.approx(alpha, rel=1e-9)
        part = order[: row["size"]]
        assert row["score"] == pytest.approx(
            RidgeClassifier(alpha=alpha).fit(a[:, part], ya).score(b[:, part], yb)
        )


def test_test_rows_are_never_seen_by_the_choice(digits):
    x, y = rows_of(digits, "train")
    xt, yt = rows_of(digits, "test")
    honest = cm.measure(cm.Features.from_arrays((x, y), test=(xt, yt)), sizes=[5, 20])
    wrong = cm.measure(cm.Features.from_arrays((x, y), test=(xt, (yt + 1) % 10)), sizes=[5, 20])
    assert (honest.measurement.chosen["regularisation"] == wrong.measurement.chosen["regularisation"]).all()
    assert wrong.whole < 0.2 < 0.8 < honest.whole


def test_balanced_accuracy_and_results_by_class_and_group():
    x, y = made_up(n=300, d=10)
    keep = (y != 2) | (np.arange(300) % 5 == 0)
    x, y = x[keep], y[keep]
    group = np.where(np.arange(len(y)) % 3 == 0, "a", "b")
    half = len(y) // 2
    fs = cm.Features.from_arrays(
        (x[:half], y[:half]), test=(x[half:], y[half:]), groups={"test": group[half:]}
    )
    curve = cm.measure(fs, regularisation=1.0, sizes=[4], repeats=2, metric="balanced-accuracy")
    a, ya, b, yb = standardised(fs)
    for repeat in range(2):
        part = curve.indices(repeat=repeat, size=4)
        predicted = RidgeClassifier(alpha=1.0).fit(a[:, part], ya).predict(b[:, part])
        assert curve.measurement.scores[repeat, 0] == pytest.approx(balanced_accuracy_score(yb, predicted))
        for kind, values, names in (("class", yb, fs.classes), ("group", group[half:], fs.groups)):
            frame = curve.by_class if kind == "class" else curve.by_group
            for name in names:
                (row,) = frame.filter(size=4, repeat=repeat, **{kind: name}).iter_rows(named=True)
                here = values == name
                assert row["rows"] == here.sum()
                assert row["score"] == pytest.approx((predicted == yb)[here].mean())


def test_r2_by_group_is_about_the_groups_own_mean():
    x, _ = made_up(n=200, d=6)
    y = (x - x.mean(0)) / x.std(0) @ np.arange(6.0) + np.random.default_rng(0).normal(size=200)
    group = np.arange(100) % 2
    fs = cm.Features.from_arrays((x[:100], y[:100]), test=(x[100:], y[100:]), groups={"test": group})
    curve = cm.measure(fs, regularisation=1.0, sizes=[3], repeats=1)
    a, ya, b, yb = standardised(fs)
    part = curve.indices(repeat=0, size=3)
    predicted = SklearnRidge(alpha=1.0).fit(a[:, part], ya).predict(b[:, part])
    found = curve.by_group.filter(size=3)["score"].to_list()
    assert found == pytest.approx([r2_score(yb[group == g], predicted[group == g]) for g in (0, 1)])


def test_covariance_is_that_of_the_rows(digits):
    curve = cm.measure(digits, regularisation=10.0, sizes=[3, 9], repeats=2)
    a, ya, b, yb = standardised(digits)
    whole = RidgeClassifier(alpha=10.0).fit(a, ya).predict(b) == yb
    for index, size in enumerate([3, 9]):
        right = [
            RidgeClassifier(alpha=10.0).fit(a[:, o[:size]], ya).predict(b[:, o[:size]]) == yb
            for o in curve.parts.orders
        ]
        np.testing.assert_allclose(curve.measurement.covariance[index], np.cov([*right, whole]), atol=1e-12)


def test_further_test_splits_use_the_same_probes(digits):
    x, y = rows_of(digits, "train")
    xt, yt = rows_of(digits, "test")
    fs = cm.Features.from_arrays((x, y), test=(xt, yt), tests={"shifted": (xt + 1, yt)})
    curve = cm.measure(fs, regularisation=10.0, sizes=[9], repeats=2)
    alone = cm.measure(
        cm.Features.from_arrays((x, y), test=(xt + 1, yt)), regularisation=10.0, sizes=[9], repeats=2
    )
    assert (curve.on("shifted").measurement.scores == alone.measurement.scores).all()
    assert curve.on("shifted").on("test").whole == curve.whole
    with pytest.raises(cm.InputError, match="did you mean 'shifted'"):
        curve.on("shfted")


def test_constant_and_duplicate_neurons_do_no_harm():
    x, y = made_up(n=150, d=6)
    x = np.column_stack([x, x[:, 0], np.full(150, 3.3)])
    fs = cm.Features.from_arrays((x[:100], y[:100]), test=(x[100:], y[100:]))
    curve = cm.measure(fs, sizes="all", repeats=2)
    assert np.isfinite(curve.measurement.scores).all()
    a, ya, b, yb = standardised(fs)
    alpha = curve.measurement.chosen["regularisation"][0, -1]
    assert curve.whole == pytest.approx(RidgeClassifier(alpha=alpha).fit(a, ya).score(b, yb))


def test_a_singular_system_is_named_with_the_next_step():
    x = np.ones((60, 4)) * np.random.default_rng(0).normal(size=(60, 1))
    fs = cm.Features.from_arrays((x, np.arange(60) % 2))
    with pytest.raises(cm.InputError, match="raise regularisation="):
        cm.measure(fs, regularisation=1e-300)


def test_a_class_with_one_row_and_unseen_rows_to_choose_on():
    x, y = made_up(n=100, d=5)
    y[0] = 9
    fs = cm.Features.from_arrays((x[:80], y[:80]), test=(x[80:], y[80:]))
    assert np.isfinite(cm.measure(fs, sizes=[2]).measurement.scores).all()
    two = cm.Features.from_arrays((x[:2], np.array([0, 1])), test=(x[80:], y[80:] % 2))
    with pytest.raises(cm.InputError, match="fix the regularisation"):
        cm.measure(two, sizes=[2])
    assert cm.measure(two, sizes=[2], regularisation=1.0).whole >= 0


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("sizes", ["all", [1, 7]])
def test_components_equal_sklearns_pipeline(classes, sizes):
    x, y = made_up(n=300, d=24, classes=classes)
    fs = cm.Features.from_arrays((x[:200], y[:200]), test=(x[200:], y[200:]))
    curve = cm.measure(fs, parts="pca", regularisation=3.0, sizes=sizes)
    for row in curve.frame.iter_rows(named=True):
        model = make_pipeline(
            StandardScaler(), PCA(row["size"], svd_solver="full"), RidgeClassifier(alpha=3.0)
        )
        assert row["score"] == pytest.approx(model.fit(x[:200], y[:200]).score(x[200:], y[200:]))
    assert curve.measurement.scores[0, -1] == curve.whole


def test_least_components_of_targets_equal_sklearn():
    x, _ = made_up(n=300, d=10)
    y = (x - x.mean(0)) / x.std(0) @ np.arange(1, 11) + np.random.default_rng(0).normal(size=300)
    fs = cm.Features.from_arrays((x[:200], y[:200]), test=(x[200:], y[200:]), task="regression")
    curve = cm.measure(fs, parts="pca-least", regularisation=5.0, sizes="all")
    a, ya, b, yb = standardised(fs)
    components = PCA().fit(a).components_[::-1]
    for row in curve.frame.iter_rows(named=True):
        part = components[: row["size"]].T
        model = SklearnRidge(alpha=5.0).fit(a @ part, ya)
        assert row["score"] == pytest.approx(r2_score(yb, model.predict(b @ part)), abs=1e-9)


@pytest.mark.parametrize("sizes", ["all", [20, 300]])
def test_components_of_real_features_equal_sklearns_pipeline(real_features, sizes):
    curve = cm.measure(real_features, parts="pca", regularisation=100.0, sizes=sizes)
    a, ya, b, yb = standardised(real_features)
    turn = PCA(svd_solver="full").fit(a)
    a, b = turn.transform(a), turn.transform(b)
    for size in (1, 20, 300, 1280):
        if size in curve.sizes:
            expected = RidgeClassifier(alpha=100.0).fit(a[:, :size], ya).score(b[:, :size], yb)
            found = curve.measurement.scores[0, list(curve.sizes).index(size)]
            assert found == pytest.approx(expected, abs=1.5 / len(yb))
    assert curve.measurement.scores[0, -1] == pytest.approx(curve.whole, abs=0.5 / len(yb))


@pytest.mark.parametrize("family", ["pca", "random-projection", "random-projection-uniform"])
def test_a_chosen_penalty_of_a_basis_equals_the_naive_loop(family):
    x, y = made_up(n=400, d=12)
    splits = {"train": slice(0, 150), "validation": slice(150, 250), "test": slice(250, 400)}
    fs = cm.Features.from_arrays(**{name: (x[rows], y[rows]) for name, rows in splits.items()})
    curve = cm.measure(fs, parts=family, sizes=[3, 7], repeats=2)
    bases = make_parts(family, 12, repeats=2, features=fs, standardise=True).matrices
    scaler = StandardScaler().fit(x[splits["train"]])
    rows = {name: scaler.transform(x[where]) for name, where in splits.items()}
    for row in curve.frame.iter_rows(named=True):
        basis = bases[row["repeat"]]
        # λ of penalty 1: the mean of the sums of squares of the basis's columns.
        unit = ((rows["train"] @ basis) ** 2).sum() / 12
        part = {name: values @ basis[:, : row["size"]] for name, values in rows.items()}
        models = [RidgeClassifier(alpha=p * unit).fit(part["train"], y[splits["train"]]) for p in PENALTIES]
        scores = [model.score(part["validation"], y[splits["validation"]]) for model in models]
        chosen = max(range(len(models)), key=lambda i: (scores[i], i))
        assert row["regularisation"] == pytest.approx(PENALTIES[chosen] * unit)
        assert row["score"] == pytest.approx(models[chosen].score(part["test"], y[splits["test"]]))


def test_a_rotation_of_the_whole_chooses_and_scores_as_the_whole(digits):
    curve = cm.measure(digits, parts="random-projection-orthogonal", sizes=[10], repeats=3)
    whole = cm.measure(digits, parts="first", sizes=[10])
    assert curve.whole == whole.whole
    assert (curve.measurement.scores[:, -1] == whole.whole).all()
    expected = whole.measurement.chosen["regularisation"][0, -1]
    assert curve.measurement.chosen["regularisation"][:, -1] == pytest.approx(expected)
    # The difference of the part of size d and the whole varies over rows not at all.
    last = curve.measurement.covariance[-1]
    np.testing.assert_allclose(last, last[-1, -1], atol=1e-12)


def test_the_interval_of_a_projection_is_that_of_credits_row_by_row(digits):
    a, ya, b, yb = standardised(digits)
    curve = cm.measure(digits, parts="random-projection", regularisation=10.0, sizes=[8], repeats=2)
    bases = make_parts("random-projection", 64, repeats=2).matrices
    right = [RidgeClassifier(alpha=10.0).fit(a @ m, ya).predict(b @ m) == yb for m in bases[:, :, :8]]
    right.append(RidgeClassifier(alpha=10.0).fit(a, ya).predict(b) == yb)
    np.testing.assert_allclose(curve.measurement.covariance[0], np.cov(np.array(right, float)), atol=1e-9)


def test_neurons_that_speak_up_in_rows_set_aside_only_are_constant_for_the_others():
    """Their shift is not 0, and over the rows that are fitted on its rounding error is no variance."""
    x, y = made_up(n=160, d=60, dtype=np.float32)
    fs = cm.Features.from_arrays((x, y))
    rare = np.array(fs.splits["train"].x[:])
    rare[:, 30:] = 0.0
    rare[fs.validation_rows(0)[:20], np.arange(30, 50)] = np.linspace(1e-3, 9.0, 20)
    fs = cm.Features.from_arrays(
        (rare, fs.splits["train"].y), test=(fs.splits["test"].x[:], fs.splits["test"].y)
    )
    plan = Plan.of(make_parts("random", 60, repeats=2), np.array([20, 45, 60]))
    first, second = (Ridge().measure(fs, plan, Run(way=way))["test"] for way in ("moments", "rows"))
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_allclose(first.chosen["regularisation"], second.chosen["regularisation"], rtol=1e-6)
