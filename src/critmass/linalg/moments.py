"""One pass over the rows -> sufficient statistics, from which every score of every part follows.

Moments add: over blocks, shards and machines. Sums are float64, over rows shifted by a constant vector
close to their mean, so that centring later loses no digits. Memory is O(d²), whatever the number of rows.
Source: the sums behind linear CKA (Kornblith 2019; Song 2012 for the debiased one) and ridge regression.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, verbatim
from critmass.linalg.devices import CPU, Device
from critmass.linalg.kernels import add_gram, add_product, symmetric
from critmass.linalg.matrices import BLOCK_ROWS, Floats, Matrix, blocks
from critmass.linalg.tree import fold, leaves


@dataclass(frozen=True)
class Moments:
    """Sums over rows x (shifted), targets t and row weights w (1 where none are given).

    Attributes
    ----------
    shift : array of shape (n_neurons,)
        What was taken from every row; moments with different shifts do not add.
    n_rows : int
    weight : float
        Sum of w.
    sum : array of shape (n_neurons,)
        Sum of w x.
    gram : array of shape (n_neurons, n_neurons)
        Sum of w x xᵀ.
    target_sum : array of shape (n_targets,)
        Sum of w t.
    cross : array of shape (n_neurons, n_targets)
        Sum of w x tᵀ.
    squares, mixed : arrays of shape (n_neurons, n_neurons), or None
        Sums of (x∘x)(x∘x)ᵀ and of x (x∘x)ᵀ; only where debiased CKA asks for them.
    squares_cross : array of shape (n_neurons, n_targets), or None
        Sum of (x∘x) tᵀ; where it asks for them and there are targets.
    """

    shift: Floats
    n_rows: int
    weight: float
    sum: Floats
    gram: Floats
    target_sum: Floats
    cross: Floats
    squares: Floats | None = None
    mixed: Floats | None = None
    squares_cross: Floats | None = None

    def __add__(self, other: Moments) -> Moments:
        return self._combined(other, np.add)

    def __sub__(self, other: Moments) -> Moments:
        """Return the moments of the rows in `self` that are not in `other`."""
        return self._combined(other, np.subtract)

    def _combined(self, other: Moments, operation: Callable[[Any, Any], Any]) -> Moments:
        if not np.array_equal(self.shift, other.shift):
            raise InputError("moments", verbatim("different shifts"), "one shift for all moments of a sum")
        values = {}
        for entry in fields(self):
            mine, theirs = getattr(self, entry.name), getattr(other, entry.name)
            if (mine is None) != (theirs is None):
                raise InputError("moments", verbatim(f"{entry.name} in one only"), "the same sums in both")
            values[entry.name] = mine if mine is None or entry.name == "shift" else operation(mine, theirs)
        return Moments(**{**values, "n_rows": int(values["n_rows"])})

    @property
    def mean(self) -> Floats:
        """Weighted mean of the rows (not shifted), shape (n_neurons,)."""
        return self.shift + self.sum / self.weight

    @functools.cached_property
    def scatter(self) -> Floats:
        """Weighted sum of centred outer products, shape (n_neurons, n_neurons)."""
        scatter = np.outer(self.sum, self.sum / -self.weight)
        scatter += self.gram
        return scatter

    @property
    def target_mean(self) -> Floats:
        """Weighted mean of the targets, shape (n_targets,)."""
        return self.target_sum / self.weight

    @property
    def target_scatter(self) -> Floats:
        """Weighted sum of centred rows times centred targets, shape (n_neurons, n_targets)."""
        return self.cross - np.outer(self.sum, self.target_mean)

    @property
    def scale(self) -> Floats:
        """Weighted standard deviation of each neuron (divisor: the weight); 1 for a constant neuron."""
        squares, mean = np.diag(self.gram) / self.weight, self.sum / self.weight
        return scale_of(variance_of(squares, mean, self.n_rows), self.mean, self.n_rows)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Whether each neuron is constant, see `is_constant`."""
        squares, mean = np.diag(self.gram) / self.weight, self.sum / self.weight
        return is_constant(variance_of(squares, mean, self.n_rows), self.mean, self.n_rows)


