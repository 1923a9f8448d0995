"""The house rules that a machine can check: who may import whom, what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_data import ROOT

SOURCE = ROOT / "src" / "critmass"
ROOMS = (
    *(
        "errors",
        "files",
        "rng",
        "specs",
        "records",
        "parquet",
        "yamls",
        "stamps",
        "progress",
        "downloads",
        "arrays",
        "tensors",
        "shards",
        "store",
    ),
    *(
        "validation",
        "readers",
        "labels",
        "features",
        "sources",
        "extraction",
        "moments",
        "bases",
        "parts",
        "scores",
        "redundancy",
    ),
    *(
        "curve",
        "gini",
        "inequalities",
        "results",
        "measuring",
        "mitigation",
        "pairwise",
        "testing",
        "study_file",
        "study",
        "verifying",
        "figures",
    ),
    *("atlas", "report", "demo", "cli"),
)


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Rooms imported anywhere in a file, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "critmass":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("critmass."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("critmass.")}
    return found


def test_every_room_is_in_the_plan():
    assert {room_of(path) for path in SOURCE.rglob("*.py")} - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_imports_only_rooms_above_it(path):
    if path == SOURCE / "__init__.py":
        return
    room = room_of(path)
    below = {name for name in imports(path) if ROOMS.index(name) > ROOMS.index(room)}
    assert not below


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
