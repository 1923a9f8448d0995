"""The report: numbers first, then charts and one page that needs nothing else; the same bytes twice."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import polars as pl
import pytest

import critmass as cm
from critmass import figures
from critmass.report import summary, write_report
from critmass.results import load_curves
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
    table = figures.curve_table(curves)
    for label, curve in figures.labelled(curves):
        ratios = curve.measurement.scores / curve.whole
        mine = table.filter(pl.col("curve") == label)
        np.testing.assert_allclose(mine["mean"], ratios.mean(axis=0))
        np.testing.assert_allclose(mine["low"], ratios.min(axis=0))
        np.testing.assert_allclose(mine["high"], ratios.max(axis=0))
    chart = figures.curve_chart(curves).to_dict()
    (line,) = (layer for layer in chart["layer"] if "mean" in str(layer["encoding"]["y"]))
    assert chart["datasets"][line["data"]["name"]] == table.to_dicts()


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf", ".json"])
def test_chart_files(results, tmp_path, suffix):
    path = tmp_path / f"chart{suffix}"
    figures.write_chart(figures.redundancy_chart(load_curves(results)), path)
    data = path.read_bytes()
    if suffix == ".svg":
        ElementTree.fromstring(data)  # noqa: S314  our own file
    assert data.startswith({".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF", ".json": b"{"}[suffix])


def test_an_unknown_suffix_is_refused(results, tmp_path):
    with pytest.raises(cm.InputError, match=r"chart.gif.*\.svg, \.png, \.pdf or \.json"):
        figures.write_chart(figures.redundancy_chart(load_curves(results)), tmp_path / "chart.gif")


def test_labels_tell_curves_apart():
    x, y = made_up(n=100, d=6)
    fs = cm.Features.from_arrays((x, y), name="a")
    curves = [cm.measure(fs, parts=parts, sizes=[2]) for parts in ("random", "first")]
    assert [label for label, _ in figures.labelled(curves)] == ["ridge probe, random", "ridge probe, first"]
    assert [label for label, _ in figures.labelled(curves[:1])] == ["ridge probe"]


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(cm.InputError, match="make one with measure --out"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())
