"""The command line: results on stdout, one line on stderr for bad input, and nothing written then."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers_data import blobs, flip, tree

from critmass import cli
from critmass.curves.cells import load_curves
from critmass.curves.inequality import inequality
from critmass.curves.measure import measure
from critmass.features.features import Features
from critmass.scores import make_score
from critmass.sources.protocols import Layer

COMMANDS = ["demo", "extract", "measure", "inequality", "choose", "figure", "report", "verify", "list"]
RECORD_KEYS = {"features", "score", "parts", "delta", "dr", "low", "high", "critical_mass", "n_neurons"}
RECORD_KEYS |= {"whole", "sustained", "spread"}
D = 12


@pytest.fixture
def logs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where logs of internal errors go."""
    folder = tmp_path_factory.mktemp("logs")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def run(
    tmp_path: Path, logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process, in an empty folder; return its code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return call


def data(n_test: int = 40) -> dict[str, np.ndarray]:
    X, y = blobs(160, D)
    test = slice(120, 120 + n_test)
    return {"X_train": X[:120], "y_train": y[:120], "X_test": X[test], "y_test": y[test]}


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    np.savez(tmp_path / "features.npz", **data())
    return tmp_path / "features.npz"


# Help.


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run: Any, command: str) -> None:
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: critmass {command}")
    assert f"Example: critmass {command} " in out
    assert "--json" in out


def test_the_help_names_every_command(run: Any) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert "Example: critmass" in out
    for command in COMMANDS:
        assert re.search(rf"^│ {command} ", out, re.MULTILINE)
    assert run() == (0, out, "")


def test_the_version(run: Any) -> None:
    assert run("--version") == (0, version("critmass") + "\n", "")


# Measuring.


def test_measure_prints_one_json_object(run: Any, npz: Path) -> None:
    code, out, err = run("measure", npz, "--json", "--delta", ".9", ".95")
    assert code == 0
    assert out.count("\n") == 1
    record = json.loads(out)
    assert record["files"] == []
    assert [r["delta"] for r in record["redundancy"]] == [0.9, 0.95]
    for r in record["redundancy"]:
        assert set(r) >= RECORD_KEYS
        assert (r["features"], r["score"], r["parts"], r["n_neurons"]) == ("features", "ridge", "random", D)
        assert set(r["spread"]) == {"std", "worst"}
        expected = measure(npz).redundancy(r["delta"])
        assert {key: r[key] for key in expected.record()} == expected.record()
    assert all(re.fullmatch(r".+: \d+/\d+(, .+ left)?", line) for line in err.splitlines())
    assert set(tree(npz.parent)) == {npz.name}


def test_measure_prints_a_table(run: Any, npz: Path) -> None:
    code, out, _ = run("measure", npz, "--delta", ".9", "--sizes", "all")
    r = measure(npz, sizes="all").redundancy(0.9)
    assert code == 0
    assert "features: ridge (accuracy), random parts, 5 repeats, 120 training and 40 test rows" in out
    (row,) = [line for line in out.splitlines() if "0.9" in line and "test" in line]
    cells = [cell.strip() for cell in row.strip("│┃ ").split("│")]
    assert cells == [
        "test",
        "40",
        "0.9",
        f"{r.dr:.3f}",
        f"{r.low:.3f} to {r.high:.3f}",
        f"{r.sustained:.3f}",
        f"{r.nearly_all:.3f}",
        f"{r.critical_mass} of {D}",
        f"{r.whole:.4f}",
        f"{r.spread.std:.4f}",
        f"{r.spread.worst:.4f}",
    ]
    assert "sustained DR is the headline" in out


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["1"], [1, D]),
        (["1.0"], [D]),
        (["1", "1.0", "3"], [1, 3, D]),
        ([".5", "0.25"], [3, 6, D]),
        (["1e-9"], [1, D]),
        (["12"], [D]),
        (["all"], list(range(1, D + 1))),
        (["paper"], [1, 2, 3, 4, 6, 9, 10, D]),
    ],
)
def test_sizes(run: Any, npz: Path, tokens: list[str], expected: list[int]) -> None:
    code, out, _ = run("measure", npz, "--repeats", 2, "--sizes", *tokens, "--out", "results", "--json")
    assert code == 0
    assert json.loads(out)["files"] == ["results/results.parquet"]
    frame = pl.read_parquet(npz.parent / "results" / "results.parquet")
    assert frame["size"].unique().sort().to_list() == expected


def test_every_setting_reaches_the_measurement(run: Any, npz: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "order.npy", np.arange(D)[::-1])
    options = (
        "--score ridge --parts order.npy --sizes 2 .5 --repeats 4 --seed 3 --metric balanced-accuracy "
        "--regularisation 2.5 --no-standardise --out results"
    )
    code, _, _ = run("measure", npz, *options.split())
    assert code == 0
    measure(
        npz,
        parts=np.arange(D)[::-1],
        sizes=[2, 0.5],
        repeats=4,
        seed=3,
        metric="balanced-accuracy",
        regularisation=2.5,
        standardise=False,
        out=tmp_path / "expected",
    )
    assert tree(tmp_path / "results") == tree(tmp_path / "expected")


def test_settings_may_be_said_as_in_python_or_in_json(run: Any, npz: Path) -> None:
    for text in ("False", "false", "True", "true"):
        asked = ["measure", npz, "--sizes", 3, "--set", f"standardise={text}", "--out", text]
        assert run(*asked)[0] == 0
        assert load_curves(Path(text))[0].spec["settings"]["standardise"] is (text.lower() == "true")
    code, out, err = run("measure", npz, "--set", "regularisation=NaN")
    assert (code, out) == (2, "")
    assert "found 'NaN'; allowed: a finite number" in err


