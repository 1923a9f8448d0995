"""The nearest class mean against scikit-learn's NearestCentroid, part by part, and its definition."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

import critmass as cm
from critmass.scores import make_score
from critmass.testing import made_up

# NearestCentroid's word for a neuron that does not vary within the classes.
pytestmark = pytest.mark.filterwarnings("ignore:self.within_class_std_dev_ has")


def rows_of(features, split):
    return np.asarray(features.splits[split].x[:], dtype=np.float64), features.splits[split].y


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("kind", ["digits", "made up"])
def test_every_part_equals_sklearn(digits, standardise, kind):
    fs = digits
    if kind == "made up":
        x, y = made_up(n=3500, d=24, dtype=np.float32)
        fs = cm.Features.from_arrays((x[:2600], y[:2600]), test=(x[2600:], y[2600:]))
    sizes, asked = [1, 5, 20], {"standardise": standardise}
    curve = cm.measure(fs, score="centroid", sizes=sizes, repeats=3, settings=asked)
    (x, y), (queries, truth) = rows_of(fs, "train"), rows_of(fs, "test")
    if standardise:
        scaler = StandardScaler().fit(x)
        x, queries = scaler.transform(x), scaler.transform(queries)
    for row in curve.frame.iter_rows(named=True):
        part = curve.indices(repeat=row["repeat"], size=row["size"])
        if (x[:, part] == x[0, part]).all():
            continue  # NearestCentroid refuses neurons that are all constant
        model = NearestCentroid().fit(x[:, part], y)
        assert row["score"] == pytest.approx(model.score(queries[:, part], truth))


def test_real_features_equal_sklearn(real_features):
    curve = cm.measure(
        real_features, score="centroid", sizes=[10, 300], repeats=1, metric="balanced-accuracy"
    )
    (x, y), (queries, truth) = rows_of(real_features, "train"), rows_of(real_features, "test")
    for row in curve.frame.iter_rows(named=True):
        part = curve.indices(repeat=row["repeat"], size=row["size"])
        predicted = NearestCentroid().fit(x[:, part], y).predict(queries[:, part])
        assert row["score"] == pytest.approx(balanced_accuracy_score(truth, predicted))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_row_weights_and_cosine_by_their_definition(distance):
    x, y = made_up(n=500, d=12)
    weight = np.random.default_rng(1).uniform(0.1, 5, size=300)
    fs = cm.Features.from_arrays((x[:300], y[:300]), test=(x[300:], y[300:]), weights={"train": weight})
    curve = cm.measure(fs, score="centroid", sizes=[3, 8], repeats=2, settings={"distance": distance})
    means = np.stack(
        [np.average(x[:300][y[:300] == c], axis=0, weights=weight[y[:300] == c]) for c in range(3)]
    )
    for row in curve.frame.iter_rows(named=True):
        part = curve.indices(repeat=row["repeat"], size=row["size"])
        a, b = x[300:, None, part], means[:, part]
        if distance == "euclidean":
            gaps = ((a - b) ** 2).sum(axis=2)
        else:
            gaps = -(a * b).sum(axis=2) / np.linalg.norm(b, axis=1)
        assert row["score"] == pytest.approx((gaps.argmin(axis=1) == y[300:]).mean())


def test_weights_count_as_copies_of_rows():
    x, y = made_up(n=400, d=8)
    times = np.random.default_rng(2).integers(1, 4, size=250)
    copies = np.repeat(np.arange(250), times)
    asked = {"score": "centroid", "sizes": "all", "repeats": 2, "standardise": True}
    weighted = cm.Features.from_arrays(
        (x[:250], y[:250]), test=(x[250:], y[250:]), weights={"train": times.astype(float)}
    )
    repeated = cm.Features.from_arrays((x[copies], y[copies]), test=(x[250:], y[250:]))
    one, other = (cm.measure(fs, **asked).measurement for fs in (weighted, repeated))
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-12)


def test_continuous_targets_and_unknown_settings_are_refused():
    x, _ = made_up(n=100, d=4)
    fs = cm.Features.from_arrays((x, x[:, 0]), task="regression")
    with pytest.raises(cm.InputError, match=r"found continuous targets; allowed: classes; use ridge or knn"):
        cm.measure(fs, score="centroid")
    with pytest.raises(cm.InputError, match="distance: found 'manhattan'; allowed: cosine, euclidean"):
        make_score("centroid", {"distance": "manhattan"})
    with pytest.raises(cm.InputError, match="n_neighbours: found 3; allowed: distance, standardise, metric"):
        make_score("centroid", {"n_neighbours": 3})
