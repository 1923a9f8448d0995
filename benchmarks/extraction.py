"""Images a second, from files to features, against the bare network and a plain loop: `make throughput`.

All in one run, in turn: (a) the bare network on tensors that are ready in memory, in inference mode and
channels-last; (b) the loop most people write, Pillow in a torch DataLoader, with 0 and with 2 workers, the
faster counts; (c) `extract` with its defaults, from the zip to a finished store. Writes the ratios, and the
peak memory of (c) for a few and for many images, each in a process of its own, into docs/extraction.md.
"""

from __future__ import annotations

import functools
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import claims
import numpy as np
import torch
from PIL import Image

import critmass as cm
from critmass.sources import open_dataset, open_model

MODEL, BATCH = "lite0:", 64
SPLIT = "validation"


class Zip(torch.utils.data.Dataset):
    """Images as most people read them."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path, self.names, self.archive = path, names, None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> torch.Tensor:
        self.archive = self.archive or zipfile.ZipFile(self.path)
        image = Image.open(io.BytesIO(self.archive.read(self.names[index]))).convert("RGB")
        image = image.resize((224, 224), Image.Resampling.BICUBIC)
        return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() - 127) / 128


def rate(n: int, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return n / (time.perf_counter() - start)


def bare(batches: list[torch.Tensor], module: torch.nn.Module) -> None:
    with torch.inference_mode():
        for batch in batches:
            module.extract_features(batch).mean(dim=(2, 3))


def plain(data: Zip, module: torch.nn.Module, workers: int) -> None:
    with torch.no_grad():
        for batch in torch.utils.data.DataLoader(data, batch_size=BATCH, num_workers=workers):
            module.extract_features(batch).mean(dim=(2, 3)).numpy()


def ours(path: Path, limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        network = open_model(MODEL)
        cm.extract(
            network, f"folder:{path}", out=Path(folder) / "store", splits={"train": SPLIT}, limit=limit
        )


def peak(path: Path, limit: int) -> float:
    """Peak memory of an extraction in a process of its own, MiB."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import extraction;"
        "extraction.ours(Path(sys.argv[2]), int(sys.argv[3]));"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line[:5] == 'VmHWM'))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(path), str(limit)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return int(done.stdout) / 1024


def made_up_images(path: Path) -> Path:
    """Write a zip of a few images of noise in two classes, for a toy run; return its path."""
    generator = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(40):
            content = io.BytesIO()
            Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(content, "JPEG")
            archive.writestr(f"val/class{number % 2}/{number}.JPEG", content.getvalue())
    return path


def measured(path: Path, *, toy: bool) -> str:
    samples = open_dataset(f"folder:{path}").splits()[SPLIT]
    n, rounds, ready = len(samples), 1 if toy else 3, min(len(samples), 4 * BATCH)
    network = open_model(MODEL).place("cpu", "float32")
    prepared = [network.prepare(samples.read(i)) for i in range(ready)]
    batches = [network.inputs.batch(prepared[i : i + BATCH], "cpu")[0][0] for i in range(0, ready, BATCH)]
    names = [
        name for name in zipfile.ZipFile(path).namelist() if name.startswith("val/") and name.endswith("G")
    ]
    usual = open_model(MODEL).module
    bare(batches[:1], network.module)
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        works = {
            "bare": (ready, lambda: bare(batches, network.module)),
            "extract": (n, lambda: ours(path, n)),
        }
        for workers in (0, 2):
            works[f"plain, {workers} workers"] = (
                n,
                functools.partial(plain, Zip(path, names), usual, workers),
            )
        for name, (count, work) in works.items():
            rates.setdefault(name, []).append(rate(count, work))
    for name, values in rates.items():
        print(f"{name:<18} {', '.join(f'{value:.1f}' for value in values)} images/s", flush=True)
    median = {name: statistics.median(values) for name, values in rates.items()}
    loop = max(median["plain, 0 workers"], median["plain, 2 workers"])
    apart = max(max(values) / min(values) for values in rates.values()) - 1
    few, many = (peak(path, count) for count in (n // 4, n))
    return (
        f"{n} images, {os.cpu_count()} cores: {median['extract'] / median['bare']:.2f} times the rate of the bare "
        f"network, and {median['extract'] / loop:.2f} times that\nof the loop. Rates of single rounds differed by up "
        f"to {apart:.0%}. Peak memory: {few:.0f} MiB for {n // 4} images,\n{many:.0f} MiB for {n}."
    )


def main() -> None:
    with claims.run("make throughput", __doc__) as run:
        path = made_up_images(run.cache / "images.zip") if run.toy else run.data / "imagenette224.zip"
        run.write({"docs/extraction.md": measured(path, toy=run.toy)})


if __name__ == "__main__":
    main()