def test_names_are_printed_as_they_are_and_obeyed_by_no_terminal(run: Any, tmp_path: Path) -> None:
    names = np.array(["[/x]", "[red]b[/red]", "\x1b[31mc"])
    arrays = data()
    for key in ("y_train", "y_test"):
        arrays[key] = names[arrays[key] % 3]
    path = tmp_path / "run[seed=1].npz"
    np.savez(path, **arrays)
    code, out, err = run("measure", path.name, "--sizes", 3, "--out", "results")
    assert (code, err.count("Traceback")) == (0, 0)
    assert "run[seed=1]" in out
    code, out, _ = run("inequality", "results", "--sizes", 3)
    assert code == 0
    assert "\x1b" not in out
    assert any(name in out for name in ("[/x]", "[red]b[/red]", "\\x1b[31mc"))
    assert run("report", "results")[0] == 0


def test_settings_of_a_score_reach_it(run: Any, npz: Path, tmp_path: Path) -> None:
    options = (
        "--score sgd --sizes 2 --repeats 2 --set epochs=3 learning_rate=0.05 schedule=cosine --out results"
    )
    code, out, _ = run("measure", npz, *options.split())
    assert (code, "warning" in out) == (0, False)
    settings = {"epochs": 3, "learning_rate": 0.05, "schedule": "cosine"}
    measure(npz, score="sgd", sizes=[2], repeats=2, settings=settings, out=tmp_path / "expected")
    assert tree(tmp_path / "results") == tree(tmp_path / "expected")
    options = "--score logistic --sizes 2 --regularisation .001 --set iterations=2"
    _, out, _ = run("measure", npz, *options.split())
    assert "logistic probes did not converge: raise iterations" in out
    _, out, _ = run("measure", npz, *options.split(), "--json")
    assert "did not converge" in json.loads(out)["warnings"][0]


def test_seed_and_fraction_reach_the_carved_test_split(run: Any, tmp_path: Path) -> None:
    X, y = blobs(100)
    np.savez(tmp_path / "f.npz", X_train=X, y_train=y)
    code, _, _ = run("measure", "f.npz", "--seed", 7, "--test-fraction", 0.4, "--out", "results")
    assert code == 0
    fs = Features.from_arrays((X, y), seed=7, test_fraction=0.4, name="f", provenance={"source": "f.npz"})
    measure(fs, seed=7, out=tmp_path / "expected")
    assert tree(tmp_path / "results") == tree(tmp_path / "expected")


def test_parquet_columns_reach_the_reader(run: Any, tmp_path: Path) -> None:
    X, y = blobs(80)
    frame = pl.DataFrame(
        {
            "vector": pl.Series(X.tolist(), dtype=pl.Array(pl.Float32, X.shape[1])),
            "species": np.array(["ant", "bee", "cat"])[y],
            "fold": ["test" if i % 4 == 0 else "train" for i in range(80)],
            "site": [f"s{i % 2}" for i in range(80)],
        }
    )
    frame.write_parquet(tmp_path / "f.parquet")
    columns = {"embedding": "vector", "label": "species", "split": "fold", "group": "site"}
    options = [token for role, name in columns.items() for token in (f"--{role}", name)]
    code, _, _ = run("measure", "f.parquet", *options, "--out", "results")
    assert code == 0
    measure(Features.open(tmp_path / "f.parquet", **columns), out=tmp_path / "expected")
    assert tree(tmp_path / "results") == tree(tmp_path / "expected")


def test_a_second_run_reuses_the_first(run: Any, npz: Path) -> None:
    first = run("measure", npz, "--out", "results", "--json")
    untouched = tree(npz.parent)
    second = run("measure", npz, "--out", "results", "--json")
    assert first[:2] == second[:2]
    assert second[2] == "", "nothing was measured, so there is no progress to report"
    assert tree(npz.parent) == untouched
    assert "moments" in run("measure", npz, "--out", "results", "--existing", "replace")[2]


# Other commands.


@pytest.mark.parametrize("what", ["models", "datasets", "scores", "parts"])
def test_list(run: Any, what: str) -> None:
    expected = {
        "models": {"lite0:", "timm:NAME.TAG", "zoo:resnet50", "zoo:resnet50-mrl"},
        "datasets": {"mnist5k:", "folder:PATH"},
        "scores": {"ridge", "cka", "cka-biased", "cka-minibatch"},
        "parts": {"random", "first"},
    }[what]
    code, out, err = run("list", what, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)[what]
    assert set(found) >= expected
    assert all(found.values())
    code, out, err = run("list", what)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == list(found)


def test_list_layers(run: Any) -> None:
    code, out, err = run("list", "layers", "lite0:", "--json")
    assert (code, err) == (0, "")
    layers = json.loads(out)["layers"]
    assert list(layers)[:2] == ["penultimate", "output"]
    assert layers["penultimate"] == {"shape": [1280], "n_neurons": 1280}
    assert layers["_conv_stem"] == {"shape": [32, 112, 112], "n_neurons": 32}
    lines = [line.split("  ") for line in run("list", "layers", "lite0:")[1].splitlines()]
    assert [line[0] for line in lines] == list(layers)
    assert {line[-1] for line in lines} >= {"1280 neurons", "1000 neurons", "32 neurons"}


