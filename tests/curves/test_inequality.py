"""Gini and variation against direct formulas; corrections, nulls and intervals against simulation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

import critmass as cm
from critmass.curves import gini as indices
from critmass.curves import inequality as module
from critmass.scores.protocols import Measurement
from critmass.testing import made_up

ACCURACIES = hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1, allow_subnormal=False))


def naive_gini(values):
    return np.abs(np.subtract.outer(values, values)).mean() / (2 * np.mean(values))


@given(ACCURACIES, st.floats(0.01, 100), st.integers(2, 4))
def test_indices_are_the_direct_formulas_and_know_neither_scale_nor_number(values, scale, copies):
    if not values.mean() > 1e-6:
        return
    direct = {
        indices.gini: naive_gini(values),
        indices.coefficient_of_variation: np.sqrt(np.mean((values - values.mean()) ** 2)) / values.mean(),
    }
    for index, expected in direct.items():
        assert index(values) == pytest.approx(expected, abs=1e-9)
        assert index(scale * values) == pytest.approx(expected, abs=1e-9)
        assert index(np.repeat(values, copies)) == pytest.approx(expected, abs=1e-9)
        assert index(values[::-1]) == pytest.approx(expected, abs=1e-12)
        assert (index(values) > 1e-9) == (np.ptp(values) > 1e-8 * values.mean()) or expected < 1e-7
    assert -1e-12 <= indices.gini(values) <= 1 - 1 / len(values) + 1e-12


@given(st.floats(0, 1), st.integers(1, 9))
def test_equal_accuracies_are_equal(value, n):
    for index in (indices.gini, indices.coefficient_of_variation):
        assert index(np.full(n, value)) == pytest.approx(0, abs=1e-12)


def test_indices_are_taken_over_the_last_axis():
    values = np.random.default_rng(0).random((3, 4, 5))
    for index in (indices.gini, indices.coefficient_of_variation):
        assert index(values)[1, 2] == pytest.approx(index(values[1, 2]))
    assert indices.gini([1.0, 0.0, 0.0, 0.0]) == 0.75


@pytest.mark.parametrize("slope", ["_gini_slope", "_cov_slope"])
def test_slopes_are_derivatives(slope):
    values = np.random.default_rng(1).random(6)
    index = indices.gini if slope == "_gini_slope" else indices.coefficient_of_variation
    steps = 1e-6 * np.eye(6)
    expected = (index(values + steps) - index(values - steps)) / 2e-6
    np.testing.assert_allclose(getattr(indices, slope)(values), expected, atol=1e-7)


@pytest.mark.parametrize("rows", [[10] * 6, [5, 8, 20, 50, 100, 400]])
@pytest.mark.parametrize("level", [0.3, 0.7, 0.95])
def test_inflation_is_what_binomial_rows_add(rows, level):
    generator = np.random.default_rng(2)
    rows, true = np.array(rows), np.clip(level + np.linspace(-0.1, 0.05, 6), 0, 1)
    drawn = generator.binomial(rows, true, size=(200_000, 6)) / rows
    added = indices.gini(drawn).mean() ** 2 - indices.gini(true) ** 2
    assert indices._gini_inflation(true, rows) == pytest.approx(added, rel=0.12)
    added = (drawn.var(axis=1).mean() - true.var()) / true.mean() ** 2
    assert indices._cov_inflation(true, rows) == pytest.approx(added, rel=0.01)


# Simulated curves whose truth is known.

LEVELS = np.linspace(-0.3, 1.4, 10)
ROWS = np.array([20, 30, 40, 40, 40, 60, 60, 80, 80, 100])


def curve_of(right, whole, y, sizes=None):
    """Curve of credits `right`, shape (n_repeats, n_sizes, n_rows), and `whole`, shape (n_rows,)."""
    member, rows = (y[:, None] == np.arange(y.max() + 1)).astype(float), np.bincount(y)
    measurement = Measurement.of_credits(right, whole)
    by_class = {"by_class": right @ member / rows, "whole_by_class": whole @ member / rows}
    fields = {**by_class, "class_rows": rows}
    names = tuple(f"c{i}" for i in range(y.max() + 1))
    sizes = np.arange(1, right.shape[1] + 1) if sizes is None else sizes
    measurement = Measurement(**{**measurement.__dict__, **fields})
    return SimpleNamespace(
        measurement=measurement,
        sizes=sizes,
        n_neurons=int(sizes[-1]),
        metric="accuracy",
        classes=names,
        groups=None,
    )


def simulated(generator, levels, *, parts_sd, rows_sd=1.0, repeats=5, runs=400, rows=ROWS):
    """Return credits of `runs` independent curves side by side, and the class of each row."""
    y = np.repeat(np.arange(len(rows)), rows)
    ability = generator.normal(0, rows_sd, (runs, len(y)))
    shift = generator.normal(0, parts_sd, (repeats, runs, len(rows)))
    latent = (levels + shift)[..., y] + ability + generator.normal(size=(repeats, runs, len(y)))
    return (latent > 0).astype(float), y


def truth(levels, parts_sd, index, rows_sd=1.0):
    """Mean over parts of an index of the true accuracies by class."""
    shift = np.random.default_rng(9).normal(0, parts_sd, (100_000, len(levels)))
    return index(stats.norm.cdf((levels + shift) / np.sqrt(1 + rows_sd**2))).mean()


def test_correction_takes_away_the_bias_of_finite_rows():
    generator = np.random.default_rng(3)
    right, y = simulated(generator, LEVELS, parts_sd=0.0, repeats=1, runs=3000, rows=np.full(10, 40))
    frame = module.inequality(curve_of(right, right[0, 0], y)).frame
    true = stats.norm.cdf(LEVELS / np.sqrt(2))
    raw, corrected = ((frame[name] * frame["accuracy"]) ** 2 for name in ("cov", "cov_corrected"))
    error = corrected.std() / np.sqrt(3000)
    assert raw.mean() - true.var() > 10 * error
    assert abs(corrected.mean() - true.var()) < 3 * error
    for name, index in (("gini", indices.gini), ("cov", indices.coefficient_of_variation)):
        bias = {column: frame[column].mean() - index(true) for column in (name, f"{name}_corrected")}
        assert abs(bias[f"{name}_corrected"]) < bias[name] / 3


def pairs_of_whole_and_part(generator, kept, runs, rows=ROWS):
    """Credits of a whole with the true accuracies of LEVELS, and of parts that keep these shares of them."""
    y = np.repeat(np.arange(len(rows)), rows)
    whole = stats.norm.cdf(LEVELS)
    for _ in range(runs):
        luck = 0.8 * generator.normal(size=len(y)) + 0.6 * generator.normal(size=(6, len(y)))
        right = luck < stats.norm.ppf(np.concatenate([np.outer(np.ones(5), kept * whole), whole[None]]))[:, y]
        right = right.astype(float)
        yield curve_of(np.stack([right[:5], right[5:].repeat(5, axis=0)], axis=1), right[5], y)


def test_the_null_is_what_a_proportional_loss_gives():
    generator = np.random.default_rng(4)
    curves = pairs_of_whole_and_part(generator, np.full(10, 0.75), runs=400)
    frame = pl.concat([module.inequality(curve).frame.filter(size=1) for curve in curves])
    for name in ("gini", "cov"):
        error = (frame[name] - frame[f"{name}_null"]).std() / np.sqrt(len(frame))
        assert abs((frame[name] - frame[f"{name}_null"]).mean()) < 3 * error + 0.0005
        assert abs(frame[f"{name}_excess"].mean()) < 3 * error + 0.0005
        held = (frame[f"{name}_excess_low"] <= 0) & (frame[f"{name}_excess_high"] >= 0)
        assert held.mean() >= 0.93
    assert abs((frame["worst_accuracy"] - frame["worst_null"]).mean()) < 0.02


def test_a_loss_that_falls_on_two_classes_exceeds_the_null():
    kept = np.where(np.arange(10) < 2, 0.2, 1.0)
    curves = pairs_of_whole_and_part(np.random.default_rng(5), kept, runs=100)
    frame = pl.concat([module.inequality(curve).frame.filter(size=1) for curve in curves])
    for name, index in (("gini", indices.gini), ("cov", indices.coefficient_of_variation)):
        assert (frame[f"{name}_excess_low"] > 0).mean() > 0.95
        expected = index(kept * stats.norm.cdf(LEVELS)) - index(stats.norm.cdf(LEVELS))
        assert frame[f"{name}_excess"].mean() == pytest.approx(expected, abs=0.005)
        held = (frame[f"{name}_excess_low"] <= expected) & (frame[f"{name}_excess_high"] >= expected)
        assert held.mean() >= 0.93
    assert (frame["worst_accuracy"] < frame["worst_null"]).all()


@pytest.mark.parametrize("repeats", [2, 5, 20])
@pytest.mark.parametrize("parts_sd", [0.0, 0.3])
@pytest.mark.parametrize("levels", [LEVELS, np.full(10, 0.8)], ids=["unequal", "equal"])
def test_coverage_of_the_intervals(repeats, parts_sd, levels):
    """95% intervals hold the truth in 93% of 600 runs or more, also where classes are equal and it is 0."""
    generator = np.random.default_rng(repeats)
    right, y = simulated(generator, levels, parts_sd=parts_sd, repeats=repeats, runs=600)
    frame = module.inequality(curve_of(right, right[0, 0], y)).frame
    expected = {
        "gini": truth(levels, parts_sd, indices.gini),
        "cov": truth(levels, parts_sd, indices.coefficient_of_variation),
        "worst": stats.norm.cdf(levels / np.sqrt(2 + parts_sd**2)).min(),
    }
    for name, true in expected.items():
        held = (frame[f"{name}_low"] <= true + 1e-9) & (frame[f"{name}_high"] >= true)
        assert held.mean() >= 0.93, name


# Curves of real measurements.


@pytest.fixture(scope="module")
def curve(digits):
    x, y = digits.splits["test"].x[:], digits.splits["test"].y
    train = digits.splits["train"]
    groups = np.where(np.arange(len(y)) % 3, "many", "few")
    fs = cm.Features.from_arrays(
        (train.x[:], train.y),
        test=(x, y),
        tests={"half": (x[::2], y[::2])},
        groups={"test": groups},
        name="digits",
    )
    return cm.measure(fs)


def check(curve):
    """Every plain number of the frames against by_class and by_group."""
    found = cm.inequality(curve)
    kinds = {"class": curve.by_class}
    if curve.measurement.by_group is not None:
        kinds["group"] = curve.by_group
    assert found.frame["by"].unique(maintain_order=True).to_list() == list(kinds)
    for by, long in kinds.items():
        for row in found.by_repeat.filter(by=by).iter_rows(named=True):
            part = long.filter(size=row["size"], repeat=row["repeat"])
            values = part["score"].to_numpy()
            assert row["gini"] == pytest.approx(naive_gini(values), abs=1e-12)
            assert row["cov"] == pytest.approx(np.std(values) / np.mean(values), abs=1e-12)
            assert row["worst_accuracy"] == values.min()
            assert row["worst"] == str(part[by][int(values.argmin())])
            assert row["accuracy"] == pytest.approx(
                (values * part["rows"].to_numpy()).sum() / part["rows"].sum()
            )
        means = (
            found.by_repeat.filter(by=by)
            .group_by("size", maintain_order=True)
            .agg(pl.col("gini", "cov", "accuracy").mean())
        )
        frame = found.frame.filter(by=by)
        for name in ("gini", "cov", "accuracy"):
            np.testing.assert_allclose(frame[name], means[name], atol=1e-12)
        by_name = long.group_by("size", by, maintain_order=True).agg(pl.col("score").mean())
        lowest = by_name.group_by("size", maintain_order=True).agg(pl.col("score").min())
        np.testing.assert_allclose(frame["worst_accuracy"], lowest["score"], atol=1e-12)
    return found


def test_digits_by_class_and_group(curve):
    found = check(curve)
    frame = found.frame
    whole = frame.filter(size=64)
    np.testing.assert_allclose(whole.select("gini_excess", "cov_excess"), 0, atol=1e-12)
    for name in ("gini", "cov"):
        np.testing.assert_allclose(whole[name], whole[f"{name}_null"], atol=1e-12)
        assert (frame[f"{name}_corrected"] <= frame[name]).all()
        assert (frame[f"{name}_low"] <= frame[f"{name}_corrected"] + 1e-12).all()
        assert (frame[f"{name}_high"] >= frame[f"{name}_corrected"] - 1e-12).all()
        assert (frame[f"{name}_excess_low"] <= frame[f"{name}_excess"] + 1e-12).all()
        assert (frame[f"{name}_excess_high"] >= frame[f"{name}_excess"] - 1e-12).all()
    assert (frame["worst_low"] <= frame["worst_accuracy"]).all()
    np.testing.assert_allclose(whole["worst_null"], whole["worst_accuracy"])
    small = frame.filter(by="class", size=6)
    assert small["gini_excess_low"].item() > 0
    assert small["worst_accuracy"].item() < small["worst_null"].item()
    shares = curve.by_class.filter(size=64, repeat=0)
    assert shares["score"].to_list() == shares["whole"].to_list()


def test_other_test_splits_have_their_own(curve):
    found = check(curve.on("half"))
    assert not found.frame.equals(cm.inequality(curve).frame)
    table = module.table([curve])
    assert table["split"].unique(maintain_order=True).to_list() == ["test", "half"]
    assert table.filter(split="half").select(found.frame.columns).equals(found.frame)


def test_the_trade_off_is_read_off_the_frame(curve):
    found = cm.inequality(curve)
    trade, frame = found.trade_off.filter(by="class"), found.frame.filter(by="class")
    assert trade["dropped"].to_list() == (64 - frame["size"]).to_list()
    whole = frame.row(-1, named=True)
    for row, at in zip(trade.iter_rows(named=True), frame.iter_rows(named=True), strict=True):
        lost = whole["accuracy"] - at["accuracy"]
        worst = whole["worst_accuracy"] - at["worst_accuracy"]
        assert row["accuracy_lost"] == pytest.approx(lost)
        assert row["worst_lost"] == pytest.approx(worst)
        assert row["gini_excess_low"] == at["gini_excess_low"]
        if row["dropped"]:
            percent = 100 * row["dropped"] / 64
            assert row["accuracy_lost_per_percent"] == pytest.approx(lost / percent)
            assert row["cov_excess_per_percent"] == pytest.approx(at["cov_excess"] / percent)
            assert row["worst_to_mean"] == (pytest.approx(worst / lost) if lost > 0 else None)
        else:
            assert row["accuracy_lost_per_percent"] is row["worst_to_mean"] is None


def test_real_features(real_features):
    frame = check(cm.measure(real_features, sizes=[0.01, 0.05, 0.2])).frame
    assert frame["cov_excess"][0] > frame["cov_excess"][2]
    assert frame["cov_excess_low"][0] > 0
    assert frame["worst_accuracy"][0] < frame["worst_null"][0]


@pytest.mark.parametrize("metric", ["accuracy", "balanced-accuracy"])
def test_correlation_over_rows_of_one_class_is_that_of_the_credits(metric):
    generator = np.random.default_rng(6)
    right, y = simulated(generator, LEVELS, parts_sd=0.3, repeats=2, runs=3)
    whole = (generator.random(len(y)) < 0.8).astype(float)
    weight = 1.0 if metric == "accuracy" else len(y) / (10 * np.bincount(y)[y])
    measurement = curve_of(right, whole, y).measurement
    credited = Measurement.of_credits(right * weight, whole * weight)
    kept = ("scores", "whole", "covariance")
    measurement = Measurement(**{**measurement.__dict__, **{key: getattr(credited, key) for key in kept}})
    found = module._within_classes(measurement, metric)
    for size in range(3):
        every = np.stack([*right[:, size], whole]) * weight
        centred = every - np.stack([[row[y == c].mean() for c in range(10)] for row in every])[:, y]
        np.testing.assert_allclose(found[size], np.corrcoef(centred), atol=0.01)


# What cannot be had.


def test_one_row_of_a_class_leaves_no_correction_and_none_leaves_the_class_out():
    x, y = made_up(n=240, d=6)
    y_test = np.r_[np.zeros(30, int), np.ones(29, int), 2]
    curve = cm.measure(cm.Features.from_arrays((x[:180], y[:180]), test=(x[180:], y_test)), sizes=[2, 4])
    found = cm.inequality(curve).frame
    assert (
        found.select("gini", "cov", "worst_accuracy", "worst_low", "worst_high")
        .null_count()
        .sum_horizontal()[0]
        == 0
    )
    for name in ("gini", "cov"):
        assert found[f"{name}_corrected"].null_count() == found[f"{name}_null"].null_count() == len(found)
        assert found[f"{name}_low"].null_count() == found[f"{name}_excess_high"].null_count() == len(found)
    without = cm.Features.from_arrays((x[:180], y[:180]), test=(x[180:239], y_test[:59]))
    curve = cm.measure(without, sizes=[2, 4])
    found = cm.inequality(curve).frame
    values = curve.measurement.by_class[0, 0, :2]
    assert cm.inequality(curve).by_repeat["gini"][0] == pytest.approx(naive_gini(values))
    assert set(found["worst"]) <= {"0", "1"}
    assert found["gini_corrected"].null_count() == 0


def test_all_wrong_is_all_equal():
    right = np.zeros((2, 2, 40))
    whole = np.ones(40)
    found = module.inequality(curve_of(right, whole, np.arange(40) % 4)).frame
    assert found.select("gini", "cov", "gini_corrected", "accuracy", "worst_accuracy").to_numpy().max() == 0
    assert found["worst_high"].max() < 1


def test_the_whole_is_the_layer_not_the_last_size():
    generator = np.random.default_rng(7)
    right, y = simulated(generator, LEVELS, parts_sd=0.3, repeats=2, runs=2)
    whole = (generator.random(len(y)) < 0.9).astype(float)
    found = module.inequality(curve_of(right, whole, y))
    assert found.trade_off["accuracy_lost"][-1] == pytest.approx(whole.mean() - right[:, -1].mean())
    assert found.frame["cov_excess"][-1] != 0


@pytest.mark.parametrize("score", ["cka", "r2", "function"])
def test_no_accuracies_by_class_is_an_error(score):
    x, y = made_up(n=80, d=5)
    fs = cm.Features.from_arrays((x, x[:, 0] if score == "r2" else y))
    score = {"cka": "cka", "r2": "ridge", "function": lambda train, test: 0.5}[score]
    with pytest.raises(
        cm.InputError, match="curve: found a curve of .* with no accuracies by class; allowed: a p"
    ):
        cm.inequality(cm.measure(fs, score=score, sizes=[2]))
