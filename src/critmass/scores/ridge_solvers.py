"""Ridge problems solved for every prefix of an order: by moments, and by rows.

With G = Σ + λI in an order's basis and L its Cholesky factor, the factor of a leading block of G is the
leading block of L. So with Z = L⁻¹b the probe of prefix k is L_k⁻ᵀ Z_k, and the outputs for rows X' grow
one column of X'L⁻ᵀ at a time. A dense basis B turns Σ into BᵀΣB and b into Bᵀb; its probes' weights, times B,
are weights of neurons. The dual form does the same with Gram matrices of the rows, for layers much
wider than there are rows. Knows nothing of metrics or of how λ is chosen: that is ridge.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from critmass.features.features import Features, Split
from critmass.linalg.arrays import Floats, Indices, Matrix, cholesky, require_usable, solve_lower
from critmass.linalg.bases import times, turned
from critmass.linalg.moments import Moments, scale_of
from critmass.parts.parts import Parts, Walk
from critmass.progress import Progress
from critmass.scores.protocols import share_whole


def targets_of(features: Features, split: Split) -> Callable[[slice], Floats]:
    """Return the targets of a block of rows: one-hot for classes, one column otherwise."""
    assert split.y is not None  # noqa: S101
    y = split.y
    if features.classes is None:
        return lambda rows: y[rows, None].astype(np.float64)
    codes = np.arange(len(features.classes))
    return lambda rows: (y[rows, None] == codes).astype(np.float64)


@dataclass(frozen=True)
class Problem:
    """A ridge problem over all neurons, centred and (by default) standardised; or over those times a basis.

    Attributes
    ----------
    mean, scale : arrays of shape (n_neurons,)
        Of the neurons.
    gram : array of shape (n_neurons, n_neurons)
        Σ, sums of products of the scaled, centred columns.
    cross : array of shape (n_neurons, n_outputs)
        b, the same with the centred targets.
    intercept : array of shape (n_outputs,)
    classify : bool
        Whether outputs are one-vs-rest scores of classes rather than the target.
    basis : array of shape (n_neurons, n_neurons), or None
        What the scaled, centred neurons were multiplied by.
    """

    mean: Floats
    scale: Floats
    gram: Floats
    cross: Floats
    intercept: Floats
    classify: bool
    basis: Floats | None = None

    @classmethod
    def of(cls, moments: Moments, *, standardise: bool, classify: bool) -> Problem:
        """Return the problem; `classify` turns one-hot targets into ±1 (one output for two classes)."""
        scale = moments.scale if standardise else np.ones(len(moments.sum))
        cross, intercept = moments.target_scatter / scale[:, None], moments.target_mean
        if classify:
            chosen = slice(1, 2) if len(intercept) == 2 else slice(None)
            cross, intercept = 2.0 * cross[:, chosen], 2.0 * intercept[chosen] - 1.0
        gram = moments.scatter / scale
        gram /= scale[:, None]
        return cls(moments.mean, scale, gram, cross, intercept, classify)

    def along(self, walk: Walk) -> Problem:
        """Return the problem in the columns of a walk: the same where they are neurons."""
        basis = walk.basis
        if basis is None:
            return self
        gram, cross = turned(self.gram, basis), times(self.cross.T, basis).T
        return replace(self, gram=gram, cross=cross, basis=basis)

    @property
    def unit(self) -> float:
        """λ of penalty 1: the mean of the diagonal of Σ (the weight, where columns are standardised)."""
        return float(np.trace(self.gram)) / len(self.gram)


@dataclass(frozen=True)
class Job:
    """The probes of some prefixes of one order at one λ, and where their predictions go.

    Attributes
    ----------
    problem : Problem
    order : array of shape (n_neurons,)
        Columns of the problem.
    sizes : array of shape (n_sizes_here,), ascending
    penalty : float
        λ.
    repeat : int
        Row of the predictions; the number of repeats for the whole layer.
    columns : array of shape (n_sizes_here,)
        Columns of the predictions.
    """

    problem: Problem
    order: Indices
    sizes: Indices
    penalty: float
    repeat: int
    columns: Indices

    @property
    def neurons(self) -> Indices:
        """The neurons that any of the probes uses, shape (n_used,)."""
        return self.order[: self.sizes[-1]] if self.problem.basis is None else np.arange(len(self.order))

    def standard(self, x: Floats) -> Floats:
        """Return the columns of the largest prefix for raw rows, shape (n, size)."""
        problem, order = self.problem, self.order[: self.sizes[-1]]
        if problem.basis is None:
            return (x[:, order] - problem.mean[order]) / problem.scale[order]
        return times((x - problem.mean) / problem.scale, problem.basis[:, order])


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
        neurons = np.unique(np.concatenate([job.neurons for job in jobs]))
        weights = np.concatenate([coefficients(job)[:, neurons] for job in jobs]).transpose(0, 2, 1)
        weights = weights.reshape(-1, len(neurons)) / problem.scale[neurons]
        n_probes = len(weights) // len(problem.intercept)
        offsets = np.tile(problem.intercept, n_probes) - weights @ problem.mean[neurons]
        return cls(jobs, neurons, weights, offsets[:, None])

    def outputs(self, x: Floats) -> Outputs:
        """Yield the outputs of each job's sizes on raw rows."""
        used = x if len(self.neurons) == x.shape[1] else x[:, self.neurons]
        values = self.weights @ used.T
        values += self.offsets
        probes = iter(values.reshape(-1, len(self.problem.intercept), len(x)))
        for job in self.jobs:
            for column in job.columns:
                yield job.repeat, int(column), next(probes)


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
        return cls(job, *_factor(job))

    def outputs(self, x: Floats) -> Outputs:
        """Yield the outputs of the job's sizes on raw rows; the array is reused between sizes."""
        columns = np.ascontiguousarray(solve_lower(self.factor, self.job.standard(x).T))
        total = np.repeat(self.problem.intercept[:, None], len(x), axis=1)
        start = 0
        for size, column in zip(self.job.sizes, self.job.columns, strict=True):
            if size - start == 1:
                total += self.solved[start][:, None] * columns[start]
            else:
                total += self.solved[start:size].T @ columns[start:size]
            start = size
            yield self.job.repeat, int(column), total


