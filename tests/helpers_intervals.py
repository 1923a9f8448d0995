"""Credits of simulated rows and parts with a known DR, for coverage of its interval. Plain functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from critmass.curves.redundancy import redundancy
from critmass.scores.protocols import Measurement

COARSE = np.array([1, 2, 4, 8, 16, 32, 48, 64])
FINE = np.arange(1, 25)
DELTA = 0.9
WHOLE = 0.8
ROWS_SD = 1.0


@dataclass(frozen=True)
class Scenario:
    """A layer whose parts of each size have known accuracies.

    Attributes
    ----------
    sizes : array of shape (n_sizes,)
    ratios : array of shape (n_sizes,)
        True accuracy of parts, as a share of the whole's; ascending to 1.
    repeats, rows : int
    parts_sd : float
        Standard deviation between parts of one size, in probits.
    """

    sizes: np.ndarray
    ratios: np.ndarray
    repeats: int
    rows: int
    parts_sd: float

    @property
    def dr(self) -> float:
        """The true DR."""
        return 1 - self.sizes[np.argmax(self.ratios >= DELTA)] / self.sizes[-1]

    def credits(self, runs: int, generator: np.random.Generator) -> np.ndarray:
        """Return right answers, shape (runs, n_repeats + 1, n_sizes, n_rows), the whole's last.

        A row is right where its level, its own ease, its part's luck and chance sum to more than 0. Parts of
        a repeat are nested, so their luck is shared in part from size to size; rows' ease by all.
        """
        shape = (runs, self.repeats, len(self.sizes), 1)
        spread = np.where(self.sizes < self.sizes[-1], self.parts_sd, 0.0)[:, None]
        total = np.sqrt(1 + ROWS_SD**2 + spread**2)
        level = stats.norm.ppf(WHOLE * self.ratios)[:, None] * total
        kept = generator.normal(size=(*shape[:2], 1, 1))
        luck = spread * (0.8 * kept + 0.6 * generator.normal(size=shape))
        ease = ROWS_SD * generator.standard_normal((runs, 1, 1, self.rows), dtype=np.float32)
        chance = generator.standard_normal((*shape[:3], self.rows), dtype=np.float32)
        right = (level + luck).astype(np.float32) + ease + chance > 0
        whole = ease + generator.standard_normal((runs, 1, 1, self.rows), dtype=np.float32)
        whole = np.float32(level[-1, 0]) + whole > 0
        right[:, :, -1:] = whole
        return np.concatenate([right, np.broadcast_to(whole, (runs, 1, *right.shape[2:]))], axis=1)

    def coverage(self, runs: int, seed: int = 0) -> tuple[float, float]:
        """Return the share of runs whose 95% interval holds the true DR, and the intervals' mean width."""
        generator, held, width = np.random.default_rng(seed), 0, 0.0
        done, step = 0, max(1, 2**19 // (len(self.sizes) * self.repeats * self.rows))
        while done < runs:
            right = self.credits(min(step, runs - done), generator).astype(np.float32)
            done += len(right)
            means = right.mean(axis=3, dtype=np.float64)
            flat = right.transpose(0, 2, 1, 3)
            products = (flat @ flat.transpose(0, 1, 3, 2)).astype(np.float64)  # counts: exact in float32
            outer = np.einsum("bim,bjm->bmij", means, means)
            covariance = (products - self.rows * outer) / (self.rows - 1)
            for mean, own in zip(means, covariance, strict=True):
                scores, converged = mean[:-1], np.ones(mean[:-1].shape, dtype=bool)
                measurement = Measurement(scores, float(mean[-1, -1]), own, self.rows, converged)
                found = redundancy(measurement, sizes=self.sizes, delta=DELTA)
                held += found.low - 1e-12 <= self.dr <= found.high + 1e-12
                width += found.high - found.low
        return held / runs, width / runs


def sharp(sizes: np.ndarray, mass: int, at: float = 0.97, below: float = 0.7) -> np.ndarray:
    """Return ratios that jump from `below` to `at` where parts reach `mass` neurons."""
    ratios = np.where(sizes < mass, below, at)
    ratios[-1] = 1.0
    return ratios


def flat(sizes: np.ndarray, mass: int, slope: float = 0.02) -> np.ndarray:
    """Return ratios that rise by `slope` for each doubling and are exactly δ at `mass` neurons."""
    steps = np.log2(sizes / mass)
    upper = np.where(steps > 0, steps * (1 - DELTA) / np.log2(sizes[-1] / mass), steps * slope)
    return np.minimum(DELTA + upper, 1.0)


SHAPES = {
    "sharp rise": (COARSE, sharp(COARSE, 16)),
    "sharp rise to exactly δ": (COARSE, sharp(COARSE, 16, at=DELTA)),
    "sharp rise from just below δ": (COARSE, sharp(COARSE, 16, below=DELTA - 0.01)),
    "flat, exactly δ at a size": (COARSE, flat(COARSE, 16)),
    "flat, δ between sizes": (COARSE, flat(COARSE, 12)),
    "flat, every size measured": (FINE, flat(FINE, 12)),
    "very flat, every size measured": (FINE, flat(FINE, 12, slope=0.003)),
}
REPEATS = (2, 5, 20)
DATA = {
    "200 rows, parts differ": (200, 0.15),
    "200 rows, parts alike": (200, 0.02),
    "40 rows, parts differ": (40, 0.15),
    "2,000 rows, parts differ": (2000, 0.15),
}


def scenarios() -> dict[tuple[str, str, int], Scenario]:
    """Return every shape on every kind of data at every number of repeats."""
    return {
        (shape, data, repeats): Scenario(*SHAPES[shape], repeats, *DATA[data])
        for shape in SHAPES
        for data in DATA
        for repeats in REPEATS
    }
