"""What is asked of a measurement: one record, from which flags, a study's entries and calls come.

Names, defaults and descriptions stand here once; `measure` has the same (a test compares them) and checks
what the values may be.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from critmass.io.ids import MOST_REPEATS


class MeasureOptions(BaseModel):
    """What is asked, but for the score and the parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts_settings: dict[str, Any] = Field(
        default={}, description="further settings of the parts, by name: strength=0.1"
    )
    sizes: str | list[int | float] = Field(
        default="paper",
        description="paper, all, or numbers: 128 is 128 neurons, .1 a tenth of them, 1.0 the whole",
    )
    repeats: int = Field(
        default=5, ge=1, le=MOST_REPEATS, description="parts of each size, of families that are random"
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="of the parts, and of rows set aside to choose settings on and to test on",
    )
    seeding: str = Field(
        default="critmass", description="critmass, or authors: the orders that the paper's own code draws"
    )
    metric: str | None = Field(
        default=None, description="accuracy or balanced-accuracy for classes; r2 for continuous targets"
    )
    regularisation: float | None = Field(
        default=None,
        description="strength of a probe's penalty, λ; chosen on validation rows by default",
    )
    standardise: bool | None = Field(
        default=None,
        description="scale neurons to unit variance before a probe; the score's own choice by default",
    )
    settings: dict[str, Any] = Field(
        default={}, description="further settings of the score, by name: epochs=20 lr=0.05"
    )


class MeasureRequest(MeasureOptions):
    """What is asked of features: a score of parts of some sizes."""

    score: str = Field(default="ridge", description="what is measured on a part (critmass list scores)")
    parts: str = Field(
        default="random",
        description="family of parts (critmass list parts), or a .npy file: an order, masks or a matrix",
    )
