"""Linear CKA of parts with the whole, and of any two parts: exact, for every size at once.

The HSIC of two parts S and T is a bilinear form in their masks, m_Sᵀ H m_T, with one matrix H of shape
(n_neurons, n_neurons) for each estimator; so cumulative sums over H give every prefix of an order. The
columns of a dense basis have such a matrix of their own, and a vector of HSICs with the raw whole. Sources:
CKA, Kornblith et al. 2019; debiased HSIC, Song et al. 2012 (eq. 5); minibatch CKA, Nguyen et al. 2021. The
matrix H of each is in docs/architecture.md. Standardising neurons is not part of CKA.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from critmass.errors import InputError, said, unknown
from critmass.features.features import Features
from critmass.linalg.arrays import (
    BLOCK_ROWS,
    CPU,
    Device,
    Floats,
    Indices,
    Matrix,
    require_finite,
    require_usable,
)
from critmass.linalg.bases import Product
from critmass.linalg.moments import Moments, accumulate, is_constant, mean_of, shift_of
from critmass.parts.plan import Plan
from critmass.scores.protocols import Measurement, Run

Estimator = Literal["debiased", "biased", "minibatch"]
ESTIMATORS: tuple[Estimator, ...] = ("debiased", "biased", "minibatch")
BATCH_ROWS = 256
JACKKNIFE_GROUPS = 32
MINIMUM_ROWS = 4


def cka(x: ArrayLike, y: ArrayLike, *, estimator: Estimator = "debiased") -> float:
    """Return the linear CKA of two representations of the same samples.

    Parameters
    ----------
    x, y : arrays of shape (n_samples, n_neurons_x), (n_samples, n_neurons_y)
    estimator : "debiased", "biased" or "minibatch"
        Debiased needs 4 samples or more, and may leave [0, 1] slightly. Minibatch: the mean of debiased
        HSICs over batches of 256 to 511 consecutive rows; shuffle rows that are sorted by class.

    Raises
    ------
    InputError
        For shapes that do not match, values that are not finite, or a representation that is constant.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(20, 3))
    >>> round(cka(x, 2 * x + 1), 12)
    1.0
    """
    a, b = (_representation(name, value) for name, value in (("x", x), ("y", y)))
    _check_estimator(estimator)
    if len(a) != len(b):
        raise InputError("y", said(f"{len(b)} samples"), f"{len(a)} samples, as in x")
    _check_rows("x", len(a), estimator)
    a, b = _centred(a), _centred(b)
    widths = a.shape[1], b.shape[1]
    if estimator != "minibatch" and len(a) < sum(widths):
        gram_a, gram_b = a @ a.T, b @ b.T
        everyone = np.zeros((len(a), 0))
        cross, own_a, own_b = (
            float(_hsic_of_grams(one, other, everyone, estimator)[0])
            for one, other in ((gram_a, gram_b), (gram_a, gram_a), (gram_b, gram_b))
        )
    else:
        h = kernel(np.concatenate([a, b], axis=1), estimator)
        first, second = np.split(np.eye(2, dtype=np.float64).repeat(widths, axis=1), 2)
        cross, own_a, own_b = (
            float((u @ h @ v.T)[0, 0]) for u, v in ((first, second), (first,) * 2, (second,) * 2)
        )
    for name, own in (("x", own_a), ("y", own_b)):
        if not own > 0:
            raise InputError(name, said("no variance that can be measured"), "a representation that varies")
    return cross / float(np.sqrt(own_a * own_b))


def kernel(x: Matrix, estimator: Estimator, *, name: str = "rows") -> Floats:
    """Return H, shape (n_neurons, n_neurons): the HSIC of parts S and T is the sum of H over S x T."""
    _check_rows(name, x.shape[0], estimator)
    return _mean(_kernel, x, None, estimator, name)


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
    hsics = _Hsics.of(h)
    out = np.stack([hsics.scores(order, sizes) for order in orders])
    out[:, sizes == h.shape[0]] = 1.0
    return out


@dataclass(frozen=True)
class _Hsics:
    """HSICs of columns: with one another (H), of each with the whole, of the whole with itself."""

    own: Floats
    cross: Floats
    whole: float

    @classmethod
    def of(cls, h: Floats) -> _Hsics:
        """Return those of the neurons, whose sum is the whole."""
        _require_variance(float(h.sum()))
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
        return _ratio(self.cross[used].cumsum()[last], added.cumsum()[last], self.whole)


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
    return _ratio(a @ h @ b.T, own_a[:, None], own_b[None, :])


@dataclass(frozen=True)
class CKA:
    """Linear CKA of a part with the whole, on each test split; needs no labels."""

    estimator: Estimator = "debiased"
    label_free = True

    def __post_init__(self) -> None:
        _check_estimator(self.estimator)

    @property
    def name(self) -> str:
        """Name in the registry."""
        return "cka" if self.estimator == "debiased" else f"cka-{self.estimator}"

    def memory(self, features: Features, plan: Plan) -> dict[str, float]:
        """Bytes that each way needs; rows are no way where they outnumber the neurons."""
        n, d = features.most_test_rows, features.n_neurons
        scores = plan.shape[0] * plan.shape[1] * (3 * JACKKNIFE_GROUPS + plan.n_repeats)
        rows = 6 * n * n + 2 * n * plan.n_columns + scores
        squares = {"debiased": 10, "biased": 6, "minibatch": 5}[self.estimator]
        squares *= 1 if plan.n_columns == d else 2
        reading = min(n, BLOCK_ROWS) * plan.n_columns
        moments = squares * d * d + reading + scores
        return {"moments": 8.0 * moments, **({"rows": 8.0 * rows} if n < d else {})}

    def measure(self, features: Features, plan: Plan, run: Run) -> Mapping[str, Measurement]:
        """Measure all sizes, by moments or from Gram matrices; intervals from a delete-a-group jackknife."""
        measured = self._on_moments if run.way == "moments" else self._on_rows
        return {
            split: measured(features.splits[split].x, f"X of {split!r}", plan, run)
            for split in features.tests
        }

    def _on_moments(self, x: Matrix, name: str, plan: Plan, run: Run) -> Measurement:
        _check_rows(name, x.shape[0], self.estimator)
        n_groups = 0 if self.estimator == "minibatch" else _jackknife_groups(x.shape[0])
        wholes = np.empty(1 + n_groups)
        found: list[tuple[int, Indices, Floats]] = []
        # The whole is a group of neurons: so the neurons come first, and with them the whole's own HSIC.
        bases = {id(group.basis): group.basis for group in reversed(plan.groups)}
        for basis in bases.values():
            groups = [group for group in plan.groups[:-1] if group.basis is basis]
            values = [np.empty((len(group.sizes), 1 + n_groups)) for group in groups]
            for index, kernel_of in enumerate(self._each(x, name, basis.matrix, n_groups, run)):
                if basis.matrix is None:
                    hsics = _Hsics.of(kernel_of)
                    wholes[index] = hsics.whole
                else:
                    hsics = _Hsics(kernel_of[:, :-1], kernel_of[:, -1], wholes[index])
                for group, own in zip(groups, values, strict=True):
                    own[:, index] = hsics.scores(group.order, group.sizes)
            found += [(g.repeat, g.size_index, own) for g, own in zip(groups, values, strict=True)]
        return _measurement(plan, found)

    def _each(
        self,
        x: Matrix,
        name: str,
        basis: Floats | None,
        groups: int,
        run: Run,
    ) -> Iterator[Floats]:
        """Yield what `_Hsics` is made of: of all rows, then of those without each group; see `_read`."""
        work = _kernel if basis is None else _with_whole
        if not groups:
            yield _mean(work, x, basis, self.estimator, name, run.device)
            return
        read = functools.partial(
            _read, shift=shift_of(x), basis=basis, estimator=self.estimator, device=run.device, name=name
        )
        total = read(x)
        yield work(total, self.estimator)
        for group in range(groups):
            run.progress("CKA intervals", group, groups)
            rows = np.asarray(x[np.arange(group, x.shape[0], groups)])
            yield work(total - read(rows), self.estimator)
        run.progress("CKA intervals", groups, groups)

    def _on_rows(self, x: Matrix, name: str, plan: Plan, run: Run) -> Measurement:
        rows = np.asarray(x[:], dtype=np.float64)
        _check_rows(name, len(rows), self.estimator)
        require_usable(name, rows, range(len(rows)))
        minibatch = self.estimator == "minibatch"
        groups = 0 if minibatch else _jackknife_groups(len(rows))
        batches = _batches(len(rows)) if minibatch else [slice(None)]
        sections = [_centred(rows[section]) for section in batches]
        members = [
            (np.arange(len(section))[:, None] % max(groups, 1) == np.arange(groups)).astype(np.float64)
            for section in sections
        ]

        def hsic(grams: Sequence[Floats], others: Sequence[Floats]) -> Floats:
            estimator: Estimator = "debiased" if minibatch else self.estimator
            triples = zip(grams, others, members, strict=True)
            total: Floats = np.sum([_hsic_of_grams(*triple, estimator) for triple in triples], axis=0)
            return total

        whole = [section @ section.T for section in sections]
        own_whole = hsic(whole, whole)
        _require_variance(float(own_whole.min()))
        columns = [plan.gather(section) for section in sections]
        found: list[tuple[int, Any, Floats]] = []
        for number, group in enumerate(plan.groups[:-1]):
            part, start = [np.zeros_like(gram) for gram in whole], 0
            for size, index in zip(group.sizes, group.size_index, strict=True):
                run.progress("CKA of parts", number, len(plan.groups) - 1)
                for gram, section in zip(part, columns, strict=True):
                    added = section[:, group.columns[start:size]]
                    gram += added @ added.T
                start = size
                found.append((group.repeat, index, _ratio(hsic(part, whole), hsic(part, part), own_whole)))
        return _measurement(plan, found)


def _read(
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
    `mixed` is for moments that others are to be taken from: see `_kernel`.
    """
    more: dict[str, Any] = {"fourth": estimator != "biased", "mixed": mixed, "device": device, "name": name}
    if basis is None:
        return accumulate(x, shift=shift, **more)[0]

    def neurons(rows: slice) -> Floats:
        raw: Floats = np.asarray(x[rows], dtype=np.float64) - shift
        return np.column_stack([raw, np.einsum("nd,nd->n", raw, raw)]) if more["fourth"] else raw

    product, zeros = Product(x, shift, basis), np.zeros(basis.shape[1])
    return accumulate(product, targets=neurons, shift=zeros, **more)[0]


