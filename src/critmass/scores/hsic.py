"""HSIC of parts as one matrix over the neurons, for each estimator; by moments, and from Gram matrices.

The HSIC of two parts S and T is a bilinear form in their masks, m_Sᵀ H m_T; so cumulative sums over H give
every prefix of an order. The columns of a dense basis have such a matrix of their own, and a vector of HSICs
with the raw whole. Sources: debiased HSIC, Song et al. 2012 (eq. 5); minibatch CKA, Nguyen et al. 2021. The
matrix H of each is in docs/architecture.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from critmass.errors import InputError, unknown, verbatim
from critmass.linalg.bases import Product
from critmass.linalg.devices import CPU, Device
from critmass.linalg.matrices import Floats, Indices, Matrix, require_finite
from critmass.linalg.moments import Moments, accumulate, is_constant, mean_of, shift_of

Estimator = Literal["debiased", "biased", "minibatch"]
ESTIMATORS: tuple[Estimator, ...] = ("debiased", "biased", "minibatch")
BATCH_ROWS = 256
MINIMUM_ROWS = 4


def kernel(x: Matrix, estimator: Estimator, *, name: str = "rows") -> Floats:
    """Return H, shape (n_neurons, n_neurons): the HSIC of parts S and T is the sum of H over S x T."""
    check_rows(name, x.shape[0], estimator)
    return mean_over_batches(kernel_of, x, None, estimator, name)


def prefixes(h: Floats, orders: Indices, sizes: Indices) -> Floats:
    """Return the CKA of each prefix with the whole.

    Parameters
    ----------
    h : array of shape (n_neurons, n_neurons)
        From `kernel`.
    orders : array of shape (n_repeats, n_neurons)
    sizes : array of shape (n_sizes,)

    Returns
    -------
    array of shape (n_repeats, n_sizes)
        0 for a part without variance that can be measured; 1 for the whole.
    """
    hsics = Hsics.of(h)
    out = np.stack([hsics.scores(order, sizes) for order in orders])
    out[:, sizes == h.shape[0]] = 1.0
    return out


@dataclass(frozen=True)
class Hsics:
    """HSICs of columns: with one another (H), of each with the whole, of the whole with itself."""

    own: Floats
    cross: Floats
    whole: float

    @classmethod
    def of(cls, h: Floats) -> Hsics:
        """Return those of the neurons, whose sum is the whole."""
        require_variance(float(h.sum()))
        return cls(h, h.sum(axis=1), float(h.sum()))

    def scores(self, order: Indices, sizes: Indices) -> Floats:
        """Return the CKA of each prefix of an order with the whole, shape (n_sizes,)."""
        if len(sizes) == 0:
            return np.empty(0)
        used, last = order[: sizes[-1]], sizes - 1
        # H is symmetric: neuron j adds twice what it has in common with those before it, and its own.
        before = self.own.take(used, axis=1)
        np.cumsum(before, axis=1, out=before)
        added = 2.0 * before[used, np.arange(len(used))] - np.diag(self.own)[used]
        return ratio(self.cross[used].cumsum()[last], added.cumsum()[last], self.whole)


def pairs(h: Floats, first: ArrayLike, second: ArrayLike) -> Floats:
    """Return the CKA of every part in `first` with every part in `second`.

    Parameters
    ----------
    h : array of shape (n_neurons, n_neurons)
        From `kernel`.
    first, second : arrays of bool, shape (n_parts, n_neurons)
        Masks of the parts.

    Returns
    -------
    array of shape (n_parts_first, n_parts_second)
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    own_a, own_b = (np.einsum("id,id->i", mask @ h, mask) for mask in (a, b))
    return ratio(a @ h @ b.T, own_a[:, None], own_b[None, :])


def read_moments(
    x: Matrix,
    shift: Floats,
    basis: Floats | None,
    estimator: Estimator,
    *,
    device: Device = CPU,
    mixed: bool = True,
    name: str,
) -> Moments:
    """Return the moments behind the HSICs of the neurons; or of a basis's columns, beside the neurons.

    In the latter case targets are the neurons and, but for biased CKA, last the sum of their squares.
    `mixed` is for moments that others are to be taken from: see `kernel_of`.
    """
    more: dict[str, Any] = {
        "fourth_moments": estimator != "biased",
        "mixed": mixed,
        "device": device,
        "name": name,
    }
    if basis is None:
        return accumulate(x, shift=shift, **more)[0]

    def neurons(rows: slice) -> Floats:
        raw: Floats = np.asarray(x[rows], dtype=np.float64) - shift
        return np.column_stack([raw, np.einsum("nd,nd->n", raw, raw)]) if more["fourth_moments"] else raw

    product, zeros = Product(x, shift, basis), np.zeros(basis.shape[1])
    return accumulate(product, targets=neurons, shift=zeros, **more)[0]


def mean_over_batches(
    work: Callable[[Moments, Estimator], Floats],
    x: Matrix,
    basis: Floats | None,
    estimator: Estimator,
    name: str,
    device: Device = CPU,
) -> Floats:
    """Return `work` of the moments of all rows; minibatch: its mean over batches."""
    if estimator == "minibatch":
        batches, total = list(batches_of(x.shape[0])), np.zeros(())
        for rows in batches:
            batch = np.asarray(x[rows])
            require_finite(name, batch, range(rows.start, rows.stop))
            total = total + mean_over_batches(work, batch, basis, "debiased", name, device)
        return total / len(batches)
    shift = shift_of(x) if estimator == "biased" else mean_of(x, name)
    return work(read_moments(x, shift, basis, estimator, device=device, mixed=False, name=name), estimator)


