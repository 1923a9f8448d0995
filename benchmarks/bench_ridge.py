"""Ridge against one fit of scikit-learn's RidgeClassifier, and against loops over it."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier
from subject import Part, Subject
from timing import take_turns

from critmass.linalg.moments import accumulate
from critmass.parts.making import make_parts
from critmass.scores.moment_probes import PENALTIES

PER_ROW = 0.01


def ridge(subject: Subject) -> None:
    """Add the rows of ridge at a fixed λ, and with eight to choose from."""
    penalty = PER_ROW * subject.n

    def fit(part: Part) -> float:
        model = RidgeClassifier(alpha=penalty).fit(subject.x[:, part], subject.y)
        return model.score(subject.xt[:, part], subject.yt)

    def choose(part: Part) -> None:
        cut = subject.cut
        for level in PENALTIES:
            model = RidgeClassifier(alpha=level * cut).fit(subject.x[:cut, part], subject.y[:cut])
            model.score(subject.x[cut:, part], subject.y[cut:])
        fit(part)

    one, paper, every, chosen = take_turns(
        lambda: fit(slice(None)),
        lambda: subject.measure(regularisation=penalty),
        lambda: subject.measure("all", regularisation=penalty),
        lambda: subject.measure(),
        turns=subject.turns,
    )
    what = "ridge, one λ, {} sizes x 5 repeats, over one RidgeClassifier fit and score of the whole"
    subject.at_most(what.format("paper's"), paper, one, 4)
    subject.at_most(what.format("all"), every, one, 15)
    what = "loop of RidgeClassifier fits over {} sizes x 5 repeats"
    loop = subject.loop(fit, subject.paper, count=53)
    subject.at_least(what.format("paper's"), loop, paper, 8)
    subject.at_least(what.format("all"), subject.loop(fit, subject.all, count=160), every, 300)
    grid = subject.loop(choose, subject.paper, count=11)
    subject.at_least("the same loop over paper's sizes with 8 λ on validation, and a refit", grid, chosen, 10)
    subject.agrees("ridge, one λ", subject.measure(regularisation=penalty), loop, 0.001)


def lda(subject: Subject) -> None:
    """Add the rows of linear discriminant analysis at a fixed λ."""
    shrinkage = 0.1

    def fit(part: Part) -> float:
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
        return model.fit(subject.x[:, part], subject.y).score(subject.xt[:, part], subject.yt)

    one, paper, every = take_turns(
        lambda: RidgeClassifier(alpha=PER_ROW * subject.n).fit(subject.x, subject.y),
        lambda: subject.measure(score="lda", regularisation=shrinkage),
        lambda: subject.measure("all", score="lda", regularisation=shrinkage),
        turns=subject.turns,
    )
    what = "lda, one λ, {} sizes x 5 repeats, over one RidgeClassifier fit of the whole"
    subject.at_most(what.format("paper's"), paper, one, 4)
    subject.at_most(what.format("all"), every, one, 15)
    loop = subject.loop(fit, subject.paper, count=11)
    what = "loop of LinearDiscriminantAnalysis(lsqr) fits over paper's sizes x 5 repeats"
    subject.at_least(what, loop, paper, 8)


def greedy(subject: Subject) -> None:
    """Add the row of the greedy order of all neurons."""
    one, ours = take_turns(
        lambda: RidgeClassifier(alpha=PER_ROW * subject.n).fit(subject.x, subject.y),
        lambda: make_parts("greedy", subject.d, features=subject.features, standardise=True),
        turns=subject.turns,
    )
    subject.at_most("greedy order of all neurons, over one RidgeClassifier fit of the whole", ours, one, 15)


def memory(subject: Subject, store: Path) -> None:
    """Add the rows of peak memory: of the moments of four times the rows, and of a process that measures."""
    peaks = []
    for copies in (1, 4):
        rows = np.arange(copies * subject.n) % subject.n
        tracemalloc.start()
        accumulate(_Repeated(subject.raw, rows), fourth_moments=True)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    subject.add(
        f"peak memory of moments, 4 x {subject.n:,} rows over {subject.n:,} rows",
        f"{peaks[1]:.0f} MiB over {peaks[0]:.0f} MiB",
        "the same",
        holds=peaks[1] < 1.02 * peaks[0],
    )
    code = (  # VmHWM: unlike ru_maxrss, it starts anew where a process starts a program
        "import sys, critmass as cm; cm.measure(sys.argv[1], sizes=sys.argv[2]); "
        "print(next(line.split()[1] for line in open('/proc/self/status') if line[:5] == 'VmHWM'))"
    )
    for sizes in ("paper", "all"):
        command = [sys.executable, "-c", code, str(store), sizes]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        what = f"peak memory of a process that measures ridge, 8 λ, {sizes} sizes"
        subject.add(what, f"{int(done.stdout) // 1024} MiB")


class _Repeated:
    """Rows of a matrix taken again and again: many rows without the memory for them."""

    def __init__(self, base: np.ndarray, rows: np.ndarray) -> None:
        self.base, self.rows = base, rows
        self.shape, self.dtype = (len(rows), base.shape[1]), base.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.base[self.rows[rows]]
