"""The report: numbers first, then charts and one page that needs nothing else; the same bytes twice."""

from __future__ import annotations

import dataclasses
import re
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import polars as pl
import pytest

import critmass as cm
from critmass.curves.cells import load_curves
from critmass.report import charts, study_figures, summary, write_report
from critmass.testing import made_up


@pytest.fixture
def results(tmp_path):
    x, y = made_up(n=300, d=16)
    fs = cm.Features.from_arrays((x[:200], y[:200]), test=(x[200:], y[200:]), name="<b>mine</b> & yours")
    for score in ("ridge", "cka", "cka-minibatch"):
        cm.measure(fs, score=score, sizes="all", out=tmp_path / "results")
    return tmp_path / "results"


def test_the_summary_is_what_the_curves_say(results):
    curves = load_curves(results)
    records = summary(curves, (0.9, 0.95))["redundancy"]
    assert len(records) == 6
    for record in records:
        (curve,) = (c for c in curves if c.score == record["score"])
        found = curve.redundancy(record["delta"])
        assert (record["dr"], record["low"], record["critical_mass"]) == (
            found.dr,
            found.low,
            found.critical_mass,
        )


def test_the_page_stands_alone_and_escapes_names(results):
    write_report(results)
    page = (results / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="', page)
    assert "<b>mine</b>" not in page
    assert "&lt;b&gt;mine&lt;/b&gt; &amp; yours" in page
    assert page.count("<svg") == 2
    for record in summary(load_curves(results))["redundancy"]:
        assert f"<td>{record['dr']:.3f}</td>" in page
        assert f"{record['critical_mass']} of 16" in page


def test_two_runs_give_the_same_bytes(results, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(results, again)
    for folder in (results, again):
        write_report(folder)
    one, other = ({p.name: p.read_bytes() for p in folder.glob("*.*")} for folder in (results, again))
    assert one == other
    assert {"report.html", "curve.svg", "curve.png", "redundancy.svg", "results.parquet"} <= one.keys()


def test_charts_draw_the_tables(results):
    curves = load_curves(results)
    table = charts.curve_table(curves)
    for label, curve in charts.labelled(curves):
        ratios = curve.measurement.scores / curve.whole
        mine = table.filter(pl.col("curve") == label)
        np.testing.assert_allclose(mine["mean"], ratios.mean(axis=0))
        np.testing.assert_allclose(mine["low"], ratios.min(axis=0))
        np.testing.assert_allclose(mine["high"], ratios.max(axis=0))
    chart = charts.curve_chart(curves).to_dict()
    (line,) = (layer for layer in chart["layer"] if "mean" in str(layer["encoding"]["y"]))
    assert chart["datasets"][line["data"]["name"]] == table.to_dicts()


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf", ".json"])
def test_chart_files(results, tmp_path, suffix):
    path = tmp_path / f"chart{suffix}"
    charts.write_chart(charts.redundancy_chart(load_curves(results)), path)
    data = path.read_bytes()
    if suffix == ".svg":
        ElementTree.fromstring(data)  # noqa: S314  our own file
    assert data.startswith({".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF", ".json": b"{"}[suffix])


def test_an_unknown_suffix_is_refused(results, tmp_path):
    with pytest.raises(cm.InputError, match=r"chart.gif.*\.svg, \.png, \.pdf or \.json"):
        charts.write_chart(charts.redundancy_chart(load_curves(results)), tmp_path / "chart.gif")


def test_labels_tell_curves_apart():
    x, y = made_up(n=100, d=6)
    fs = cm.Features.from_arrays((x, y), name="a")
    curves = [cm.measure(fs, parts=parts, sizes=[2]) for parts in ("random", "first")]
    assert [label for label, _ in charts.labelled(curves)] == ["ridge probe, random", "ridge probe, first"]
    assert [label for label, _ in charts.labelled(curves[:1])] == ["ridge probe"]


def many(results, count):
    """Return curves of as many features as asked for, all of the same scores."""
    curve = load_curves(results)[-1]
    return [dataclasses.replace(curve, features=f"vit_base_patch16_224-dataset-{i}") for i in range(count)]


def looks(chart):
    """Return the colour and the dash of every name in a chart's legend."""
    (line,) = (each for each in chart["layer"] if each["mark"]["type"] == "line")
    colour = line["encoding"]["color"]["scale"]
    dash = line["encoding"].get("strokeDash", {"scale": {"range": [(1, 0)] * len(colour["domain"])}})["scale"]
    assert len(colour["domain"]) == len(colour["range"]) == len(dash["range"])
    return set(zip(colour["range"], map(tuple, dash["range"]), strict=True))


@pytest.mark.parametrize("draw", [charts.curve_chart, charts.redundancy_chart])
@pytest.mark.parametrize("count", [2, 7, 8, 9, 24, 60])
def test_no_two_curves_look_alike(results, draw, count):
    chart = draw(many(results, count)).to_dict()
    assert len(looks(chart)) == count
    assert len({colour for colour, _ in looks(chart)}) == min(count, 8)


def test_24_curves_make_a_picture_of_sane_size(results, tmp_path):
    for draw in (charts.curve_chart, charts.redundancy_chart):
        chart = draw(many(results, 24))
        charts.write_chart(chart, tmp_path / "chart.png")
        width, height = (int.from_bytes((tmp_path / "chart.png").read_bytes()[i : i + 4]) for i in (16, 20))
        shown = chart.to_dict()
        assert width <= 2000
        assert 2 * shown["width"] >= width / 2  # two pixels of a .png for each of the chart's
        assert 2 * shown["height"] >= height / 2


def test_names_are_labels_and_told_apart_where_they_are_the_same(results):
    curves = load_curves(results)
    named = [dataclasses.replace(curve, name="mine") for curve in curves]
    assert next(label for label, _ in charts.labelled([named[0], *curves[1:]])) == "mine"
    assert len({label for label, _ in charts.labelled(named)}) == 3


def test_parts_of_a_dense_basis_are_no_neurons(tmp_path):
    x, y = made_up(n=200, d=12)
    fs = cm.Features.from_arrays((x, y), name="mine")
    for parts in ("pca", "random-projection"):
        cm.measure(fs, parts=parts, sizes="all", repeats=2, regularisation=1.0, out=tmp_path)
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "of 12 components keep 90%" in text
    assert "of 12 directions keep 90%" in text
    assert "neurons keep" not in text
    assert "components or directions kept" in page
    assert "150 training and 50 test rows" in text


def test_the_page_says_what_coarse_sizes_leave_open(tmp_path):
    x, y = made_up(n=200, d=12)
    cm.measure(cm.Features.from_arrays((x, y)), sizes=[1], regularisation=1.0, out=tmp_path)
    write_report(tmp_path, deltas=[1.0])
    text = " ".join(re.sub(r"<[^>]*>", " ", (tmp_path / "report.html").read_text()).split())
    assert "more than 1 of 12 neurons are needed to keep 100%" in text
    assert "above 1 of 12" in text
    assert "nly some sizes were measured" in text


@pytest.mark.parametrize("datasets", [1, 4])
@pytest.mark.parametrize("figure", ["accuracy", "redundancy"])
def test_figures_of_24_models(tmp_path, datasets, figure):
    rows = [
        {"model": f"model-{i}", "dataset": f"data-{j}", "parts": "random", "kind": kind}
        | {"fraction": f, "delta": 0.8 + f / 5, "mean": f, "dr": 1 - f, "low": f / 2, "high": f}
        for i in range(24)
        for j in range(datasets)
        for kind in ("probe", "CKA")
        for f in (0.1, 0.5, 1.0)
    ]
    chart = study_figures.figure_chart(figure, pl.DataFrame(rows))
    layers = chart.to_dict()["spec"]["layer"]
    encodings = [layer["encoding"] for layer in layers]
    channel = "shape" if figure == "redundancy" else "strokeDash"
    encoding = next(found for found in encodings if channel in found)
    pairs = zip(
        encoding["color"]["scale"]["range"], map(str, encoding[channel]["scale"]["range"]), strict=True
    )
    assert len(set(pairs)) == 24
    charts.write_chart(chart, tmp_path / "chart.png")
    assert int.from_bytes((tmp_path / "chart.png").read_bytes()[16:20]) <= 2000


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(cm.InputError, match="make one with measure --out"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())
