"""Prefix groups: nested parts along one order of coordinates, of neurons or their products with a matrix.

A group's `Basis` knows which they are, so a score does its algebra in coordinates and never asks of which
family its parts are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from critmass.linalg.bases import change_basis, times
from critmass.linalg.matrices import Floats, Indices


@dataclass(frozen=True)
class Basis:
    """Coordinates of a layer: its neurons, or their products with a matrix.

    Attributes
    ----------
    matrix : array of shape (n_neurons, n_coordinates), or None
        None where the coordinates are the neurons.
    """

    matrix: Floats | None = None

    def rows(self, x: Floats, order: Indices) -> Floats:
        """Return some coordinates of rows of neurons, shape (n, len(order))."""
        return x[:, order] if self.matrix is None else times(x, self.matrix[:, order])

    def gram(self, gram: Floats) -> Floats:
        """Return sums of products of coordinates, from those of neurons, (n_neurons, n_neurons)."""
        return gram if self.matrix is None else change_basis(gram, self.matrix)

    def cross(self, cross: Floats) -> Floats:
        """Return sums of products of coordinates with targets, from those of neurons, (n, n_targets)."""
        return cross if self.matrix is None else times(cross.T, self.matrix).T

    def weights(self, weights: Floats, order: Indices, n_neurons: int) -> Floats:
        """Return weights of neurons, (n_neurons, ...), from those of some coordinates, (len(order), ...)."""
        if self.matrix is not None:
            flat = times(weights.reshape(len(order), -1).T, self.matrix[:, order].T).T
            return flat.reshape(n_neurons, *weights.shape[1:])
        out = np.zeros((n_neurons, *weights.shape[1:]))
        out[order] = weights
        return out


NEURONS = Basis()
"""The neurons themselves."""


@dataclass(frozen=True)
class PrefixGroup:
    """Nested parts: each is the first coordinates of one order.

    Attributes
    ----------
    order : array of shape (n_coordinates,)
        Coordinates of the basis, in the order in which parts take them.
    sizes : array of shape (n_sizes_here,), ascending
    repeat : int
        Row of the scores; the number of repeats for the whole layer.
    size_index : array of shape (n_sizes_here,)
        Columns of the scores.
    basis : Basis
    offset : int
        Where the coordinates begin among the columns that `Plan.gather` makes.
    """

    order: Indices
    sizes: Indices
    repeat: int
    size_index: Indices
    basis: Basis = NEURONS
    offset: int = 0

    @property
    def columns(self) -> Indices:
        """Columns of `Plan.gather`, in the order in which parts take them, shape (n_coordinates,)."""
        return self.order + self.offset

    @property
    def used(self) -> Indices:
        """Coordinates that the largest part takes, in order."""
        return self.order[: self.sizes[-1]] if len(self.sizes) else self.order[:0]

    @property
    def neurons(self) -> Indices:
        """Neurons that any of the parts depends on."""
        return self.used if self.basis.matrix is None else np.arange(self.basis.matrix.shape[0])
