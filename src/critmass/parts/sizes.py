"""Sizes of parts to measure: fractions of the layer, numbers of neurons, or all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from critmass.errors import InputError
from critmass.linalg.matrices import Indices

Sizes = str | float | Sequence[int | float]
"""A name ("paper", "all"), whole numbers of neurons, or fractions of the layer."""

PAPER_FRACTIONS = (
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.8, 0.9, 1.0,
)  # fmt: skip
"""The fractions of a layer that the authors measure (their code)."""


def resolve_sizes(sizes: Sizes, n_neurons: int) -> Indices:
    """Return the sizes to measure, ascending, the whole layer always among them.

    Parameters
    ----------
    sizes : "paper", "all", or numbers
        Integers are sizes; floats are fractions f, giving ``max(1, int(f * n_neurons))`` neurons.

    Raises
    ------
    InputError
        For a size below 1 or above `n_neurons`, or a fraction outside (0, 1].

    Examples
    --------
    >>> resolve_sizes([1, 0.5], 10).tolist()
    [1, 5, 10]
    """
    if isinstance(sizes, str):
        if sizes == "all":
            return np.arange(1, n_neurons + 1)
        if sizes != "paper":
            raise InputError("sizes", sizes, "'paper', 'all', whole numbers (neurons) or fractions")
        sizes = PAPER_FRACTIONS
    counts = {n_neurons}
    for size in [sizes] if isinstance(sizes, int | float | np.number) else sizes:
        if isinstance(size, int | np.integer) and not isinstance(size, bool):
            if not 1 <= size <= n_neurons:
                raise InputError("sizes", int(size), f"1 to {n_neurons} neurons")
            counts.add(int(size))
        elif isinstance(size, float | np.floating):
            if not 0 < size <= 1:
                raise InputError("sizes", float(size), "a fraction above 0 and up to 1, or a whole number")
            counts.add(max(1, int(size * n_neurons)))
        else:
            raise InputError("sizes", size, "'paper', 'all', whole numbers (neurons) or fractions")
    return np.array(sorted(counts))
