"""Linear probes of every prefix of an order from one factorisation: what ridge and lda share.

With G = A + λI in a group's coordinates and L its Cholesky factor, the factor of a leading block of G is the
leading block of L. So with Z = L⁻¹b the probe of prefix k is L_k⁻ᵀ Z_k, and the outputs for rows X' grow
one column of X'L⁻ᵀ at a time. Knows nothing of metrics, nor of how λ is chosen: that is moment_probes.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from critmass.linalg.kernels import cholesky, solve_lower
from critmass.linalg.matrices import Floats, Indices
from critmass.parts.groups import PrefixGroup
from critmass.parts.plan import Plan


@dataclass(frozen=True)
class Problem:
    """What the linear probe of any part is solved from, over all neurons, centred and perhaps standardised.

    Attributes
    ----------
    mean, scale : arrays of shape (n_neurons,)
        Of the neurons.
    gram : array of shape (n_neurons, n_neurons)
        A, sums or means of products of the scaled, centred neurons.
    cross : array of shape (n_neurons, n_outputs)
        b, of the same neurons with the targets.
    intercept : array of shape (n_outputs,)
    classify : bool
        Whether outputs are scores of classes rather than the target.
    rows : float
        What λ of one strength is in proportion to: the rows where A is a sum over them, 1 where it is a mean.
    discriminant : bool
        Whether the half of ‖L⁻¹b‖² is taken from each output, as linear discriminant analysis does.
    """

    mean: Floats
    scale: Floats
    gram: Floats
    cross: Floats
    intercept: Floats
    classify: bool
    rows: float
    discriminant: bool = False


@dataclass(frozen=True)
class GroupProblem:
    """A problem in the coordinates of a group of prefixes.

    Attributes
    ----------
    problem : Problem
    group : PrefixGroup
    gram : array of shape (n_coordinates, n_coordinates)
    cross : array of shape (n_coordinates, n_outputs)
    """

    problem: Problem
    group: PrefixGroup
    gram: Floats
    cross: Floats

    @classmethod
    def of(cls, problem: Problem, group: PrefixGroup) -> GroupProblem:
        """Return the problem in a group's coordinates."""
        return cls(problem, group, group.basis.gram(problem.gram), group.basis.cross(problem.cross))

    @property
    def unit(self) -> float:
        """λ of penalty 1: the mean of the diagonal of A."""
        return float(np.trace(self.gram)) / len(self.gram)


@dataclass(frozen=True)
class Job:
    """The probes of some prefixes of one group at one λ.

    Attributes
    ----------
    posed : GroupProblem
    sizes : array of shape (n_sizes_here,), ascending
    size_index : array of shape (n_sizes_here,)
        Columns of the scores.
    penalty : float
        λ.
    """

    posed: GroupProblem
    sizes: Indices
    size_index: Indices
    penalty: float

    @property
    def problem(self) -> Problem:
        """The problem over all neurons."""
        return self.posed.problem

    @property
    def group(self) -> PrefixGroup:
        """The group, cut to these sizes."""
        return replace(self.posed.group, sizes=self.sizes, size_index=self.size_index)

    def solved(self) -> tuple[Floats, Floats]:
        """Return the factor L of the largest prefix, and Z = L⁻¹b."""
        order = self.group.used
        gram = np.asfortranarray(self.posed.gram.take(order, axis=0).take(order, axis=1).T)
        gram[np.diag_indices(len(order))] += self.penalty
        factor = cholesky(gram)
        return factor, solve_lower(factor, self.posed.cross[order])


SMALL = 8
"""Parts of up to 1/8 of the neurons count as small in `fit_probes`."""

Outputs = Iterator[tuple[int, int, Floats]]
"""Repeat, column, and the outputs there for a block of rows, shape (n_outputs, n_rows)."""


@dataclass(frozen=True)
class Coefficients:
    """Probes of some jobs as explicit weights, applied in one product: cheaper for few sizes.

    Attributes
    ----------
    jobs : sequence of Job
    neurons : array of shape (n_used,)
        The neurons that any of the probes uses.
    weights : array of shape (n_probes * n_outputs, n_used)
        For raw rows; 0 for neurons outside a part. Jobs one after another, sizes within them.
    offsets : array of shape (n_probes * n_outputs, 1)
    """

    jobs: Sequence[Job]
    neurons: Indices
    weights: Floats
    offsets: Floats

    @property
    def problem(self) -> Problem:
        """What all jobs have in common: how neurons are standardised, and the intercept."""
        return self.jobs[0].problem

    @classmethod
    def fit(cls, jobs: Sequence[Job]) -> Coefficients:
        """Solve for the weights of every size of every job; all standardise alike."""
        problem = jobs[0].problem
        neurons = np.unique(np.concatenate([job.group.neurons for job in jobs]))
        rows, constants = [], []
        for job in jobs:
            own, constant = coefficients(job)
            on_neurons = job.group.basis.weights(own, job.group.used, len(problem.mean))[neurons]
            rows.append(on_neurons.reshape(len(neurons), -1).T)
            constants.append(constant.ravel())
        weights = np.concatenate(rows) / problem.scale[neurons]
        offsets = np.concatenate(constants) - weights @ problem.mean[neurons]
        return cls(jobs, neurons, weights, offsets[:, None])

    def outputs(self, x: Floats) -> Outputs:
        """Yield the outputs of each job's sizes on raw rows."""
        used = x if len(self.neurons) == x.shape[1] else x[:, self.neurons]
        values = self.weights @ used.T
        values += self.offsets
        probes = iter(values.reshape(-1, len(self.problem.intercept), len(x)))
        for job in self.jobs:
            for index in job.size_index:
                yield job.group.repeat, int(index), next(probes)


