"""Commands of studies: study run, study status, figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from critmass.cli.options import Json, Tokens
from critmass.cli.printing import emit, in_json, shown, visible
from critmass.errors import InputError, verbatim


def study_run(
    study: Path,
    *,
    out: Path | None = None,
    data: str | None = None,
    only: Tokens = (),
    dry_run: Json = False,
    device: str = "cpu",
    memory_gib: float | None = None,
    json: Json = False,
) -> None:
    """Compute what a study still lacks; stopped at any moment, it goes on where it was.

    Several processes may run one study at once. A cell that fails stops no other, and is tried again by
    the next run; the exit code is then 2.

    Example: critmass study run studies/local.yaml --data data --only "lite0/*"

    Parameters
    ----------
    study
        YAML file of the study.
    out
        Folder of the results, other than the study says.
    data
        Folder that {data} stands for, other than the study says.
    only
        Globs of cells: model/dataset/layer/score/parts.
    dry_run
        Show what would be computed, and stop.
    device
        cpu, cuda, cuda:1.
    memory_gib
        Refuse work that needs more memory than this; 8 by default.
    json
        Print one JSON object.
    """
    from critmass.curves import measure as measuring
    from critmass.studies import run as studies
    from critmass.studies.config import load_study

    loaded = load_study(study)
    if dry_run:
        _print_states(studies.status(loaded, out=out, only=only), json=json)
        return
    with shown() as progress:
        states = studies.run(
            loaded,
            out=out,
            data=data,
            only=only,
            device=device,
            memory_gib=measuring.MEMORY_GIB if memory_gib is None else memory_gib,
            progress=progress,
        )
    failed = _print_states(states, json=json)
    if failed:
        raise InputError(
            "study", verbatim(f"{failed} cells failed"), "cells that can be computed", "see the reasons"
        )


def study_status(
    study: Path,
    *,
    out: Path | None = None,
    only: Tokens = (),
    json: Json = False,
) -> None:
    """Show which cells of a study are done, missing or failed, and why.

    Example: critmass study status studies/local.yaml

    Parameters
    ----------
    study
        YAML file of the study.
    out
        Folder of the results, other than the study says.
    only
        Globs of cells: model/dataset/layer/score/parts.
    json
        Print one JSON object.
    """
    from critmass.studies import run as studies
    from critmass.studies.config import load_study

    _print_states(studies.status(load_study(study), out=out, only=only), json=json)


def figure(
    name: str,
    study: Path,
    *,
    out: Path | None = None,
    into: Path | None = None,
    json: Json = False,
) -> None:
    """Draw a figure, or write a table, from what a study has measured so far.

    Example: critmass figure accuracy studies/local.yaml

    Parameters
    ----------
    name
        A figure or table by name; critmass list figures shows them. all: every one that can be drawn.
    study
        YAML file of the study.
    out
        Folder of the results, other than the study says.
    into
        Folder to write to; figures/ in the results by default.
    json
        Print one JSON object.
    """
    from critmass.report import study_figures
    from critmass.studies.config import load_study

    loaded = load_study(study)
    names = [name] if name != "all" else study_figures.drawable(loaded, out=out)
    written = [
        path for each in names for path in study_figures.write_figure(each, loaded, out=out, into=into)
    ]
    files = [str(path) for path in written]
    emit({"files": files}, json=json, text="\n".join(f"wrote {file}" for file in files))


def _print_states(states: Sequence[Any], *, json: bool) -> int:
    """Print the state of every cell, and return how many failed."""
    found = [state.state for _, state in states]
    counts = {name: found.count(name) for name in ("done", "missing", "failed")}
    if json:
        cells = [
            {"cell": cell.label, "id": cell.id, "state": s.state, "reason": s.reason} for cell, s in states
        ]
        print(in_json({**counts, "cells": cells}))
        return counts["failed"]
    for cell, state in states:
        print(visible(f"{state.state:<7}  {cell.label}{f'  {state.reason}' if state.reason else ''}"))
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return counts["failed"]
