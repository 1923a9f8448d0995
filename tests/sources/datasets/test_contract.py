"""What every dataset must do, whatever it is made of."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from critmass.sources import DATASETS, open_dataset
from critmass.sources.protocols import DatasetRequest, Sample
from critmass.sources.selection import select

N_TRAIN, N_TEST = 30, 12


@dataclass(frozen=True)
class Case:
    """How a dataset of one kind is made in a folder, and made again with one sample of another size."""

    make: Callable[[Path, bool], str]
    has_train: bool = True
    fixed: bool = False


def png(index: int, *, larger: bool = False) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(index).integers(0, 256, size=(9, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue() + b"\0" * larger


def members(*, changed: bool) -> dict[str, bytes]:
    counts = {"train": N_TRAIN, "test": N_TEST}
    return {
        f"{split}/{'ant' if index % 2 else 'bee'}/{index:03d}.png": png(index, larger=changed and index == 3)
        for split, count in counts.items()
        for index in range(count)
    }


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def folder(home: Path, changed: bool) -> str:
    return f"folder:{put(home / 'tree', members(changed=changed))}"


def folder_zip(home: Path, changed: bool) -> str:
    home.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(home / "tree.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in members(changed=changed).items():
            archive.writestr(path, data)
    return f"folder:{home / 'tree.zip'}"


def imagenetv2(home: Path, changed: bool) -> str:
    files = {f"{i % 5}/{i}.jpeg": png(i, larger=changed and i == 3) for i in range(N_TEST)}
    return f"imagenetv2:{put(home / 'v2', files)}"


def rows(*, changed: bool) -> list[dict[str, Any]]:
    return [
        {"text": f"text {i}{'!' * (changed and i == 3)}", "label": "ab"[i % 2], "split": split}
        for split, count in (("train", N_TRAIN), ("test", N_TEST))
        for i in range(count)
    ]


def csv(home: Path, changed: bool) -> str:
    text = "text,label,split\n" + "".join(",".join(row.values()) + "\n" for row in rows(changed=changed))
    return f"csv:{put(home, {'table.csv': text.encode()}) / 'table.csv'}"


def jsonl(home: Path, changed: bool) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows(changed=changed))
    return f"jsonl:{put(home, {'table.jsonl': text.encode()}) / 'table.jsonl'}"


def arrays(home: Path, changed: bool) -> str:
    home.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, size=(N_TRAIN, 8, 8, 3), dtype=np.uint8)
    images[3, 0, 0, 0] = changed
    labels = np.arange(N_TRAIN) % 3
    np.savez(home / "a.npz", X_train=images, y_train=labels, X_test=images[:N_TEST], y_test=labels[:N_TEST])
    return f"arrays:{home / 'a.npz'}"


def hub_images(home: Path, changed: bool) -> str:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    splits = {}
    for split, count in (("train", N_TRAIN), ("test", N_TEST)):
        stored = [{"bytes": png(i, larger=changed and i == 3), "path": None} for i in range(count)]
        columns = {"image": stored, "label": [i % 2 for i in range(count)]}
        splits[split] = datasets.Dataset.from_dict(columns, features=features)
    return hub(home, splits)


def hub_texts(home: Path, changed: bool) -> str:
    found: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for row in rows(changed=changed):
        found[row.pop("split")].append(row)
    return hub(home, {split: datasets.Dataset.from_list(rows) for split, rows in found.items()})


def hub(home: Path, splits: dict[str, datasets.Dataset]) -> str:
    datasets.disable_progress_bars()
    datasets.DatasetDict(splits).save_to_disk(str(home / "hub"))
    datasets.enable_progress_bars()
    return f"hf:{home / 'hub'}"


def eurosat(home: Path, changed: bool) -> str:
    images = {
        f"eurosat/2750/{'ab'[i % 2]}/{i}.jpg": png(i, larger=changed and i == 3) for i in range(N_TRAIN)
    }
    put(home, images)
    return "torchvision:EuroSAT"


def mnist(home: Path, changed: bool) -> str:
    files = {}
    for prefix, count in (("train", N_TRAIN), ("t10k", N_TEST)):
        pixels = np.random.default_rng(count).integers(0, 256, size=(count, 28, 28), dtype=np.uint8)
        pixels[3, 0, 0] = changed
        for kind, array in (("images-idx3", pixels), ("labels-idx1", np.arange(count, dtype=np.uint8) % 3)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            files[f"MNIST/raw/{prefix}-{kind}-ubyte"] = header + array.tobytes()
    put(home, files)
    return "torchvision:MNIST"


def named(name: str) -> Callable[[Path, bool], str]:
    return lambda _home, _changed: name


CASES = {
    "folder": Case(folder),
    "folder.zip": Case(folder_zip),
    "imagenetv2": Case(imagenetv2, has_train=False),
    "csv": Case(csv),
    "jsonl": Case(jsonl),
    "arrays": Case(arrays),
    "hf images": Case(hub_images),
    "hf texts": Case(hub_texts),
    "torchvision files": Case(eurosat),
    "torchvision pixels": Case(mnist),
    "mnist5k": Case(named("mnist5k:"), fixed=True),
    "digits": Case(named("digits:"), fixed=True),
}


def opened(case: Case, home: Path, *, changed: bool = False):
    return open_dataset(case.make(home, changed), DatasetRequest(root=home))


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture
def dataset(case, tmp_path):
    return opened(case, tmp_path / "home")


def same(one: Sample, other: Sample) -> bool:
    return one == other if isinstance(one, str) else one.tobytes() == other.tobytes()


def test_every_registered_dataset_has_a_case():
    found = {case.make(Path(os.devnull) / "x", False).split(":")[0] for case in CASES.values() if case.fixed}
    assert {name.split()[0].split(".")[0] for name in CASES} | found == set(DATASETS)


def test_splits_are_whole(case, dataset):
    splits = dataset.splits()
    assert ("train" in splits) == case.has_train
    for samples in splits.values():
        assert len(samples) == len(samples.names) > 0
        assert len(set(samples.names)) == len(samples)
        assert samples.labels is not None
        assert samples.labels.shape == (len(samples),)
        assert samples.labels.dtype.kind in "iU"
    assert len({name for samples in splits.values() for name in samples.names}) == sum(
        map(len, splits.values())
    )


def test_samples_are_rgb_images_or_texts(dataset):
    for samples in dataset.splits().values():
        sample = samples.read(len(samples) - 1)
        if dataset.kind == "text":
            assert isinstance(sample, str)
        else:
            assert isinstance(sample, Image.Image)
            assert sample.mode == "RGB"


def test_threads_read_what_one_reads(dataset):
    for samples in dataset.splits().values():
        indices = list(range(min(len(samples), 40))) * 4
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(samples.read, indices))
        assert all(same(a, samples.read(i)) for i, a in zip(indices, together, strict=True))


def test_two_openings_are_the_same(case, dataset, tmp_path):
    again = opened(case, tmp_path / "home")
    assert again.describe() == dataset.describe() == dataset.describe()
    for split, samples in dataset.splits().items():
        other = again.splits()[split]
        assert list(samples.names) == list(other.names)
        np.testing.assert_array_equal(samples.labels, other.labels)
        assert same(samples.read(0), other.read(0))


def test_the_description_is_json_and_holds_no_place(dataset, tmp_path):
    text = json.dumps(dataset.describe())
    assert json.loads(text) == dataset.describe()
    assert dataset.describe()["name"] == dataset.name
    assert str(tmp_path) not in text + dataset.name
    assert not any(str(tmp_path) in name for s in dataset.splits().values() for name in s.names)


@pytest.mark.parametrize(
    "case", [case for case in CASES.values() if not case.fixed], ids=lambda c: c.make.__name__
)
def test_the_description_follows_the_samples_not_the_place(case, tmp_path):
    dataset = opened(case, tmp_path / "home")
    assert opened(case, tmp_path / "elsewhere").describe() == dataset.describe()
    assert opened(case, tmp_path / "changed", changed=True).describe() != dataset.describe()


def test_a_part_of_it_can_be_selected(case, dataset):
    whole = dataset.splits()
    if not case.has_train:
        whole = {"train": whole["test"], "test": whole["test"]}
    limit = max(11, 2 * len(set(whole["train"].labels)))  # two training rows for each class at least
    chosen = select(whole, limit=limit)
    for split, samples in chosen.items():
        assert len(samples) == min(limit, len(whole[split]))
        index = whole[split].names.index(samples.names[5])
        assert same(samples.read(5), whole[split].read(index))
        assert samples.labels[5] == whole[split].labels[index]