@dataclass(frozen=True)
class Sweep:
    """Probes of one job as a factor, applied by sweeping over its columns: cheaper for many sizes."""

    job: Job
    factor: Floats
    solved: Floats

    @property
    def problem(self) -> Problem:
        """The job's."""
        return self.job.problem

    @classmethod
    def fit(cls, job: Job) -> Sweep:
        """Return the factor of the largest prefix, and L⁻¹b."""
        return cls(job, *job.solved())

    def outputs(self, x: Floats) -> Outputs:
        """Yield the outputs of the job's sizes on raw rows; the array is reused between sizes."""
        group, problem = self.job.group, self.problem
        rows = group.basis.rows((x - problem.mean) / problem.scale, group.used)
        columns = np.ascontiguousarray(solve_lower(self.factor, rows.T))
        total = np.repeat(problem.intercept[:, None], len(x), axis=1)
        start = 0
        for size, index in zip(self.job.sizes, self.job.size_index, strict=True):
            if size - start == 1:
                total += self.solved[start][:, None] * columns[start]
            else:
                total += self.solved[start:size].T @ columns[start:size]
            if problem.discriminant:
                total -= 0.5 * (self.solved[start:size] ** 2).sum(axis=0)[:, None]
            start = size
            yield group.repeat, int(index), total


LinearProbes = Coefficients | Sweep


def coefficients(job: Job) -> tuple[Floats, Floats]:
    """Return the probes' weights on coordinates, and constants, for scaled, centred rows.

    One triangular solve serves all sizes: cut to its first k rows, Z is mapped by L⁻ᵀ to the weights of
    prefix k and to zeros below them.

    Returns
    -------
    weights : array of shape (n_coordinates_used, n_sizes, n_outputs)
        In the group's order; 0 for coordinates outside a part.
    constants : array of shape (n_sizes, n_outputs)
    """
    factor, solved = job.solved()
    inside = np.arange(len(solved))[:, None] < job.sizes
    right = (solved[:, None, :] * inside[:, :, None]).reshape(len(solved), -1)
    weights = solve_lower(factor, right, transposed=True).reshape(len(solved), len(job.sizes), -1)
    constants = np.tile(job.problem.intercept, (len(job.sizes), 1))
    if job.problem.discriminant:
        constants -= 0.5 * np.cumsum(solved**2, axis=0)[job.sizes - 1]
    return weights, constants


@dataclass(frozen=True)
class PlanProblem:
    """A problem in the coordinates of every group of a plan.

    Attributes
    ----------
    plan : Plan
    posed : sequence of GroupProblem
        The last is the whole's.
    units : array of shape (n_repeats + 1, n_sizes)
        λ of penalty 1.
    """

    plan: Plan
    posed: Sequence[GroupProblem]
    units: Floats

    @classmethod
    def of(cls, problem: Problem, plan: Plan) -> PlanProblem:
        """Return the problem in the coordinates of the plan's groups."""
        posed = [GroupProblem.of(problem, group) for group in plan.groups]
        return cls(plan, posed, plan.of_groups(np.full(len(p.group.sizes), p.unit) for p in posed))

    def jobs(self, penalties: Floats) -> list[Job]:
        """Return a job for each group and distinct λ, shape (n_repeats + 1, n_sizes); the whole's is last."""
        jobs = []
        for posed in self.posed:
            group = posed.group
            own = penalties[group.repeat, group.size_index]
            for penalty in np.unique(own):
                mine = own == penalty
                jobs.append(Job(posed, group.sizes[mine], group.size_index[mine], float(penalty)))
        return jobs


def fit_jobs(jobs: Sequence[Job], n_rows: int) -> list[LinearProbes]:
    """Fit every job the way that costs fewer operations for `n_rows` rows to score.

    Explicit weights of small parts get products of their own, which need only those few neurons.
    """
    d, outputs = jobs[0].problem.cross.shape
    probes: list[LinearProbes] = []
    wide: list[Job] = []
    for job in jobs:
        if n_rows * (d + 2 * outputs) < len(job.sizes) * outputs * (d + 2 * n_rows):
            probes.append(Sweep.fit(job))
            continue
        small = job.sizes <= d // SMALL
        narrow, rest = (
            replace(job, sizes=job.sizes[which], size_index=job.size_index[which])
            for which in (small, ~small)
        )
        if small.any():
            probes.append(Coefficients.fit([narrow]))
        if not small.all():
            wide.append(rest)
    return [*probes, *([Coefficients.fit(wide)] if wide else [])]


def predict(plan: Plan, probes: Sequence[LinearProbes], x: Floats) -> Floats:
    """Return predictions for raw rows, shape (n_repeats + 1, len(x), n_sizes); the whole's are last."""
    found = (
        (repeat, index, decide(outputs, classify=probe.problem.classify))
        for probe in probes
        for repeat, index, outputs in probe.outputs(x)
    )
    return plan.scatter(found).transpose(0, 2, 1)


def decide(outputs: Floats, *, classify: bool) -> Floats:
    """Return class codes, or the target itself, from outputs of shape (n_outputs, n_rows)."""
    chosen: Floats
    if not classify:
        chosen = outputs[0].copy()
    elif len(outputs) == 1:
        chosen = (outputs[0] > 0).astype(np.float64)
    else:
        chosen = outputs.argmax(axis=0).astype(np.float64)
    return chosen