Probe = Coefficients | Sweep


def coefficients(job: Job) -> Floats:
    """Return the probes' weights on scaled, centred neurons, shape (n_sizes, n_neurons, n_outputs).

    Neurons outside a part have weight 0. One triangular solve serves all sizes: cut to its first k
    rows, Z is mapped by L⁻ᵀ to the weights of prefix k and to zeros below them.
    """
    factor, solved = _factor(job)
    inside = np.arange(len(solved))[:, None] < job.sizes
    right = (solved[:, None, :] * inside[:, :, None]).reshape(len(solved), -1)
    weights = solve_lower(factor, right, transposed=True)
    order, shape = job.order[: len(solved)], (-1, len(job.sizes), solved.shape[1])
    if job.problem.basis is not None:
        weights = times(weights.T, job.problem.basis[:, order].T).T
        return weights.reshape(shape).transpose(1, 0, 2)
    out = np.zeros((len(job.sizes), len(job.order), solved.shape[1]))
    out[:, order] = weights.reshape(shape).transpose(1, 0, 2)
    return out


def _factor(job: Job) -> tuple[Floats, Floats]:
    order, problem = job.order[: job.sizes[-1]], job.problem
    gram = np.asfortranarray(problem.gram.take(order, axis=0).take(order, axis=1).T)
    gram[np.diag_indices(len(order))] += job.penalty
    factor = cholesky(gram)
    return factor, solve_lower(factor, problem.cross[order])


@dataclass(frozen=True)
class Walked:
    """A ridge problem in the columns of every walk.

    Attributes
    ----------
    parts : Parts
    walks : list of (Walk, Problem)
        The last is the whole's.
    units : array of shape (n_repeats + 1, 1)
        λ of penalty 1 for each repeat and the whole.
    """

    parts: Parts
    walks: list[tuple[Walk, Problem]]
    units: Floats

    @classmethod
    def of(cls, problem: Problem, parts: Parts, sizes: Indices) -> Walked:
        """Return the problem in the columns of the walks to these parts."""
        walks = [(walk, problem.along(walk)) for walk in parts.walks(sizes)]
        return cls(parts, walks, units_of(parts, [(walk, own.unit) for walk, own in walks]))


def units_of(parts: Parts, units: Iterable[tuple[Walk, float]]) -> Floats:
    """Return what walks give each repeat and the whole, shape (n_repeats + 1, 1)."""
    out = np.empty((parts.repeats + 1, 1))
    for walk, unit in units:
        out[walk.repeat] = unit
    return out


def make_jobs(walked: Walked, penalties: Floats) -> list[Job]:
    """Return one job for each walk and distinct λ, of shape (n_repeats + 1, n_sizes); the whole's is last."""
    jobs = []
    for walk, problem in walked.walks:
        own = penalties[walk.repeat, walk.places]
        order = walk.order if walk.basis is None else np.arange(len(walk.order))
        for penalty in np.unique(own):
            mine = own == penalty
            jobs.append(Job(problem, order, walk.sizes[mine], float(penalty), walk.repeat, walk.places[mine]))
    return jobs


