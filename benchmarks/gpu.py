"""Rates on a GPU, printed and not kept: `make bench-gpu`. No such run is in the repository yet.

Made-up rows (50,000 x 2,048, 100 classes), 20 sizes x 5 repeats; a torch probe, the CPU and the device's own
products stand beside. A toy run, on any device, shows only that it runs.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import tempfile
from pathlib import Path

import claims
import numpy as np
import torch
from scaling import made
from timing import seconds

import critmass as cm
from critmass.linalg.devices import resolve_device
from critmass.linalg.moments import accumulate
from critmass.sources import open_model

FULL = {"n": 50_000, "d": 2048, "classes": 100, "epochs": 50, "product": 8192, "images": 1250}
TOY = {"n": 200, "d": 32, "classes": 3, "epochs": 2, "product": 128, "images": 30}
SIZES = tuple(range(5, 105, 5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true")
    asked = parser.parse_args()
    claims.require_this_source()
    shape, device = TOY if asked.toy else FULL, asked.device
    place = device.removeprefix("torch:")
    features = made(shape["n"], shape["d"], shape["classes"])
    sizes = sorted({max(1, shape["d"] * share // 100) for share in SIZES})

    def measure(on: str, **what: object) -> cm.Curve:
        return cm.measure(features, sizes=sizes, repeats=5, device=on, **what)

    print("no run on a GPU is in the repository yet; this one is on", _name(place))
    for label, what, limit in (
        ("logistic, 8 λ", {"score": "logistic"}, 10),
        (f"sgd, {shape['epochs']} epochs", {"score": "sgd", "settings": {"epochs": shape["epochs"]}}, 20),
    ):
        work = functools.partial(measure, device, **what)
        here = work()
        spent = seconds(work)
        say(
            f"{label}, {len(sizes)} sizes x 5 repeats",
            f"{spent:.2f} s",
            f"under {limit} s",
            holds=spent < limit,
        )
        if what["score"] == "sgd":
            one = min(seconds(lambda: probe(features, place, shape["epochs"])) for _ in range(2))
            say(
                "sgd over one torch probe of the whole",
                f"{spent / one:.1f}x",
                "at most 4x",
                holds=spent <= 4 * one,
            )
        apart = np.abs(here.measurement.scores - measure("cpu", **what).measurement.scores).max()
        say(f"{label}: scores here less the CPU's", f"{apart:.4f}", "at most .002", holds=apart <= 0.002)
    peak = product_rate(place, shape["product"])
    x = features.splits["train"].x
    n, d = x.shape
    on = resolve_device(device)
    for label, work, operations in (
        ("moments", lambda: accumulate(x, device=on), 2 * n * d * d),
        ("debiased CKA's moments", lambda: accumulate(x, fourth_moments=True, device=on), 6 * n * d * d),
    ):
        rate = operations / min(seconds(work) for _ in range(3))
        say(
            f"{label} beside a float64 product",
            f"{rate / peak:.0%}",
            "at least 70%",
            holds=rate >= 0.7 * peak,
        )
    extraction(place, shape["images"])


def say(what: str, found: str, wanted: str, *, holds: bool) -> None:
    print(f"{what}: {found} ({wanted}: {'yes' if holds else 'NO'})", flush=True)


def _name(place: str) -> str:
    return torch.cuda.get_device_name(place) if place.startswith("cuda") else place


def wait(place: str) -> None:
    """Wait for work that was started: a GPU's calls return before they are done."""
    if place.startswith("cuda"):
        torch.cuda.synchronize()


def probe(features: cm.Features, place: str, epochs: int) -> None:
    """Train one linear probe of the whole in torch, as the paper does."""
    train = features.splits["train"]
    x, y = torch.from_numpy(np.asarray(train.x[:])).to(place), torch.from_numpy(np.asarray(train.y)).to(place)
    head = torch.nn.Linear(x.shape[1], len(features.classes)).to(place)
    descent = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), device=place).split(256):
            descent.zero_grad()
            torch.nn.functional.cross_entropy(head(x[batch]), y[batch]).backward()
            descent.step()
    wait(place)


def product_rate(place: str, n: int) -> float:
    """Return the operations a second of one float64 product of n x n matrices."""
    a = torch.randn(n, n, dtype=torch.float64, device=place)

    def work() -> None:
        a @ a
        wait(place)

    return 2 * n**3 / min(seconds(work) for _ in range(3))


def extraction(place: str, images: int) -> None:
    """Say how the rate of `extract` compares with that of the bare network on batches that lie ready there."""
    size = 224 if images > 100 else 32
    network = open_model("lite0:", image_size=size)
    module = network.place(place, "float32").module
    batch = torch.randn(min(images, 256), 3, size, size, device=place)

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(-(-images // len(batch))):
                module.extract_features(batch).mean(dim=(2, 3))
        wait(place)

    bare()
    number = itertools.count()
    with tempfile.TemporaryDirectory() as folder:

        def ours() -> None:
            out = Path(folder) / str(next(number))
            limit = {"train": images - images // 5, "test": images // 5}
            cm.extract(network, "mnist5k:", out=out, device=place, limit=limit)

        one, all_ours = min(seconds(bare) for _ in range(2)), min(seconds(ours) for _ in range(2))
    say(
        f"extract over the bare network, {images} images",
        f"{one / all_ours:.2f} of its rate",
        "at least .9",
        holds=one >= 0.9 * all_ours,
    )


if __name__ == "__main__":
    main()
