"""Images a second, from files to features, against the bare network and against a plain loop.

    python benchmarks/extraction.py --data FOLDER      # FOLDER has imagenette224.zip

All in one run, in turn: (a) the bare network on tensors that are ready in memory, in inference mode and
channels-last; (b) the loop most people write, Pillow in a torch DataLoader, with 0 and with 2 workers, the
faster counts; (c) `extract` with its defaults, from the zip to a finished store. Prints the ratios, and the
peak memory of (c) for a few and for many images, each in a process of its own.
"""

from __future__ import annotations

import argparse
import functools
import io
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import critmass as cm
from critmass.sources import open_dataset, open_model

MODEL, ROUNDS, BATCH = "lite0:", 3, 64


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
            network, f"folder:{path}", out=Path(folder) / "store", splits={"train": "validation"}, limit=limit
        )


def peak(path: Path, limit: int) -> float:
    """Peak memory of an extraction in a process of its own, MiB."""
    code = (
        "import resource, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import extraction;"
        "extraction.ours(Path(sys.argv[2]), int(sys.argv[3]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(path), str(limit)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    path = parser.parse_args().data / "imagenette224.zip"
    samples = open_dataset(f"folder:{path}").splits()["validation"]
    n = len(samples)
    network = open_model(MODEL).place("cpu", "float32")
    prepared = [network.prepare(samples.read(i)) for i in range(4 * BATCH)]
    batches = [network.inputs.batch(prepared[i : i + BATCH], "cpu")[0][0] for i in range(0, 4 * BATCH, BATCH)]
    names = [
        name for name in zipfile.ZipFile(path).namelist() if name.startswith("val/") and name.endswith("G")
    ]
    usual = open_model(MODEL).module
    bare(batches[:1], network.module)
    rates: dict[str, list[float]] = {
        "bare": [],
        "plain, 0 workers": [],
        "plain, 2 workers": [],
        "extract": [],
    }
    for _ in range(ROUNDS):
        rates["bare"].append(rate(4 * BATCH, lambda: bare(batches, network.module)))
        rates["extract"].append(rate(n, lambda: ours(path, n)))
        for workers in (0, 2):
            loop = functools.partial(plain, Zip(path, names), usual, workers)
            rates[f"plain, {workers} workers"].append(rate(n, loop))
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in median.items():
        print(f"{name:<18} {value:7.1f} images/s  ({', '.join(f'{v:.1f}' for v in rates[name])})")
    print(f"extract / bare network on ready tensors: {median['extract'] / median['bare']:.2f}")
    loop = max(median["plain, 0 workers"], median["plain, 2 workers"])
    print(f"extract / plain loop: {median['extract'] / loop:.2f}")
    few, many = peak(path, 150), peak(path, n)
    print(f"peak memory: {few:.0f} MiB for 150 images, {many:.0f} MiB for {n}")


if __name__ == "__main__":
    main()
