"""Commands on results and stores: report, verify."""

from __future__ import annotations

from pathlib import Path

from critmass.cli.options import Json, Numbers
from critmass.cli.printing import emit, print_redundancy
from critmass.errors import InputError, verbatim


def report(results: Path, *, delta: Numbers = (0.8, 0.9, 0.95, 0.99), json: Json = False) -> None:
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
    from critmass.curves.cells import load_curves
    from critmass.report import write_report

    written = write_report(results, deltas=delta)
    print_redundancy(load_curves(results), delta, json=json, written=written)


def verify(path: Path, *, json: Json = False) -> None:
    """Check every byte of what critmass wrote below a folder against its checksums; name each damaged file.

    Stores of features, cells, states and tables. What has no checksum is counted, and named with --json.

    Example: critmass verify features/lite0-mnist5k

    Parameters
    ----------
    path
        A features store, a results folder, a study's results, or a folder of these.
    json
        Print one JSON object.
    """
    from critmass.studies.verify import verify

    if not path.is_dir():
        raise InputError("path", str(path), "a folder that exists", "check the path")
    found = verify(path)
    checked = {kind: count for kind, count in found.checked.items() if count}
    counts = ", ".join(f"{count} {kind if count > 1 else kind[:-1]}" for kind, count in checked.items())
    lines = [f"{path}: {counts or 'nothing'} intact"]
    if found.unchecked:
        lines.append(f"{path}: {len(found.unchecked)} files without a checksum not checked")
    record = {
        "path": str(path),
        **checked,
        "intact": not found.faults,
        "faults": found.faults,
        "unchecked": [str(file) for file in found.unchecked],
    }
    if checked or found.faults:
        emit(record, json=json, text="\n".join([*lines, *found.faults]))
    if found.faults:
        raise InputError(
            str(path), verbatim(f"{len(found.faults)} damaged files"), "intact ones", "see above"
        )
    if not checked:
        raise InputError("path", str(path), "a folder with features or results of critmass in it")