def test_verify_and_report(run: Any, npz: Path, tmp_path: Path) -> None:
    Features.open(npz).save(tmp_path / "store", shard_rows=50)
    run("measure", "store", "--out", "results")
    run("measure", "store", "--out", "results", "--score", "cka")
    assert run("verify", "store") == (0, "store: 4 shards intact\n", "")
    assert run("verify", "results") == (0, "results: 2 cells, 1 table intact\n", "")
    assert run("verify", ".")[1] == (
        ".: 4 shards, 2 cells, 1 table intact\n.: 1 files without a checksum not checked\n"
    )
    code, out, _ = run("verify", "store", "--json")
    nothing = {"faults": [], "unchecked": []}
    assert (code, json.loads(out)) == (0, {"path": "store", "shards": 4, "intact": True, **nothing})
    untouched = tree(tmp_path)
    for folder, name in (("store", "train-00001.safetensors"), ("results", None)):
        victim = next(p for p in sorted((tmp_path / folder).rglob("*.safetensors")) if name in (p.name, None))
        flip(victim, -1)
        code, out, err = run("verify", folder)
        assert code == 2
        assert victim.name in out.splitlines()[-1]
        assert "1 damaged file" in err
        flip(victim, -1)
    assert tree(tmp_path) == untouched

    code, out, _ = run("report", "results", "--delta", ".9", "--json")
    assert code == 0
    record = json.loads(out)
    assert [(r["score"], r["delta"]) for r in record["redundancy"]] == [("cka", 0.9), ("ridge", 0.9)]
    assert "results/report.html" in record["files"]
    assert all((tmp_path / file).stat().st_size > 0 for file in record["files"])


def test_inequality_of_results(run: Any, npz: Path) -> None:
    groups = np.arange(40) % 2
    np.savez(npz, **data(), groups_test=groups, X_v2=data()["X_test"][::2], y_v2=data()["y_test"][::2])
    run("measure", npz, "--out", "results", "--sizes", 3)
    run("measure", npz, "--out", "results", "--sizes", 3, "--score", "cka")
    code, out, err = run("inequality", "results", "--json", "--out", "table.csv")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["files"] == ["table.csv"]
    curve = measure(npz, sizes=3)
    assert [(r["score"], r["split"]) for r in record["inequality"]] == [("ridge", "test"), ("ridge", "v2")]
    for r in record["inequality"]:
        expected = inequality(curve.on(r["split"]))
        assert r["sizes"] == expected.frame.to_dicts()
        assert r["trade_off"] == expected.trade_off.to_dicts()
    written = pl.read_csv("table.csv")
    assert written["split"].to_list() == ["test"] * 4 + ["v2"] * 2
    assert written["by"].to_list() == ["class"] * 2 + ["group"] * 2 + ["class"] * 2
    run("inequality", "results", "--out", "table.parquet")
    assert pl.read_parquet("table.parquet").columns == written.columns

    code, out, _ = run("inequality", "results")
    assert code == 0
    for title in ("test (40 rows), by class", "test (40 rows), by group", "v2 (20 rows), by class"):
        assert f"ridge (accuracy), random parts, {title}" in out
    first = inequality(curve).frame.row(0, named=True)
    row = next(line for line in out.splitlines() if re.match(r"│ +3 │", line))
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == [
        "3",
        *(f"{first[name]:.3f}" for name in ("accuracy", "gini", "gini_null", "cov", "cov_corrected")),
        f"{first['cov_low']:.3f} to {first['cov_high']:.3f}",
        f"{first['cov_null']:.3f}",
        first["worst"],
        f"{first['worst_accuracy']:.3f}",
    ]


def test_inequality_of_features_measures_them_first(run: Any, npz: Path) -> None:
    code, out, _ = run("inequality", npz, "--json")
    assert code == 0
    assert json.loads(out)["inequality"][0]["sizes"] == inequality(measure(npz)).frame.to_dicts()


def test_inequality_shows_a_few_sizes_or_those_asked_for(run: Any, npz: Path) -> None:
    run("measure", npz, "--out", "results", "--sizes", "all")

    def shown(*options: Any) -> tuple[list[int], str]:
        code, out, err = run("inequality", "results", *options)
        assert code == 0, err
        return [int(found) for found in re.findall(r"^│ +(\d+) │", out, re.MULTILINE)], out

    sizes, out = shown()
    assert sizes == [1, 2, 6, D]
    assert f"4 of {D} sizes (--sizes all)" in out
    headers = [line for line in out.splitlines() if line.startswith("┃")]
    columns = [
        " ".join(words).strip()
        for words in zip(*(re.split("┃", line)[1:-1] for line in headers), strict=True)
    ]
    assert len({" ".join(column.split()) for column in columns}) == 10
    assert shown("--sizes", "3", ".5")[0] == [3, 6, D]
    assert shown("--sizes", "all")[0] == list(range(1, D + 1))
    _, out, _ = run("inequality", "results", "--sizes", "3", "--json")
    assert [row["size"] for row in json.loads(out)["inequality"][0]["sizes"]] == [3, D]
    run("measure", npz, "--out", "other", "--sizes", 3)
    code, out, err = run("inequality", "other", "--sizes", "4")
    assert (code, out) == (2, "")
    assert "sizes: found [4]; allowed: measured ones, such as 3, 12" in err


