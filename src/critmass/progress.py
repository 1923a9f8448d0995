"""How long work tells its caller where it is; printing it is the caller's business (cli/)."""

from __future__ import annotations

import time
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


def spoken(
    say: Callable[[str], None], *, every: float = 15.0, clock: Callable[[], float] = time.monotonic
) -> Progress:
    """Return a progress that says a line where work starts and ends, and every so often between.

    Parameters
    ----------
    say : callable (line)
    every : float
        Seconds of silence before a line between says how far work is, how fast, and how long it will take.
    clock : callable
        Seconds.

    Examples
    --------
    >>> now = iter([0.0, 10.0, 20.0, 40.0])
    >>> tell = spoken(print, clock=lambda: next(now))
    >>> for done in (0, 100, 200, 400):
    ...     tell("extracting", done, 400)
    extracting: 0/400
    extracting: 200/400, 10 a second, 20 s left
    extracting: 400/400
    """
    spoke: dict[str, float] = {}
    begun: dict[str, tuple[float, int, int]] = {}  # since when, steps done then, steps done last

    def tell(what: str, done: int, total: int) -> None:
        now = clock()
        since, before, last = begun.get(what, (now, done, done))
        if done < last:  # the same kind of work again, on something else
            since, before = now, done
        begun[what] = (since, before, done)
        if done == total or what not in spoke:
            say(f"{what}: {done}/{total}")
        elif now - spoke[what] < every:
            return
        else:
            rate = (done - before) / (now - since) if now > since else 0.0
            left = f", {rate:.3g} a second, {_lasting((total - done) / rate)} left" if rate > 0 else ""
            say(f"{what}: {done}/{total}{left}")
        spoke[what] = now

    return tell


def _lasting(seconds: float) -> str:
    """Return a time in words of two units at most, such as 1 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
