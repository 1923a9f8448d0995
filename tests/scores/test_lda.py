"""Linear discriminant analysis against its explicit formula, part by part, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import StandardScaler

import critmass as cm
from critmass.parts.making import make_parts
from critmass.scores.moment_probes import PENALTIES
from critmass.testing import made_up


def formula(x, y, penalty, weights=None):
    """Return xᵀ(S + λI)⁻¹μ − ½ μᵀ(S + λI)⁻¹μ + log π as a function of rows, from the definition."""
    weights = np.ones(len(x)) if weights is None else weights
    codes = np.arange(y.max() + 1)
    shares = np.array([weights[y == c].sum() for c in codes]) / weights.sum()
    means = np.stack([np.average(x[y == c], axis=0, weights=weights[y == c]) for c in codes])
    within = (weights[:, None] * (x - means[y])).T @ (x - means[y]) / weights.sum()
    solved = np.linalg.solve(within + penalty * np.eye(x.shape[1]), means.T)
    constants = np.log(shares) - 0.5 * np.einsum("cd,dc->c", means, solved)
    return lambda rows: rows @ solved + constants


def standardised(features, weights=None):
    x, xt = (np.asarray(features.splits[name].x[:], dtype=np.float64) for name in ("train", "test"))
    scaler = StandardScaler().fit(x, sample_weight=weights)
    return scaler.transform(x), features.splits["train"].y, scaler.transform(xt), features.splits["test"].y


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 3.0])
def test_every_paper_size_equals_the_formula_on_real_features(real_features, penalty):
    curve = cm.measure(real_features, score="lda", regularisation=penalty, repeats=1)
    x, y, xt, yt = standardised(real_features)
    for index, size in enumerate(curve.sizes.tolist()):
        part = curve.indices(repeat=0, size=size)
        expected = formula(x[:, part], y, penalty)(xt[:, part]).argmax(axis=1) == yt
        assert curve.measurement.scores[0, index] == pytest.approx(expected.mean(), abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**16), penalty=st.floats(1e-3, 10.0), classes=st.integers(2, 6))
def test_heads_equal_the_formula(seed, penalty, classes):
    x, y = made_up(n=150, d=9, classes=classes, seed=seed)
    y[:classes] = np.arange(classes)
    weights = np.random.default_rng(seed).uniform(0.2, 3.0, 150)
    fs = cm.Features.from_arrays((x, y), test=(x, y), weights={"train": weights})
    curve = cm.measure(fs, score="lda", regularisation=penalty, sizes=[4], repeats=1)
    kept = cm.fit_part(fs, curve, size=4)
    a, codes, _, _ = standardised(fs, weights)
    found = kept.head.decision_function(kept.selector.transform(x))
    expected = formula(a[:, kept.selector.neurons], codes, penalty, weights)(a[:, kept.selector.neurons])
    # Outputs are those of the formula but for what is common to all classes of a row.
    differences = [values - values.mean(axis=1, keepdims=True) for values in (found, expected)]
    np.testing.assert_allclose(*differences, atol=1e-6)


def test_equals_sklearns_where_classes_are_of_one_size():
    x, y = made_up(n=600, d=16, classes=5)
    rows = np.sort(np.concatenate([np.flatnonzero(y == c)[:40] for c in range(5)]))
    fs = cm.Features.from_arrays((x[rows], y[rows]), test=(x, y))
    a, codes, b, yt = standardised(fs)
    shrinkage = 0.3
    for size in (2, 7, 16):
        part = make_parts("random", 16, repeats=1).indices(0, size)
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=np.full(5, 0.2))
        model.fit(a[:, part], codes)
        # Shrunk, theirs is (1 - s) S + s m I, with m the mean of S's diagonal: ours times 1 - s.
        own = np.mean(
            [np.cov(a[codes == c][:, part].T, bias=True).reshape(size, -1) for c in range(5)], axis=0
        )
        penalty = shrinkage * np.trace(own) / size / (1 - shrinkage)
        curve = cm.measure(fs, score="lda", regularisation=penalty, sizes=[size], repeats=1)
        assert curve.measurement.scores[0, 0] == pytest.approx((model.predict(b[:, part]) == yt).mean())


def test_the_chosen_penalty_equals_the_naive_loop():
    x, y = made_up(n=500, d=12, classes=4)
    splits = {"train": slice(0, 150), "validation": slice(150, 300), "test": slice(300, 500)}
    fs = cm.Features.from_arrays(**{name: (x[rows], y[rows]) for name, rows in splits.items()})
    curve = cm.measure(fs, score="lda", sizes=[2, 5, 9], repeats=2)
    scaler = StandardScaler().fit(x[splits["train"]])
    rows = {name: scaler.transform(x[where]) for name, where in splits.items()}
    codes = y[splits["train"]]
    means = np.stack([rows["train"][codes == c].mean(axis=0) for c in range(4)])
    unit = ((rows["train"] - means[codes]) ** 2).mean()  # mean variance of a neuron within classes
    for row in curve.frame.iter_rows(named=True):
        part = curve.indices(repeat=row["repeat"], size=row["size"])
        models = [formula(rows["train"][:, part], codes, p * unit) for p in PENALTIES]
        right = [(m(rows["validation"][:, part]).argmax(1) == y[splits["validation"]]).mean() for m in models]
        chosen = max(range(len(models)), key=lambda i: (right[i], i))
        assert row["regularisation"] == pytest.approx(PENALTIES[chosen] * unit)
        expected = (models[chosen](rows["test"][:, part]).argmax(1) == y[splits["test"]]).mean()
        assert row["score"] == pytest.approx(expected)


def test_continuous_targets_are_refused_with_advice():
    x, _ = made_up(n=60, d=4)
    fs = cm.Features.from_arrays((x, x[:, 0]), task="regression")
    with pytest.raises(cm.InputError, match="use ridge or knn"):
        cm.measure(fs, score="lda")


def test_a_class_without_a_row_to_fit_on_is_never_chosen_while_choosing():
    x, y = made_up(n=300, d=6, classes=3)
    y[0] = 3  # one row: set aside or fitted on, never both
    fs = cm.Features.from_arrays((x[:200], y[:200]), test=(x[200:], y[200:]))
    assert np.isfinite(cm.measure(fs, score="lda", sizes=[3]).measurement.scores).all()