def _mean(
    work: Callable[[Moments, Estimator], Floats],
    x: Matrix,
    basis: Floats | None,
    estimator: Estimator,
    name: str,
    device: Device = CPU,
) -> Floats:
    """Return `work` of the moments of all rows; minibatch: its mean over batches."""
    if estimator == "minibatch":
        batches, total = list(_batches(x.shape[0])), np.zeros(())
        for rows in batches:
            batch = np.asarray(x[rows])
            require_finite(name, batch, range(rows.start, rows.stop))
            total = total + _mean(work, batch, basis, "debiased", name, device)
        return total / len(batches)
    shift = shift_of(x) if estimator == "biased" else mean_of(x, name)
    return work(_read(x, shift, basis, estimator, device=device, mixed=False, name=name), estimator)


def _kernel(moments: Moments, estimator: Estimator) -> Floats:
    """Return H of these rows; a neuron that is constant over them has 0 with every other, not noise."""
    h, constant = _kernel_of_all(moments, estimator), moments.constant
    h[constant], h[:, constant] = 0.0, 0.0
    return h


def _kernel_of_all(moments: Moments, estimator: Estimator) -> Floats:
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


def _with_whole(moments: Moments, estimator: Estimator) -> Floats:
    """Return H of a basis's columns and, last, the HSIC of each with the whole, (n_columns, n_columns + 1).

    The latter are the sums over neurons of what `_kernel` gives for a column and a neuron.
    """
    if estimator == "biased":
        cross = (moments.target_scatter**2).sum(axis=1)
        return np.column_stack([_kernel(moments, estimator), cross])
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
    return np.column_stack([_kernel(moments, estimator), cross])


