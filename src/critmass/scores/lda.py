"""Linear discriminant analysis of each part, exact, all sizes at once.

With S the covariance of rows about their class's mean, μ the class means and π the classes' shares, a row x
gets the outputs xᵀ(S + λI)⁻¹μ − ½ μᵀ(S + λI)⁻¹μ + log π: normal classes of one covariance (Fisher 1936;
Hastie, Tibshirani & Friedman, Elements of Statistical Learning, 4.3), shrunk towards a multiple of the
identity. The factor of S + λI serves every prefix as ridge's does, at ridge's cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from critmass.errors import InputError, verbatim
from critmass.features.features import Features
from critmass.linalg.moments import Moments
from critmass.scores.linear_solvers import Problem
from critmass.scores.moment_probes import MomentProbe
from critmass.scores.probes import ClassWeight
from critmass.scores.protocols import check_positive


@dataclass(frozen=True)
class LDA(MomentProbe):
    """Test performance of linear discriminant analysis of the part.

    Attributes
    ----------
    regularisation : float or None
        λ, added to the diagonal of the covariance within classes of standardised columns. None chooses it for
        each size and repeat on validation rows, ties to the larger, and refits on all training rows.
    metric : str or None
        "accuracy" (default) or "balanced-accuracy".
    class_weight : None, "balanced" or mapping of class name to weight
        How much the rows of a class count, in its share and in the covariance.
    """

    regularisation: float | None = None
    metric: str | None = None
    class_weight: ClassWeight = None
    standardise = True

    def __post_init__(self) -> None:
        check_positive(regularisation=self.regularisation)

    @property
    def name(self) -> str:
        """Name in the registry."""
        return "lda"

    def problem(self, moments: Moments, features: Features) -> Problem:
        """Return what the discriminants of all parts are solved from."""
        if features.classes is None:
            raise InputError("targets", verbatim("continuous targets"), "classes", "use ridge or knn")
        scale, rows = moments.scale, moments.target_sum
        # A class without a row here has the mean of all rows, and as good as no chance to be chosen.
        means = moments.target_scatter / np.where(rows > 0, rows, 1.0)
        within = moments.scatter - (means * rows) @ means.T
        within /= moments.weight * scale
        within /= scale[:, None]
        priors = np.log(np.where(rows > 0, rows, np.finfo(np.float64).tiny) / moments.weight)
        cross = means / scale[:, None]
        return Problem(moments.mean, scale, within, cross, priors, True, rows=1.0, discriminant=True)
