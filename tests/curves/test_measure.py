"""Asking: what a question is made of, what is reused, what is refused before any work."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import critmass as cm
from critmass.curves.cells import load_curves
from critmass.parts.making import make_parts
from critmass.parts.plan import Plan
from critmass.report import charts, write_report
from critmass.scores import SCORES, Run, make_score
from critmass.testing import made_up


@pytest.fixture
def features():
    x, y = made_up(n=200, d=8)
    return cm.Features.from_arrays((x[:140], y[:140]), test=(x[140:], y[140:]), name="mine")


def test_a_path_is_opened_with_the_seed_of_the_measurement(tmp_path):
    x, y = made_up(n=200, d=8)
    np.savez(tmp_path / "mine.npz", X_train=x, y_train=y)
    for seed in (0, 1):
        opened = cm.Features.open(tmp_path / "mine.npz", seed=seed)
        by_path = cm.measure(tmp_path / "mine.npz", seed=seed)
        assert by_path.frame.equals(cm.measure(opened, seed=seed).frame)


def test_an_explicit_order_is_one_question_whatever_the_seeding(features, tmp_path):
    for seeding in ("critmass", "authors"):
        cm.measure(features, parts=np.arange(8)[::-1], seeding=seeding, out=tmp_path)
    assert len(load_curves(tmp_path)) == 1


def test_a_reused_cell_takes_the_name_it_is_asked_under(features, tmp_path):
    cm.measure(features, out=tmp_path)
    other = cm.Features.from_arrays(
        (features.splits["train"].x, features.splits["train"].y),
        test=(features.splits["test"].x, features.splits["test"].y),
        name="other",
    )
    assert cm.measure(other, out=tmp_path).features == "other"
    assert len(load_curves(tmp_path)) == 1


def test_measurements_in_one_folder_are_told_apart(features, tmp_path):
    for settings in ({}, {"metric": "balanced-accuracy"}, {"regularisation": 10.0}, {"seed": 3}):
        cm.measure(features, out=tmp_path, **settings)
    labels = [label for label, _ in charts.labelled(load_curves(tmp_path))]
    assert sorted(labels) == [
        "ridge probe, accuracy, λ = 10, seed 0",
        "ridge probe, accuracy, λ chosen, seed 0",
        "ridge probe, accuracy, λ chosen, seed 3",
        "ridge probe, balanced-accuracy, λ chosen, seed 0",
    ]
    pytest.importorskip("altair")
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    for words in ("ridge (accuracy, λ = 10)", "ridge (balanced-accuracy)"):
        assert f"<td>{words}</td>" in page


@pytest.mark.parametrize("deltas", [[], [90], [0.9, 0]])
def test_a_bad_delta_is_refused_before_anything_is_drawn(features, tmp_path, deltas):
    cm.measure(features, out=tmp_path)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(cm.InputError, match="delta: found"):
        write_report(tmp_path, deltas=deltas)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory_gib": float("nan")}, "memory_gib: found nan"),
        ({"memory_gib": -1}, "memory_gib: found -1"),
        ({"seed": 2**32, "seeding": "authors"}, "seed: found 4294967297"),
        ({"seed": -1}, "seed: found -1"),
        ({"repeats": 500, "memory_gib": 1e-3}, "raise memory_gib"),
    ],
)
def test_what_cannot_be_asked_is_named(features, settings, words):
    with pytest.raises(cm.InputError, match=words):
        cm.measure(features, **settings)


def test_arrays_are_no_features_but_the_way_is_shown():
    with pytest.raises(cm.InputError, match=r"features: found tuple.*from_arrays\(\(X, y\)\)"):
        cm.measure(made_up())


def test_more_repeats_need_more_memory_but_never_the_slow_way():
    x, y = made_up(n=300, d=40)
    fs = cm.Features.from_arrays((x, y))
    assert cm.measure(fs, repeats=200, memory_gib=0.2).repeats == 200


def test_text_in_object_arrays_is_text():
    x, y = made_up(n=60, d=4)
    names = np.array(["ant", "bee", "cat"])[y]
    fs = cm.Features.from_arrays((x, names.astype(object)))
    assert fs.fingerprint == cm.Features.from_arrays((x, names)).fingerprint
    with pytest.raises(cm.InputError, match="no value at row 0"):
        cm.Features.from_arrays((x, np.array([None] * 60)))


def test_one_line_says_what_it_is(features):
    curve = cm.measure(features, sizes=[2, 4])
    assert repr(features) == "Features('mine', classification, 8 neurons, rows: train: 140, test: 60)"
    assert repr(curve).startswith(
        "Curve(ridge of random parts of 'mine' on 'test', 3 sizes x 5 repeats, whole 0."
    )


PEAK_CASES = {"wide": (150, 100, 400), "long": (3000, 600, 120)}
SHORT = {"sgd": {"epochs": 2}, "logistic": {"iterations": 15}}


@pytest.mark.parametrize("family", ["random", "random-projection"])
@pytest.mark.parametrize("case", PEAK_CASES)
@pytest.mark.parametrize("name", SCORES)
def test_each_way_takes_what_the_score_says_within_a_factor_of_two(name: str, case: str, family: str) -> None:
    n, n_test, d = PEAK_CASES[case]
    generator = np.random.default_rng(0)
    y = np.arange(n + n_test) % 3
    x = generator.normal(size=(n + n_test, d)) + generator.normal(size=(3, d))[y]
    x = x.astype(np.float32)
    features = cm.Features.from_arrays((x[:n], y[:n]), test=(x[n:], y[n:]))
    score, sizes = make_score(name, SHORT.get(name, {})), np.array([d // 20, d // 2, d])
    parts = make_parts(family, d, repeats=2, features=features, standardise=True)
    plan = Plan.of(parts, sizes)
    for way, needed in score.memory(features, plan).items():
        run = Run(seed=0, memory=1.01 * needed, way=way)
        tracemalloc.start()
        score.measure(features, plan, run)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert needed / 2 < peak < 2 * needed, (way, peak / needed)
