"""Bases and orders that families of parts are made of, as plain arrays.

A basis is a matrix of shape (n_neurons, n_neurons); rows times its first k columns are the part of size k. A
permutation is a basis too, but is stored as an order of the neurons and never multiplied out. What depends
on data is fitted in one pass over the rows given, and is the same for the same rows. Sources: random
projections, Johnson & Lindenstrauss 1984; orthogonal matrices of Haar's law, Mezzadri 2007. Knows nothing of
repeats, sizes and names: that is parts.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.linalg import blas

from critmass.linalg.devices import CPU, one_thread, parallel_map
from critmass.linalg.matrices import Floats, Indices, Matrix
from critmass.linalg.moments import accumulate, mean_and_variance

PIECE_ROWS = 256
"""Rows multiplied by a basis at once, on one thread. Part of the result's bits."""


def principal(x: Matrix, weights: Floats | None, *, standardise: bool, centre: bool = True) -> Floats:
    """Return the principal components of rows, the one of most variance first.

    Parameters
    ----------
    x : matrix of shape (n_samples, n_neurons)
    weights : array of shape (n_samples,), or None
        How much each row counts.
    standardise : bool
        Whether the components are those of the columns scaled to unit variance.
    centre : bool
        Whether they are those of the rows less their mean.

    Returns
    -------
    array of shape (n_neurons, n_neurons)
        Orthogonal; column j is the j-th component, its entry of largest magnitude positive.
    """
    (moments,) = accumulate(x, weights=weights, name="X of 'train'")
    scatter = moments.scatter
    if not centre:
        scatter = scatter + moments.weight * np.outer(moments.mean, moments.mean)
    if standardise:
        scatter = scatter / moments.scale / moments.scale[:, None]
    with one_thread():
        _, vectors = linalg.eigh(scatter, driver="evd")
    components: Floats = vectors[:, ::-1]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=0)[None], axis=0)
    return np.where(largest < 0, -components, components)


def sorted_by(what: str, x: Matrix, weights: Floats | None) -> Indices:
    """Return the neurons by "variance" or "norm" of their column, the largest first; of equals, the first."""
    mean, variance = mean_and_variance(x, "X of 'train'", np.ones(x.shape[0]) if weights is None else weights)
    values = variance if what == "variance" else mean**2 + variance
    order: Indices = np.argsort(-values, kind="stable")
    return order


def greedy(gram: Floats, cross: Floats, penalty: float, *, worst: bool = False) -> Indices:
    """Return the neurons in the order in which each helps a ridge regression most, given those before it.

    Forward selection for min ‖Y - XW‖² + λ‖W‖² is a pivoted Cholesky factorisation of G = XᵀX + λI: with the
    residual r of XᵀY and the remaining diagonal g, neuron j lowers the objective by ‖r_j‖² / g_j (orthogonal
    least squares, Chen, Billings & Luo 1989). All d neurons cost d³ / 2 + d² n_targets multiplications.

    Parameters
    ----------
    gram : array of shape (n_neurons, n_neurons)
        XᵀX.
    cross : array of shape (n_neurons, n_targets)
        XᵀY.
    penalty : float
        λ, above 0.
    worst : bool
        Whether to take each time the neuron that helps least.
    """
    d = len(gram)
    residual, left = np.array(cross, order="F"), np.diag(gram) + penalty
    factor, order = np.zeros((d, d), order="F"), np.empty(d, dtype=np.intp)
    taken = np.zeros(d, dtype=bool)
    with one_thread():
        for k in range(d):
            gains = np.einsum("ij,ij->i", residual, residual) / left
            gains[taken] = np.inf if worst else -np.inf
            j = int(np.argmin(gains) if worst else np.argmax(gains))
            order[k], taken[j] = j, True
            column = gram[j] - factor[:, :k] @ factor[j, :k]
            column[j] += penalty
            pivot = max(left[j], penalty)
            column /= np.sqrt(pivot)
            factor[:, k] = column
            left = np.maximum(left - column**2, penalty)
            step = residual[j] / np.sqrt(pivot)
            residual = blas.dger(-1.0, column, step, a=residual, overwrite_a=1)
    return order


def gaussian(d: int, generator: np.random.Generator) -> Floats:
    """Return independent normal entries of variance 1 / d: columns of length 1 on average."""
    return generator.normal(0.0, 1.0 / np.sqrt(d), (d, d))


def orthogonal(d: int, generator: np.random.Generator) -> Floats:
    """Return an orthogonal matrix, each as likely as any other."""
    with one_thread():
        q, r = linalg.qr(generator.normal(size=(d, d)))
    haar: Floats = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return haar


def uniform(d: int, generator: np.random.Generator) -> Floats:
    """Return independent entries uniform in [0, 1]: all positive, so columns are alike."""
    return generator.uniform(0.0, 1.0, (d, d))


def times(x: NDArray[Any], basis: Floats) -> Floats:
    """Return ``x @ basis`` in float64, to the same bits on any number of threads.

    A threaded product is cut where the number of threads says, and its bits with it: so rows are cut at
    fixed places here, and each piece is multiplied on one thread.
    """
    out = np.empty((len(x), basis.shape[1]))

    def piece(start: int) -> None:
        rows = slice(start, start + PIECE_ROWS)
        np.matmul(np.asarray(x[rows], dtype=np.float64), basis, out=out[rows])

    with parallel_map(CPU) as each:
        each(piece, range(0, len(x), PIECE_ROWS))
    return out


def change_basis(gram: Floats, basis: Floats) -> Floats:
    """Return ``basisᵀ gram basis`` for a symmetric matrix."""
    return times(times(gram, basis).T, basis)


@dataclass(frozen=True)
class Product:
    """Rows of a matrix, less `shift`, times a basis: a matrix too, multiplied as it is read."""

    x: Matrix
    shift: Floats
    basis: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, number of the basis's columns."""
        return (self.x.shape[0], self.basis.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of products."""
        return self.basis.dtype

    def __getitem__(self, rows: Any) -> Floats:
        return times(self.x[rows] - self.shift, self.basis)
