"""Linear CKA of parts with the whole, and of any two parts: exact, for every size at once.

The HSIC of two parts S and T is a bilinear form in their masks, m_Sᵀ H m_T, with one matrix H of shape
(n_neurons, n_neurons) for each estimator; so cumulative sums over H give every prefix of an order. The
columns of a dense basis have such a matrix of their own, and a vector of HSICs with the raw whole. Sources:
CKA, Kornblith et al. 2019; debiased HSIC, Song et al. 2012 (eq. 5); minibatch CKA, Nguyen et al. 2021. The
matrix H of each is in docs/architecture.md. Standardising neurons is not part of CKA.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from critmass.errors import InputError, verbatim
from critmass.features.features import Features
from critmass.linalg.matrices import BLOCK_ROWS, Floats, Indices, Matrix, require_usable
from critmass.linalg.moments import shift_of
from critmass.linalg.tree import held_at_once
from critmass.parts.plan import Plan
from critmass.scores.hsic import (
    MINIMUM_ROWS,
    Estimator,
    Hsics,
    batches_of,
    centred,
    check_estimator,
    check_rows,
    hsic_of_grams,
    kernel,
    kernel_of,
    kernel_with_whole,
    mean_over_batches,
    ratio,
    read_moments,
    require_variance,
)
from critmass.scores.protocols import Measurement, Run

JACKKNIFE_GROUPS = 32


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
    check_estimator(estimator)
    if len(a) != len(b):
        raise InputError("y", verbatim(f"{len(b)} samples"), f"{len(a)} samples, as in x")
    check_rows("x", len(a), estimator)
    a, b = centred(a), centred(b)
    widths = a.shape[1], b.shape[1]
    if estimator != "minibatch" and len(a) < sum(widths):
        gram_a, gram_b = a @ a.T, b @ b.T
        everyone = np.zeros((len(a), 0))
        cross, own_a, own_b = (
            float(hsic_of_grams(one, other, everyone, estimator)[0])
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
            raise InputError(
                name, verbatim("no variance that can be measured"), "a representation that varies"
            )
    return cross / float(np.sqrt(own_a * own_b))


@dataclass(frozen=True)
class CKA:
    """Linear CKA of a part with the whole, on each test split; needs no labels."""

    estimator: Estimator = "debiased"
    label_free = True

    def __post_init__(self) -> None:
        check_estimator(self.estimator)

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
        squares += 3 * held_at_once(n)
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
        check_rows(name, x.shape[0], self.estimator)
        n_groups = 0 if self.estimator == "minibatch" else _jackknife_groups(x.shape[0])
        wholes = np.empty(1 + n_groups)
        found: list[tuple[int, Indices, Floats]] = []
        # The whole is a group of neurons: so the neurons come first, and with them the whole's own HSIC.
        bases = {id(group.basis): group.basis for group in reversed(plan.groups)}
        for basis in bases.values():
            groups = [group for group in plan.groups[:-1] if group.basis is basis]
            values = [np.empty((len(group.sizes), 1 + n_groups)) for group in groups]
            for index, h in enumerate(self._each(x, name, basis.matrix, n_groups, run)):
                if basis.matrix is None:
                    hsics = Hsics.of(h)
                    wholes[index] = hsics.whole
                else:
                    hsics = Hsics(h[:, :-1], h[:, -1], wholes[index])
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
        """Yield what `Hsics` is made of: of all rows, then of those without each group."""
        work = kernel_of if basis is None else kernel_with_whole
        if not groups:
            yield mean_over_batches(work, x, basis, self.estimator, name, run.device)
            return
        read = functools.partial(
            read_moments,
            shift=shift_of(x),
            basis=basis,
            estimator=self.estimator,
            device=run.device,
            name=name,
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
        check_rows(name, len(rows), self.estimator)
        require_usable(name, rows, range(len(rows)))
        minibatch = self.estimator == "minibatch"
        groups = 0 if minibatch else _jackknife_groups(len(rows))
        cuts = batches_of(len(rows)) if minibatch else [slice(None)]
        sections = [centred(rows[section]) for section in cuts]
        members = [
            (np.arange(len(section))[:, None] % max(groups, 1) == np.arange(groups)).astype(np.float64)
            for section in sections
        ]

        def hsic(grams: Sequence[Floats], others: Sequence[Floats]) -> Floats:
            estimator: Estimator = "debiased" if minibatch else self.estimator
            triples = zip(grams, others, members, strict=True)
            total: Floats = np.sum([hsic_of_grams(*triple, estimator) for triple in triples], axis=0)
            return total

        whole = [section @ section.T for section in sections]
        own_whole = hsic(whole, whole)
        require_variance(float(own_whole.min()))
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
                found.append((group.repeat, index, ratio(hsic(part, whole), hsic(part, part), own_whole)))
        return _measurement(plan, found)


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


def _representation(name: str, value: ArrayLike) -> Floats:
    array = np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise InputError(
            name, verbatim(f"shape {array.shape}, dtype {array.dtype}"), "numbers, samples x neurons"
        )
    array = array.astype(np.float64)
    require_usable(name, array, range(len(array)))
    return array
