"""Scores over sizes x repeats: the curve, and its tidy tables.

A curve is what a measurement gives, with enough beside it to say what was measured. It computes nothing
new: DR and its interval come from redundancy.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from critmass.curves.redundancy import Redundancy, redundancy
from critmass.errors import InputError, unknown, verbatim
from critmass.io.ids import content_id
from critmass.linalg.matrices import Indices
from critmass.parts.parts import Parts
from critmass.scores.protocols import Measurement


@dataclass(frozen=True)
class Bracket:
    """Where a critical mass lies, as far as the sizes that were measured tell.

    A size that was measured and fails bounds the critical mass from below, one that holds from above: of the
    sizes between them nothing is known. Where every size was measured, both are the critical mass.

    Attributes
    ----------
    low, high : int
        The smallest and the largest size that `Redundancy.critical_mass` may be.
    dr_low, dr_high : float or None
        The 95% interval of DR, its upper end moved to the largest DR that no measured size rules out.
    """

    low: int
    high: int
    dr_low: float | None
    dr_high: float | None


@dataclass(frozen=True, repr=False)
class Curve:
    """Scores of the parts of one family of one layer on one test split.

    Attributes
    ----------
    features, score, split : str
        Names of what was measured, how, and where.
    metric : str or None
        What a probe's score is the mean of; None for scores that train no probe.
    sizes : array of shape (n_sizes,)
        Ascending; the last is the whole layer.
    parts : Parts
    measurement : Measurement
    classes, groups : tuples of names, or None
    spec : mapping
        The MeasureSpec that asked for it, as JSON values.
    provenance : mapping
        Versions, and where the features come from.
    others : mapping of str to Measurement
        The same probes on further test splits.
    name : str or None
        What the user calls it: the label in tables, charts and legends.
    """

    features: str
    score: str
    split: str
    metric: str | None
    sizes: Indices
    parts: Parts
    measurement: Measurement
    classes: tuple[int | str, ...] | None
    groups: tuple[str, ...] | None
    spec: Mapping[str, Any]
    provenance: Mapping[str, Any]
    others: Mapping[str, Measurement] = field(default_factory=dict)
    name: str | None = None

    def __repr__(self) -> str:
        what = f"{self.score} of {self.parts.family} parts of {self.features!r} on {self.split!r}"
        return f"Curve({what}, {len(self.sizes)} sizes x {self.repeats} repeats, whole {self.whole:.4f})"

    @property
    def whole(self) -> float:
        """Score of the whole layer."""
        return self.measurement.whole

    @property
    def id(self) -> str:
        """Content id of the question this curve answers."""
        return content_id(dict(self.spec))

    @property
    def described(self) -> str:
        """The score with what sets it apart: its metric, and λ where that was fixed."""
        penalty = self.spec["settings"].get("regularisation")
        details = [self.metric, None if penalty is None else f"λ = {penalty:g}"]
        said = ", ".join(detail for detail in details if detail)
        return f"{self.score} ({said})" if said else self.score

    @property
    def title(self) -> str:
        """Its name, where it has one, and what was measured of what."""
        what = f"{self.features}: {self.described}, {self.parts.family} parts"
        return what if self.name is None else f"{self.name} ({what})"

    @property
    def unit(self) -> str:
        """What its parts are made of: neurons, components or directions."""
        return self.parts.unit

    @property
    def rows(self) -> Mapping[str, int]:
        """Number of rows of each split of the features."""
        rows: Mapping[str, int] = self.provenance.get("rows", {})
        return rows

    @property
    def n_neurons(self) -> int:
        """Width of the layer, d."""
        return self.parts.n_neurons

    @property
    def repeats(self) -> int:
        """Number of parts measured of each size."""
        return self.parts.repeats

    @property
    def frame(self) -> pl.DataFrame:
        """One row for each size and repeat.

        Columns: size, fraction, repeat, score, whole, ratio (score / whole; null where the whole
        scores 0 or less), converged, regularisation (null where the score has none), and whatever else
        was chosen for each probe.
        """
        shape = self.measurement.scores.shape
        chosen = {"regularisation": np.full(shape, np.nan), **self.measurement.chosen}
        return pl.DataFrame(
            {
                **self._index(shape),
                "score": self.measurement.scores.ravel(),
                "whole": np.full(shape, self.whole).ravel(),
                "ratio": (self.measurement.scores / (self.whole if self.whole > 0 else np.nan)).ravel(),
                "converged": self.measurement.converged.ravel(),
                **{name: values.ravel() for name, values in chosen.items()},
            }
        ).with_columns(pl.col("ratio", "regularisation").fill_nan(None))

    @property
    def warnings(self) -> list[str]:
        """What a reader of this result must know, one line each."""
        missed, count = int((~self.measurement.converged).sum()), self.measurement.converged.size
        advice = "raise iterations or regularisation, or loosen the tolerance"
        return [f"{missed} of {count} {self.score} probes did not converge: {advice}"] if missed else []

    @property
    def by_class(self) -> pl.DataFrame:
        """One row for each size, repeat and class: the share of the class's rows that are right.

        Columns: size, fraction, repeat, class, rows, score, whole (the whole layer's share, in this class).
        """
        return self._by("class", self.classes)

    @property
    def by_group(self) -> pl.DataFrame:
        """One row for each size, repeat and group: accuracy within the group, or R² about its own mean.

        Columns: size, fraction, repeat, group, rows, score, whole (of the whole layer, in this group).
        """
        return self._by("group", self.groups)

    def named(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return a table of this curve with what tells it from other curves in columns before it."""
        names = {
            "name": self.name,
            "features": self.features,
            "score_name": self.score,
            "metric": self.metric,
            "parts": self.parts.family,
            "split": self.split,
            "cell": self.id,
        }
        return frame.select(*(pl.lit(v, pl.String).alias(k) for k, v in names.items()), pl.all())

    def on(self, split: str) -> Curve:
        """Return the curve of the same probes on another test split.

        Raises
        ------
        InputError
            If nothing was measured on it.
        """
        if split == self.split:
            return self
        if split not in self.others:
            raise unknown("test split", split, [self.split, *self.others])
        others = {self.split: self.measurement, **self.others}
        measurement = others.pop(split)
        changed = {"split": split, "measurement": measurement, "others": others}
        return Curve(**{**self.__dict__, **changed})

    def indices(self, *, repeat: int, size: int) -> Indices:
        """Return the neurons of one part, in the order they were drawn (masks: ascending), shape (size,).

        Raises
        ------
        InputError
            For a repeat or size that there is not, or parts that are no neurons: columns of a dense basis.
        """
        if not 0 <= repeat < self.repeats:
            raise InputError("repeat", repeat, f"0 to {self.repeats - 1}")
        if not 1 <= size <= self.n_neurons:
            raise InputError("size", size, f"1 to {self.n_neurons}")
        return self.parts.indices(repeat, size)

    def redundancy(self, delta: float = 0.9, coverage: float | None = None) -> Redundancy:
        """Return the diffused redundancy DR(δ), with its interval and spread. See redundancy.py.

        With `coverage`, the largest share that can be dropped so that at least this share of all parts of
        that size keep δ, with 95% confidence.
        """
        return redundancy(self.measurement, sizes=self.sizes, delta=delta, coverage=coverage)

    def bracket(self, found: Redundancy) -> Bracket:
        """Return where the critical mass of this curve's redundancy lies, as the measured sizes tell."""
        d, mass = self.n_neurons, found.critical_mass
        if found.low is None or found.high is None:
            return Bracket(self._above(mass), mass, None, None)
        smallest = self._above(round((1.0 - found.high) * d))
        return Bracket(self._above(mass), mass, found.low, (d - smallest) / d)

    def _above(self, size: int) -> int:
        """Return the size after the largest measured one below this one."""
        return int(self.sizes[self.sizes < size].max(initial=0)) + 1

    def _index(self, shape: tuple[int, ...]) -> dict[str, Any]:
        sizes = np.broadcast_to(self.sizes, shape).ravel()
        repeats = np.repeat(np.arange(shape[0]), shape[1])
        return {"size": sizes, "fraction": sizes / self.n_neurons, "repeat": repeats}

    def _by(self, kind: str, names: Any) -> pl.DataFrame:
        values = getattr(self.measurement, f"by_{kind}")
        if names is None or values is None:
            raise InputError(
                f"by_{kind}",
                verbatim(f"no {'labels' if kind == 'class' else 'groups'} on {self.split!r}"),
                f"features with {'classes' if kind == 'class' else 'groups on the test split'}, and a probe",
            )
        shape = values.shape[:2]
        index = {key: np.repeat(column, len(names)) for key, column in self._index(shape).items()}
        n = shape[0] * shape[1]
        return pl.DataFrame(
            {
                **index,
                kind: list(names) * n,
                "rows": np.tile(getattr(self.measurement, f"{kind}_rows"), n),
                "score": values.ravel(),
                "whole": np.tile(getattr(self.measurement, f"whole_by_{kind}"), n),
            }
        ).with_columns(pl.col("score", "whole").fill_nan(None))
