"""Settings: of the right type or refused in one line; and they, or the code, name the cell of a score."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import critmass as cm
from critmass.deploy.choose import choose_parts
from critmass.scores import SCORES, Run, make_score
from critmass.scores.cka import CKA
from critmass.scores.described import settings as described
from critmass.scores.protocols import Measurement
from critmass.scores.ridge import Ridge
from critmass.scores.settings import IDENTITY, checked, settings_of
from critmass.testing import made_up

X, Y = made_up(n=60, d=4)
FEATURES = cm.Features.from_arrays((X, Y), test=(X, Y))
NAN, HUGE = float("nan"), 10**400
NEVER = [NAN, -float("inf"), HUGE, -HUGE, "no", "nan", "\ud800", b"x", 1j, object(), int, print]
NEVER += [[NAN], {"0": NAN}, {"0": HUGE}, {"0": True}, {"0": "x"}, {"0": object()}, np.array([1.0, 2.0]), -1]


@pytest.mark.parametrize("value", NEVER, ids=lambda value: f"{type(value).__name__} {value!s:.8}")
@pytest.mark.parametrize(("score", "name"), [(score, name) for score in SCORES for name in described(score)])
def test_what_is_no_setting_is_one_line(score, name, value):
    with pytest.raises(cm.InputError) as refused:
        cm.measure(FEATURES, score=score, sizes=[2], repeats=1, settings={name: value})
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith((name, "metric of", "class_weight"))


@pytest.mark.parametrize("score", SCORES)
def test_truth_values_are_no_numbers_and_numbers_no_truth_values(score):
    for name, setting in described(score).items():
        wrong = [0, 1, 1.5, None] if isinstance(setting.default, bool) else [True, False, np.True_]
        for value in wrong:
            with pytest.raises(cm.InputError, match=name):
                make_score(score, {name: value})


def test_a_number_has_one_form_whatever_it_came_as():
    for score, name in (("ridge", "regularisation"), ("sgd", "learning_rate"), ("logistic", "tolerance")):
        forms = [2, 2.0, np.int64(2), np.float32(2), np.float64(2)]
        found = [settings_of(make_score(score, {name: form}))[name] for form in forms]
        assert {repr(value) for value in found} == {"2.0"}
    assert repr(settings_of(make_score("sgd", {"epochs": np.int64(3)}))["epochs"]) == "3"


@pytest.mark.parametrize("score", [Ridge(standardise="no"), Ridge(class_weight={0: NAN})])
def test_a_score_that_is_made_by_hand_is_held_to_the_same(score):
    with pytest.raises(cm.InputError, match="standardise|class_weight"):
        cm.measure(FEATURES, score=score, sizes=[2])


def test_an_estimator_that_is_none_is_refused_where_it_is_named():
    with pytest.raises(cm.InputError, match="estimator: found 'unbiased'"):
        CKA("unbiased")


def test_others_types_are_understood_or_let_be():
    @dataclass
    class Theirs:
        counts: tuple[int, ...] = (1, 2)
        weights: Mapping[str, float] = field(default_factory=dict)
        loose: Any = None
        sloppy: int = None
        unknown: "NoSuchName" = 3  # noqa: F821, UP037

    class Plain:
        def __init__(self, k: int, *, names: list[str] | None = None) -> None: ...

    assert checked(Theirs, {"counts": [1], "loose": "x", "sloppy": None, "unknown": []}) == {
        "counts": [1],
        "loose": "x",
        "sloppy": None,
        "unknown": [],
    }
    with pytest.raises(cm.InputError, match="loose: found nan"):
        checked(Theirs, {"loose": NAN})
    assert checked(Plain, {"k": 3, "names": ["a"]}) == {"k": 3, "names": ["a"]}
    for given, words in (
        ({"k": True}, "k: found True; allowed: a whole number"),
        ({"names": [1]}, "list of text"),
    ):
        with pytest.raises(cm.InputError, match=words):
            checked(Plain, given)


@pytest.mark.parametrize("value", [NAN, float("inf"), HUGE, "x", "1", None, True, 0, -1, 1j, [1]])
def test_other_numbers_of_a_measurement_are_one_line_too(value):
    asks = {
        "memory_gib": lambda: cm.measure(FEATURES, sizes=[2], memory_gib=value),
        "delta": lambda: cm.measure(FEATURES, sizes=[2]).redundancy(1.5 if value is True else value),
        "test_fraction": lambda: cm.Features.from_arrays((X, Y), test_fraction=value),
        "pairs": lambda: cm.similarity(FEATURES, pairs=value),
        "candidates": lambda: choose_parts(FEATURES, candidates=value),
    }
    for name, ask in asks.items():
        with pytest.raises(cm.InputError, match=f"{name}: found"):
            ask()


SHIFT = 0.5


def function(constant=0.25, *, closed=0.0, used=False):
    if used:
        return lambda train, test: constant + SHIFT
    return lambda train, test, scale=1.0: constant * scale + closed


class Theirs:
    """Another package's score, that is no dataclass."""

    label_free = True
    name = "theirs"

    def __init__(self, value, work=None):
        self.value, self.work = value, work

    def memory(self, features, plan):
        return {"rows": 0.0}

    def measure(self, features, plan, run: Run):
        shape = (plan.n_repeats, len(plan.sizes))
        return {
            "test": Measurement(np.full(shape, self.value), self.value, None, 0, np.ones(shape, dtype=bool))
        }