def test_choose_and_inequality_read_columns_as_measure_does(run: Any, tmp_path: Path) -> None:
    X, y = blobs(80)
    frame = pl.DataFrame(
        {
            "vector": pl.Series(X.tolist(), dtype=pl.Array(pl.Float32, X.shape[1])),
            "species": np.array(["ant", "bee", "cat"])[y],
            "fold": ["test" if i % 4 == 0 else "train" for i in range(80)],
        }
    )
    frame.write_parquet(tmp_path / "f.parquet")
    columns = ("--embedding", "vector", "--label", "species", "--split", "fold")
    code, out, err = run("inequality", "f.parquet", *columns, "--sizes", 2, "--json")
    assert code == 0, err
    asked = {"embedding": "vector", "label": "species", "split": "fold"}
    expected = inequality(measure(Features.open(tmp_path / "f.parquet", **asked), sizes=[2]))
    assert json.loads(out)["inequality"][0]["sizes"] == expected.frame.to_dicts()
    small = ("--sizes", 2, "--candidates", 2, "--repeats", 1, "--out", "m.npy")
    code, _, err = run("choose", "f.parquet", *columns, *small)
    assert (code, np.load("m.npy").shape) == (0, (1, 1, X.shape[1])), err
    code, _, err = run("choose", "f.parquet", "--label", "specie", *small)
    assert (code, "did you mean 'species'" in err) == (2, True)


def test_a_measurements_name_is_its_label(run: Any, npz: Path) -> None:
    code, out, _ = run("measure", npz, "--sizes", 3, "--name", "my probe", "--out", "results")
    assert (code, "my probe (features: ridge (accuracy), random parts)" in " ".join(out.split())) == (0, True)
    assert pl.read_parquet("results/results.parquet")["name"].unique().to_list() == ["my probe"]
    code, out, _ = run("report", "results", "--json")
    assert {r["name"] for r in json.loads(out)["redundancy"]} == {"my probe"}
    assert "my probe" in Path("results/curve.svg").read_text()


def test_coarse_sizes_say_what_they_leave_open(run: Any, npz: Path) -> None:
    code, out, _ = run("measure", npz, "--sizes", 1, "--delta", "1", "--metric", "accuracy")
    (row,) = [line for line in out.splitlines() if line.startswith("│ test")]
    assert code == 0
    assert f"above 1 of {D}" in row
    assert f"≤ {(D - 2) / D:.3f}" in row
    curve = measure(npz, sizes=[1])
    bracket = curve.bracket(curve.redundancy(1.0))
    assert f"{bracket.dr_low:.3f} to {bracket.dr_high:.3f}" in row
    assert "only some sizes were measured" in out


def test_list_explains_the_settings_of_a_score(run: Any) -> None:
    code, out, _ = run("list", "scores", "sgd")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    fields = list(inspect.signature(make_score("sgd").__class__).parameters)
    assert list(lines) == fields
    assert "int, by default 50" in lines["epochs"]
    assert "float, by default 0.1. As torch.optim.SGD's" in lines["learning_rate"]
    assert "settings: learning_rate, momentum" in run("list", "scores")[1]
    record = json.loads(run("list", "scores", "ridge", "--json")[1])["settings"]
    assert record["standardise"]["default"] is True
    assert record["regularisation"]["description"].startswith("λ, scikit-learn's alpha.")
    assert run("list", "scores", "cka")[1] == "no settings\n"
    code, _, err = run("list", "scores", "rigde")
    assert (code, "did you mean 'ridge'" in err) == (2, True)


def test_list_architectures_of_checkpoints(run: Any) -> None:
    code, out, err = run("list", "architectures", "--json")
    assert code == 0, err
    found = json.loads(out)["architectures"]
    assert {"resnet20-cifar", "mrl-resnet50", "wide_resnet50_4"} <= found.keys()


def only_cka(folder: Path) -> None:
    OK(folder)
    measure(folder / "features.npz", score="cka", out=folder / "results")


class Sums:
    """A network of two neurons: the sum of an image's red pixels, and their maximum."""

    name, kind = "sums:", "image"

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def layers(self) -> dict[str, Layer]:
        return {"penultimate": Layer((2,), 2), "output": Layer((1,), 1)}

    def place(self, device: str, precision: str) -> Sums:
        return self

    def prepare(self, sample: Any, draw: np.random.Generator | None = None) -> np.ndarray:
        return np.asarray(sample)[..., 0]

    def start(self, batch: Sequence[Any], layers: Sequence[str], pooling: str) -> Callable[[], Any]:
        x = np.array([[i.sum(), i.max()] for i in batch], dtype=np.float32)
        return lambda: {layer: x[:, : self.layers()[layer].n_neurons] for layer in layers}


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("critmass.extraction.extract.open_model", lambda name, **asked: Sums())
    x = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((2, 2), np.uint8)
    y = np.arange(20) % 4
    np.savez(tmp_path / "images.npz", X_train=x, y_train=y, X_val=x[:8], y_val=y[:8])
    return tmp_path / "images.npz"


def test_extract(run: Any, tmp_path: Path, images: Path) -> None:
    code, out, err = run(
        "extract", "sums:", "arrays:images.npz", "--out", "store", "--batch-size", 3, "--json"
    )
    assert code == 0
    assert json.loads(out) == {
        "features": "store",
        "name": "sums-arrays:images",
        "n_neurons": 2,
        "rows": {"train": 15, "validation": 8, "test": 5},
        "left_out": 0,
    }
    assert err.startswith("extracting: ")
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert manifest["provenance"]["batch_size"] == 3
    np.testing.assert_array_equal(Features.open("store").splits["validation"].x[:][:, 1], np.arange(8))


