"""The house rules that a machine can check: who may import whom, what importing costs."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_data import ROOT

SOURCE = ROOT / "src" / "critmass"
ORDER = (
    *("errors", "progress", "io", "linalg", "features", "sources", "extraction", "parts", "scores", "curves"),
    *("deploy", "studies", "report", "testing", "demo", "cli"),
)
"""Folders (and modules beside them) in the order of the data's path; each imports only those above it."""
MODULES = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in SOURCE.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """Modules of critmass imported anywhere in a file, also inside functions, as dotted names within it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("critmass."):
            module = (node.module or "").removeprefix("critmass").removeprefix(".")
            for alias in node.names:
                name = f"{module}.{alias.name}".lstrip(".")
                found.add(name if name in MODULES or not module else module)
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("critmass.")}
    return found


def test_every_folder_is_in_the_plan():
    assert {name.partition(".")[0] for name in MODULES} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"__init__"}))
def test_a_folder_imports_only_folders_above_it(name):
    own = ORDER.index(name.partition(".")[0])
    assert not {each for each in imports(MODULES[name]) if ORDER.index(each.partition(".")[0]) > own}


def test_no_module_imports_itself_by_way_of_others():
    files = {name: path for name, path in MODULES.items() if path.name != "__init__.py"}
    graph = {name: imports(path) & set(files) for name, path in files.items()}
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_importing_loads_nothing_heavy():
    code = "import sys, critmass; print(sorted({'numpy', 'torch', 'polars', 'scipy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_measuring_arrays_loads_no_deep_learning_framework():
    code = (
        "import sys, numpy as np, critmass as cm; r = np.random.default_rng(0);"
        "cm.measure(cm.Features.from_arrays((r.normal(size=(80, 8)), np.arange(80) % 2)), sizes=[2]);"
        "print(sorted({'torch', 'sklearn', 'altair', 'PIL'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_public_names_are_all_there():
    import critmass as cm

    for name in cm.__all__:
        assert getattr(cm, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cm.nothing  # noqa: B018
    assert all(
        callable(getattr(cm, name)) for name in ("measure", "inequality", "similarity", "extract", "cka")
    )


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_has_one_idea_and_fits_on_a_few_pages(name):
    assert len(MODULES[name].read_text().splitlines()) <= 400
