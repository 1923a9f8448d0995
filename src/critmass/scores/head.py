"""One part and its linear probe as plain arrays: all that using them needs, once the probe is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from critmass.errors import InputError, verbatim
from critmass.linalg.matrices import Floats, Indices
from critmass.parts.groups import PrefixGroup


@dataclass(frozen=True)
class Selector:
    """Takes the columns of one part from rows of the layer.

    Attributes
    ----------
    n_neurons : int
        Width of the layer, d.
    neurons : array of shape (n_columns,), or None
        The neurons to take, in this order.
    matrix : array of shape (n_neurons, n_columns), or None
        What rows are multiplied by, where the part is not one of neurons.
    """

    n_neurons: int
    neurons: Indices | None = None
    matrix: Floats | None = None

    def transform(self, x: ArrayLike) -> NDArray[Any]:
        """Return the columns of the part, shape (n, n_columns), of rows of shape (n, n_neurons).

        Raises
        ------
        InputError
            For rows of another width.
        """
        rows = np.asarray(x)
        if rows.ndim != 2 or rows.shape[1] != self.n_neurons:
            raise InputError("x", verbatim(f"shape {rows.shape}"), f"shape (n, {self.n_neurons})")
        return rows[:, self.neurons] if self.matrix is None else rows @ self.matrix


@dataclass(frozen=True)
class Head:
    """A linear probe on the columns of one part, raw: what standardised them is in the weights.

    Attributes
    ----------
    coefficients : array of shape (n_outputs, n_columns)
        One output for two classes or a target, else one for each class.
    intercepts : array of shape (n_outputs,)
    classes : tuple of class names, or None for continuous targets
    """

    coefficients: Floats
    intercepts: Floats
    classes: tuple[int | str, ...] | None

    def decision_function(self, z: ArrayLike) -> Floats:
        """Return the outputs for columns of the part, shape (n, n_outputs).

        Raises
        ------
        InputError
            For columns that are not of this part's number.
        """
        rows = np.asarray(z, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.coefficients.shape[1]:
            raise InputError("z", verbatim(f"shape {rows.shape}"), f"shape (n, {self.coefficients.shape[1]})")
        return rows @ self.coefficients.T + self.intercepts

    def predict(self, z: ArrayLike) -> NDArray[Any]:
        """Return class names, or targets, shape (n,)."""
        outputs = self.decision_function(z)
        if self.classes is None:
            target: Floats = outputs[:, 0]
            return target
        codes = (outputs[:, 0] > 0).astype(np.intp) if outputs.shape[1] == 1 else outputs.argmax(axis=1)
        names: NDArray[Any] = np.array(self.classes)[codes]
        return names


@dataclass(frozen=True)
class FittedPart:
    """One part and its probe."""

    selector: Selector
    head: Head

    @classmethod
    def of(
        cls,
        group: PrefixGroup,
        size: int,
        weights: Floats,
        constants: Floats,
        mean: Floats,
        scale: Floats,
        classes: tuple[int | str, ...] | None,
    ) -> FittedPart:
        """Return the first `size` coordinates of a group with their probe.

        Parameters
        ----------
        weights : array of shape (size, n_outputs)
            For coordinates of centred, scaled neurons.
        constants : array of shape (n_outputs,)
        mean, scale : arrays of shape (n_neurons,)
            What rows were centred and scaled by.
        """
        order = group.order[:size]
        if group.basis.matrix is None:
            selector = Selector(len(mean), neurons=order)
            coefficients, centre = weights.T / scale[order], mean[order]
        else:
            selector = Selector(len(mean), matrix=group.basis.matrix[:, order] / scale[:, None])
            coefficients, centre = weights.T, selector.transform(mean[None])[0]
        return cls(selector, Head(coefficients, constants - coefficients @ centre, classes))


def no_head(score: str) -> InputError:
    """Return the error of asking a probe that is not linear for its head."""
    return InputError("score", score, "a linear probe: ridge, lda, logistic or sgd", "others have no head")
