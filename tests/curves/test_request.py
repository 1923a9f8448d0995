"""What a measurement is asked stands once: the function, the flags and a study's entries have the same."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest

import critmass as cm
from critmass import cli
from critmass.curves.cells import load_curves
from critmass.curves.request import MeasureOptions, MeasureRequest
from critmass.studies.config import MeasureEntry
from critmass.testing import made_up


def test_the_function_has_the_records_names_and_defaults():
    parameters = inspect.signature(cm.measure).parameters
    for name, field in MeasureRequest.model_fields.items():
        assert (parameters[name].default or {}) == (field.default or {})
        assert field.description


def test_a_studys_entry_has_all_of_it_and_names_scores_and_parts_instead():
    assert MeasureEntry.model_fields.keys() >= MeasureOptions.model_fields.keys()
    assert not {"score"} & MeasureEntry.model_fields.keys()


def test_the_command_has_a_flag_for_each_field(tmp_path, capsys):
    x, y = made_up(n=200, d=8)
    np.savez(tmp_path / "a.npz", X=x, y=y)
    flags = [
        *("--score", "lda", "--parts", "greedy", "--set-parts", "strength=0.1", "--sizes", "2", ".5"),
        *("--repeats", "3", "--seed", "4", "--seeding", "critmass", "--metric", "balanced-accuracy"),
        *("--regularisation", ".5", "--set", "class_weight=balanced", "--out", str(tmp_path / "results")),
    ]
    with pytest.raises(SystemExit) as done:
        cli.main(["measure", str(tmp_path / "a.npz"), *flags, "--json"])
    assert done.value.code in (0, None)
    record = json.loads(capsys.readouterr().out)["redundancy"][0]
    assert (record["score"], record["parts"], record["nearly_all"]) == ("lda", "greedy", None)
    (cell,) = load_curves(tmp_path / "results")
    asked = cell.spec
    assert asked["parts_settings"] == {"strength": 0.1}
    assert asked["sizes"] == [2, 4, 8]
    assert asked["seed"] == 4
    assert asked["settings"] == {
        "regularisation": 0.5,
        "metric": "balanced-accuracy",
        "class_weight": "balanced",
    }
    given = cm.measure(
        tmp_path / "a.npz",
        score="lda",
        parts="greedy",
        parts_settings={"strength": 0.1},
        sizes=[2, 0.5],
        seed=4,
        metric="balanced-accuracy",
        regularisation=0.5,
        settings={"class_weight": "balanced"},
    )
    assert given.frame.equals(cell.frame)