def fit_probes(jobs: Sequence[Job], n_rows: int) -> list[Probe]:
    """Fit every job the way that costs fewer operations for `n_rows` rows to score.

    Explicit weights of small parts get products of their own, which need only those few neurons.
    """
    d, outputs = jobs[0].problem.cross.shape
    probes: list[Probe] = []
    wide: list[Job] = []
    for job in jobs:
        if n_rows * (d + 2 * outputs) < len(job.sizes) * outputs * (d + 2 * n_rows):
            probes.append(Sweep.fit(job))
            continue
        small = (job.sizes <= d // SMALL) & (job.problem.basis is None)
        narrow, rest = (
            replace(job, sizes=job.sizes[which], columns=job.columns[which]) for which in (small, ~small)
        )
        if small.any():
            probes.append(Coefficients.fit([narrow]))
        if not small.all():
            wide.append(rest)
    return [*probes, *([Coefficients.fit(wide)] if wide else [])]


def predict(parts: Parts, probes: Sequence[Probe], x: Floats, n_sizes: int) -> Floats:
    """Return predictions for raw rows, shape (n_repeats + 1, len(x), n_sizes); the whole's are last."""
    out = np.empty((parts.repeats + 1, n_sizes, len(x)))
    for probe in probes:
        for repeat, column, outputs in probe.outputs(x):
            out[repeat, column] = _predicted(outputs, classify=probe.problem.classify)
    share_whole(parts, out)
    return out.transpose(0, 2, 1)


def _predicted(outputs: Floats, *, classify: bool) -> Floats:
    """Return class codes, or the target itself, from outputs of shape (n_outputs, n_rows)."""
    chosen: Floats
    if not classify:
        chosen = outputs[0]
    elif len(outputs) == 1:
        chosen = outputs[0] > 0
    else:
        chosen = outputs.argmax(axis=0)
    return chosen


@dataclass(frozen=True)
class Dual:
    """The same ridge problem through Gram matrices of its rows, shape (n_samples, n_samples).

    Attributes
    ----------
    x : array of shape (n_samples, n_neurons)
        Scaled, centred rows, times the root of their weight.
    y : array of shape (n_samples, n_outputs)
        Centred targets, likewise.
    weight : float
        Sum of the rows' weights.
    """

    x: Floats
    y: Floats
    mean: Floats
    scale: Floats
    intercept: Floats
    weight: float
    classify: bool

    @classmethod
    def of(cls, features: Features, split: Split, *, weights: Floats | None, standardise: bool) -> Dual:
        """Return the problem of fitting the targets of `split`; rows weigh `weights`, or 1."""
        x = np.asarray(split.x[:], dtype=np.float64)
        require_usable("X of 'train'", x, range(len(x)))
        targets = targets_of(features, split)(slice(0, len(x)))
        classify = features.task == "classification"
        if classify:
            targets = 2.0 * (targets[:, 1:] if targets.shape[1] == 2 else targets) - 1.0
        weights = np.ones(len(x)) if weights is None else weights
        mean, intercept = (np.average(values, axis=0, weights=weights) for values in (x, targets))
        x = x - mean
        variance = np.average(x**2, axis=0, weights=weights)
        scale = scale_of(variance, mean, len(x)) if standardise else np.ones(x.shape[1])
        root = np.sqrt(weights)[:, None]
        x, y = root * x / scale, root * (targets - intercept)
        return cls(x, y, mean, scale, intercept, float(weights.sum()), classify)

    def units(self, parts: Parts, sizes: Indices) -> Floats:
        """Return λ of penalty 1 for each repeat and the whole, as `Walked.units`."""
        squares = (parts.columns(self.x) ** 2).sum(axis=0)
        walks = parts.walks(sizes)
        return units_of(parts, [(walk, float(squares[walk.order].mean())) for walk in walks])

    def predictions(
        self,
        x: Matrix,
        name: str,
        parts: Parts,
        sizes: Indices,
        grid: Sequence[Floats],
        progress: Progress,
    ) -> list[Floats]:
        """Return predictions for rows `x`, shape (n_repeats + 1, len(x), n_sizes), for each λ array."""
        rows = np.asarray(x[:], dtype=np.float64)
        require_usable(name, rows, range(len(rows)))
        rows, own = parts.columns((rows - self.mean) / self.scale), parts.columns(self.x)
        out = [np.empty((parts.repeats + 1, len(sizes), len(rows))) for _ in grid]
        walks = parts.walks(sizes)
        for number, walk in enumerate(walks):
            progress("probes from rows", number, len(walks))
            gram, between, start = np.zeros((len(own),) * 2), np.zeros((len(rows), len(own))), 0
            for size, place in zip(walk.sizes, walk.places, strict=True):
                columns = walk.order[start:size]
                gram, start = gram + own[:, columns] @ own[:, columns].T, size
                between += rows[:, columns] @ own[:, columns].T
                for penalties, predictions in zip(grid, out, strict=True):
                    penalty = penalties[walk.repeat, place]
                    factor = cholesky(np.asfortranarray(gram + penalty * np.eye(len(gram))))
                    weights = solve_lower(factor, solve_lower(factor, self.y), transposed=True)
                    predictions[walk.repeat, place] = _predicted(
                        (between @ weights + self.intercept).T, classify=self.classify
                    )
        for predictions in out:
            share_whole(parts, predictions)
        return [predictions.transpose(0, 2, 1) for predictions in out]
