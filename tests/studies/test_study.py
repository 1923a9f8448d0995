"""Studies: what a file may say, what is planned, and that a run ends in the same tables, whatever happens."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from helpers_data import ROOT, tree
from helpers_processes import finished, run_study, start, with_words
from helpers_study import tiny, written

from critmass.curves.measure import measure
from critmass.curves.similarity import similarity
from critmass.errors import InputError
from critmass.io.records import read_record, write_record
from critmass.io.stamps import described_files
from critmass.report.study_figures import FIGURES, TABLES, figure_table, write_figure
from critmass.studies import run as studies
from critmass.studies.config import Study, load_study
from critmass.studies.plan import plan
from critmass.studies.states import state_of
from critmass.studies.tables import load, write_tables

KILLS = 20
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 8)
)
BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
"""Nine lines that unfold to 9^8 values."""


@pytest.fixture(autouse=True)
def words() -> Iterator[None]:
    """A model that costs nothing, by name; tests of the command line run a study with a real one."""
    with with_words():
        yield


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    return tiny(tmp_path)


@pytest.fixture
def study(content: dict[str, Any], tmp_path: Path) -> Study:
    return load_study(written(content, tmp_path))


def results_of(folder: Path) -> dict[str, Any]:
    """What a run leaves that must not depend on its history."""
    return {
        path: data
        for path, data in tree(folder).items()
        if path.startswith(("cells", "results", "pairs", "features"))
    }


def test_the_studies_that_come_with_critmass_are_sound() -> None:
    for path in sorted((ROOT / "studies").glob("*.yaml")):
        if "reference" not in path.name:
            assert plan(load_study(path))


def test_cells_in_order(study: Study) -> None:
    labels = [cell.label for cell in plan(study)]
    ridge = ["ridge/random", "ridge/first", "cka/random", "cka/first"]
    small = [
        f"words/small/penultimate/{what}" for what in [*ridge, "centroid/random", "pairs", "pairs-disjoint"]
    ]
    large = [f"words/large/penultimate/{what}" for what in [*ridge, "pairs", "pairs-disjoint"]]
    assert labels == small + large
    assert len({cell.id for cell in plan(study)}) == 13
    assert [cell.label for cell in plan(study, only=["*/ridge/*"])] == [
        f"words/{data}/penultimate/ridge/{parts}"
        for data in ("small", "large")
        for parts in ("random", "first")
    ]


def test_a_cells_id_is_what_is_asked_not_what_it_is_called(content: dict[str, Any], tmp_path: Path) -> None:
    before = {cell.id for cell in plan(load_study(written(content, tmp_path)))}
    content["models"] = {"renamed": {**content["models"]["words"], "labels": {}}}
    content["features"] = [{"models": ["renamed"], "datasets": ["large", "small"]}]
    assert {cell.id for cell in plan(load_study(written(content, tmp_path)))} == before
    content["measure"][0]["seed"] = 1
    assert len({cell.id for cell in plan(load_study(written(content, tmp_path)))} & before) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modles": {}}, "key of the study: found 'modles'; allowed: .*did you mean 'models'"),
        (
            {"measure": [{"score": ["ridge"]}]},
            "key of measure.0: found 'score'; .*did you mean 'scores'",
        ),
        (
            {"measure": [{"scores": ["ridge"], "part": ["random"]}]},
            "key of measure.0: found 'part'; .*'parts'",
        ),
        (
            {"features": [{"models": ["word"], "datasets": ["small"]}]},
            "model of features: found 'word'; .*'words'",
        ),
        (
            {"features": [{"models": ["words"], "datasets": ["smal"]}]},
            "dataset of features: found 'smal'; .*'small'",
        ),
        (
            {"measure": [{"scores": ["ridge"], "models": ["x"]}]},
            "model of measure: found 'x'; allowed: words",
        ),
        ({"measure": [], "pairs": []}, "measure: found nothing; allowed: scores and parts to measure"),
        ({"name": "a/b"}, "name: found 'a/b'"),
        ({"pairs": [{"pairs": 0}]}, "pairs.0.pairs: found 0"),
        (
            {"datasets": {"small": {"dataset": "x", "limits": 3}}},
            "key of datasets.small: found 'limits'; .*'limit'",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    content: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        load_study(written({**content, **change}, tmp_path))


def test_files_that_are_no_studies(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"study: found '.*missing.yaml'; allowed: a YAML file that exists"):
        load_study(tmp_path / "missing.yaml")
    for text in ("a: [", "- 1", "", "!!python/object/apply:os.system ['touch /tmp/owned']"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(InputError, match=r"bad.yaml"):
            load_study(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {a: {model: x}}\nmodels: {b: {model: y}}", "the key 'models' a second time"),
        ("models:\n  a: {model: x}\n  a: {model: y}", "the key 'a' a second time"),
        ("measure: [{scores: [ridge], regularisation: .nan}]", "found nan; allowed: finite numbers"),
        ("sizes: [.inf]", "found inf; allowed: finite numbers"),
        (BOMB, "values"),
        ("a: &a [*a]", "values"),
        ("? [a, b]\n: c", "a key that is no text"),
        ("[" * 5000, "YAML"),
        ("a: !!bool maybe", "YAML"),
        ("a: !!int ''", "YAML"),
        ("a: !!timestamp x", "YAML"),
        ("a: 2001-01-01", "found datetime.date"),
        ("a: !!set {x}", "found {'x'}"),
        ("a: !!binary eA==", "found b'x'"),
        (MERGES, "values"),
    ],
)
def test_what_yaml_would_lose_or_unfold_without_end_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        load_study(tmp_path / "bad.yaml")


def test_keys_that_are_merged_are_no_duplicates(content: dict[str, Any], tmp_path: Path) -> None:
    text = yaml.safe_dump({key: value for key, value in content.items() if key != "measure"})
    merged = (
        "measure:\n- &one\n  <<: &base {repeats: 2, scores: ridge}\n  repeats: 3\n- {<<: *one, sizes: [4]}\n"
    )
    (tmp_path / "study.yaml").write_text(text + merged)
    first, second = load_study(tmp_path / "study.yaml").measure
    assert (first.repeats, second.repeats, second.sizes, second.scores) == (3, 3, [4], ["ridge"])


def test_a_layer_is_named_in_full(content: dict[str, Any], tmp_path: Path) -> None:
    content["features"][0]["layers"] = ["pen*"]
    with pytest.raises(InputError, match="layer: found 'pen.'; allowed: a layer by its full name"):
        load_study(written(content, tmp_path))


def test_a_run_gives_what_each_measurement_alone_gives(study: Study, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    states = studies.run(study, progress=lambda *step: told.append(step))
    assert {state.state for _, state in states} == {"done"}
    assert [step for step in told if step[0] == "study"][-1] == ("study", 13, 13)
    loaded = {cell.label: found for cell, found in load(study)}
    assert list(loaded) == [cell.label for cell in plan(study)]
    job = plan(study)[0].job
    store = tmp_path / "results" / "features" / job.folder / "penultimate"
    alone = measure(store, score="ridge", parts="first", sizes=[0.1, 0.5], repeats=2)
    assert loaded["words/small/penultimate/ridge/first"].frame.equals(alone.frame)
    pairs = similarity(store, sizes=[0.1], pairs=3, disjoint=True)
    assert loaded["words/small/penultimate/pairs-disjoint"].equals(pairs.frame)
    table = pl.read_parquet(tmp_path / "results" / "results.parquet")
    assert table.columns[:3] == ["model", "dataset", "layer"]
    assert len(table) == 2 * (2 * 2 * 3 + 2 * 3) + 5 * 2


def test_the_table_of_pairs_tells_independent_from_disjoint(study: Study, tmp_path: Path) -> None:
    studies.run(study, only=["*/pairs*"])
    table = pl.read_parquet(tmp_path / "results" / "pairs.parquet")
    assert table.filter(pairs="disjoint")["overlap"].to_list() == [0.0] * 6
    assert (table.filter(pairs="independent", size=128)["overlap"] > 0).all()
    cells = {cell.id: cell for cell in plan(study, only=["*/pairs*"])}
    for row in table.iter_rows(named=True):
        asked = cells[row["cell"]].asked
        assert (row["pairs"] == "disjoint", row["estimator"], row["seed"]) == (
            asked["disjoint"],
            asked["estimator"],
            asked["seed"],
        )


def test_relative_folders_are_taken_from_the_study_file(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    asked = {**content, "data": "..", "results": "../out"}
    study = load_study(written(asked, tmp_path / "mine"))
    states = studies.run(study, only=["*/small/*/centroid/*"])
    assert [state.state for _, state in states] == ["done"]
    assert (tmp_path / "out" / "results.parquet").exists()
    assert not list((tmp_path / "elsewhere").iterdir())
    study = load_study(written({**asked, "results": None}, tmp_path / "mine"))
    assert study.folder == tmp_path / "mine" / "results" / "tiny"


def test_one_name_is_a_list_of_one(content: dict[str, Any], tmp_path: Path) -> None:
    content["features"] = [{"models": "words", "datasets": "small"}]
    content["measure"] = [{"scores": "ridge", "parts": "first"}]
    study = load_study(written(content, tmp_path))
    assert study.measure[0].scores == ["ridge"]
    assert plan(study)[0].label == "words/small/penultimate/ridge/first"


def test_a_second_run_computes_nothing(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies.run(study)
    before = tree(tmp_path / "results")
    monkeypatch.setattr(studies, "extract_layers", None)
    monkeypatch.setattr(studies, "measure", None)
    studies.run(study)
    assert tree(tmp_path / "results") == before


def test_other_data_is_not_answered_from_the_old(content: dict[str, Any], tmp_path: Path) -> None:
    """Whether another folder is given or a file is edited: refused, cell by cell, and nothing is lost."""
    study = load_study(written(content, tmp_path))
    studies.run(study)
    before = results_of(tmp_path / "results")
    other = tmp_path / "other"
    shutil.copytree(tmp_path, other, ignore=lambda *_: {"results", "other"})
    csv = other / "small_test.csv"
    csv.write_text(csv.read_text().replace("soup", "match"))
    states = {cell.label: state for cell, state in studies.run(study, data=str(other))}
    for label, state in states.items():
        if "/small/" in label:
            assert state.state == "failed"
            assert "another extraction: dataset" in state.reason
        else:
            assert state.state == "done"
    assert {k: v for k, v in results_of(tmp_path / "results").items() if "parquet" not in k} == {
        k: v for k, v in before.items() if "parquet" not in k
    }
    assert {state.state for _, state in studies.run(study)} == {"done"}
    assert results_of(tmp_path / "results") == before

    mine = tmp_path / "small_test.csv"
    mine.write_text(csv.read_text())
    assert {state.state for cell, state in studies.run(study) if cell.job.dataset == "small"} == {"failed"}
    shutil.rmtree(next((tmp_path / "results" / "features").glob("words-small-*")))
    assert {state.state for _, state in studies.run(study)} == {"done"}
    alone = load_study(written({**content, "results": str(tmp_path / "alone")}, tmp_path))
    studies.run(alone)
    table = pl.read_parquet(tmp_path / "results" / "results.parquet")
    assert table.equals(pl.read_parquet(tmp_path / "alone" / "results.parquet"))


def test_a_folder_is_the_same_however_it_is_written(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies.run(study)
    monkeypatch.setattr(studies, "extract_layers", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    for data in (".", f"{tmp_path}/", str(tmp_path / "link")):
        assert {state.state for _, state in studies.run(study, data=data)} == {"done"}


def test_files_that_were_only_touched_are_the_same_files(study: Study, tmp_path: Path) -> None:
    studies.run(study)
    before = results_of(tmp_path / "results")
    (tmp_path / "small_test.csv").touch()
    assert {state.state for _, state in studies.run(study)} == {"done"}
    assert results_of(tmp_path / "results") == before


def test_data_in_a_folder_of_an_odd_name_is_looked_at_too(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]"
    folder.mkdir()
    study = load_study(written(tiny(folder), folder))
    studies.run(study, only=["*/small/*/centroid/*"])
    csv = folder / "small_train.csv"
    csv.write_text(csv.read_text().replace("topic 1", "topic 9"))
    (folder / "small_val.csv").symlink_to(tmp_path / "nowhere")
    ((_, state),) = studies.run(study, only=["*/small/*/centroid/*"])
    assert state.state == "failed"


def test_the_files_of_a_request_are_found(tmp_path: Path) -> None:
    for name in ("a.csv", "w@1.pt", "m.onnx", "m.onnx.data", "images/x.png", "images/deep/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    request = {
        "dataset": f"csv:{tmp_path}/*.csv",
        "model": f"checkpoint:resnet18@{tmp_path}/w@1.pt",
        "tests": {"v2": f"folder:{tmp_path}/images"},
        "columns": {"text": "text"},
    }

    def names(asked: Any) -> set[str]:
        return {str(Path(file).relative_to(tmp_path)) for file, *_ in described_files(asked)}

    assert names(request) == {"a.csv", "w@1.pt", "images/x.png", "images/deep/y.png"}
    assert {"m.onnx", "m.onnx.data"} <= names({"model": f"onnx:{tmp_path}/m.onnx"})
    before = described_files(request)
    (tmp_path / "a.csv").touch()
    assert described_files(request) != before


def test_layers_that_another_run_asked_for_are_not_forgotten(content: dict[str, Any], tmp_path: Path) -> None:
    study = load_study(written(content, tmp_path))
    studies.run(study)
    (record,) = (tmp_path / "results" / "states").glob("words-small-*.features.json")
    known = read_record(record)
    write_record(record, {**known, "features": {**known["features"], "other": "f" * 16}})
    shutil.rmtree(next((tmp_path / "results" / "features").glob("words-small-*")))
    (tmp_path / "results" / "cells" / next(iter(tree(tmp_path / "results" / "cells")))).unlink()
    assert {state.state for _, state in studies.run(study)} == {"done"}
    assert read_record(record)["features"] == {**known["features"], "other": "f" * 16}


def test_results_are_one_study_s(content: dict[str, Any], study: Study, tmp_path: Path) -> None:
    studies.run(study, only=["*/centroid/*"])
    before = results_of(tmp_path / "results")
    other = load_study(written({**content, "name": "other"}, tmp_path))
    with pytest.raises(InputError, match="a folder for study 'other'; it has those of 'tiny'"):
        studies.run(other)
    store = next((tmp_path / "results" / "features").glob("*/*"))
    with pytest.raises(InputError, match="found the results of a study"):
        measure(store, score="centroid", sizes=[8], out=tmp_path / "results")
    assert results_of(tmp_path / "results") == before


def test_one_question_in_two_words_has_one_answer(content: dict[str, Any], tmp_path: Path) -> None:
    content["measure"] = [{"scores": "ridge", "sizes": sizes} for sizes in ([0.5], [16], [16, 0.5])]
    content["pairs"] = []
    study = load_study(written(content, tmp_path))
    assert {state.state for _, state in studies.run(study)} == {"done"}
    assert len(list((tmp_path / "results" / "cells").iterdir())) == 2
    table = pl.read_parquet(tmp_path / "results" / "results.parquet")
    assert not table.is_duplicated().any()


@pytest.mark.parametrize("damaged", ["cells", "states"])
def test_one_damaged_file_fails_one_cell_and_the_next_run_mends_it(
    study: Study, tmp_path: Path, damaged: str
) -> None:
    studies.run(study)
    before = results_of(tmp_path / "results")
    for file in sorted((tmp_path / "results" / damaged).iterdir())[::4]:
        if file.name.endswith(".features.json"):
            continue
        content = file.read_bytes()
        file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        if damaged == "cells":
            write_tables(study, tmp_path / "results")
        states = [state for _, state in studies.status(study) if state.state != "done"]
        assert [state.state for state in states] == ["failed"]
        assert file.name in states[0].reason
        assert {state.state for _, state in studies.run(study)} == {"done"}
        assert results_of(tmp_path / "results") == before


def test_names_in_a_study_write_nothing_outside_its_results(content: dict[str, Any], tmp_path: Path) -> None:
    names = ["../../../ESC", "/absolute/ESC", "a/b", "..", "a:b*c", "x" * 300]
    content["models"] = {"../../../model": {"model": "words:"}}
    content["datasets"] = {
        name: {"dataset": "csv:{data}/small_*.csv", "limit": 40 + number} for number, name in enumerate(names)
    }
    content["features"] = [{"models": "../../../model", "datasets": names}]
    content["measure"] = [{"scores": "centroid", "sizes": [8]}]
    content["pairs"] = []
    folder = tmp_path / "deep" / "deeper" / "study"
    folder.mkdir(parents=True)
    content["results"] = "results"
    untouched = tree(tmp_path)
    study = load_study(written(content, folder))
    assert {state.state for _, state in studies.run(study)} == {"done"}
    new = [path for path in tree(tmp_path) if path not in untouched]
    assert all(path.startswith("deep/deeper/study/") for path in new)
    assert len(list((folder / "results" / "features").iterdir())) == len(names)


def test_a_cell_that_fails_stops_no_other(content: dict[str, Any], tmp_path: Path) -> None:
    content["models"]["absent"] = {"model": "onnx:absent.onnx"}
    content["features"][0]["models"] = ["absent", "words"]
    content["measure"].append(
        {"scores": ["ridge"], "metric": "r2", "models": ["words"], "datasets": ["small"]}
    )
    study = load_study(written(content, tmp_path))
    states = {cell.id: (cell.label, state) for cell, state in studies.run(study)}
    failed = [(label, state.reason) for label, state in states.values() if state.state == "failed"]
    assert sum(label.startswith("absent/") for label, _ in failed) == 13
    assert all("absent.onnx" in reason for label, reason in failed if label.startswith("absent/"))
    assert [reason for label, reason in failed if label.startswith("words/")] != []
    assert sum(state.state == "done" for _, state in states.values()) == 13
    content["models"]["absent"]["model"] = "words:"
    again = studies.run(load_study(written(content, tmp_path)))
    assert sum(state.state == "failed" for _, state in again) == 1


def test_a_fault_of_ours_is_noted_with_its_traceback(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(studies, "similarity", broken)
    states = [(cell, state) for cell, state in studies.run(study) if state.state == "failed"]
    assert {cell.kind for cell, _ in states} == {"pairs"}
    cell, state = states[0]
    assert state.reason.startswith("ZeroDivisionError: a fault; the traceback is in ")
    assert "broken" in (tmp_path / "results" / "states" / f"{cell.id}.log").read_text()


def test_killed_at_any_moment_it_ends_in_the_same_bytes(content: dict[str, Any], tmp_path: Path) -> None:
    undisturbed = load_study(written({**content, "results": str(tmp_path / "undisturbed")}, tmp_path))
    started = time.monotonic()
    studies.run(undisturbed)
    length = time.monotonic() - started
    path, generator = written(content, tmp_path), random.Random(0)  # noqa: S311
    assert finished(start(pow, 1, 1)) == 0  # which starts the server of forks
    killed = 0
    while killed < KILLS:
        child = start(run_study, path)
        time.sleep(generator.uniform(0, length))
        child.kill()
        code = finished(child)
        killed += code == -signal.SIGKILL
        if code != -signal.SIGKILL:  # too soon: begin again, and count no kill
            assert code == 0
            for name in ("cells", "states"):
                for file in (tmp_path / "results" / name).iterdir():
                    file.unlink()
    assert finished(start(run_study, path)) == 0
    assert results_of(tmp_path / "results") == results_of(tmp_path / "undisturbed")


def test_two_processes_lose_nothing_and_compute_nothing_twice(
    content: dict[str, Any], tmp_path: Path
) -> None:
    path = written(content, tmp_path)
    children = [start(run_study, path) for _ in range(2)]
    assert [finished(child) for child in children] == [0, 0]
    study = load_study(path)
    assert {state.state for _, state in studies.status(study)} == {"done"}
    assert len(list((tmp_path / "results" / "cells").iterdir())) == 13
    alone = load_study(written({**content, "results": str(tmp_path / "alone")}, tmp_path))
    studies.run(alone)
    assert results_of(tmp_path / "results") == results_of(tmp_path / "alone")


def test_a_cell_that_another_process_holds_is_left_to_it(study: Study, tmp_path: Path) -> None:
    cell = plan(study)[0]
    lock = tmp_path / "results" / "locks" / f"{cell.id}.lock"
    code = (
        "import sys; from pathlib import Path; from critmass.io.files import locked\n"
        "with locked(Path(sys.argv[1])) as mine: print(mine, flush=True); sys.stdin.readline()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"True\n"
    worker = studies._Worker(study, tmp_path / "results", study.data, "cpu", 8.0, lambda *_: None)
    assert not worker.settle(cell)
    assert state_of(tmp_path / "results", cell).state == "missing"
    holder.kill()
    holder.communicate()
    assert worker.settle(cell)
    assert state_of(tmp_path / "results", cell).state == "done"


def test_figures_are_drawn_from_tables(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="figure accuracy: found no finished cells for it in study 'tiny'"):
        figure_table("accuracy", study)
    with pytest.raises(InputError, match="figure: found 'acuracy'; .*did you mean 'accuracy'"):
        figure_table("acuracy", study)
    studies.run(study)
    shown = (
        "accuracy",
        "cka-neurons",
        "redundancy",
        "pairs",
        "architectures",
        "widths",
        "families",
        "gini",
        "variation",
    )
    for name in shown:
        files = write_figure(name, study)
        assert [file.suffix for file in files] == [".csv", ".svg", ".png"]
        assert all(file.stat().st_size > 300 for file in files)
    table = figure_table("accuracy", study)
    loaded = {cell.label: found for cell, found in load(study)}
    frame = loaded["words/large/penultimate/ridge/random"].frame
    expected = (
        frame.group_by("size").agg(pl.col("score").mean(), pl.col("score").max().alias("high")).sort("size")
    )
    found = table.filter(pl.col("dataset") == "large").sort("size")
    np.testing.assert_allclose(found["mean"], expected["score"])
    np.testing.assert_allclose(found["high"], expected["high"])
    dr = figure_table("table1", study).filter(pl.col("dataset") == "large")["dr"].item()
    assert dr == loaded["words/large/penultimate/ridge/random"].redundancy(0.9).dr
    for name in ("shift", "layers", "upstream-loss"):
        with pytest.raises(InputError, match=f"figure {name}"):
            write_figure(name, study)
    assert {*FIGURES, *TABLES} >= {*shown, "table1", "shift", "layers"}


def test_the_same_question_in_other_words_is_one_cell_and_one_row(tmp_path: Path) -> None:
    content = tiny(tmp_path)
    d = 32
    same = [[0.125, 0.5], [4, 16], [16, 4], [0.5, 4, d], [0.125, 0.125, 16, 1.0]]
    base = {"scores": ["centroid", "ridge"], "parts": ["first"], "datasets": ["small"]}
    settings = [{"regularisation": 2}, {"regularisation": 2.0}, {"settings": {"regularisation": 2}}]
    content["measure"] = [
        {**base, "scores": ["centroid"], "sizes": sizes, "repeats": 1 + i} for i, sizes in enumerate(same)
    ]
    content["measure"] += [{**base, "scores": ["ridge"], "sizes": [32], **each} for each in settings]
    content["measure"] += [
        {**base, "scores": ["ridge"], "sizes": [32], "regularisation": 2, "metric": "accuracy"}
    ]
    content["pairs"] = [{"sizes": sizes, "pairs": 2, "datasets": ["small"]} for sizes in same[:3]]
    study = load_study(written(content, tmp_path))
    states = studies.run(study)
    assert {state.reason for _, state in states} == {""}
    assert len(list((study.folder / "cells").glob("*"))) == 3
    assert len(load(study)) == 3
    for name, rows in (("results", 3 + 1), ("pairs", (2 + 1) * 2)):
        table = pl.read_parquet(study.folder / f"{name}.parquet")
        assert table.height == table.unique().height == rows
