"""One set of features as the benchmark measures it: as ours takes it, and as scikit-learn does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.preprocessing import StandardScaler
from timing import Sampled, sampled

import critmass as cm
from critmass.parts.making import make_parts
from critmass.parts.sizes import resolve_sizes

REPEATS = 5

Part = np.ndarray | slice


class Subject:
    """Features in memory, the same rows standardised for scikit-learn, and the table's rows about them.

    scikit-learn gets float32, its faster case, and columns already standardised; ours includes standardising.
    """

    def __init__(self, features: cm.Features, *, toy: bool) -> None:
        self.name, self.toy = features.name, toy
        train, test = features.splits["train"], features.splits["test"]
        x, xt = np.asarray(train.x[:]), np.asarray(test.x[:])
        self.raw, self.y, self.yt = x, train.y, test.y
        self.features = cm.Features.from_arrays((x, train.y), test=(xt, test.y), name=features.name)
        scaler = StandardScaler().fit(x)
        self.x, self.xt = scaler.transform(x), scaler.transform(xt)
        self.n, self.d = x.shape
        self.n_classes = len(features.classes)
        self.orders = make_parts("random", self.d, repeats=REPEATS).orders
        self.paper = [int(size) for size in resolve_sizes("paper", self.d)]
        self.all = list(range(1, self.d + 1))
        self.cut = self.n * 4 // 5
        self.turns = 1 if toy else 3
        self.rows: list[tuple[str, str, str]] = []

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.n:,} training and {len(self.yt):,} test rows, d = {self.d:,}, "
            f"{self.n_classes} classes"
        )

    def measure(self, sizes: str = "paper", **asked: object) -> cm.Curve:
        """Return the curve of all five repeats."""
        return cm.measure(self.features, sizes=sizes, repeats=REPEATS, **asked)

    def part(self, repeat: int, size: int) -> np.ndarray:
        """Return the neurons of a part."""
        return self.orders[repeat][:size]

    def loop(
        self, work: Callable[..., object], sizes: Sequence[int], *more: Sequence[float], count: int
    ) -> Sampled:
        """Time some of the calls ``work(part, *more)``, for every size and repeat and every one of `more`."""
        calls = [
            (repeat, size, *rest)
            for rest in itertools.product(*more)
            for size in sizes
            for repeat in range(REPEATS)
        ]
        return sampled(
            lambda call: work(self.part(*call[:2]), *call[2:]), calls, min(count, 4) if self.toy else count
        )

    def furthest(self, curve: cm.Curve, loop: Sampled, least: int = 1) -> int:
        """Return on how many test rows ours and theirs differ most, over parts of `least` neurons or more."""
        scores = {(row["repeat"], row["size"]): row["score"] for row in curve.frame.iter_rows(named=True)}
        apart = (
            abs(scores[call[0], call[1]] - found)
            for call, found in zip(loop.chosen, loop.found, strict=True)
            if call[1] >= least
        )
        return round(max(apart, default=0.0) * len(self.yt))

    def agrees(self, what: str, curve: cm.Curve, loop: Sampled, share: float, least: int = 1) -> None:
        """Add a row that compares accuracies of the parts that were timed, of `least` neurons or more."""
        rows, count = self.furthest(curve, loop, least), sum(call[1] >= least for call in loop.chosen)
        self.add(
            f"{what}: accuracy of {count} parts, scikit-learn's less ours",
            f"at most {rows} of {len(self.yt):,} test rows apart",
            f"at most {share:.1%} of rows",
            holds=rows <= share * len(self.yt),
        )

    def at_least(self, what: str, theirs: Sampled, ours: float, times: float) -> None:
        """Add a row whose ratio, theirs over ours, is to be `times` or more."""
        self.add(
            f"{what} ({len(theirs.chosen)} timed), over ours",
            f"{theirs.seconds / ours:.1f}x ({theirs.seconds:.1f} s over {ours:.2f} s)",
            f"at least {times:g}x",
            holds=theirs.seconds >= times * ours,
        )

    def at_most(self, what: str, ours: float, theirs: float, times: float) -> None:
        """Add a row whose ratio, ours over theirs, is to be `times` or less."""
        self.add(
            what,
            f"{ours / theirs:.1f}x ({ours:.2f} s over {theirs:.2f} s)",
            f"at most {times:g}x",
            holds=ours <= times * theirs,
        )

    def add(self, what: str, measured: str, wanted: str = "", *, holds: bool | None = None) -> None:
        """Add a row, saying whether it is as wanted."""
        verdict = "" if holds is None else f": {'yes' if holds else '**no**'}"
        self.rows.append((what, measured, wanted + verdict))
        print(f"{self.name}: {' | '.join(self.rows[-1])}", flush=True)
