"""A part and its probe that leave: they predict what the curve was measured with."""

from __future__ import annotations

import numpy as np
import pytest

import critmass as cm
from critmass.testing import made_up

D = 20


@pytest.fixture(scope="module")
def features():
    x, y = made_up(n=500, d=D, classes=4)
    names = np.array(["ant", "bee", "cat", "dog"])[y]
    return cm.Features.from_arrays((x[:300], names[:300]), test=(x[300:], names[300:]))


@pytest.mark.parametrize("parts", ["random", "pca", "random-projection", "first"])
@pytest.mark.parametrize(
    ("score", "settings"),
    [
        ("ridge", {}),
        ("ridge", {"standardise": False}),
        ("lda", {}),
        ("logistic", {"tolerance": 1e-9}),
        ("sgd", {"epochs": 3, "standardise": True, "learning_rate": 0.05}),
    ],
)
def test_its_predictions_have_the_curves_score(features, score, settings, parts):
    curve = cm.measure(features, score=score, parts=parts, sizes=[3, 11], repeats=2, settings=settings)
    test = features.splits["test"]
    names = np.array(features.classes)[test.y]
    for size in (3, 11, D):
        repeat = curve.repeats - 1
        kept = cm.fit_part(features, curve, repeat=repeat, size=size)
        columns = kept.selector.transform(test.x[:])
        assert columns.shape == (200, size)
        found = (kept.head.predict(columns) == names).mean()
        expected = curve.measurement.scores[repeat, curve.sizes.tolist().index(size)]
        # Products of another shape may round a row the other way.
        assert found == pytest.approx(expected, abs=1.5 / 200 if score in ("sgd", "logistic") else 1e-12)


def test_two_classes_targets_and_few_rows():
    x, y = made_up(n=60, d=40, classes=2)
    fs = cm.Features.from_arrays((x[:30], y[:30]), test=(x[30:], y[30:]))
    for memory in (8.0, 3e-4):  # by moments, and by Gram matrices of the rows
        curve = cm.measure(fs, sizes=[7], repeats=2, memory_gib=memory)
        kept = cm.fit_part(fs, curve, size=7, memory_gib=memory)
        assert kept.head.coefficients.shape == (1, 7)
        found = kept.head.predict(kept.selector.transform(x[30:])) == y[30:]
        assert found.mean() == pytest.approx(curve.measurement.scores[0, 0])
    targets = x[:, 0] * 2 + 1
    fs = cm.Features.from_arrays((x[:30], targets[:30]), test=(x[30:], targets[30:]), task="regression")
    curve = cm.measure(fs, sizes=[39], regularisation=1e-3, repeats=1)
    kept = cm.fit_part(fs, curve, size=39)
    error = kept.head.predict(kept.selector.transform(x[30:])) - targets[30:]
    expected = 1 - (error**2).sum() / ((targets[30:] - targets[30:].mean()) ** 2).sum()
    assert curve.measurement.scores[0, 0] == pytest.approx(expected)


def test_a_matrix_of_the_users_is_asked_for_again(features):
    matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(D, 6)))[0]
    curve = cm.measure(features, parts=matrix, sizes=[2, 6])
    with pytest.raises(cm.InputError, match=r"parts: found nothing; allowed: the parts of family 'matrix'"):
        cm.fit_part(features, curve, size=6)
    kept = cm.fit_part(features, curve, size=6, parts=matrix)
    assert kept.selector.matrix.shape == (D, 6)


def test_what_cannot_be_handed_over_is_named(features):
    curve = cm.measure(features, score="ridge", sizes=[3])
    with pytest.raises(cm.InputError, match=r"size: found 4; allowed: 3, 20"):
        cm.fit_part(features, curve, size=4)
    with pytest.raises(cm.InputError, match=r"repeat: found 5; allowed: 0 to 4"):
        cm.fit_part(features, curve, size=3, repeat=5)
    for score in ("knn", "centroid", "cka"):
        with pytest.raises(cm.InputError, match="a linear probe: ridge, lda, logistic or sgd"):
            cm.fit_part(features, cm.measure(features, score=score, sizes=[3]), size=3)
    kept = cm.fit_part(features, curve, size=3)
    with pytest.raises(cm.InputError, match=r"x: found shape \(2, 3\); allowed: shape \(n, 20\)"):
        kept.selector.transform(np.zeros((2, 3)))
    with pytest.raises(cm.InputError, match=r"z: found shape \(2, 20\); allowed: shape \(n, 3\)"):
        kept.head.predict(np.zeros((2, 20)))