def variance_of(squares: Floats, mean: Floats, n_rows: int) -> Floats:
    """Return the variance of each neuron from the means of its shifted values' squares and of these.

    0 where rounding error accounts for what is left of the difference: a neuron that is constant over these
    rows, such as one that speaks up in others only, has no variance to be scaled to 1.
    """
    variance = squares - mean**2
    return np.where(variance <= n_rows * np.finfo(np.float64).eps * squares, 0.0, variance)


def is_constant(variance: Floats, mean: Floats, n_rows: int) -> NDArray[np.bool_]:
    """Return whether each neuron is constant, shape (n_neurons,).

    It is where its variance is within rounding error of its mean's square, the rule of scikit-learn's
    StandardScaler.
    """
    noise = n_rows * np.finfo(np.float64).eps
    constant: NDArray[np.bool_] = variance <= noise * np.abs(variance) + (noise * np.abs(mean)) ** 2
    return constant


def scale_of(variance: Floats, mean: Floats, n_rows: int) -> Floats:
    """Return the standard deviation of each neuron, 1 for a constant one, shape (n_neurons,)."""
    constant = is_constant(variance, mean, n_rows)
    return np.where(constant, 1.0, np.sqrt(np.where(constant, 1.0, variance)))


def shift_of(x: Matrix) -> Floats:
    """Return the mean of the first block of rows: the shift for moments of `x` or of any rows like it."""
    first = np.asarray(x[slice(0, BLOCK_ROWS)], dtype=np.float64)
    mean: Floats = np.nan_to_num(first.mean(axis=0), posinf=0.0, neginf=0.0)
    return mean


def mean_of(x: Matrix, name: str) -> Floats:
    """Return the mean of all rows, shape (n_neurons,), in one pass."""
    shift, total = shift_of(x), np.zeros(x.shape[1])
    for _, block in blocks(x, name, shift=shift):
        total += block.sum(axis=0)
    return shift + total / x.shape[0]


def mean_and_variance(x: Matrix, name: str, weights: Floats) -> tuple[Floats, Floats]:
    """Return the weighted mean and variance of each neuron, shape (n_neurons,) each, in one pass."""
    shift, total, squares = shift_of(x), np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for rows, block in blocks(x, name, shift=shift):
        # Not by BLAS, whose bits here depend on the number of threads.
        total += np.einsum("n,nd->d", weights[rows], block)
        squares += np.einsum("n,nd->d", weights[rows], np.square(block, out=block))
    mean = total / weights.sum()
    return shift + mean, variance_of(squares / weights.sum(), mean, x.shape[0])


