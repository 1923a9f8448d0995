"""The command line: parse, call, print. The only place that prints.

Results go to stdout, progress and errors to stderr. Exit code 0; 2 for bad input (one line says what to
do, nothing is written); 1 for a fault of ours (the traceback goes to a log file).
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter

from critmass.errors import CritmassError, InputError, said, unknown
from critmass.progress import Progress

app = cyclopts.App(
    name="critmass",
    help="How many neurons of a pre-trained representation does a task need?\n\n"
    "Example: critmass measure features.npz --score ridge --delta .9 .95",
    help_format="plaintext",
    version_flags=["--version"],
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)

Numbers = Annotated[list[float], Parameter(consume_multiple=True, negative="")]
Tokens = Annotated[list[str], Parameter(consume_multiple=True, negative="")]
Json = Annotated[bool, Parameter(negative="")]


@app.command
def demo(*, out: Path = Path("critmass-demo"), json: Json = False) -> None:
    """Measure a real network on real images, with nothing to download: about two minutes.

    Example: critmass demo --out critmass-demo

    Parameters
    ----------
    out
        Folder for features, results and the report. A second run reuses what is there.
    json
        Print one JSON object instead of tables.
    """
    from critmass import demo as demonstration
    from critmass.report.summary import DELTAS

    with _progress() as progress:
        curves, written = demonstration.run(out, progress=progress)
    _print_redundancy(curves, DELTAS, json=json, written=written)


@app.command
def extract(
    model: str,
    dataset: str,
    *,
    out: Path,
    layer: str = "penultimate",
    image_size: int | None = None,
    batch_size: int | None = None,
    json: Json = False,
) -> None:
    """Extract a layer's activations on a dataset into a features store; resumes where it was stopped.

    Example: critmass extract lite0: mnist5k: --out features/lite0-mnist5k --image-size 112

    Parameters
    ----------
    model
        Such as lite0: (critmass list models).
    dataset
        Such as mnist5k: (critmass list datasets).
    out
        The store's folder.
    layer
        Layer to extract (critmass list layers MODEL).
    image_size
        Side of the images given to the model; by default the model's own.
    batch_size
        Images in one forward pass; 64 by default.
    json
        Print one JSON object.
    """
    from critmass import extraction

    with _progress() as progress:
        features = extraction.extract(
            model,
            dataset,
            out=out,
            layer=layer,
            image_size=image_size,
            batch_size=extraction.BATCH_SIZE if batch_size is None else batch_size,
            progress=progress,
        )
    rows = {name: split.x.shape[0] for name, split in features.splits.items()}
    record = {"features": str(out), "name": features.name, "n_neurons": features.n_neurons, "rows": rows}
    _print(record, json=json, text=f"{out}: {features.n_neurons} neurons; rows: {rows}")


@app.command
def measure(
    features: Path,
    *,
    score: str = "ridge",
    parts: str = "random",
    sizes: Tokens = ["paper"],  # noqa: B006
    repeats: int = 5,
    seed: int = 0,
    seeding: str = "critmass",
    delta: Numbers = [0.8, 0.9, 0.95, 0.99],  # noqa: B006
    metric: str | None = None,
    regularisation: float | None = None,
    standardise: bool | None = None,
    settings: Annotated[list[str], Parameter(name="--set", consume_multiple=True, negative="")] = [],  # noqa: B006
    device: str = "cpu",
    out: Path | None = None,
    existing: str = "reuse",
    memory_gib: float | None = None,
    task: str = "auto",
    test_fraction: float = 0.25,
    embedding: str | None = None,
    label: str | None = None,
    split: str | None = None,
    group: str | None = None,
    json: Json = False,
) -> None:
    """Measure how well parts of a layer do against the whole, and how much of it is redundant.

    Example: critmass measure features.npz --score ridge --sizes paper --delta .9 .95 --out results

    Parameters
    ----------
    features
        A features store, or a .npz, .safetensors, .npy or .parquet file.
    score
        What is measured on a part (critmass list scores).
    parts
        Family of parts (critmass list parts), or a .npy file with an order of all neurons.
    sizes
        paper, all, or numbers: 128 is 128 neurons, .1 a tenth of them, 1 one neuron, 1.0 the whole.
    repeats
        Random orders to draw.
    seed
        Seed of the orders, and of the rows set aside to choose regularisation on and for testing.
    seeding
        critmass, or authors: the orders that the paper's own code draws.
    delta
        Shares of the whole's score to keep.
    metric
        accuracy or balanced-accuracy for classes; r2 for continuous targets.
    regularisation
        Fixed strength of a probe's penalty; by default it is chosen on validation rows.
    standardise
        Scale neurons to unit variance before a probe; by default the score's own choice.
    settings
        Further settings of the score, as name=value: --score sgd --set epochs=20 lr=0.05
    device
        Where products run: cpu, torch:cpu, cuda, cuda:1.
    out
        Results folder: a cell for this measurement, and results.parquet over all cells.
    existing
        reuse or replace a result that is already in --out.
    memory_gib
        Refuse work that needs more memory than this; 8 by default.
    task
        auto, classification or regression.
    test_fraction
        Share of the rows set aside for testing where the file has no test split.
    embedding
        Parquet column of vectors.
    label
        Parquet column of labels or targets.
    split
        Parquet column that names each row's split.
    group
        Parquet column that names each row's group.
    json
        Print one JSON object.
    """
    import numpy as np

    from critmass import measuring
    from critmass.features import Features
    from critmass.readers import load_npy
    from critmass.redundancy import check_deltas

    order: str | np.ndarray = parts
    if parts.endswith(".npy"):
        order = load_npy(Path(parts), "parts")
    check_deltas(delta)
    with _progress() as progress:
        opened = Features.open(
            features,
            task=task,  # type: ignore[arg-type]
            test_fraction=test_fraction,
            seed=seed,
            embedding=embedding,
            label=label,
            split=split,
            group=group,
        )
        curve = measuring.measure(
            opened,
            score=score,
            parts=order,
            sizes=_sizes(sizes),
            repeats=repeats,
            seed=seed,
            seeding=seeding,  # type: ignore[arg-type]
            metric=metric,
            regularisation=regularisation,
            standardise=standardise,
            settings=_settings(settings),
            device=device,
            out=out,
            existing=existing,  # type: ignore[arg-type]
            memory_gib=measuring.MEMORY_GIB if memory_gib is None else memory_gib,
            progress=progress,
        )
    written = [] if out is None else [out / "results.parquet"]
    _print_redundancy([curve], delta, json=json, written=written)


@app.command
def report(results: Path, *, delta: Numbers = [0.8, 0.9, 0.95, 0.99], json: Json = False) -> None:  # noqa: B006
    """Write charts and a self-contained page from a results folder.

    Example: critmass report results

    Parameters
    ----------
    results
        A folder that measure --out wrote.
    delta
        Shares of the whole's score to keep.
    json
        Print one JSON object.
    """
    from critmass.report import write_report
    from critmass.results import load_curves

    written = write_report(results, deltas=delta)
    _print_redundancy(load_curves(results), delta, json=json, written=written)


@app.command
def verify(path: Path, *, json: Json = False) -> None:
    """Check every byte of a features store or a results folder against its checksums.

    Example: critmass verify features/lite0-mnist5k

    Parameters
    ----------
    path
        A features store or a results folder.
    json
        Print one JSON object.
    """
    from critmass.results import CELLS, verify_results
    from critmass.store import is_store, open_store

    if not path.exists():
        raise InputError("path", str(path), "a folder that exists", "check the path")
    if is_store(path):
        checked, kind = open_store(path).verify(), "shards"
    elif (path / CELLS).is_dir():
        checked, kind = verify_results(path), "cells"
    else:
        raise InputError("path", str(path), "a features store or a results folder")
    _print(
        {"path": str(path), kind: checked, "intact": True}, json=json, text=f"{path}: {checked} {kind} intact"
    )


@app.command(name="list")
def list_(
    what: Literal["models", "layers", "datasets", "scores", "parts"],
    model: str | None = None,
    *,
    json: Json = False,
) -> None:
    """Show what there is: models, layers MODEL, datasets, scores or parts.

    Example: critmass list layers lite0:

    Parameters
    ----------
    what
        models, layers, datasets, scores or parts.
    model
        For layers: the model whose layers to show.
    json
        Print one JSON object.
    """
    from critmass.parts import FAMILIES
    from critmass.scores import registered
    from critmass.sources import DATASETS, MODELS, open_model

    if (what == "layers") != (model is not None):
        found_model = said("nothing") if model is None else model
        raise InputError("model", found_model, "a model after 'layers' (lite0:), nothing after the others")
    if what == "layers" and model is not None:
        found = {name: f"{width} neurons" for name, width in open_model(model).layers.items()}
    elif what in ("models", "datasets"):
        sources = MODELS if what == "models" else DATASETS
        found = {
            f"{name}:": f'{s.description}; pip install "critmass[{s.extra}]"' for name, s in sources.items()
        }
    elif what == "scores":
        found = registered()
    else:
        found = {name: family.description for name, family in FAMILIES.items()}
    width = max(map(len, found))
    _print(
        {what: found}, json=json, text="\n".join(f"{name:<{width}}  {text}" for name, text in found.items())
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(_run(list(sys.argv[1:] if arguments is None else arguments)))


def _run(arguments: list[str]) -> int:
    try:
        app(arguments, result_action="return_value")
    except (CritmassError, cyclopts.CycloptsError) as error:
        print(f"critmass: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("critmass: stopped; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  anything else is our fault: say so, keep the evidence
        with tempfile.NamedTemporaryFile(
            "w", prefix="critmass-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            log.write(f"critmass {' '.join(arguments)}\n{traceback.format_exc()}")
        print(
            f"critmass: internal error ({type(error).__name__}); the traceback is in {log.name}",
            file=sys.stderr,
        )
        return 1
    return 0


def _sizes(tokens: Sequence[str]) -> str | list[int | float]:
    if len(tokens) == 1 and tokens[0] in ("paper", "all"):
        return tokens[0]
    sizes: list[int | float] = []
    for token in tokens:
        try:
            sizes.append(int(token) if token.isdigit() else float(token))
        except ValueError:
            if token in ("paper", "all"):
                raise InputError("sizes", token, f"{token} alone, or numbers") from None
            if token.isalpha():
                raise unknown("sizes", token, ["paper", "all"]) from None
            raise InputError("sizes", token, "paper, all, whole numbers (neurons) or fractions") from None
    return sizes


def _settings(tokens: Sequence[str]) -> dict[str, Any]:
    """Return name=value tokens as a mapping; a value is JSON, or else the text as it is."""
    found: dict[str, Any] = {}
    for token in tokens:
        name, equals, text = token.partition("=")
        if not equals or not name or name in found:
            raise InputError("--set", token, "name=value, each name once", "such as --set epochs=20 lr=0.05")
        try:
            found[name] = jsonlib.loads(text)
        except ValueError:
            found[name] = text
    return found


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Show a bar on a terminal, and one line for each kind of work otherwise; always on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        seen: set[str] = set()

        def say(what: str, done: int, total: int) -> None:
            if what not in seen or done == total:
                seen.add(what)
                print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show


def _print(record: dict[str, Any], *, json: bool, text: str) -> None:
    print(jsonlib.dumps(record, ensure_ascii=False) if json else text)


def _print_redundancy(
    curves: Sequence[Any], deltas: Sequence[float], *, json: bool, written: Sequence[Path]
) -> None:
    from rich.console import Console
    from rich.table import Table

    from critmass.report.summary import COLUMNS, NOTE, row, summary

    if json:
        files = [str(path) for path in written]
        warnings = [warning for curve in curves for warning in curve.warnings]
        record = {**summary(curves, deltas), "warnings": warnings, "files": files}
        print(jsonlib.dumps(record, ensure_ascii=False))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    for curve in curves:
        fine = len(curve.sizes) == curve.n_neurons
        headline = "sustained DR is the headline where all sizes are measured; " if fine else ""
        title = f"{curve.features}: {curve.described}, {curve.parts.family} parts, {curve.repeats} repeats"
        table = Table(title=title, title_justify="left", caption=headline + NOTE, caption_justify="left")
        for name in COLUMNS:
            table.add_column(name, justify="left" if name == "split" else "right")
        for record in summary([curve], deltas)["redundancy"]:
            table.add_row(*row(record))
        console.print(table)
        for warning in curve.warnings:
            print(f"warning: {warning}")
    for path in written:
        print(f"wrote {path}")