def kernel_of(moments: Moments, estimator: Estimator) -> Floats:
    """Return H of these rows; a neuron that is constant over them has 0 with every other, not noise."""
    h, constant = kernel_of_all(moments, estimator), moments.constant
    h[constant], h[:, constant] = 0.0, 0.0
    return h


def kernel_of_all(moments: Moments, estimator: Estimator) -> Floats:
    """Return H of these rows, by the formulas alone."""
    if estimator == "biased":
        h: Floats = moments.scatter**2
        return h
    n, c, s = moments.n_rows, moments.gram, moments.sum
    assert moments.squares is not None  # noqa: S101
    rows = moments.squares
    if moments.mixed is not None:  # else the rows are centred: s is 0 but for rounding
        weighted = s[:, None] * moments.mixed
        rows = np.outer(s, s) * c - weighted - weighted.T + rows
    sums = s * s - np.diag(c)
    total = np.outer(sums, sums / ((n - 1) * (n - 2)))
    total -= 2.0 / (n - 2) * rows
    total -= moments.squares
    total += c * c
    total /= n * (n - 3)
    return total


def kernel_with_whole(moments: Moments, estimator: Estimator) -> Floats:
    """Return H of a basis's columns and, last, the HSIC of each with the whole, (n_columns, n_columns + 1).

    The latter are the sums over neurons of what `kernel_of` gives for a column and a neuron.
    """
    if estimator == "biased":
        cross = (moments.target_scatter**2).sum(axis=1)
        return np.column_stack([kernel_of(moments, estimator), cross])
    n, s, t = moments.n_rows, moments.sum, moments.target_sum
    assert moments.squares_cross is not None  # noqa: S101
    (c, c_norms), (q, q_norms) = (
        (both[:, :-1], both[:, -1]) for both in (moments.cross, moments.squares_cross)
    )
    # Not by BLAS, whose bits here depend on the number of threads.
    c_sums, q_sums = (np.einsum("jb,b->j", matrix, t[:-1]) for matrix in (c, q))
    trace = (c * c).sum(axis=1) - q_norms
    rows = s * (c_sums - c_norms) - q_sums + q_norms
    sums = (s * s - np.diag(moments.gram)) * ((t[:-1] ** 2).sum() - t[-1])
    cross = (trace - 2.0 / (n - 2) * rows + sums / ((n - 1) * (n - 2))) / (n * (n - 3))
    return np.column_stack([kernel_of(moments, estimator), cross])


def hsic_of_grams(k: Floats, l: Floats, member: Floats, estimator: Estimator) -> Floats:  # noqa: E741
    """Return the HSIC of two Gram matrices: of all rows, then without each group, shape (1 + n_groups,).

    `member`, shape (n_samples, n_groups), is 1 where a row belongs to a group.
    """
    if estimator == "debiased":
        k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    member = np.concatenate([np.zeros((len(k), 1)), member], axis=1)
    kept = 1.0 - member
    product = k * l
    trace = np.einsum("ig,ig->g", product @ kept, kept)
    k_rows, l_rows = k @ kept, l @ kept
    rows = np.einsum("ig,ig,ig->g", k_rows, l_rows, kept)
    k_sum, l_sum = (np.einsum("ig,ig->g", value, kept) for value in (k_rows, l_rows))
    n = kept.sum(axis=0)
    hsic: Floats
    if estimator == "biased":
        hsic = trace - 2.0 / n * rows + k_sum * l_sum / n**2
    else:
        hsic = (trace + k_sum * l_sum / ((n - 1) * (n - 2)) - 2.0 / (n - 2) * rows) / (n * (n - 3))
    return hsic


def centred(rows: Floats) -> Floats:
    """Return rows less their mean; 0 for a neuron that is constant."""
    mean = rows.mean(axis=0)
    rows = rows - mean
    variance = np.einsum("nd,nd->d", rows, rows) / len(rows)
    rows[:, is_constant(variance, mean, len(rows))] = 0.0
    return rows


def require_variance(whole: float) -> None:
    """Raise InputError where the HSIC of the whole with itself is not positive."""
    if not whole > 0:
        raise InputError(
            "features", verbatim("no variance that can be measured"), "a layer that varies over rows"
        )


def ratio(cross: Floats, own: Floats, whole: Floats | float) -> Floats:
    """Return CKA from HSICs; 0 where one of them cannot be measured."""
    # By a power of two, which changes no digit, the product is kept within what a float64 holds.
    _, exponent = np.frexp(whole)
    cross, own, whole = (np.ldexp(value, -exponent) for value in (cross, own, whole))
    product = np.asarray(own * whole)
    measurable = (own > 0) & (np.asarray(whole) > 0)
    return np.where(measurable, cross / np.sqrt(np.where(measurable, product, 1.0)), 0.0)


def batches_of(n: int) -> Iterator[slice]:
    """Return batches of n rows: rows that do not fill one are spread over the others."""
    count = max(1, n // BATCH_ROWS)
    edges = [n * i // count for i in range(count + 1)]
    return (slice(a, b) for a, b in itertools.pairwise(edges))


def check_estimator(estimator: str) -> None:
    """Raise InputError for an unknown estimator."""
    if estimator not in ESTIMATORS:
        raise unknown("estimator", estimator, ESTIMATORS)


def check_rows(name: str, n: int, estimator: Estimator) -> None:
    """Raise InputError for fewer rows than an estimator needs."""
    least = 2 if estimator == "biased" else MINIMUM_ROWS
    if n < least:
        raise InputError(name, verbatim(f"{n} rows"), f"{least} rows or more for {estimator} CKA")
