"""Pairwise similarity of random parts: how alike two parts of one size are, by CKA.

Source: Nanda et al. 2023, who ask why almost any part will do and compare pairs of random parts. Independent
parts of k of d neurons have a share k / d of their neurons in common on average, and neurons in common alone
raise CKA: between parts of independent neurons it is that share. Disjoint pairs have none in common. One
matrix (scores/hsic.py) gives all pairs and, beside them, the CKA of each part with the whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import polars as pl

from critmass.curves.measure import MEMORY_GIB
from critmass.errors import InputError, check_number, unknown
from critmass.features.features import Features
from critmass.linalg import rng
from critmass.linalg.devices import require_memory
from critmass.linalg.matrices import Indices
from critmass.parts.sizes import resolve_sizes
from critmass.scores.hsic import ESTIMATORS, Estimator, kernel, require_variance
from critmass.scores.hsic import pairs as cka_of_pairs


@dataclass(frozen=True)
class Similarity:
    """CKA of pairs of random parts of one layer.

    Attributes
    ----------
    frame : DataFrame
        One row for each size and pair. Columns: size, fraction, pair, overlap (share of the neurons of one
        part that the other has too), cka (of the two parts), first_whole and second_whole (of each with the
        whole).
    by_size : DataFrame
        One row for each size. Columns: size, fraction, pairs, overlap, mean and std of cka over pairs
        (divisor n - 1; null for one pair), whole_mean and whole_std of the parts' CKA with the whole.
    """

    frame: pl.DataFrame
    by_size: pl.DataFrame


def similarity(
    features: Features | str | os.PathLike[str],
    *,
    sizes: str | float | list[int | float] = "paper",
    pairs: int = 10,
    disjoint: bool = False,
    split: str = "test",
    estimator: Estimator = "debiased",
    seed: int = 0,
    memory_gib: float = MEMORY_GIB,
) -> Similarity:
    """Return the CKA of pairs of random parts at each size, and of the same parts with the whole.

    Parameters
    ----------
    features : Features or path
        Labels are not used.
    sizes : "paper", "all", or numbers
        Integers are neurons, floats fractions. Disjoint pairs have at most half of the neurons each: larger
        sizes, and the whole, are left out.
    pairs : int
        Independent pairs at each size; along sizes, the parts of a pair grow.
    disjoint : bool
        Whether the two parts of a pair have no neuron in common.
    split : str
        The rows to compare on.
    estimator : "debiased", "biased" or "minibatch"
        Of CKA.
    seed : int
        Of the parts; and of the test rows, where a path has none.
    memory_gib : float
        Refuse work whose matrices need more than this.

    Raises
    ------
    InputError
        For input that cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(300, 8)) @ np.ones((8, 20))
    >>> found = similarity(Features.from_arrays(X + 1e-3), sizes=[4], disjoint=True)
    >>> found.by_size["mean"].round(6).to_list()
    [1.0]
    """
    if not isinstance(features, Features):
        features = Features.open(features, seed=seed)
    if split not in features.splits:
        raise unknown("split", split, features.splits)
    if estimator not in ESTIMATORS:
        raise unknown("estimator", str(estimator), ESTIMATORS)
    check_number("pairs", pairs, "1 or more", whole=True)
    check_number("memory_gib", memory_gib, "a number of GiB above 0")
    d = features.n_neurons
    counts = resolve_sizes(sizes, d)
    if disjoint:
        counts = counts[counts <= d // 2]
    if not len(counts):
        raise InputError("sizes", sizes, f"1 to {d // 2} neurons for disjoint pairs", "or disjoint=False")
    needed = 8.0 * (10 * d * d + 6 * len(counts) * d)
    require_memory(f"CKA of {d} neurons", needed, memory_gib * 2**30, "use fewer neurons or raise memory_gib")
    h = kernel(features.splits[split].x, estimator, name=f"X of {split!r}")
    require_variance(float(h.sum()))
    everyone = np.ones((1, d), dtype=bool)
    frames = []
    for pair in range(pairs):
        orders = _orders(d, seed, pair, disjoint=disjoint)
        first, second = (np.argsort(order) < counts[:, None] for order in orders)
        between = cka_of_pairs(h, first, second).diagonal()
        first_whole, second_whole = (cka_of_pairs(h, parts, everyone)[:, 0] for parts in (first, second))
        frames.append(
            pl.DataFrame(
                {
                    "size": counts,
                    "fraction": counts / d,
                    "pair": np.full(len(counts), pair),
                    "overlap": (first & second).sum(axis=1) / counts,
                    "cka": np.where(counts == d, 1.0, between),
                    "first_whole": np.where(counts == d, 1.0, first_whole),
                    "second_whole": np.where(counts == d, 1.0, second_whole),
                }
            )
        )
    frame = pl.concat(frames).sort("size", "pair")
    whole = pl.concat_list("first_whole", "second_whole").explode()
    by_size = frame.group_by("size", "fraction", maintain_order=True).agg(
        pairs=pl.len(),
        overlap=pl.col("overlap").mean(),
        mean=pl.col("cka").mean(),
        std=pl.col("cka").std(),
        whole_mean=whole.mean(),
        whole_std=whole.std(),
    )
    return Similarity(frame, by_size)


def _orders(d: int, seed: int, pair: int, *, disjoint: bool) -> Indices:
    """Return the two orders whose prefixes are the parts of a pair, shape (2, d)."""
    first = rng.stream(seed, "pairs", pair, "first").permutation(d)
    second = first[::-1] if disjoint else rng.stream(seed, "pairs", pair, "second").permutation(d)
    return np.stack([first, second])
