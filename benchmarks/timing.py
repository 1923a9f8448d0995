"""Times that can be compared: works take turns, and a loop too long to run is sampled and scaled up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def take_turns(*works: Callable[[], object], turns: int) -> list[float]:
    """Return the median time of each, after one turn that is not counted."""
    times = [[seconds(work) for work in works] for _ in range(turns + 1)][1:]
    return np.median(times, axis=0).tolist()


class Sampled(NamedTuple):
    """A loop of which some calls were timed.

    Attributes
    ----------
    seconds : float
        Of the whole loop, scaled up.
    chosen : list
        The calls made.
    found : list
        What they returned.
    """

    seconds: float
    chosen: list[Any]
    found: list[Any]


def sampled(work: Callable[[Any], object], calls: Sequence[Any], count: int) -> Sampled:
    """Time `count` of the calls, at even steps from a random start: put calls in order of their length first."""
    count = min(count, len(calls))
    steps = (np.arange(count) + np.random.default_rng(0).random()) * (len(calls) / count)
    chosen = [calls[int(step)] for step in steps]
    found: list[object] = []
    spent = seconds(lambda: found.extend(work(call) for call in chosen))
    return Sampled(spent * len(calls) / count, chosen, found)
