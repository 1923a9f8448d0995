"""What the repository says it has measured was measured on this source, and is what was written then."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys

import pytest
from helpers_data import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import claims


@pytest.mark.parametrize("command", claims.WRITES)
def test_nothing_is_older_than_the_code_it_describes(command):
    found = claims.faults(command)
    assert not found, "\n".join(found)


def test_every_generated_file_has_a_command_of_the_makefile():
    patterns = {pattern: command for command, some in claims.WRITES.items() for pattern in some}
    made = {str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)}
    pages = [ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md", *(ROOT / "docs").glob("*.md")]
    marked = {str(page.relative_to(ROOT)) for page in pages if claims.BEGIN in page.read_text()}
    images = {str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "images").rglob("*.svg")}
    assert made == marked | images
    makefile = (ROOT / "Makefile").read_text()
    for command in claims.WRITES:
        assert re.search(rf"^{command.removeprefix('make ')}:", makefile, flags=re.MULTILINE)


def test_rooms_that_decide_what_a_command_measures_are_there():
    source = claims.SOURCE / "critmass"
    rooms = {".".join(path.relative_to(source).with_suffix("").parts) for path in source.rglob("*")}
    assert set(claims.ROOMS) == set(claims.WRITES)
    assert all(set(some) <= rooms for some in claims.ROOMS.values())


def test_a_command_notes_the_modules_of_its_rooms():
    for room in ("scores.ridge", "extraction.extract"):
        importlib.import_module(f"critmass.{room}")
    bench, study = set(claims.loaded("make bench")), set(claims.loaded("make study"))
    assert "critmass.scores.ridge" in bench
    assert "critmass.extraction.extract" in study - bench
    assert bench < study


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one module and one page, measured by `make bench`."""
    source = tmp_path / "src" / "critmass"
    (source / "linalg").mkdir(parents=True)
    (source / "linalg" / "moments.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "probes.md").write_text(f"Head\n{claims.BEGIN}\n{claims.END}\nTail\n")
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    monkeypatch.setattr(claims, "SOURCE", tmp_path / "src")
    monkeypatch.setattr(claims, "loaded", lambda _: ["critmass.linalg.moments"])
    return tmp_path


def measured(project):
    names = ["critmass.linalg.moments"]
    run = claims.Run("make probes", False, project, project, project, claims.hashes(names))
    run.write({"docs/probes.md": "| a table |"})
    return run


def test_a_page_says_what_it_was_measured_on_and_keeps_what_is_around_it(project):
    measured(project)
    page = (project / "docs" / "probes.md").read_text()
    source = json.loads((project / "docs" / "measured.json").read_text())["make probes"]["source"]
    assert page.startswith("Head\n")
    assert page.endswith("\nTail\n")
    assert "| a table |" in page
    assert f"Measured by `make probes` on source `{source}`" in page
    assert claims.faults("make probes", project) == []


def test_a_page_that_nothing_was_noted_of_is_named(project):
    (fault,) = claims.faults("make probes", project)
    assert fault == "docs/probes.md: nothing says what it was measured on; run `make probes`"


def test_what_is_taken_out_claims_nothing(project):
    measured(project)
    (project / "src" / "critmass" / "linalg" / "moments.py").write_text("def double(x):\n    return 3 * x\n")
    claims.take_out("make probes", project)
    page = (project / "docs" / "probes.md").read_text()
    assert "| a table |" not in page
    assert "`make probes` writes what belongs here" in page
    assert (page.startswith("Head\n"), page.endswith("\nTail\n")) == (True, True)
    assert claims.faults("make probes", project) == []
    (project / "docs" / "probes.md").write_text(page.replace("Not measured", "| 7 | Not measured"))
    assert len(claims.faults("make probes", project)) == 1


@pytest.mark.parametrize(
    ("code", "is_older"),
    [
        ("def double(x):\n    return 3 * x\n", True),
        ("def double(x):\n    if x > 1:\n        raise ValueError(x)\n    return 2 * x\n", True),
        ("# Why.\n\ndef double(x):\n    '''Return twice x.'''\n    return (2 *\n        x)\n", False),
        (None, True),
    ],
)
def test_code_that_computes_something_else_makes_it_older(project, code, is_older):
    measured(project)
    path = project / "src" / "critmass" / "linalg" / "moments.py"
    path.unlink() if code is None else path.write_text(code)
    found = claims.faults("make probes", project)
    older = "docs/probes.md is older than the code it describes (critmass.linalg.moments); run `make probes`"
    assert found == ([older] if is_older else [])


def test_what_an_error_says_is_no_number(project):
    path = project / "src" / "critmass" / "linalg" / "moments.py"
    path.write_text("def double(x):\n    if x > 1:\n        raise ValueError('large')\n    return 2 * x\n")
    measured(project)
    path.write_text(path.read_text().replace("large", "above 1"))
    assert claims.faults("make probes", project) == []
    path.write_text(path.read_text().replace("x > 1", "x > 2"))
    assert len(claims.faults("make probes", project)) == 1


def test_an_edit_by_hand_is_noticed_and_one_outside_the_marks_is_not(project):
    measured(project)
    page = project / "docs" / "probes.md"
    page.write_text(page.read_text().replace("Head", "Heading"))
    assert claims.faults("make probes", project) == []
    page.write_text(page.read_text().replace("a table", "a finer table"))
    (fault,) = claims.faults("make probes", project)
    assert fault == "docs/probes.md is not what was written into it; run `make probes`"


def test_nothing_is_written_where_the_source_changed_meanwhile(project):
    run = measured(project)
    before = (project / "docs" / "probes.md").read_bytes()
    (project / "src" / "critmass" / "linalg" / "moments.py").write_text("def double(x):\n    return x + x\n")
    with pytest.raises(SystemExit, match="the source changed during the measurement"):
        run.write({"docs/probes.md": "| another table |"})
    assert (project / "docs" / "probes.md").read_bytes() == before


def test_what_another_source_made_is_not_used_again(tmp_path):
    folder = claims.fresh(tmp_path / "kept", "one")
    (folder / "store").write_text("features")
    assert (claims.fresh(folder, "one") / "store").exists()
    assert not (claims.fresh(folder, "two") / "store").exists()
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "store").write_text("features")
    assert not (claims.fresh(tmp_path / "older", "one") / "store").exists()


def test_a_toy_run_writes_nothing_into_the_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "require_this_source", lambda: None)
    for arguments, place in (([], None), (["--out", str(tmp_path)], tmp_path)):
        monkeypatch.setattr(sys, "argv", ["bench.py", "--toy", *arguments])
        with claims.run("make bench", None) as run:
            assert run.toy
            assert not run.out.is_relative_to(ROOT)
            assert not run.cache.is_relative_to(ROOT)
            assert place in (None, run.out)
            shutil.rmtree(run.cache)
