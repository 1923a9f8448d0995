"""Write docs/results.md from a study: its figures, its tables, and the numbers behind each finding: `make study`.

Everything between the page's marks is written here; figures go to docs/images/results/. Runs the study first,
in a folder of its own: cells that another version of the source measured are not taken.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import claims
import polars as pl

import critmass as cm
from critmass.curves.inequality import inequality
from critmass.report import study_figures, study_tables
from critmass.studies import run as study
from critmass.studies.config import load_study
from critmass.studies.tables import load

IMAGES = "docs/images/results"
STUDY, TOY = "local", "small"
SPARED = (("lite0", "cifar10"), ("minilm", "banking77"))
TOY_SPARED = (("lite0", "digits"),)


def main() -> None:
    with claims.run("make study", __doc__) as run:
        asked = load_study(claims.ROOT / "studies" / f"{TOY if run.toy else STUDY}.yaml")
        folder = run.cache / "study"
        states = study.run(asked, out=folder, data=str(run.data), progress=told)
        failed = [f"{cell.label}: {state.reason}" for cell, state in states if state.state != "done"]
        if failed:
            sys.exit("cells that failed:\n" + "\n".join(failed))
        results = study_tables.Results(asked, load(asked, out=folder))
        images = dict(figures(asked, folder))
        spared = mitigations(results, folder, TOY_SPARED if run.toy else SPARED)
        text = "\n\n".join([*tables(results), *spared, "## Figures", *shown(images)])
        run.write({"docs/results.md": text, **{f"{IMAGES}/{name}.svg": svg for name, svg in images.items()}})


def told(what: str, done: int, total: int) -> None:
    """Say how far the study is; its cells are few."""
    if what == "study":
        print(f"{done} of {total} cells", file=sys.stderr, flush=True)


def tables(results: study_tables.Results) -> Iterable[str]:
    yield "## Diffused redundancy"
    yield "Ridge probes, five random orders, the paper's fractions; 95% interval by test inversion."
    yield table(
        ["model", "dataset", "d", "whole", "DR(.8)", "DR(.9)", "95%", "DR(.95)", "DR(.99)"],
        [
            [
                names["model"],
                names["dataset"],
                str(curve.n_neurons),
                f"{curve.whole:.3f}",
                f"{curve.redundancy(0.8).dr:.2f}",
                f"{curve.redundancy(0.9).dr:.2f}",
                f"{curve.redundancy(0.9).low:.2f} to {curve.redundancy(0.9).high:.2f}",
                f"{curve.redundancy(0.95).dr:.2f}",
                f"{curve.redundancy(0.99).dr:.2f}",
            ]
            for names, curve in study_tables.penultimate(study_tables.probes(results, parts="random"))
        ],
    )
    yield "CKA (debiased) of parts with the whole."
    yield table(
        ["model", "dataset", "d", "DR(.8)", "DR(.9)", "DR(.95)"],
        [
            [names["model"], names["dataset"], str(curve.n_neurons)]
            + [f"{curve.redundancy(delta).dr:.2f}" for delta in (0.8, 0.9, 0.95)]
            for names, curve in study_tables.penultimate(results.curves(parts="random"))
            if curve.score == "cka"
        ],
    )
    yield "## Families of parts"
    yield "Test performance of the ridge probe, by the share of neurons (or of components) kept."
    shares = (0.01, 0.05, 0.1, 0.2, 0.5)
    yield table(
        ["model", "dataset", "parts", *(f"{share:.0%}" for share in shares), "whole"],
        [
            [names["model"], names["dataset"], names["parts"]]
            + [at(curve, share) for share in shares]
            + [f"{curve.whole:.3f}"]
            for names, curve in study_tables.penultimate(study_tables.probes(results))
            if names["dataset"] in {n["dataset"] for n, _ in results.curves(parts="pca")}
            and names["model"] in {n["model"] for n, _ in results.curves(parts="pca")}
        ],
    )
    yield "## Pairs of random parts"
    yield "Mean CKA of ten pairs: independent draws (which overlap), and pairs with no neuron in common."
    yield table(
        ["model", "dataset", "pairs", "10%", "20%", "50%"],
        [
            [cell.job.model, cell.job.dataset, "disjoint" if cell.asked["disjoint"] else "independent"]
            + [pair_at(frame, share) for share in (0.1, 0.2, 0.5)]
            for cell, frame in results.cells
            if isinstance(frame, pl.DataFrame)
        ],
    )
    yield "## Who bears the loss"
    yield (
        "At the size that DR(.9) keeps: accuracy, Gini index of the classes' accuracies, what it would be had every "
        "class lost the same share, the excess (corrected for finite test rows) with its 95% interval, and the "
        "accuracy of the worst class, of the whole and of the part."
    )
    yield table(
        [
            "model",
            "dataset",
            "neurons",
            "accuracy",
            "Gini",
            "null",
            "excess",
            "95%",
            "worst, whole",
            "worst, part",
        ],
        list(loss(results)),
    )
    yield "## Layers"
    layers = [
        [names["model"], names["dataset"], names["layer"], str(curve.n_neurons), f"{curve.whole:.3f}"]
        + [f"{curve.redundancy(delta).dr:.2f}" for delta in (0.9, 0.95)]
        for names, curve in study_tables.probes(results, parts="random")
        if names["model"] in {n["model"] for n, _ in results.curves() if n["layer"] != "penultimate"}
        and names["dataset"] in {n["dataset"] for n, _ in results.curves() if n["layer"] != "penultimate"}
    ]
    yield table(["model", "dataset", "layer", "d", "whole", "DR(.9)", "DR(.95)"], layers)


def loss(results: study_tables.Results) -> Iterable[list[str]]:
    for names, curve in study_tables.penultimate(study_tables.probes(results, parts="random")):
        frame = inequality(curve).frame.filter(pl.col("by") == "class")
        size = curve.redundancy(0.9).critical_mass
        part = frame.filter(pl.col("size") == size).row(0, named=True)
        whole = frame.row(-1, named=True)
        yield [
            names["model"],
            names["dataset"],
            f"{size} of {curve.n_neurons}",
            f"{part['accuracy']:.3f}",
            f"{part['gini']:.3f}",
            f"{part['gini_null']:.3f}",
            f"{part['gini_excess']:.3f}",
            f"{part['gini_excess_low']:.3f} to {part['gini_excess_high']:.3f}",
            f"{whole['worst_accuracy']:.3f}",
            f"{part['worst_accuracy']:.3f}",
        ]


def mitigations(
    results: study_tables.Results, folder: Path, spared: Iterable[tuple[str, str]]
) -> Iterable[str]:
    yield "## Sparing the worst class"
    yield (
        "Ridge probes, five repeats, on test rows that no choice has seen: random parts; the same with classes weighted "
        "equally (`class_weight=balanced`); and, of 20 random parts, the one whose worst class is best on validation "
        "rows (`choose_parts`, 20 times the work). Mean over repeats of accuracy, of the worst class's accuracy, and of "
        "the Gini index; beside the choice, what it promised on the validation rows, where it is the best of 20."
    )
    rows = []
    for model, dataset in spared:
        jobs = [
            cell.job for cell, _ in results.cells if (cell.job.model, cell.job.dataset) == (model, dataset)
        ]
        features = cm.Features.open(folder / study.FEATURES / jobs[0].folder / "penultimate")
        sizes = [0.05, 0.1, 0.2]
        chosen = cm.choose_parts(features, candidates=20, sizes=sizes)
        promised = chosen.frame.group_by("size").agg(pl.col("chosen").mean())
        curves = {
            "random": cm.measure(features, sizes=sizes),
            "balanced": cm.measure(features, sizes=sizes, settings={"class_weight": "balanced"}),
            "best of 20": cm.measure(features, parts=chosen.masks),
        }
        for name, curve in curves.items():
            frame = cm.inequality(curve).by_repeat.filter(pl.col("by") == "class")
            mean = pl.col("accuracy", "worst_accuracy", "gini").mean()
            means = frame.group_by("size", maintain_order=True).agg(mean)
            means = means.filter(pl.col("size") < curve.n_neurons)
            for row in means.iter_rows(named=True):
                validated = promised.filter(pl.col("size") == row["size"])["chosen"].item()
                rows.append(
                    [model, dataset, str(int(row["size"])), name]
                    + [f"{row[key]:.3f}" for key in ("accuracy", "worst_accuracy", "gini")]
                    + [f"{validated:.3f}" if name == "best of 20" else ""]
                )
    rows.sort(key=lambda row: (row[0], int(row[2])))
    header = [
        "model",
        "dataset",
        "neurons",
        "parts",
        "accuracy",
        "worst class",
        "Gini",
        "worst, on validation rows",
    ]
    yield table(header, rows)


def at(curve: object, share: float) -> str:
    """Return the mean score at the measured size nearest to a share, where there is one."""
    frame = curve.frame.filter((pl.col("fraction") - share).abs() < 0.005)
    return f"{frame['score'].mean():.3f}" if len(frame) else ""


def pair_at(frame: pl.DataFrame, share: float) -> str:
    found = frame.filter((pl.col("fraction") - share).abs() < 0.02)
    return f"{found['cka'].mean():.2f}" if len(found) else ""


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figures(asked: study.Study, folder: Path) -> Iterable[tuple[str, bytes]]:
    """Return every figure that the study has cells for, as SVG."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in study_figures.drawable(asked, out=folder):
            if name in study_figures.FIGURES:
                study_figures.write_figure(name, asked, out=folder, into=Path(scratch))
                yield name, (Path(scratch) / f"{name}.svg").read_bytes()


def shown(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        yield f"![{study_figures.FIGURES[name].description}](images/results/{name}.svg)"


if __name__ == "__main__":
    main()
