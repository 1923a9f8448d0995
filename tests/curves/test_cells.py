"""Results on disk: a cell is its curve, whole or refused; the same work gives the same bytes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers_data import blobs, flip, tree
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from critmass.curves import cells
from critmass.curves.cells import cell_path, load_cell, load_curves, save_cell, table, write_table
from critmass.curves.curve import Curve
from critmass.curves.measure import measure
from critmass.errors import InputError, StoreError
from critmass.features.features import Features
from critmass.io.ids import content_id
from critmass.scores.ridge import Ridge

SETTINGS: dict[str, Any] = {"sizes": [1, 3, 0.9], "repeats": 3, "seed": 5}


def features(task: str = "classification") -> Features:
    X, y = blobs(150, 8)
    groups = np.array(["a", "b", "unseen"])[np.arange(150) % 2]
    y = y if task == "classification" else X[:, 0] + 0.1 * X[:, 1]
    names = np.array(["ant", "bee", "çat"])
    y = names[y] if task == "classification" else y
    return Features.from_arrays(
        (X[:90], y[:90]),
        test=(X[90:130], y[90:130]),
        tests={"v2": (X[130:] + 0.2, y[130:])},
        groups={"test": groups[90:130], "v2": groups[130:]},
        name="blöbs",
    )


MEASURED = {
    "ridge": {"score": "ridge"},
    "ridge, balanced": {"score": "ridge", "metric": "balanced-accuracy", "regularisation": 2.0},
    "ridge, targets": {"score": "ridge", "task": "regression"},
    "ridge, explicit order": {"score": "ridge", "parts": np.arange(8)[::-1]},
    "cka": {"score": "cka"},
    "cka-biased": {"score": "cka-biased", "parts": "first"},
    "cka-minibatch": {"score": "cka-minibatch"},
}


def measured(which: str, **more: Any) -> Curve:
    settings = {**SETTINGS, **MEASURED[which], **more}
    return measure(features(settings.pop("task", "classification")), **settings)


def assert_same_curve(found: Curve, expected: Curve) -> None:
    """Assert that every field of two curves is equal, arrays exactly and with their dtypes."""
    for key, value in vars(expected).items():
        other = getattr(found, key)
        if key == "parts":
            assert other.family == value.family
            assert_same_array(other.orders, value.orders)
        elif key == "measurement":
            assert_same_measurement(other, value)
        elif key == "others":
            assert list(other) == list(value)
            for name in value:
                assert_same_measurement(other[name], value[name])
        elif isinstance(value, np.ndarray):
            assert_same_array(other, value)
        elif key == "spec":
            assert other == json.loads(json.dumps(value))
        else:
            assert other == value
            assert type(other) is type(value)


def assert_same_measurement(found: Any, expected: Any) -> None:
    for entry in dataclasses.fields(expected):
        value, other = getattr(expected, entry.name), getattr(found, entry.name)
        if isinstance(value, np.ndarray):
            assert_same_array(other, value)
        elif entry.name == "chosen":
            assert other.keys() == value.keys()
            for name in value:
                assert_same_array(other[name], value[name])
        else:
            assert other == value, entry.name


def assert_same_array(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


# A cell is its curve.


@pytest.mark.parametrize("which", MEASURED)
def test_round_trip(tmp_path: Path, which: str) -> None:
    curve = measured(which)
    path = save_cell(tmp_path, curve)
    assert path == tmp_path / "cells" / f"{curve.id}.safetensors" == cell_path(tmp_path, curve.spec)
    again = load_cell(path)
    assert_same_curve(again, curve)
    assert again.id == curve.id
    for split in ("test", "v2"):
        assert again.on(split).frame.equals(curve.on(split).frame)
        if which.startswith("ridge"):
            assert again.on(split).by_group.equals(curve.on(split).by_group)
            assert again.on(split).by_group["score"].null_count() == 0
    assert again.redundancy(0.9) == curve.redundancy(0.9)


def test_a_group_without_rows_in_a_split_is_kept(tmp_path: Path) -> None:
    X, y = blobs(60)
    fs = Features.from_arrays(
        (X, y), test=(X, y), tests={"v2": (X[:9], y[:9])}, groups={"test": np.arange(60) // 10, "v2": [0] * 9}
    )
    curve = measure(fs, **SETTINGS)
    again = load_cell(save_cell(tmp_path, curve))
    assert_same_curve(again, curve)
    assert again.on("v2").by_group["score"].null_count() > 0


def test_the_cell_read_behind_our_back(tmp_path: Path) -> None:
    curve = measured("ridge")
    path = save_cell(tmp_path, curve)
    arrays = load_file(path)
    np.testing.assert_array_equal(arrays["sizes"], curve.sizes)
    np.testing.assert_array_equal(arrays["orders"], curve.parts.orders)
    for index, measurement in enumerate((curve.measurement, curve.others["v2"])):
        np.testing.assert_array_equal(arrays[f"{index}.scores"], measurement.scores)
        np.testing.assert_array_equal(arrays[f"{index}.by_group"], measurement.by_group)
    with safe_open(path, framework="numpy") as stream:
        header = json.loads(stream.metadata()["critmass"])
    assert (header["format"], header["version"]) == ("critmass-cell", 1)
    assert header["spec"] == json.loads(json.dumps(curve.spec))
    assert content_id(header["spec"]) == path.stem
    assert [split["name"] for split in header["splits"]] == ["test", "v2"]
    assert header["splits"][0]["whole"] == curve.whole


def test_every_flipped_byte_is_an_error_that_names_the_cell(tmp_path: Path) -> None:
    X, y = blobs(60, 2)
    fs = Features.from_arrays((X, y))
    path = save_cell(tmp_path, measure(fs, sizes=[1], repeats=1, regularisation=1.0))
    intact = path.read_bytes()
    for position in range(len(intact)):
        flip(path, position)
        with pytest.raises(StoreError, match=path.name):
            load_cell(path)
        path.write_bytes(intact)
    assert load_cell(path).n_neurons == 2


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -8, -1])
def test_a_truncated_cell_is_an_error_that_names_it(tmp_path: Path, keep: int) -> None:
    path = save_cell(tmp_path, measured("cka"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=path.name):
        load_cell(path)


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = save_cell(tmp_path, measured("cka"))
    with safe_open(path, framework="numpy") as stream:
        header = json.loads(stream.metadata()["critmass"])
    save_file(load_file(path), path, metadata={"critmass": json.dumps({**header, "version": 2})})
    with pytest.raises(StoreError, match="cell version 2; allowed: version 1 or lower; upgrade critmass"):
        load_cell(path)


def test_a_file_that_is_no_cell_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells" / "x.safetensors"
    path.parent.mkdir()
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(StoreError, match=r"x\.safetensors: found format None, not 'critmass-cell'"):
        load_curves(tmp_path)


def test_a_folder_without_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no cells/\*\.safetensors; allowed: a results folder"):
        load_curves(tmp_path)


# The table over all cells.


def test_the_table_is_the_frames(tmp_path: Path) -> None:
    curves = [measured(which) for which in ("ridge", "cka", "ridge, targets")]
    for curve in curves:
        save_cell(tmp_path, curve)
    frame = pl.read_parquet(write_table(tmp_path))
    assert frame.equals(table(load_curves(tmp_path)))
    assert len(frame) == sum(2 * len(curve.frame) for curve in curves)
    for curve in curves:
        for split in ("test", "v2"):
            rows = frame.filter((pl.col("cell") == curve.id) & (pl.col("split") == split))
            expected = curve.on(split).frame
            assert rows.select(expected.columns).equals(expected)
            assert rows["features"].unique().to_list() == ["blöbs"]
            assert rows["score_name"].unique().to_list() == [curve.score]
            assert rows["metric"].unique().to_list() == [curve.metric]
            assert rows["parts"].unique().to_list() == [curve.parts.family]


def test_the_order_of_cells_does_not_depend_on_when_they_were_made(tmp_path: Path) -> None:
    whiches = ["cka", "ridge", "cka-biased"]
    for folder, order in (("one", whiches), ("two", whiches[::-1])):
        for which in order:
            measured(which, out=tmp_path / folder)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


# Measuring into a folder.


@pytest.mark.parametrize("which", MEASURED)
def test_the_same_question_gives_the_same_bytes(tmp_path: Path, which: str) -> None:
    for folder in ("one", "two"):
        measured(which, out=tmp_path / folder)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert [name for name in tree(tmp_path / "one") if not name.startswith("cells/")] == [
        "cells",
        "results.parquet",
        "tables.lock",
    ]


@pytest.mark.parametrize("which", ["ridge", "cka"])
def test_saved_features_give_the_same_numbers(tmp_path: Path, which: str) -> None:
    settings = {**SETTINGS, **MEASURED[which]}
    direct = measure(features(), **settings)
    stored = measure(features().save(tmp_path / "store", shard_rows=17), **settings)
    by_path = measure(tmp_path / "store", **settings)
    for curve in (stored, by_path):
        assert_same_measurement(curve.measurement, direct.measurement)
        assert_same_measurement(curve.others["v2"], direct.others["v2"])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"repeats": 2},
        {"sizes": [1, 3]},
        {"parts": "first"},
        {"parts": np.arange(8)[::-1]},
        {"score": "cka"},
        {"metric": "balanced-accuracy"},
        {"regularisation": 3.0},
        {"standardise": False},
        {"seeding": "authors"},
    ],
)
def test_another_question_has_another_cell(tmp_path: Path, change: dict[str, Any]) -> None:
    first = measured("ridge", out=tmp_path)
    second = measured("ridge", out=tmp_path, **change)
    assert first.id != second.id
    assert len(list((tmp_path / "cells").iterdir())) == 2
    assert set(pl.read_parquet(tmp_path / "results.parquet")["cell"]) == {first.id, second.id}


def test_another_order_has_another_cell(tmp_path: Path) -> None:
    for order in (np.arange(8), np.arange(8)[::-1], np.roll(np.arange(8), 1)):
        measured("ridge", parts=order, out=tmp_path)
    assert len(list((tmp_path / "cells").iterdir())) == 3


def test_other_features_of_the_same_name_have_another_cell(tmp_path: Path) -> None:
    X, y = blobs(60)
    for seed in (0, 1):
        measure(Features.from_arrays((X, y), seed=seed), **SETTINGS, out=tmp_path)
    measure(Features.from_arrays((X + 1, y)), **SETTINGS, out=tmp_path)
    assert len(list((tmp_path / "cells").iterdir())) == 3


def test_the_same_question_in_other_words_has_one_cell(tmp_path: Path) -> None:
    measured("ridge", out=tmp_path)
    measured("ridge", out=tmp_path, sizes=[0.9, 3, 1, 1, 8, 1.0])
    assert len(list((tmp_path / "cells").iterdir())) == 1


def doctored(curve: Curve) -> Curve:
    """Return the curve with scores that no measurement gives."""
    measurement = dataclasses.replace(curve.measurement, scores=curve.measurement.scores + 100.0)
    return dataclasses.replace(curve, measurement=measurement)


def test_reuse_returns_what_is_stored_and_replace_computes_again(tmp_path: Path) -> None:
    curve = measured("ridge", out=tmp_path)
    untouched = tree(tmp_path)
    fake = doctored(curve)
    save_cell(tmp_path, fake)
    told: list[Any] = []

    again = measured("ridge", out=tmp_path, existing="reuse", progress=lambda *step: told.append(step))
    assert_same_curve(again, fake)
    assert told == []
    assert pl.read_parquet(tmp_path / "results.parquet")["score"].max() > 99, "the table follows the cells"

    again = measured("ridge", out=tmp_path, existing="replace", progress=lambda *step: told.append(step))
    assert_same_curve(again, curve)
    assert told
    assert tree(tmp_path) == untouched


def test_reuse_brings_a_missing_table_back(tmp_path: Path) -> None:
    measured("ridge", out=tmp_path)
    untouched = tree(tmp_path)
    (tmp_path / "results.parquet").unlink()
    measured("ridge", out=tmp_path)
    assert tree(tmp_path) == untouched


def test_a_damaged_cell_is_not_reused(tmp_path: Path) -> None:
    path = cell_path(tmp_path, measured("ridge", out=tmp_path).spec)
    untouched = tree(tmp_path)
    flip(path, -1)
    with pytest.raises(StoreError, match=f"{path.name}.*delete the file and measure again"):
        measured("ridge", out=tmp_path)
    measured("ridge", out=tmp_path, existing="replace")
    assert tree(tmp_path) == untouched


def test_an_unknown_existing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="existing: found 'reuze'.*did you mean 'reuse'"):
        measured("ridge", out=tmp_path / "r", existing="reuze")
    assert tree(tmp_path) == {}


def test_a_failed_measurement_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured("ridge", out=tmp_path)
    untouched = tree(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        measured("cka", out=tmp_path)
    assert tree(tmp_path) == untouched


def test_no_dates_and_no_places_in_the_bytes(tmp_path: Path) -> None:
    curve = measured("ridge", out=tmp_path)
    content = cell_path(tmp_path, curve.spec).read_bytes()
    assert str(tmp_path).encode() not in content
    assert set(curve.provenance) == {"features", "rows", "versions"}
    assert cells.VERSION == 1


def test_what_a_cell_lacks_is_not_made_up(tmp_path: Path) -> None:
    curve = measured("ridge")
    assert curve.measurement.by_class is not None
    measurement = dataclasses.replace(curve.measurement, whole_by_class=None)
    lacking = dataclasses.replace(curve, measurement=measurement)
    assert load_cell(save_cell(tmp_path, lacking)).measurement.whole_by_class is None


def test_the_same_question_in_other_words_is_one_cell(tmp_path):
    x, y = blobs(80, 16)
    fs = Features.from_arrays((x, y))
    words = [
        {"sizes": [4, 8]},
        {"sizes": [0.25, 0.5]},
        {"sizes": (np.int64(8), np.float32(0.25), 16)},
        {"sizes": [1.0, 4, 8, 4]},
        {"sizes": [4, 8], "metric": "accuracy", "standardise": True},
        {"sizes": [4, 8], "regularisation": 2},
        {"sizes": [4, 8], "regularisation": np.float64(2)},
        {"sizes": [4, 8], "score": Ridge(regularisation=2)},
        {"sizes": [4, 8], "settings": {"regularisation": 2.0, "class_weight": None}},
    ]
    made = [measure(fs, repeats=2, **{"regularisation": None} | each, out=tmp_path).id for each in words]
    assert len(set(made[:5])) == len(set(made[5:])) == 1
    assert len(list((tmp_path / "cells").iterdir())) == 2
    for parts in (np.arange(16), np.arange(16).tolist(), np.arange(16, dtype=np.int16)[None], "first"):
        measure(fs, parts=parts, sizes=[4], out=tmp_path / "orders")
    assert len(list((tmp_path / "orders" / "cells").iterdir())) == 2  # a family is asked for by its name
    for classes in ({0: 2}, {"0": 2.0}, {np.int64(0): np.float32(2)}):
        measure(fs, sizes=[4], settings={"class_weight": classes}, out=tmp_path / "weights")
    assert len(list((tmp_path / "weights" / "cells").iterdir())) == 1


def test_a_damaged_cell_is_named_with_what_to_do_whatever_is_read_of_its_folder(tmp_path):
    x, y = blobs(80, 6)
    measure(Features.from_arrays((x, y)), sizes=[2], repeats=1, out=tmp_path)
    (path,) = (tmp_path / "cells").iterdir()
    raw = path.read_bytes()
    flips = np.random.default_rng(0).integers(8 * len(raw), size=200).tolist()
    damaged = [raw[: bit // 8] + bytes([raw[bit // 8] ^ 1 << bit % 8]) + raw[bit // 8 + 1 :] for bit in flips]
    for content in [b"", raw[:5], raw[:100], raw[:-1], raw + b"x", *damaged]:
        path.write_bytes(content)
        for read in (load_curves, write_table):
            with pytest.raises(StoreError) as refused:
                read(tmp_path)
            assert str(refused.value).startswith(str(path))
            assert refused.value.advice in ("delete the file and measure again", "upgrade critmass")
