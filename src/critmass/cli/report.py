"""Commands on results and stores: report, verify."""

from __future__ import annotations

from pathlib import Path

from critmass.cli.options import Json, Numbers
from critmass.cli.printing import emit, print_redundancy
from critmass.errors import InputError


def report(results: Path, *, delta: Numbers = [0.8, 0.9, 0.95, 0.99], json: Json = False) -> None:  # noqa: B006
    """Write charts and a self-contained page from a results folder.

    Example: critmass report results

    Parameters
    ----------
    results
        A folder that measure --out wrote.
    delta
        Shares of the whole's score to keep.
    json
        Print one JSON object.
    """
    from critmass.report import write_report
    from critmass.results import load_curves

    written = write_report(results, deltas=delta)
    print_redundancy(load_curves(results), delta, json=json, written=written)


def verify(path: Path, *, json: Json = False) -> None:
    """Check every byte of a features store or a results folder against its checksums.

    Example: critmass verify features/lite0-mnist5k

    Parameters
    ----------
    path
        A features store or a results folder.
    json
        Print one JSON object.
    """
    from critmass.results import CELLS, verify_results
    from critmass.store import is_store, open_store

    if not path.exists():
        raise InputError("path", str(path), "a folder that exists", "check the path")
    if is_store(path):
        checked, kind = open_store(path).verify(), "shards"
    elif (path / CELLS).is_dir():
        checked, kind = verify_results(path), "cells"
    else:
        raise InputError("path", str(path), "a features store or a results folder")
    emit(
        {"path": str(path), kind: checked, "intact": True}, json=json, text=f"{path}: {checked} {kind} intact"
    )
