"""No code in the documentation can opt out of being run, and what it names is there."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
import shutil

import numpy as np
import polars as pl
import pytest
from helpers_data import ROOT

import critmass
from critmass.cli import main
from critmass.testing import made_up

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks_of(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


PYTHON = [(page.name, code) for page in PAGES for code in blocks_of(page, "python")]
SHELL = [
    line for page in PAGES for code in blocks_of(page, "sh") for line in code.splitlines() if line.strip()
]


def test_blocks_are_of_a_kind_that_is_checked():
    for page in PAGES:
        kinds = set(re.findall(r"^```(\w*)$", page.read_text(), flags=re.MULTILINE)) - {""}
        assert kinds <= {"python", "sh", "mermaid"}, page


@pytest.mark.parametrize(("page", "code"), PYTHON)
def test_python_blocks_run(page, code, capsys):
    exec(compile(code, page, "exec"), {})  # noqa: S102
    assert capsys.readouterr().out


def test_critmass_commands_run_in_order(tmp_path, monkeypatch, real_store, capsys):
    x, y = made_up(n=200, d=12, dtype=np.float32)
    np.savez(tmp_path / "embeddings.npz", X_train=x, y_train=y)
    vectors = pl.Series(x, dtype=pl.Array(pl.Float32, 12))
    pl.DataFrame({"embedding": vectors}).write_parquet(tmp_path / "embeddings.parquet")
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    shutil.copytree(real_store, tmp_path / "features" / "lite0-mnist5k")  # extract then finds it finished
    monkeypatch.chdir(tmp_path)
    commands = [line.split(" #")[0] for line in SHELL if line.startswith("critmass ")]
    assert len(commands) >= 5
    for command in commands:
        with pytest.raises(SystemExit) as done:
            main(shlex.split(command)[1:])
        assert done.value.code == 0, (command, capsys.readouterr().err)
    assert (tmp_path / "results" / "report.html").exists()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for line in SHELL:
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, flags=re.MULTILINE), line


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), (page, link)


def test_every_room_is_in_the_architecture_page():
    text = (ROOT / "docs" / "architecture.md").read_text()
    for module in pkgutil.iter_modules(critmass.__path__):
        name = f"{module.name}/" if module.ispkg else f"{module.name}.py"
        assert f"| `{name}`" in text


@pytest.mark.parametrize(
    "name",
    [m.name for m in pkgutil.walk_packages(critmass.__path__, "critmass.") if ".sources." not in m.name],
)
def test_examples_in_docstrings(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0