def test_extract_under_a_name(run: Any, tmp_path: Path, images: Path) -> None:
    asked = ("extract", "sums:", "arrays:images.npz", "--out", "store")
    for name in ("mine", "other"):
        code, out, err = run(*asked, "--name", name, "--json")
        assert (code, json.loads(out)["name"]) == (0, name), err
        assert Features.open("store").name == name
    assert run("verify", "store")[0] == 0
    assert json.loads(run(*asked, "--json")[1])["name"] == "other"
    several = ("--out", "stores", "--layer", "penultimate", "output", "--name", "mine", "--json")
    _, out, _ = run("extract", "sums:", "arrays:images.npz", *several)
    assert [store["name"] for store in json.loads(out)["stores"]] == ["mine", "mine-output"]


def test_extract_chooses_splits_classes_samples_and_layers(run: Any, tmp_path: Path, images: Path) -> None:
    code, out, _ = run(
        *("extract", "sums:", "arrays:images.npz", "--out", "stores", "--layer", "penultimate", "output"),
        *("--splits", "train=train", "test=validation", "--classes", "1", "3", "--limit", "train=6"),
        *("--tests", "again=arrays:images.npz", "--dtype", "float16", "--json"),
    )
    assert code == 0
    records = json.loads(out)["stores"]
    assert [(r["features"], r["n_neurons"]) for r in records] == [
        ("stores/penultimate", 2),
        ("stores/output", 1),
    ]
    assert records[0]["rows"] == {"train": 6, "test": 4, "again": 4}
    features = Features.open("stores/penultimate")
    assert (features.classes, features.splits["test"].x.dtype) == ((1, 3), np.float16)
    np.testing.assert_array_equal(features.splits["test"].x[:][:, 1], [1, 3, 5, 7])
    np.testing.assert_array_equal(np.bincount(features.splits["train"].y), [3, 3])


def test_choose_writes_masks_that_measure_takes(run: Any, npz: Path, tmp_path: Path) -> None:
    asked = ("choose", npz, "--sizes", "3", "6", "--candidates", 3, "--repeats", 2, "--out", "masks.npy")
    code, out, _ = run(*asked, "--json")
    assert code == 0
    assert [row["size"] for row in json.loads(out)["sizes"]] == [3, 6]
    masks = np.load(tmp_path / "masks.npy")
    assert masks.sum(axis=2).tolist() == [[3, 6], [3, 6]]
    code, out, _ = run("measure", npz, "--parts", "masks.npy", "--json")
    assert code == 0
    assert {r["parts"] for r in json.loads(out)["redundancy"]} == {"masks"}


def test_study_and_figures(run: Any, npz: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text(
        "text,label\n" + "".join(f"word {i % 2} {i},{i % 2}\n" for i in range(40))
    )
    (tmp_path / "study.yaml").write_text(
        "name: tiny\nmodels: {words: {model: 'wordllama:'}}\ndatasets: {texts: {dataset: 'csv:texts.csv'}}\n"
        "features: [{models: [words], datasets: [texts]}]\nmeasure: [{scores: [ridge], sizes: [8]}]\n"
    )
    assert run("study", "status", "study.yaml")[1].endswith("0 done, 1 missing, 0 failed\n")
    assert run("study", "run", "study.yaml", "--dry-run")[0] == 0
    assert not (tmp_path / "results").exists()
    code, out, err = run("study", "run", "study.yaml", "--json")
    assert (code, json.loads(out)["done"]) == (0, 1), err
    code, out, _ = run("figure", "all", "study.yaml", "--json")
    assert code == 0
    assert "results/tiny/figures/accuracy.svg" in json.loads(out)["files"]
    (tmp_path / "study.yaml").write_text((tmp_path / "study.yaml").read_text().replace("ridge", "rigde"))
    code, out, err = run("study", "run", "study.yaml")
    assert (code, "did you mean 'ridge'" in out) == (2, True)
    assert err.splitlines()[-1].startswith("critmass: study: found 1 cells failed")


# Bad input: code 2, one line on stderr, nothing written.


def saved(**changes: Any) -> Callable[[Path], None]:
    """Return what saves features.npz with these arrays changed (None: left out)."""

    def save(folder: Path) -> None:
        arrays = {**data(), **changes}
        np.savez(folder / "features.npz", **{k: v for k, v in arrays.items() if v is not None})

    return save


def with_nan(key: str, row: int, neuron: int) -> Callable[[Path], None]:
    changed = data()[key].copy()
    changed[row, neuron] = np.nan
    return saved(**{key: changed})


def newer_store(folder: Path) -> None:
    Features.from_arrays(blobs(60)).save(folder / "store")
    manifest = folder / "store" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 2}))


def unfinished_store(folder: Path) -> None:
    Features.from_arrays(blobs(60)).save(folder / "store")
    (folder / "store" / "manifest.json").unlink()


def a_file(name: str, content: bytes = b"") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def orders(folder: Path) -> None:
    saved()(folder)
    np.save(folder / "short.npy", np.arange(5))
    np.save(folder / "twice.npy", np.zeros(D, dtype=int))
    np.save(folder / "objects.npy", np.array([{}] * D, dtype=object))
    (folder / "broken.npy").write_bytes(b"not an array")


def noise_targets(folder: Path) -> None:
    """Save targets that nothing can be learned of, so that the whole layer's R² is below 0."""
    rng = np.random.default_rng(0)
    saved(y_train=rng.normal(size=120), y_test=rng.normal(size=40) + 50)(folder)


