"""Sums over many rows in a fixed tree, so that their bits depend on the number of rows alone.

Rows are cut into leaves, leaves are summed four at a time in the order of their rows, and so are these sums.
Whoever computes which leaf, and when, adds the same numbers in the same order. Data of one leaf is summed as
it always was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from critmass.linalg.matrices import BLOCK_ROWS

LEAF_BLOCKS = 64
"""Blocks of a leaf at least; a power of two times as many where there would be more than MOST_LEAVES."""
MOST_LEAVES = 4096
FAN_IN = 4

T = TypeVar("T")


def leaves(n_rows: int) -> list[range]:
    """Return the rows of each leaf.

    Examples
    --------
    >>> leaves(131_073)
    [range(0, 131072), range(131072, 131073)]
    """
    width = LEAF_BLOCKS * BLOCK_ROWS
    while n_rows > MOST_LEAVES * width:
        width *= 2
    return [range(start, min(start + width, n_rows)) for start in range(0, max(n_rows, 1), width)]


def fold(values: Iterator[T], add: Callable[[T, T], T]) -> T:
    """Return the sum of values, one or more: four neighbours at a time, and four of these sums, to the last.

    Holds at most three sums of each level of the tree.

    Examples
    --------
    >>> fold(iter(["a", "b", "c", "d", "e"]), lambda one, other: f"({one}{other})")
    '((((ab)c)d)e)'
    >>> fold(iter("abcdefgh"), lambda one, other: f"({one}{other})")
    '((((ab)c)d)(((ef)g)h))'
    """
    levels: list[list[T]] = []
    for value in values:
        carried, level = value, 0
        while True:
            if level == len(levels):
                levels.append([])
            levels[level].append(carried)
            if len(levels[level]) < FAN_IN:
                break
            carried, levels[level] = _summed(levels[level], add), []
            level += 1
    rest: list[T] = []
    for waiting in levels:  # what fills no node of its level joins the one above it, last
        both = [*waiting, *rest]
        rest = [_summed(both, add)] if both else []
    return rest[0]


def held_at_once(n_rows: int) -> int:
    """Return how many sums are held beside the one in the making, at most; 0 for data of one leaf."""
    count, levels = len(leaves(n_rows)), 0
    while count > 1:
        count, levels = -(-count // FAN_IN), levels + 1
    return (FAN_IN - 1) * levels


def _summed(values: list[T], add: Callable[[T, T], T]) -> T:
    total = values[0]
    for value in values[1:]:
        total = add(total, value)
    return total
