"""What a report says, as numbers: plain JSON values, the same for the same results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from critmass.curves.curve import Curve

DELTAS = (0.8, 0.9, 0.95, 0.99)
COLUMNS = (
    *("split", "rows", "δ", "DR", "95% interval", "sustained DR", "DR, 95% of parts", "critical mass"),
    *("whole", "std", "worst"),
)
NOTE = (
    "95% of parts: at least so many of ALL parts of that size keep δ, with 95% confidence; "
    "std, worst: over repeats, as a share of the whole's score at the critical mass"
)
COARSE = (
    "only some sizes were measured: the critical mass lies in the range given, above the largest of them "
    'that fails; "≤": no measured size below the whole keeps δ, and DR is no larger than this'
)
"""What a table must say where a curve does not have every size."""


def summary(curves: Sequence[Curve], deltas: Sequence[float] = DELTAS) -> dict[str, Any]:
    """Return {"redundancy": [...]}: one record for each curve, test split and δ.

    On a further test split where the whole layer scores 0 or less, DR means nothing and is None.
    """
    return {
        "redundancy": [
            {
                "name": curve.name,
                "features": curve.features,
                "score": curve.score,
                "metric": curve.metric,
                "described": curve.described,
                "parts": curve.parts.family,
                "unit": curve.unit,
                "split": split,
                "rows": curve.rows.get(split),
                "train_rows": curve.rows.get("train"),
                "repeats": curve.repeats,
                "n_sizes": len(curve.sizes),
                "largest_part": int(curve.sizes[curve.sizes < curve.n_neurons].max(initial=0)),
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
    bracket = record["bracket"] or {"dr_low": None, "dr_high": None}
    low, high = bracket["dr_low"], bracket["dr_high"]
    return (
        record["split"],
        "unknown" if record["rows"] is None else str(record["rows"]),
        f"{record['delta']:g}",
        _dr(record, "dr"),
        "none" if low is None else f"{low:.3f} to {high:.3f}",
        _dr(record, "sustained"),
        "none" if record["nearly_all"] is None else _dr(record, "nearly_all"),
        mass(record),
        _number(record["whole"], 4),
        _number(spread["std"], 4),
        _number(spread["worst"], 4),
    )


def mass(record: dict[str, Any]) -> str:
    """Return where the critical mass lies: "187 of 1280", "65 to 128 of 1280", "above 64 of 1280"."""
    if record["bracket"] is None:
        return "none"
    low, high, d = record["bracket"]["low"], record["bracket"]["high"], record["n_neurons"]
    if low == high:
        return f"{high} of {d}"
    return f"above {low - 1} of {d}" if high == d else f"{low} to {high} of {d}"


def rows_in_words(curve: Curve) -> str:
    """Return "1000 training and 250 test rows", or that they are unknown."""
    if not curve.rows:
        return "rows unknown"
    return f"{curve.rows['train']} training and {curve.rows['test']} test rows"


def _dr(record: dict[str, Any], which: str) -> str:
    """Return a DR; where no measured size below the whole reaches δ, the most that it may be."""
    largest, d = record["largest_part"], record["n_neurons"]
    if record[which] != 0 or largest == d - 1:
        return _number(record[which], 3)
    return f"≤ {(d - largest - 1) / d:.3f}"


def _number(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def _redundancy(curve: Curve, delta: float) -> dict[str, Any]:
    if curve.whole > 0:
        found = curve.redundancy(delta)
        return {**found.record(), "bracket": asdict(curve.bracket(found))}
    nothing = dict.fromkeys(
        (
            *("dr", "low", "high", "critical_mass", "sustained", "headline", "headline_mass", "reached"),
            *("spread", "bracket", "nearly_all", "coverage"),
        )
    )
    return {"delta": delta, "n_neurons": curve.n_neurons, "whole": curve.whole, **nothing}
