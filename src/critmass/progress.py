"""How long work tells its caller where it is; printing it is the caller's business (cli/)."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Told (what is being done, steps done, steps in all)."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Report nothing."""


def counted(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    """Return a callable that adds up steps and reports their sum."""
    done = 0

    def count(steps: int) -> None:
        nonlocal done
        done += steps
        progress(what, done, total)

    return count
