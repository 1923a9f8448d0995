"""Coverage and width of the intervals of DR, written into docs/intervals.md: `make intervals`."""

from __future__ import annotations

import sys
from itertools import groupby

import claims


def table(runs: int) -> list[str]:
    sys.path.insert(0, str(claims.ROOT / "tests"))  # the simulation is the tests' own
    from helpers_intervals import DATA, REPEATS, scenarios

    lines = [
        f"{runs:,} runs each: share of the intervals that hold the true DR(0.9), and their mean width.",
        "",
        f"| data | shape | true DR | {' | '.join(f'{repeats} repeats' for repeats in REPEATS)} |",
        "|---|---|---|" + "---|" * len(REPEATS),
    ]
    ordered = sorted(scenarios().items(), key=lambda item: list(DATA).index(item[0][1]))
    lowest = 1.0
    for (data, shape), group in groupby(ordered, key=lambda item: item[0][1::-1]):
        print(f"{data}: {shape}", file=sys.stderr, flush=True)
        some = [scenario for _, scenario in group]
        found = [scenario.coverage(runs) for scenario in some]
        lowest = min(lowest, *(held for held, _ in found))
        cells = [f"{held:.1%}, {width:.3f}" for held, width in found]
        lines.append(f"| {data} | {shape} | {some[0].dr:.3f} | {' | '.join(cells)} |")
    return [*lines, "", f"Lowest coverage: {lowest:.1%}."]


def main() -> None:
    with claims.run("make intervals", __doc__) as run:
        run.write({"docs/intervals.md": "\n".join(table(2 if run.toy else 2000))})


if __name__ == "__main__":
    main()
