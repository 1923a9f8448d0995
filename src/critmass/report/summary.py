"""What a report says, as numbers: plain JSON values, the same for the same results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from critmass.curve import Curve

DELTAS = (0.8, 0.9, 0.95, 0.99)
COLUMNS = ("split", "δ", "DR", "95% interval", "sustained DR", "critical mass", "whole", "std", "worst")
NOTE = "std, worst: over repeats, as a share of the whole's score at the critical mass"


def summary(curves: Sequence[Curve], deltas: Sequence[float] = DELTAS) -> dict[str, Any]:
    """Return {"redundancy": [...]}: one record for each curve, test split and δ.

    On a further test split where the whole layer scores 0 or less, DR means nothing and is None.
    """
    return {
        "redundancy": [
            {
                "features": curve.features,
                "score": curve.score,
                "metric": curve.metric,
                "described": curve.described,
                "parts": curve.parts.family,
                "split": split,
                "repeats": curve.repeats,
                **_redundancy(curve.on(split), delta),
            }
            for curve in curves
            for split in (curve.split, *curve.others)
            for delta in deltas
        ]
    }


def row(record: dict[str, Any]) -> tuple[str, ...]:
    """Return a record of the summary as the texts of one row of a table with `COLUMNS`."""
    spread = record["spread"] or {"std": None, "worst": None}
    interval = "none" if record["low"] is None else f"{record['low']:.3f} to {record['high']:.3f}"
    mass = (
        "none" if record["critical_mass"] is None else f"{record['critical_mass']} of {record['n_neurons']}"
    )
    return (
        record["split"],
        f"{record['delta']:g}",
        _number(record["dr"], 3),
        interval,
        _number(record["sustained"], 3),
        mass,
        _number(record["whole"], 4),
        _number(spread["std"], 4),
        _number(spread["worst"], 4),
    )


def _number(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def _redundancy(curve: Curve, delta: float) -> dict[str, Any]:
    if curve.whole > 0:
        return curve.redundancy(delta).record()
    nothing = dict.fromkeys(
        ("dr", "low", "high", "critical_mass", "sustained", "headline", "headline_mass", "reached", "spread")
    )
    return {"delta": delta, "n_neurons": curve.n_neurons, "whole": curve.whole, **nothing}
