"""The few dense kernels, to the same bits on any number of threads."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from scipy.linalg import blas, lapack

from critmass.errors import InputError, verbatim
from critmass.linalg.devices import CPU, Device, one_thread, parallel_map
from critmass.linalg.matrices import Floats

PIECE = 128
"""Columns of a product that are computed together, on one thread. Part of the result's bits."""


def add_gram(total: Any, x: Any) -> Any:
    """Return ``total + xᵀx``, upper triangle only, in place where `total` is Fortran-ordered or torch's."""
    if not isinstance(x, np.ndarray):
        total += (x.T @ x).triu()
        return total
    result: Floats = blas.dsyrk(1.0, x.T, beta=1.0, c=total, overwrite_c=1)
    return result


def add_product(total: Any, x: Any, y: Any) -> Any:
    """Return ``total + xᵀy``, in place where `total` is Fortran-ordered or torch's.

    With NumPy to the same bits on any number of threads: a threaded product is cut where their number says,
    and its bits with it; so it is cut at fixed places here, and each piece is multiplied on one thread.
    """
    if not isinstance(x, np.ndarray):
        total += x.T @ y
        return total
    total = np.asfortranarray(total)

    def piece(start: int) -> None:
        columns = slice(start, start + PIECE)
        # Not by SciPy's dgemm, which would add in place but holds the interpreter's lock, and with it all
        # other pieces, until it is done.
        total.T[columns] += y[:, columns].T @ x

    with parallel_map(CPU) as each:
        each(piece, range(0, y.shape[1], PIECE))
    return total


def symmetric(upper: Floats) -> Floats:
    """Return the full matrix whose upper triangle is `upper`, which is zero below it."""
    full = upper + upper.T
    full[np.diag_indices(len(full))] *= 0.5
    return full


def cholesky(gram: Floats) -> Floats:
    """Return the lower factor of a positive definite matrix, computed on one thread.

    One thread, because the bits of a threaded factorisation depend on the number of threads. `gram` is
    overwritten where it is Fortran-ordered; only its lower triangle is read.

    Raises
    ------
    InputError
        If the matrix is not positive definite in float64.
    """
    with one_thread():
        factor, info = lapack.dpotrf(gram, lower=1, clean=1, overwrite_a=1)
    if info != 0:
        raise _singular(f"a singular system at neuron {info} of the part")
    result: Floats = factor
    return result


def _singular(found: str) -> InputError:
    return InputError(
        "regularisation",
        verbatim(found),
        "a value large enough to make the system positive definite",
        "raise regularisation=, or leave it out to have it chosen; a layer that is constant has no probe",
    )


def solve_lower(factor: Floats, right: Floats, *, transposed: bool = False) -> Floats:
    """Return ``factor⁻¹ right`` (or ``factor⁻ᵀ right``) for a lower triangular factor."""
    result: Floats = blas.dtrsm(1.0, factor, np.asfortranarray(right), lower=1, trans_a=int(transposed))
    return result


def cholesky_inverse(device: Device, gram: Any, dtype: str) -> tuple[Any, Any]:
    """Return the lower Cholesky factor of a positive definite matrix on the device, and its inverse.

    Both are computed in `dtype`; the factor in the matrix's own precision where that fails.
    """
    xp = device.xp
    kind = getattr(xp, dtype)
    try:
        factor = xp.linalg.cholesky(xp.astype(gram, kind))
    except (np.linalg.LinAlgError, RuntimeError):
        try:
            factor = xp.astype(xp.linalg.cholesky(gram), kind)
        except (np.linalg.LinAlgError, RuntimeError):
            raise _singular("a singular system") from None
    if device.torch_name is not None:
        torch = importlib.import_module("torch")
        unit = xp.eye(len(factor), dtype=factor.dtype, device=factor.device)
        return factor, torch.linalg.solve_triangular(factor, unit, upper=False)
    invert = lapack.strtri if dtype == "float32" else lapack.dtrtri
    return factor, np.ascontiguousarray(invert(factor, lower=1)[0])
