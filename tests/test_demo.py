"""The demo, end to end, on the real network and images: what `make demo` does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest

from critmass.cli import main


@pytest.fixture(scope="module")
def demo_folder(real_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(real_store, folder / "features")
    return folder


def run(capsys, folder):
    with pytest.raises(SystemExit) as done:
        main(["demo", "--out", str(folder), "--json"])
    assert done.value.code == 0
    return json.loads(capsys.readouterr().out)


def test_demo(demo_folder, capsys):
    found = run(capsys, demo_folder)
    records = found["redundancy"]
    assert [(r["score"], r["delta"]) for r in records] == [
        (score, delta) for score in ("cka", "ridge") for delta in (0.8, 0.9, 0.95, 0.99)
    ]
    for r in records:
        assert r["n_neurons"] == 1280
        assert 0 <= r["low"] <= r["sustained"] <= r["dr"] <= r["high"] < 1
        assert r["critical_mass"] == round(1280 * (1 - r["dr"]))
    by_score = {score: [r["dr"] for r in records if r["score"] == score] for score in ("cka", "ridge")}
    for values in by_score.values():
        assert values == sorted(values, reverse=True)
        assert values[1] > 0.5  # the paper's claim: most neurons can go at δ = 0.9
    table = pl.read_parquet(demo_folder / "results.parquet")
    assert len(table) == 2 * 1280 * 5
    assert table["whole"].filter(table["score_name"] == "ridge")[0] > 0.9
    for name in ("curve.svg", "curve.png", "report.html"):
        assert (demo_folder / name).stat().st_size > 10_000


def test_a_second_run_reuses_everything_and_changes_no_byte(demo_folder, capsys):
    first = run(capsys, demo_folder)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in demo_folder.rglob("*.safetensors")}
    assert run(capsys, demo_folder) == first
    for path, (data, written) in before.items():
        assert path.read_bytes() == data
        assert path.stat().st_mtime_ns == written


def test_real_features_are_what_an_ordinary_probe_says(real_features):
    """An oracle from outside: scikit-learn's own cross-validated ridge on the whole layer."""
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    import critmass as cm

    train, test = real_features.splits["train"], real_features.splits["test"]
    model = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 5, 11)))
    expected = model.fit(train.x[:], train.y).score(test.x[:], test.y)
    assert cm.measure(real_features, sizes=[1280]).whole == pytest.approx(expected, abs=0.01)