def _hsic_of_grams(k: Floats, l: Floats, member: Floats, estimator: Estimator) -> Floats:  # noqa: E741
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


def _centred(rows: Floats) -> Floats:
    """Return rows less their mean; 0 for a neuron that is constant."""
    mean = rows.mean(axis=0)
    rows = rows - mean
    variance = np.einsum("nd,nd->d", rows, rows) / len(rows)
    rows[:, is_constant(variance, mean, len(rows))] = 0.0
    return rows


def _require_variance(whole: float) -> None:
    """Raise InputError where the HSIC of the whole with itself is not positive."""
    if not whole > 0:
        raise InputError(
            "features", said("no variance that can be measured"), "a layer that varies over rows"
        )


def _ratio(cross: Floats, own: Floats, whole: Floats | float) -> Floats:
    # By a power of two, which changes no digit, the product is kept within what a float64 holds.
    _, exponent = np.frexp(whole)
    cross, own, whole = (np.ldexp(value, -exponent) for value in (cross, own, whole))
    product = np.asarray(own * whole)
    measurable = (own > 0) & (np.asarray(whole) > 0)
    return np.where(measurable, cross / np.sqrt(np.where(measurable, product, 1.0)), 0.0)


def _measurement(plan: Plan, values: Sequence[tuple[int, Any, Floats]]) -> Measurement:
    """Return the measurement of parts from their scores, and those without each group of rows.

    `values` are (repeat, size_index, scores), scores of shape (..., 1 + n_groups); the groups are the units.
    """
    whole = (plan.n_repeats, len(plan.sizes) - 1, np.ones(values[0][2].shape[-1] if values else 1))
    table = np.moveaxis(plan.scatter([*values, whole])[:-1], -1, 0)
    scores, without, units = table[0], table[1:], len(table) - 1
    covariance = None
    if units > 1:
        pseudo = units * scores - (units - 1) * without
        pseudo = np.concatenate([pseudo, np.ones((units, 1, scores.shape[1]))], axis=1)
        pseudo -= pseudo.mean(axis=0)
        covariance = np.einsum("gim,gjm->mij", pseudo, pseudo) / (units - 1)
    return Measurement(scores, 1.0, covariance, units if units > 1 else 0, np.ones(scores.shape, dtype=bool))


def _jackknife_groups(n: int) -> int:
    """Return how many groups of rows there are; 0 where deleting one would leave too few."""
    groups = min(JACKKNIFE_GROUPS, n // 2)
    return groups if n - -(-n // max(groups, 1)) >= MINIMUM_ROWS else 0


def _batches(n: int) -> Iterator[slice]:
    count = max(1, n // BATCH_ROWS)
    edges = [n * i // count for i in range(count + 1)]
    return (slice(a, b) for a, b in itertools.pairwise(edges))


def _representation(name: str, value: ArrayLike) -> Floats:
    array = np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise InputError(
            name, said(f"shape {array.shape}, dtype {array.dtype}"), "numbers, samples x neurons"
        )
    array = array.astype(np.float64)
    require_usable(name, array, range(len(array)))
    return array


def _check_estimator(estimator: str) -> None:
    if estimator not in ESTIMATORS:
        raise unknown("estimator", estimator, ESTIMATORS)


def _check_rows(name: str, n: int, estimator: Estimator) -> None:
    least = 2 if estimator == "biased" else MINIMUM_ROWS
    if n < least:
        raise InputError(name, said(f"{n} rows"), f"{least} rows or more for {estimator} CKA")
