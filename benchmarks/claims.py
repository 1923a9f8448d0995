"""What the repository says it has measured: which command writes which file, and on which source it last ran.

Every generator of a page's tables or of a figure works in `run`, and writes through it. docs/measured.json keeps,
for each command, a hash of each module of critmass that decides what it measures, and of what it wrote; so a
test can say that a table is older than the code it describes, or was edited by hand. Hashes are of syntax
trees without docstrings, comments and what errors say, as none of these can change a number.

``python benchmarks/claims.py`` says what is stale; with --take-out it takes that out of the repository.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
CACHE = Path(__file__).parent / ".cache"
RECORD = Path("docs", "measured.json")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

WRITES = {
    "make bench": ("benchmarks/RESULTS.md", "docs/images/scaling.svg"),
    "make probes": ("docs/probes.md",),
    "make diffusion": ("docs/diffusion.md", "docs/images/diffusion.svg"),
    "make throughput": ("docs/extraction.md",),
    "make intervals": ("docs/intervals.md",),
    "make study": ("docs/results.md", "docs/images/results/*.svg"),
    "make docs": ("README.md", "docs/images/curve.svg"),
    "make attacks": ("docs/reliability.md",),
}
"""Everything in the repository that a command writes, from its root."""

TAKEN_OUT = "*Not measured on this source: `{}` writes what belongs here.*"

MEASURING = (
    *("curves.curve", "curves.gini", "curves.inequality", "curves.measure", "curves.redundancy"),
    *("curves.similarity", "curves.tolerance", "features.features", "features.labels", "features.splits"),
    "features.validation",
    *("linalg", "parts", "scores"),
)
EXTRACTING = (
    *("demo", "extraction", "features.labels", "linalg.devices", "linalg.matrices", "linalg.rng", "sources"),
)
STORING = ("features.readers", "features.shards", "features.store", "io.files", "io.tensors")
ROOMS = {
    "make bench": MEASURING,
    "make probes": (*MEASURING, *EXTRACTING),
    "make diffusion": (*MEASURING, *EXTRACTING),
    "make throughput": (*EXTRACTING, *STORING),
    "make intervals": ("curves.curve", "curves.redundancy", "curves.tolerance", "linalg.rng"),
    "make study": (*MEASURING, *EXTRACTING),
    "make docs": (*MEASURING, *EXTRACTING),
    "make attacks": (*STORING, "io.parquet", "io.records", "curves.cells", "studies"),
}
"""Modules and folders of critmass that make a command's numbers. The others plan, keep, print and draw them."""


@dataclass(frozen=True)
class Run:
    """One run of a command that measures.

    Attributes
    ----------
    toy : bool
        Whether it is to use a handful of rows: to know that it runs, not what it finds.
    data : Path
        Folder of the real data; a toy run needs none.
    out : Path
        What stands for the repository's root when files are written.
    cache : Path
        Folder for what later runs on the same source may use again.
    source : mapping of str to str
        Hash of every module when the run began.
    """

    command: str
    toy: bool
    data: Path
    out: Path
    cache: Path
    source: Mapping[str, str]

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Write all files of the command, and note what they were measured on.

        Pages are Markdown, and what is given goes between their marks; other files are written whole.
        """
        modules = {name: self.source.get(name) for name in loaded(self.command)}
        if modules != hashes(modules):
            sys.exit("the source changed during the measurement: nothing is written; run it again")
        line = f"<sub>Measured by `{self.command}` on source `{digest(modules)}`.</sub>"
        for name, content in files.items():
            path = self.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".md"):
                before, _, after = parts_of((ROOT / name).read_text(encoding="utf-8"))
                page = f"{before}{BEGIN}\n\n{content}\n\n{line}\n\n{END}{after}"
                path.write_text(page, encoding="utf-8")
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        record = self.out / RECORD
        record.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(record.read_text()) if record.exists() else {}
        known[self.command] = {
            "source": digest(modules),
            "modules": modules,
            "files": {name: written(self.out / name) for name in sorted(files)},
        }
        record.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        print(f"wrote {', '.join(sorted(files))} below {self.out}")


@contextlib.contextmanager
def run(command: str, description: str | None) -> Iterator[Run]:
    """Parse what the command was asked; give it its sizes and its places.

    A toy run writes into a temporary folder, or --out, and never into the repository.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--toy", action="store_true", help="a handful of rows, to know that it runs")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="real data")
    parser.add_argument("--out", type=Path, help="folder to write to instead of the repository")
    asked = parser.parse_args()
    require_this_source()
    with tempfile.TemporaryDirectory() as scratch:
        out = asked.out or (Path(scratch) if asked.toy else ROOT)
        source = hashes(every_module())
        cache = fresh(out / ".cache" if asked.toy else CACHE, digest(source))
        yield Run(command, asked.toy, asked.data, out, cache, source)


def require_this_source() -> None:
    """Stop where the critmass that is imported is not the one beside these benchmarks."""
    import critmass

    if not Path(critmass.__file__).is_relative_to(SOURCE):
        sys.exit(f"measuring {critmass.__file__}, which is not below {SOURCE}")


