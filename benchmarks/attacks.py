"""Attacks on the files that critmass writes, and what came of them, written into docs/reliability.md: `make attacks`."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections import Counter
from pathlib import Path

import claims


def main() -> None:
    sys.path.insert(0, str(claims.ROOT / "tests"))  # the attacks are the tests' own
    with claims.run("make attacks", __doc__) as run:
        run.write({"docs/reliability.md": "\n".join(table(run.cache / "attacked", toy=run.toy))})


def table(folder: Path, *, toy: bool) -> list[str]:
    from helpers_attacks import DAMAGES, KINDS, OUTCOMES, damaged, made, swapped, unfinished

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    results = made(folder)
    rows: dict[str, Counter[str]] = {}
    count = 10 if toy else 1000
    for kind, (damage, work) in itertools.product(KINDS, DAMAGES.items()):
        rows[f"{kind}: {damage}"] = damaged(results, kind, work, count, seed=1)
        print(f"{kind}: {damage}", dict(rows[f"{kind}: {damage}"]), file=sys.stderr, flush=True)
    rows["cell: the content of another"] = swapped(results)
    store = next(iter((results / "features").glob("*/*")))
    rows["shard of an unfinished store: one bit flipped, then resumed"] = unfinished(store, count, seed=1)
    rows |= disks(folder, toy=toy)
    lines = [f"| attack | attacks | {' | '.join(OUTCOMES)} |", "|---|---|" + "---|" * len(OUTCOMES)]
    for what, found in rows.items():
        counts = " | ".join(str(found[outcome]) for outcome in OUTCOMES)
        lines.append(f"| {what} | {found.total()} | {counts} |")
    total = sum(rows.values(), Counter())
    return [*lines, f"| **all** | {total.total()} | {' | '.join(str(total[each]) for each in OUTCOMES)} |"]


def disks(folder: Path, *, toy: bool) -> dict[str, Counter[str]]:
    """Let a disk fail at every write of an extraction and four measurements."""
    from helpers_attacks import ERRORS, OTHER, STEPS, disk_failed, undisturbed
    from helpers_data import tree

    expected = undisturbed(folder / "undisturbed")
    rows: dict[str, Counter[str]] = {}
    for step, (what, number) in itertools.product(STEPS, ERRORS.items()):
        row = rows[f"every write: the disk is {what} at {step}"] = Counter()
        for at in itertools.count(1):
            place = folder / "failed"
            shutil.rmtree(place, ignore_errors=True)
            outcome = disk_failed(place, step, number, at)
            if outcome is None or (toy and at > 2):
                break
            row[outcome if tree(place) == expected else OTHER] += 1
    return rows


if __name__ == "__main__":
    main()