def empty_results(folder: Path) -> None:
    (folder / "results" / "cells").mkdir(parents=True)


def some_results(folder: Path) -> None:
    saved()(folder)
    measure(folder / "features.npz", repeats=1, sizes=[3], regularisation=1.0, out=folder / "results")


OK = saved()
MEASURE = ["measure", "features.npz", "--out", "out"]
BAD: dict[str, tuple[Callable[[Path], None], list[str], list[str]]] = {
    "missing file": (OK, ["measure", "featurs.npz", "--out", "out"], ["featurs.npz", "exists"]),
    "missing folder": (OK, ["measure", "no/such/place", "--out", "out"], ["no/such/place", "exists"]),
    "below a file": (OK, ["measure", "features.npz/x", "--out", "out"], ["features.npz/x"]),
    "unknown suffix": (a_file("f.csv"), ["measure", "f.csv", "--out", "out"], ["f.csv", ".parquet"]),
    "not a zip": (a_file("features.npz", b"PK\3\4oops"), MEASURE, ["features.npz"]),
    "truncated": (a_file("features.npz", b""), MEASURE, ["features.npz"]),
    "wrong dtype": (
        saved(X_train=data()["X_train"].astype(complex)),
        MEASURE,
        ["X of 'train'", "complex128"],
    ),
    "object labels": (saved(y_train=np.array([{}] * 120)), MEASURE, ["features.npz", "not objects"]),
    "NaN": (with_nan("X_train", 17, 3), MEASURE, ["X of 'train'", "nan at row 17, neuron 3"]),
    "NaN, cka": (with_nan("X_test", 17, 3), [*MEASURE, "--score", "cka"], ["nan at row 17, neuron 3"]),
    "NaN target": (
        saved(y_train=np.where(np.arange(120) == 8, np.nan, 0.5)),
        MEASURE,
        ["labels of 'train'", "nan at row 8"],
    ),
    "label/row mismatch": (saved(y_test=np.arange(7)), MEASURE, ["labels of 'test'", "(7,)", "(40,)"]),
    "test labels only": (saved(y_train=None), MEASURE, ["labels", "none for ['train']"]),
    "widths": (saved(X_test=data()["X_test"][:, :5]), MEASURE, ["X of 'test'", "5 neurons", "12 neurons"]),
    "one class only": (saved(y_train=np.ones(120), y_test=np.ones(40)), MEASURE, ["one class only (1)"]),
    "unseen class": (saved(y_test=data()["y_test"] + 1), MEASURE, ["labels of 'test'", "not in 'train'"]),
    "empty split": (saved(**data(0)), MEASURE, ["X of 'test'", "(0, 12)", "at least one row"]),
    "no labels": (saved(y_train=None, y_test=None), MEASURE, ["score", "'ridge'", "cka"]),
    "unknown key": (saved(z_validation=np.ones(3)), MEASURE, ["'z_validation'"]),
    "newer store": (newer_store, ["measure", "store", "--out", "out"], ["version 2", "upgrade critmass"]),
    "unfinished store": (unfinished_store, ["measure", "store", "--out", "out"], ["unfinished store"]),
    "a name too long": (OK, ["measure", "x" * 300 + ".npz"], ["xxx", "File name too long"]),
    "a folder's name too long": (
        OK,
        ["measure", "features.npz", "--out", "x" * 300],
        ["xxx", "File name too long"],
    ),
    "repeats without end": (OK, [*MEASURE, "--repeats", "1000000000000"], ["repeats", "1000000"]),
    "unknown score": (OK, [*MEASURE, "--score", "rigde"], ["score", "'rigde'", "did you mean 'ridge'"]),
    "unknown parts": (OK, [*MEASURE, "--parts", "radnom"], ["parts", "'radnom'", "did you mean 'random'"]),
    "unknown sizes": (OK, [*MEASURE, "--sizes", "papre"], ["sizes", "'papre'", "did you mean 'paper'"]),
    "sizes that are none": (OK, [*MEASURE, "--sizes", "3x"], ["sizes", "'3x'"]),
    "setting without a value": (OK, [*MEASURE, "--set", "epochs"], ["--set", "'epochs'", "name=value"]),
    "setting of another score": (
        OK,
        [*MEASURE, "--set", "epochs=3"],
        ["epochs", "settings of score 'ridge'"],
    ),
    "setting out of range": (
        OK,
        [*MEASURE, "--score", "sgd", "--set", "momentum=2"],
        ["momentum", "found 2", "from 0 to below 1"],
    ),
    "unknown device": (OK, [*MEASURE, "--device", "tpu"], ["device", "'tpu'", "torch:cpu"]),
    "unknown metric": (OK, [*MEASURE, "--metric", "acuracy"], ["'acuracy'", "did you mean 'accuracy'"]),
    "unknown seeding": (OK, [*MEASURE, "--seeding", "author"], ["'author'", "did you mean 'authors'"]),
    "unknown existing": (OK, [*MEASURE, "--existing", "reuze"], ["'reuze'", "did you mean 'reuse'"]),
    "unknown task": (OK, [*MEASURE, "--task", "regresion"], ["'regresion'", "did you mean 'regression'"]),
    "metric of the other task": (OK, [*MEASURE, "--metric", "r2"], ["'r2'", "accuracy"]),
    "metric of cka": (
        OK,
        [*MEASURE, "--score", "cka", "--metric", "r2"],
        ["metric", "'r2'", "settings of score 'cka'"],
    ),
    "size 0": (OK, [*MEASURE, "--sizes", "0"], ["sizes", "found 0", "1 to 12"]),
    "size 0.0": (OK, [*MEASURE, "--sizes", "0.0"], ["sizes", "found 0.0"]),
    "size above d": (OK, [*MEASURE, "--sizes", "3", "13"], ["sizes", "found 13", "1 to 12"]),
    "fraction above 1": (OK, [*MEASURE, "--sizes", "1.5"], ["sizes", "found 1.5"]),
    "fraction below 0": (OK, [*MEASURE, "--sizes", "-0.5"], ["sizes", "found -0.5"]),
    "fraction NaN": (OK, [*MEASURE, "--sizes", "nan"], ["sizes", "nan"]),
    "delta 0": (OK, [*MEASURE, "--delta", "0"], ["delta", "found 0.0"]),
    "delta 1.5": (OK, [*MEASURE, "--delta", ".9", "1.5"], ["delta", "found 1.5"]),
    "delta NaN": (OK, [*MEASURE, "--delta", "nan"], ["delta", "nan"]),
    "repeats 0": (OK, [*MEASURE, "--repeats", "0"], ["repeats", "found 0"]),
    "negative repeats": (OK, [*MEASURE, "--repeats", "-2"], ["repeats", "found -2", "1 or more"]),
    "repeats of text": (OK, [*MEASURE, "--repeats", "few"], ["--repeats", '"few"']),
    "negative seed": (OK, [*MEASURE, "--seed", "-1"], ["seed", "found -1"]),
    "regularisation 0": (OK, [*MEASURE, "--regularisation", "0"], ["regularisation", "found 0.0"]),
    "regularisation below 0": (OK, [*MEASURE, "--regularisation", "-1"], ["regularisation", "found -1.0"]),
    "regularisation NaN": (OK, [*MEASURE, "--regularisation", "nan"], ["regularisation", "nan"]),
    "test fraction": (
        saved(X_test=None, y_test=None),
        [*MEASURE, "--test-fraction", "1"],
        ["test_fraction", "found 1.0"],
    ),
    "too little memory": (OK, [*MEASURE, "--memory-gib", "1e-9"], ["GiB", "memory_gib"]),
    "missing order": (OK, [*MEASURE, "--parts", "order.npy"], ["parts", "'order.npy'", "exists"]),
    "short order": (orders, [*MEASURE, "--parts", "short.npy"], ["parts", "(5,)", "0..11"]),
    "repeated order": (orders, [*MEASURE, "--parts", "twice.npy"], ["parts", "each of the neurons"]),
    "pickled order": (orders, [*MEASURE, "--parts", "objects.npy"], ["objects.npy"]),
    "broken order": (orders, [*MEASURE, "--parts", "broken.npy"], ["broken.npy"]),
    "column of npz": (OK, [*MEASURE, "--label", "y"], ["label", "'y'", ".parquet"]),
    "output below a file": (OK, ["measure", "features.npz", "--out", "features.npz/out"], ["is a file"]),
    "output is a file": (OK, ["measure", "features.npz", "--out", "features.npz"], ["is a file"]),
    "unknown command": (OK, ["mesure", "features.npz"], ['"mesure"', "measure"]),
    "unknown option": (OK, [*MEASURE, "--repeat", "3"], ["--repeat", "--repeats"]),
    "no features": (OK, ["measure"], ["features"]),
    "too many arguments": (OK, ["verify", "a", "b"], ["b"]),
    "extract: unknown model": (OK, ["extract", "lite9:", "mnist5k:", "--out", "o"], ["'lite9'", "lite0"]),
    "extract: unknown dataset": (OK, ["extract", "lite0:", "mnist:", "--out", "o"], ["'mnist'", "mnist5k"]),
    "extract: unknown layer": (
        OK,
        ["extract", "lite0:", "mnist5k:", "--out", "o", "--layer", "penultimat"],
        ["'penultimat'", "did you mean 'penultimate'"],
    ),
    "extract: batch 0": (
        OK,
        ["extract", "lite0:", "mnist5k:", "--out", "o", "--batch-size", "0"],
        ["batch_size", "found 0"],
    ),
    "extract: limit": (
        OK,
        ["extract", "lite0:", "mnist5k:", "--out", "o", "--limit", "few"],
        ["--limit", "'few'"],
    ),
    "extract: splits": (
        OK,
        ["extract", "lite0:", "mnist5k:", "--out", "o", "--splits", "train"],
        ["--splits", "'train'", "name=value"],
    ),
    "extract: no out": (OK, ["extract", "lite0:", "mnist5k:"], ["out"]),
    "extract: into a file": (
        OK,
        ["extract", "lite0:", "mnist5k:", "--out", "features.npz/store"],
        ["is a file"],
    ),
    "extract: into other things": (
        OK,
        ["extract", "lite0:", "mnist5k:", "--out", "."],
        ["features.npz", "choose another folder"],
    ),
    "demo: into a file": (OK, ["demo", "--out", "features.npz"], ["is a file"]),
    "choose: not a .npy": (
        OK,
        ["choose", "features.npz", "--out", "masks.txt"],
        ["out", "'masks.txt'", ".npy"],
    ),
    "choose: by": (OK, ["choose", "features.npz", "--out", "m.npy", "--by", "best"], ["by", "worst-class"]),
    "study: missing": (OK, ["study", "run", "s.yaml"], ["study", "'s.yaml'", "exists"]),
    "figure: missing study": (OK, ["figure", "accuracy", "s.yaml"], ["study", "'s.yaml'"]),
    "list: unknown": (OK, ["list", "modles"], ['"modles"', "models"]),
    "list: layers of nothing": (OK, ["list", "layers"], ["model", "layers"]),
    "list: models of something": (OK, ["list", "models", "lite0:"], ["model", "'lite0:'"]),
    "list: layers of an unknown": (OK, ["list", "layers", "lite:"], ["'lite'", "did you mean 'lite"]),
    "verify: missing": (OK, ["verify", "store"], ["'store'", "exists"]),
    "verify: a file": (OK, ["verify", "features.npz"], ["'features.npz'", "a folder"]),
    "verify: some folder": (OK, ["verify", "."], ["'.'", "features or results of critmass"]),
    "verify: no cells": (empty_results, ["verify", "results"], ["'results'", "features or results"]),
    "inequality: no results": (OK, ["inequality", "results"], ["results"]),
    "inequality: only CKA": (
        only_cka,
        ["inequality", "results"],
        ["cka without accuracies by class", "ridge"],
    ),
    "inequality: name of the table": (
        some_results,
        ["inequality", "results", "--out", "a.txt"],
        [".csv or .parquet"],
    ),
    "report: no results": (OK, ["report", "results"], ["results"]),
    "report: delta": (some_results, ["report", "results", "--delta", "2"], ["delta", "found 2.0"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_written(run: Any, tmp_path: Path, case: str) -> None:
    prepare, arguments, words = BAD[case]
    prepare(tmp_path)
    untouched = tree(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, ""), err
    assert err.startswith("critmass: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert tree(tmp_path) == untouched


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (with_nan("X_test", 17, 3), "X of 'test': found nan at row 17, neuron 3; "),
        (noise_targets, "score of the whole layer: found -"),
    ],
    ids=["NaN in test rows", "nothing learned"],
)
def test_bad_input_found_late_is_one_error_after_lines_of_progress_and_nothing_written(
    run: Any, tmp_path: Path, prepare: Callable[[Path], None], words: str
) -> None:
    prepare(tmp_path)
    untouched = tree(tmp_path)
    code, out, err = run(*MEASURE)
    assert (code, out) == (2, "")
    *progress, error = err.splitlines()
    assert error.startswith(f"critmass: {words}")
    assert all(re.fullmatch(r".+: \d+/\d+(, .+ left)?", line) for line in progress)
    assert tree(tmp_path) == untouched


@pytest.mark.parametrize("row", [0, 60, 119])
def test_nan_is_named_by_its_row_in_the_file_where_the_test_split_is_carved(
    run: Any, tmp_path: Path, row: int
) -> None:
    arrays = {"X_train": data()["X_train"].copy(), "y_train": data()["y_train"]}
    arrays["X_train"][row, 3] = np.nan
    np.savez(tmp_path / "features.npz", **arrays)
    code, _, err = run(*MEASURE)
    assert code == 2
    assert f"nan at row {row}, neuron 3" in err


def test_bad_input_leaves_finished_results_alone(run: Any, npz: Path) -> None:
    run("measure", npz, "--out", "results")
    untouched = tree(npz.parent)
    code, _, _ = run("measure", npz, "--out", "results", "--sizes", "13")
    assert code == 2
    assert tree(npz.parent) == untouched


# Our fault; and being stopped.


def test_an_internal_error_leaves_a_log(
    run: Any, npz: Path, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("critmass.curves.measure.measure", broken)
    code, out, err = run("measure", npz)
    (log,) = logs.iterdir()
    assert (code, out) == (1, "")
    assert err == f"critmass: internal error (RuntimeError); the traceback is in {log}\n"
    text = log.read_text()
    assert text.startswith(f"critmass measure {npz}\n")
    assert "Traceback" in text
    assert "RuntimeError: a bug of ours" in text
    assert "in broken" in text


def test_stopped_from_the_keyboard(run: Any, npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("critmass.curves.measure.measure", stop)
    assert run("measure", npz) == (130, "", "critmass: stopped; run the same command again to go on\n")


def test_stopped_while_it_is_being_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stop:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "critmass.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "critmass.cli.app")
    monkeypatch.setattr(sys, "meta_path", [Stop(), *sys.meta_path])
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    message = "critmass: stopped; run the same command again to go on\n"
    assert (stopped.value.code, *capsys.readouterr()) == (130, "", message)


# The installed script.


def script(*arguments: Any, folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("critmass")
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_script_measures(npz: Path, tmp_path: Path) -> None:
    done = script("measure", npz, "--score", "cka", "--json", "--out", "results", folder=tmp_path)
    assert done.returncode == 0
    assert {r["score"] for r in json.loads(done.stdout)["redundancy"]} == {"cka"}
    measure(npz, score="cka", out=tmp_path / "expected")
    assert tree(tmp_path / "results") == tree(tmp_path / "expected")


def test_the_script_refuses(npz: Path, tmp_path: Path) -> None:
    untouched = tree(tmp_path)
    done = script("measure", npz, "--score", "rigde", "--out", "results", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "critmass: score: found 'rigde'; allowed: centroid, cka, cka-biased, cka-minibatch, knn, lda, "
        "logistic, neighbour-overlap, ridge, sgd; did you mean 'ridge' or 'sgd'?\n"
    )
    assert tree(tmp_path) == untouched


def test_the_script_ends_quietly_when_its_reader_does(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("critmass")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([program, "list", "scores"], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
