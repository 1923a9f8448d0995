"""What commands print: progress on stderr, tables or one JSON object on stdout."""

from __future__ import annotations

import contextlib
import json as jsonlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critmass.progress import Progress, spoken

if TYPE_CHECKING:
    from rich.console import Console


@contextlib.contextmanager
def shown() -> Iterator[Progress]:
    """Show a bar on a terminal, and a line every so often otherwise; always on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield spoken(lambda line: print(line, file=sys.stderr, flush=True))
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show


def emit(record: dict[str, Any], *, json: bool, text: str) -> None:
    """Print a record as one JSON object, or the text that says the same."""
    print(in_json(record) if json else visible(text))


def in_json(record: dict[str, Any]) -> str:
    """Return a record as JSON that any terminal and any reader takes."""
    text = jsonlib.dumps(record, ensure_ascii=False)
    return text if text.isprintable() else jsonlib.dumps(record)


def visible(text: str) -> str:
    """Return `text` with what a terminal would obey, or could not print, written out."""
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1]
        for character in text
    )


def tables() -> Console:
    """Return where tables are printed: names in them are names, not markup."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False, highlight=False)


def print_redundancy(
    curves: Sequence[Any], deltas: Sequence[float], *, json: bool, written: Sequence[Path]
) -> None:
    """Print DR of curves at each δ, as tables or as one JSON object, and the files written."""
    from rich.table import Table

    from critmass.report.summary import COARSE, COLUMNS, NOTE, row, rows_in_words, summary

    if json:
        files = [str(path) for path in written]
        warnings = [warning for curve in curves for warning in curve.warnings]
        record = {**summary(curves, deltas), "warnings": warnings, "files": files}
        print(in_json(record))
        return
    console = tables()
    for curve in curves:
        fine = len(curve.sizes) == curve.n_neurons
        note = "sustained DR is the headline where all sizes are measured" if fine else COARSE
        repeats = f"{curve.repeats} repeat" + "s" * (curve.repeats > 1)
        title = visible(f"{curve.title}, {repeats}, {rows_in_words(curve)}")
        table = Table(title=title, title_justify="left", caption=f"{note}; {NOTE}", caption_justify="left")
        for name in COLUMNS:
            whole = name in ("95% interval", "critical mass")
            table.add_column(name, justify="left" if name == "split" else "right", no_wrap=whole)
        for record in summary([curve], deltas)["redundancy"]:
            table.add_row(*map(visible, row(record)))
        console.print(table)
        for warning in curve.warnings:
            print(visible(f"warning: {warning}"))
    for path in written:
        print(visible(f"wrote {path}"))
