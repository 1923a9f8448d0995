"""Ratios against what a user would run instead, measured in one run: `make bench`.

Times of a shared machine mean nothing alone, so every row is a ratio: ours and theirs take turns, and the
median of each is compared. A loop too long to run whole is timed on some of its fits, evenly over sizes, and
scaled up; the row says on how many. Tables go to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform

import claims
from bench_logistic import logistic
from bench_others import cka, neighbours, sgd
from bench_ridge import greedy, lda, memory, ridge
from features import banking77, cifar10, mnist
from scaling import plot
from subject import Subject

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch")


def main() -> None:
    with claims.run("make bench", __doc__) as run:
        subjects = [
            Subject(features, toy=run.toy)
            for features in (cifar10(run), banking77(run), mnist(run, limit=400))
        ]
        counts = [(35, 35, 84), (21, 21, 42), (53, 53, 168)]
        for subject, fits in zip(subjects, counts, strict=True):
            ridge(subject)
            lda(subject)
            greedy(subject)
            logistic(subject, fits)
            sgd(subject)
            neighbours(subject)
            cka(subject)
        memory(subjects[0], run.cache / "cifar10")
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
        lines = [
            f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {versions}.",
            *(line for subject in subjects for line in table(subject)),
            "",
            "## How time grows",
            "",
            "Made-up features; ridge chooses among 8 λ.",
            "",
            "![Seconds of ridge, logistic and sgd against rows, neurons, classes and repeats](../docs/images/scaling.svg)",
        ]
        run.write({"benchmarks/RESULTS.md": "\n".join(lines), "docs/images/scaling.svg": plot(toy=run.toy)})


def table(subject: Subject) -> list[str]:
    lines = ["", f"## {subject.name}", "", f"{subject}.", "", "| what | measured | wanted |", "|---|---|---|"]
    return lines + [f"| {' | '.join(row)} |" for row in subject.rows]


if __name__ == "__main__":
    main()