def accumulate(
    x: Matrix,
    *,
    targets: Callable[[slice], Floats] | None = None,
    weights: Floats | None = None,
    shift: Floats | None = None,
    fourth_moments: bool = False,
    mixed: bool = True,
    group_index: NDArray[np.intp] | None = None,
    device: Device = CPU,
    name: str = "rows",
    progress: Callable[[int], None] | None = None,
) -> list[Moments]:
    """Return the moments of `x`, one for each group of rows, in one pass over its rows.

    Rows are summed in a fixed tree (tree.py): the result's bits depend on nothing but the rows.

    Parameters
    ----------
    x : matrix of shape (n_samples, n_neurons)
    targets : callable (rows) -> array of shape (len(rows), n_targets), optional
        Targets of a block of rows, made when needed (a one-hot matrix is never whole in memory).
    weights : array of shape (n_samples,), optional
        Non-negative row weights.
    shift : array of shape (n_neurons,), optional
        By default `shift_of(x)`.
    fourth_moments : bool
        Also the sums for debiased CKA, unweighted: `squares` costs as much again as the pass without it,
        and `mixed` twice as much.
    mixed : bool
        Whether `mixed` is among them: what is centred, and stays so, does without.
    group_index : array of shape (n_samples,), optional
        Rows of group i go to the i-th moments returned; by default one group of all.
    device : Device
        Where the products run.
    name : str
        What the rows are called in errors.
    progress : callable, optional
        Told the number of rows after each block.

    Raises
    ------
    InputError
        Naming the first row and neuron that is not finite.
    """
    d = x.shape[1]
    shift = shift_of(x) if shift is None else shift
    n_targets = 0 if targets is None else targets(slice(0, 0)).shape[1]
    n_groups = 1 if group_index is None else int(group_index.max()) + 1
    edges = {leaf.stop for leaf in leaves(x.shape[0])}

    def fresh() -> list[_Totals]:
        more = {"fourth_moments": fourth_moments, "mixed": mixed}
        return [_Totals(d, n_targets, device, **more) for _ in range(n_groups)]

    def by_leaf() -> Iterator[list[Moments]]:
        totals = fresh()
        for rows, shifted in blocks(x, name, shift=shift):
            target = None if targets is None else targets(rows)
            weight = None if weights is None else weights[rows]
            for group, total in enumerate(totals):
                mine = slice(None) if group_index is None else group_index[rows] == group
                total.add(
                    shifted[mine],
                    None if target is None else target[mine],
                    None if weight is None else weight[mine],
                )
            if progress is not None:
                progress(len(shifted))
            if rows.stop in edges:
                yield [total.moments(shift) for total in totals]
                totals = fresh()

    return fold(by_leaf(), lambda one, other: [a + b for a, b in zip(one, other, strict=True)])


class _Totals:
    """Sums in the making, on a device; with NumPy Fortran-ordered, so that BLAS adds to them in place."""

    def __init__(self, d: int, n_targets: int, device: Device, *, fourth_moments: bool, mixed: bool) -> None:
        self.n_rows, self.weight, self.device = 0, 0.0, device
        self.sum, self.target_sum = device.put(np.zeros(d)), device.put(np.zeros(n_targets))
        self.gram = device.put(np.zeros((d, d), order="F"))
        self.cross = device.put(np.zeros((d, n_targets), order="F"))
        self.squares = device.put(np.zeros((d, d), order="F")) if fourth_moments else None
        self.mixed = device.put(np.zeros((d, d), order="F")) if fourth_moments and mixed else None
        both = fourth_moments and n_targets > 0
        self.squares_cross = device.put(np.zeros((d, n_targets), order="F")) if both else None

    def add(self, x: Floats, targets: Floats | None, weights: Floats | None) -> None:
        if len(x) == 0:
            return
        self.n_rows += len(x)
        self.weight += len(x) if weights is None else float(weights.sum())
        put = self.device.put
        x = put(x)
        self.sum += x.sum(axis=0) if weights is None else put(weights) @ x
        self.gram = add_gram(self.gram, x if weights is None else put(np.sqrt(weights)[:, None]) * x)
        squared = None
        if self.squares is not None:
            squared = x * x
            self.squares = add_gram(self.squares, squared)
        if self.mixed is not None:
            self.mixed = add_product(self.mixed, x, squared)
        if targets is not None:
            scaled = put(targets if weights is None else weights[:, None] * targets)
            self.target_sum += scaled.sum(axis=0)
            self.cross = add_product(self.cross, x, scaled)
            if self.squares_cross is not None:
                self.squares_cross = add_product(self.squares_cross, squared, scaled)

    def moments(self, shift: Floats) -> Moments:
        get = self.device.get
        return Moments(
            shift=shift,
            n_rows=self.n_rows,
            weight=self.weight,
            sum=get(self.sum),
            gram=symmetric(get(self.gram)),
            target_sum=get(self.target_sum),
            cross=get(self.cross),
            squares=None if self.squares is None else symmetric(get(self.squares)),
            mixed=None if self.mixed is None else get(self.mixed),
            squares_cross=None if self.squares_cross is None else get(self.squares_cross),
        )
