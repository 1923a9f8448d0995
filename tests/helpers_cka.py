"""Linear CKA by its n x n definitions: slow, and independent of ours."""

from __future__ import annotations

import numpy as np


def naive_biased(x, y):
    n = len(x)
    centring = np.eye(n) - 1 / n
    k, m = (centring @ (a @ a.T) @ centring for a in (x, y))
    return np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))


def naive_hsic_debiased(k, m):
    n = len(k)
    k, m = k.copy(), m.copy()
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    ones = np.ones(n)
    return (
        np.trace(k @ m)
        + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * ones @ k @ m @ ones
    ) / (n * (n - 3))


def naive_debiased(x, y):
    k, m = x @ x.T, y @ y.T
    return naive_hsic_debiased(k, m) / np.sqrt(naive_hsic_debiased(k, k) * naive_hsic_debiased(m, m))


NAIVE = {"biased": naive_biased, "debiased": naive_debiased}