def fresh(folder: Path, source: str) -> Path:
    """Return a folder for what is kept between runs, emptied where another source made what lies there."""
    note = folder / "source"
    if folder.exists() and (not note.exists() or note.read_text() != source):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(source)
    return folder


def loaded(command: str) -> list[str]:
    """Return the modules that this process has loaded and that make the command's numbers."""
    return sorted(name for name in sys.modules if _is_in(ROOMS[command], name))


def every_module() -> list[str]:
    """Return all modules that make a command's numbers."""
    rooms = [*itertools.chain(*ROOMS.values())]
    paths = (path.relative_to(SOURCE).with_suffix("") for path in (SOURCE / "critmass").rglob("*.py"))
    modules = (".".join(path.parts).removesuffix(".__init__") for path in paths)
    return sorted(module for module in modules if _is_in(rooms, module))


def _is_in(rooms: Iterable[str], module: str) -> bool:
    """Whether a module of our package is one of these, or in one of these folders."""
    return any(f"{module}.".startswith(f"critmass.{room}.") for room in rooms)


def hashes(modules: Iterable[str]) -> dict[str, str | None]:
    """Return a hash of each module's code; None for one that is gone."""
    found: dict[str, str | None] = {}
    for module in modules:
        base = SOURCE.joinpath(*module.split("."))
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        code = path.read_text(encoding="utf-8") if path.exists() else None
        found[module] = None if code is None else _short(repr(shape(ast.parse(code))))
    return found


def digest(modules: Mapping[str, str | None]) -> str:
    """Return one hash over the modules."""
    return _short(json.dumps(dict(modules), sort_keys=True))


def shape(node: object) -> object:
    """Return what a syntax tree computes, the same on every version of Python: nested lists, no empty fields."""
    if isinstance(node, ast.Raise):
        return ["Raise"]
    if isinstance(node, ast.AST):
        fields = (
            (name, value) for name, value in ast.iter_fields(node) if name not in ("kind", "type_comment")
        )
        return [
            type(node).__name__,
            *([name, shape(value)] for name, value in fields if value not in (None, [])),
        ]
    if isinstance(node, list):
        return [shape(each) for each in node if not _is_text(each)]
    return node


def _is_text(node: object) -> bool:
    """Whether a statement is a string and nothing else: documentation."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def parts_of(page: str) -> tuple[str, str, str]:
    """Return a page before, between and after its marks."""
    before, rest = page.split(BEGIN)
    between, after = rest.split(END)
    return before, between, after


def written(path: Path) -> str:
    """Return a hash of what a command wrote into a file: of a page, what lies between its marks."""
    if path.suffix == ".md":
        return _short(parts_of(path.read_text(encoding="utf-8"))[1])
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def faults(command: str, root: Path = ROOT) -> list[str]:
    """Return what is wrong with the files that a command writes, a line each; empty where nothing is."""
    record = root / RECORD
    entry = (json.loads(record.read_text()) if record.exists() else {}).get(command)
    files = sorted(str(path.relative_to(root)) for pattern in WRITES[command] for path in root.glob(pattern))
    if entry is None:
        files = [name for name in files if not _is_taken_out(root / name, command)]
        return [f"{name}: nothing says what it was measured on; run `{command}`" for name in files]
    now = hashes(entry["modules"])
    changed = [name for name, found in entry["modules"].items() if now[name] != found]
    found_faults = []
    for name in sorted({*files, *entry["files"]}):
        if name not in files or name not in entry["files"]:
            where = "in the repository" if name in files else "in docs/measured.json"
            found_faults.append(f"{name} is only {where}; run `{command}`")
        elif written(root / name) != entry["files"][name]:
            found_faults.append(f"{name} is not what was written into it; run `{command}`")
        elif changed:
            found_faults.append(
                f"{name} is older than the code it describes ({', '.join(changed)}); run `{command}`"
            )
    return found_faults


def take_out(command: str, root: Path = ROOT) -> None:
    """Take what a command wrote out of the repository: a missing table claims nothing, an old one does."""
    for pattern in WRITES[command]:
        for path in root.glob(pattern):
            if path.suffix == ".md":
                before, _, after = parts_of(path.read_text(encoding="utf-8"))
                page = f"{before}{BEGIN}\n\n{TAKEN_OUT.format(command)}\n\n{END}{after}"
                path.write_text(page, encoding="utf-8")
            else:
                path.unlink()
    record = root / RECORD
    known = json.loads(record.read_text()) if record.exists() else {}
    known.pop(command, None)
    record.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def _is_taken_out(path: Path, command: str) -> bool:
    if path.suffix != ".md":
        return False
    return parts_of(path.read_text(encoding="utf-8"))[1].strip() == TAKEN_OUT.format(command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--take-out", action="store_true", help="take what is stale out of the repository")
    asked = parser.parse_args()
    for command in WRITES:
        found = faults(command)
        print("\n".join(found) or f"{command}: as measured, or taken out")
        if found and asked.take_out:
            take_out(command)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":
    main()