@dataclass(frozen=True)
class WithFunction(Theirs):
    """Another's dataclass, whose fields are a number and a function."""

    value: float = 0.5
    work: Any = None


SAME = {
    "function": lambda: function(),
    "closure": lambda: function(closed=0.5),
    "global": lambda: function(used=True),
    "partial": lambda: functools.partial(function(), scale=0.5),
    "object": lambda: Theirs(0.5),
    "object with a function": lambda: Theirs(0.5, function()),
    "dataclass": lambda: WithFunction(0.5, function()),
}
OTHER = {
    "constant": lambda: function(0.5),
    "another closure": lambda: function(closed=0.125),
    "another partial": lambda: functools.partial(function(), scale=0.75),
    "code": lambda: lambda train, test: 0.25,
    "setting": lambda: Theirs(0.75),
    "another function": lambda: Theirs(0.5, function(0.75)),
    "dataclass's setting": lambda: WithFunction(0.75, function()),
    "dataclass's function": lambda: WithFunction(0.5, function(0.75)),
}


@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_a_function_or_an_object_that_is_the_same_is_reused(make, tmp_path):
    ids = {cm.measure(FEATURES, score=make(), sizes=[2], repeats=1, out=tmp_path).id for _ in range(2)}
    assert len(ids) == len(list((tmp_path / "cells").iterdir())) == 1
    assert settings_of(make_score(make()))[IDENTITY]


def test_whatever_changes_in_a_function_or_an_object_is_a_cell_of_its_own(tmp_path, monkeypatch):
    makes = [*SAME.values(), *OTHER.values()]
    alone = [cm.measure(FEATURES, score=make(), sizes=[2], repeats=1).whole for make in makes]
    for _ in range(2):
        found = [
            cm.measure(FEATURES, score=make(), sizes=[2], repeats=1, out=tmp_path).whole for make in makes
        ]
        assert found == alone
    assert len(list((tmp_path / "cells").iterdir())) == len(makes)
    before = cm.measure(FEATURES, score=function(used=True), sizes=[2], out=tmp_path)
    monkeypatch.setitem(globals(), "SHIFT", 0.625)
    after = cm.measure(FEATURES, score=function(used=True), sizes=[2], out=tmp_path)
    assert (before.whole, after.whole) == (0.75, 0.875)


def test_what_nobody_can_identify_is_never_reused_and_overwrites_nothing_else(tmp_path):
    values, calls = [0.25, 0.5, 0.25], []

    def unknowable(value):
        def score(train, test):
            calls.append(value)
            return value

        score.file = open(__file__)  # noqa: SIM115
        return score

    made = [unknowable(value) for value in values]
    found = [cm.measure(FEATURES, score=each, sizes=[2], repeats=1, out=tmp_path).whole for each in made]
    assert found == values
    assert set(calls) == {0.25, 0.5}
    assert len(calls) == 3 * 2
    assert len(list((tmp_path / "cells").iterdir())) == 2
    for each in made:
        each.file.close()


def test_our_own_scores_are_told_by_their_settings_alone():
    for name in SCORES:
        assert IDENTITY not in settings_of(make_score(name))
