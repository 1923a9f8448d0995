"""Ratios against what a user would run instead, measured in one run: `make bench`.

Times of a shared machine mean nothing alone, so every row is a ratio: ours and theirs take turns, and
the median of each is compared. A loop too long to run whole is timed on every tenth of its fits by size (every
third, where they are few) from a random start, and scaled up. The table goes to benchmarks/RESULTS.md; with
--only, just the rows of those parts are measured and replaced.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from features import cifar10
from scaling import rates
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import critmass as cm
from critmass.moments import accumulate
from critmass.parts import make_parts, resolve_sizes
from critmass.scores import cka
from critmass.scores.logistic import PENALTIES as LOGISTIC_PENALTIES
from critmass.scores.ridge import PENALTIES

PENALTY = 100.0
TURNS = 5


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def take_turns(*works: Callable[[], object], turns: int = TURNS) -> list[float]:
    """Return the median time of each, after one turn that is not counted."""
    times = [[seconds(work) for work in works] for _ in range(turns + 1)][1:]
    return np.median(times, axis=0).tolist()


class Bench:
    def __init__(self, fs: cm.Features) -> None:
        self.fs = fs
        train, test = fs.splits["train"], fs.splits["test"]
        self.held = cm.Features.from_arrays(
            (np.asarray(train.x[:]), train.y), test=(np.asarray(test.x[:]), test.y), name=fs.name
        )
        scaler = StandardScaler().fit(train.x[:])
        self.x, self.y = scaler.transform(train.x[:]), train.y
        self.xt, self.yt = scaler.transform(test.x[:]), test.y
        self.d = fs.n_neurons
        self.orders = make_parts("random", self.d).orders
        self.paper, self.all = (resolve_sizes(sizes, self.d) for sizes in ("paper", "all"))
        self.rng = np.random.default_rng(0)
        self.rows: list[tuple[str, str, str]] = []

    def add(self, what: str, measured: str, wanted: str, *, holds: bool) -> None:
        self.rows.append((what, measured, f"{wanted}: {'yes' if holds else '**no**'}"))
        print(f"{what}: {measured} ({wanted}: {'yes' if holds else 'NO'})", flush=True)

    def sklearn_fit(self, part: np.ndarray | slice, penalty: float = PENALTY) -> float:
        model = RidgeClassifier(alpha=penalty).fit(self.x[:, part], self.y)
        return model.score(self.xt[:, part], self.yt)

    def sampled(
        self, sizes: np.ndarray, fit: Callable[..., object], *more: Sequence[float]
    ) -> tuple[float, int]:
        """Return the time of `fit` on every size and repeat (and λ), scaled up from a random tenth of them.

        Every tenth of them by size, from a random start: as many large parts as there should be. A few fits
        of very different length say little, so of fewer than 200 every third is timed.
        """
        every = [
            (order[:size], *rest)
            for rest in itertools.product(*more)
            for size in sizes
            for order in self.orders
        ]
        step = 10 if len(every) >= 200 else 3
        chosen = every[self.rng.integers(step) :: step]
        spent = seconds(lambda: [fit(*one) for one in chosen])
        return spent * len(every) / len(chosen), len(chosen)

    def ridge(self) -> None:
        def ours(sizes: str, penalty: float | None = PENALTY) -> Callable[[], object]:
            return lambda: cm.measure(self.held, sizes=sizes, regularisation=penalty)

        one, paper, every = take_turns(lambda: self.sklearn_fit(slice(None)), ours("paper"), ours("all"))
        for name, spent, limit in (("paper's", paper, 4), ("all", every, 15)):
            self.add(
                f"ridge, fixed λ, {name} sizes x 5 repeats, over one RidgeClassifier fit + score of the whole",
                f"{spent / one:.1f}x ({spent:.2f} s over {one:.2f} s)",
                f"at most {limit}x",
                holds=spent <= limit * one,
            )
        for name, sizes, spent, limit in (("paper's", self.paper, paper, 8), ("all", self.all, every, 300)):
            loop, count = self.sampled(sizes, self.sklearn_fit)
            self.add(
                f"loop of RidgeClassifier fits over {name} sizes x 5 repeats ({count} fits timed), over ours",
                f"{loop / spent:.0f}x ({loop:.1f} s over {spent:.2f} s)",
                f"at least {limit}x",
                holds=loop >= limit * spent,
            )

        def grid(part: np.ndarray) -> None:
            cut = len(self.x) * 4 // 5
            for penalty in PENALTIES:
                alpha = penalty * cut
                model = RidgeClassifier(alpha=alpha).fit(self.x[:cut, part], self.y[:cut])
                model.score(self.x[cut:, part], self.y[cut:])
            self.sklearn_fit(part)

        (chosen,) = take_turns(ours("paper", None), turns=3)
        loop, count = self.sampled(self.paper, grid)
        self.add(
            f"the same loop with 8 λ on validation and a refit ({count * 9} fits timed), over ours",
            f"{loop / chosen:.0f}x ({loop:.1f} s over {chosen:.2f} s)",
            "at least 10x",
            holds=loop >= 10 * chosen,
        )

    def logistic(self) -> None:
        def model(penalty: float, tolerance: float) -> LogisticRegression:
            return LogisticRegression(C=1 / penalty, tol=tolerance, max_iter=10_000)

        ours, chosen = take_turns(
            lambda: cm.measure(self.held, score="logistic", regularisation=PENALTY),
            lambda: cm.measure(self.held, score="logistic"),
            turns=3,
        )
        cut = len(self.x) * 4 // 5
        levels = [penalty * cut for penalty in LOGISTIC_PENALTIES]
        for tolerance, fixed_limit, grid_limit in ((1e-4, 15, 50), (1e-6, 15, 50)):
            named = "scikit-learn's default tolerance" if tolerance == 1e-4 else f"tol={tolerance:g}"

            def fit(part: np.ndarray, tolerance: float = tolerance) -> None:
                model(PENALTY, tolerance).fit(self.x[:, part], self.y).score(self.xt[:, part], self.yt)

            loop, count = self.sampled(self.paper, fit)
            self.add(
                f"loop of LogisticRegression fits ({named}), λ = {PENALTY:g}, paper's sizes x 5 repeats "
                f"({count} fits timed), over ours",
                f"{loop / ours:.0f}x ({loop:.0f} s over {ours:.1f} s)",
                f"at least {fixed_limit}x",
                holds=loop >= fixed_limit * ours,
            )

            def choose(part: np.ndarray, level: float, tolerance: float = tolerance) -> None:
                found = model(level, tolerance).fit(self.x[:cut, part], self.y[:cut])
                found.score(self.x[cut:, part], self.y[cut:])

            grid, timed = self.sampled(self.paper, choose, levels)
            whole = grid + loop
            self.add(
                f"the same loop over 8 λ on validation ({timed} fits timed), and a refit, over ours",
                f"{whole / chosen:.0f}x ({whole:.0f} s over {chosen:.1f} s)",
                f"at least {grid_limit}x",
                holds=whole >= grid_limit * chosen,
            )

    def sgd(self) -> None:
        import torch

        x = torch.from_numpy(np.array(self.fs.splits["train"].x[:], dtype=np.float32))
        y = torch.from_numpy(np.array(self.y))

        def probe() -> None:
            head = torch.nn.Linear(self.d, len(self.fs.classes))
            descent = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
            schedule = torch.optim.lr_scheduler.StepLR(descent, 10, 0.1)
            for _ in range(50):
                for batch in torch.randperm(len(x)).split(256):
                    descent.zero_grad()
                    torch.nn.functional.cross_entropy(head(x[batch]), y[batch]).backward()
                    descent.step()
                schedule.step()

        one, ours = take_turns(probe, lambda: cm.measure(self.held, score="sgd"), turns=3)
        self.add(
            f"sgd, all {len(self.paper)} sizes x 5 repeats and the whole, 50 epochs, over one torch probe of the whole",
            f"{ours / one:.1f}x ({ours:.1f} s over {one:.1f} s)",
            "at most 15x",
            holds=ours <= 15 * one,
        )

    def neighbours(self) -> None:
        def fit(part: np.ndarray) -> None:
            model = KNeighborsClassifier(10, metric="cosine", algorithm="brute")
            model.fit(self.x[:, part], self.y).score(self.xt[:, part], self.yt)

        settings = {"n_neighbours": 10, "standardise": True}
        (ours,) = take_turns(lambda: cm.measure(self.held, score="knn", settings=settings), turns=1)
        loop, count = self.sampled(self.paper, fit)
        self.add(
            f"loop of KNeighborsClassifier (k = 10, cosine), paper's sizes x 5 repeats ({count} timed), over ours",
            f"{loop / ours:.1f}x ({loop:.0f} s over {ours:.1f} s)",
            "more than 1x",
            holds=loop > ours,
        )

    def cka(self) -> None:
        x = np.asarray(self.fs.splits["train"].x[:], dtype=np.float64)

        def ours(estimator: cka.Estimator) -> Callable[[], object]:
            return lambda: cka.prefixes(cka.kernel(x, estimator), self.orders, self.all)

        product, biased, debiased = take_turns(lambda: x.T @ x, ours("biased"), ours("debiased"))
        self.add(
            "debiased CKA, all sizes x 5 repeats, beside one covariance product xᵀx (float64)",
            f"{debiased:.2f} s beside {product:.2f} s (biased: {biased:.2f} s)",
            "under 3x + 1 s",
            holds=debiased < 3 * product + 1,
        )
        centred = x - x.mean(axis=0)
        norm = np.linalg.norm(centred.T @ centred)

        def formula(part: np.ndarray) -> float:
            z = centred[:, part]
            return np.linalg.norm(centred.T @ z) ** 2 / (norm * np.linalg.norm(z.T @ z))

        loop, count = self.sampled(self.all, formula)
        self.add(
            f"loop over the feature-space formula, all sizes x 5 repeats ({count} parts timed), over ours (biased)",
            f"{loop / biased:.0f}x ({loop:.0f} s over {biased:.2f} s)",
            "at least 500x",
            holds=loop >= 500 * biased,
        )

    def agreement(self) -> None:
        curve = cm.measure(self.held, regularisation=PENALTY)
        scores = {(r["repeat"], r["size"]): r["score"] for r in curve.frame.iter_rows(named=True)}
        rows = [
            abs(self.sklearn_fit(o[:k]) - scores[i, k]) for i, o in enumerate(self.orders) for k in self.paper
        ]
        self.add(
            f"accuracy of all {len(rows)} paper's parts, scikit-learn's less ours",
            f"at most {max(rows) * len(self.yt):.0f} of {len(self.yt)} test rows apart",
            "at most 0.1% of rows",
            holds=max(rows) <= 0.001,
        )

    def memory(self) -> None:
        peaks = []
        for copies in (1, 4):
            rows = np.arange(copies * len(self.x)) % len(self.x)
            tracemalloc.start()
            accumulate(_Repeated(self.fs.splits["train"].x, rows), fourth=True)
            peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
            tracemalloc.stop()
        self.add(
            f"peak memory of moments, 4 x {len(self.x):,} rows over {len(self.x):,} rows",
            f"{peaks[1]:.0f} MiB over {peaks[0]:.0f} MiB",
            "the same",
            holds=peaks[1] < 1.02 * peaks[0],
        )
        for sizes in ("paper", "all"):
            code = (  # VmHWM: unlike ru_maxrss, it starts anew where a process starts a program
                "import sys, critmass as cm; cm.measure(sys.argv[1], sizes=sys.argv[2]); "
                "print(next(line.split()[1] for line in open('/proc/self/status') if line[:5] == 'VmHWM'))"
            )
            store = Path(__file__).parent / ".cache" / "cifar10"
            done = subprocess.run(  # noqa: S603
                [sys.executable, "-c", code, str(store), sizes], capture_output=True, text=True, check=True
            )
            self.rows.append(
                (
                    f"peak memory of a process that measures ridge, 8 λ, {sizes} sizes",
                    f"{int(done.stdout) // 1024} MiB",
                    "",
                )
            )


class _Repeated:
    """Rows of a matrix taken again and again: many rows without the memory for them."""

    def __init__(self, base: object, rows: np.ndarray) -> None:
        self.base, self.rows = base, rows
        self.shape, self.dtype = (len(rows), base.shape[1]), base.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.base[self.rows[rows]]


def replace_rows(rows: list[tuple[str, str, str]]) -> None:
    """Put these rows in the place of those with the same first words, in a table that is there already."""
    path = Path(__file__).parent / "RESULTS.md"
    lines = path.read_text().splitlines()
    for row in rows:
        key = f"| {row[0].split(' (')[0]}"
        places = [i for i, line in enumerate(lines) if line.startswith(key) and not line.endswith(" |new")]
        if places:
            lines[places[0]] = f"| {' | '.join(row)} |new"
    path.write_text("\n".join(line.removesuffix("new") for line in lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar10.zip")
    parser.add_argument("--only", nargs="*", help="parts to run, whose rows alone are replaced")
    options = parser.parse_args()
    bench = Bench(cifar10(options.data))
    parts = (
        bench.agreement,
        bench.ridge,
        bench.logistic,
        bench.sgd,
        bench.neighbours,
        bench.cka,
        bench.memory,
    )
    for part in parts:
        if not options.only or part.__name__ in options.only:
            part()
    if options.only:
        replace_rows(bench.rows)
        return
    bench.rows += rates(bench.held)
    versions = ", ".join(
        f"{p} {importlib.metadata.version(p)}" for p in ("critmass", "numpy", "scipy", "scikit-learn")
    )
    shape = f"{len(bench.x):,} training and {len(bench.xt):,} test rows, d = {bench.d}"
    lines = [
        "# Benchmark results",
        "",
        "Written by `make bench`; not edited by hand. Each ratio is from one run, ours and theirs taking turns.",
        "",
        f"Features: {bench.fs.name}, {shape}, {bench.fs.splits['train'].x.dtype}. "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {versions}.",
        "scikit-learn gets columns already standardised, in float32, its faster case; ours includes standardising.",
        "",
        "| what | measured | wanted |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in bench.rows),
        "",
    ]
    (Path(__file__).parent / "RESULTS.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
