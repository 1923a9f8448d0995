"""Torchvision's datasets, from files in the formats that it reads; nothing is downloaded."""

from __future__ import annotations

import gzip
import inspect
import json
import pickle
import re
import shutil
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat

from critmass.errors import InputError
from critmass.sources import open_dataset
from critmass.sources.datasets.torchvision import RECIPES, default_root
from critmass.sources.protocols import BadSampleError, DatasetRequest
from critmass.sources.selection import select


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)


def opened(name: str, root: Path):
    return open_dataset(f"torchvision:{name}", DatasetRequest(root=root))


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (shade, 2 * shade, 0)).save(path)


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST's authors."""
    return struct.pack(f">HBB{array.ndim}L", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(root: Path, name: str = "MNIST") -> np.ndarray:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    pixels = np.arange(6 * 28 * 28, dtype=np.uint8).reshape(6, 28, 28)
    for prefix, rows in (("train", slice(0, 4)), ("t10k", slice(4, 6))):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(pixels[rows]))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(6, dtype=np.uint8)[rows] % 3))
    return pixels


def test_every_recipe_is_a_class_of_torchvision_that_takes_its_arguments():
    for name, recipe in RECIPES.items():
        accepted = inspect.signature(getattr(torchvision.datasets, name).__init__).parameters
        assert "train" in recipe.splits
        for arguments in recipe.splits.values():
            assert set(arguments) <= set(accepted), name
        assert ("download" in accepted) == recipe.downloads or name == "StanfordCars"


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_mnist(tmp_path, name):
    pixels = write_mnist(tmp_path, name)
    splits = opened(name, tmp_path).splits()
    classes = getattr(torchvision.datasets, name).classes
    assert splits["train"].labels.tolist() == [classes[i] for i in (0, 1, 2, 0)]
    np.testing.assert_array_equal(np.asarray(splits["test"].read(1))[..., 2], pixels[5])


def packed(folder: Path, monkeypatch) -> np.ndarray:
    """Write MNIST's four files as another mirror packs them, of 4 and 2 images."""
    monkeypatch.setattr("critmass.sources.datasets.idx.COUNTS", {"train": 4, "t10k": 2}, raising=False)
    pixels = write_mnist(folder / "plain")
    folder.mkdir(parents=True, exist_ok=True)
    for plain in (folder / "plain" / "MNIST" / "raw").iterdir():
        (folder / f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes(), compresslevel=1, mtime=7))
    shutil.rmtree(folder / "plain")
    return pixels


@pytest.mark.parametrize("home", [".", "NAME/raw"])
@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_mnist_and_its_kin_as_other_mirrors_pack_them(tmp_path, monkeypatch, name, home):
    pixels = packed(tmp_path / "a" / home.replace("NAME", name), monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    dataset = opened(name, tmp_path / "a")
    splits = dataset.splits()
    classes = getattr(torchvision.datasets, name).classes
    assert splits["train"].labels.tolist() == [classes[i] for i in (0, 1, 2, 0)]
    np.testing.assert_array_equal(np.asarray(splits["test"].read(1))[..., 2], pixels[5])
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"
    write_mnist(tmp_path / "b", name)
    assert dataset.describe() == opened(name, tmp_path / "b").describe(), "the same content, however packed"


def test_packed_files_that_are_not_the_dataset_are_named(tmp_path, monkeypatch):
    packed(tmp_path, monkeypatch)
    images, labels = tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz"
    whole = {path: path.read_bytes() for path in (images, labels)}
    flipped = bytearray(whole[images])
    flipped[len(flipped) // 2] ^= 1
    for path, data, found in (
        (images, bytes(flipped), "a whole gzip file"),
        (images, whole[images][:-9], "a whole gzip file"),
        (images, gzip.decompress(whole[images]), "a whole gzip file"),
        (images, whole[labels], "3152 bytes of IDX, from 00000803, of shape"),
        (images, gzip.compress(gzip.decompress(whole[images]) + b"more"), "found more than 3152 bytes"),
        (labels, gzip.compress(idx(np.full(4, 11, dtype=np.uint8))), "the label 11; allowed: labels 0 to 9"),
        (labels, gzip.compress(bytes(10**7)), "found more than 12 bytes"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=f"{path.name}: found .*{found}|{path.name}: {found}") as caught:
            opened("MNIST", tmp_path).splits()
        assert "fetch it again" in str(caught.value)
        path.write_bytes(whole[path])
    assert opened("MNIST", tmp_path).splits()


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10", "DTD", "EuroSAT"])
def test_what_cannot_be_fetched_leaves_no_folders(tmp_path, name):
    (tmp_path / "kept").mkdir()
    for root in (tmp_path / "kept", tmp_path / "not" / "there"):
        with pytest.raises(InputError, match="no whole copy"):
            opened(name, root).splits()
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_of_mnist_the_files_that_are_wanted_are_named(tmp_path):
    with pytest.raises(InputError, match=r"allowed: train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz"):
        opened("FashionMNIST", tmp_path).splits()


def test_imagenet_tests_on_its_labelled_validation_images(tmp_path):
    wnids = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish",)}
    torch.save((wnids, []), tmp_path / "meta.bin")
    for split, count in (("train", 3), ("val", 1)):
        for place, wnid in enumerate(wnids):
            for index in range(count):
                picture(tmp_path / split / wnid / f"{index}.JPEG", 100 * place + index)
    dataset = opened("ImageNet", tmp_path)
    splits = dataset.splits()
    assert {split: s.labels.tolist() for split, s in splits.items()} == {
        "train": ["n01440764"] * 3 + ["n01443537"] * 3,
        "test": ["n01440764", "n01443537"],
    }
    assert splits["test"].names[1] == "val/n01443537/0.JPEG"
    assert splits["test"].read(1).size == (6, 5)
    before = dataset.describe()["sha256"]
    with (tmp_path / "val/n01443537/0.JPEG").open("ab") as stream:
        stream.write(b"\0")
    assert opened("ImageNet", tmp_path).describe()["sha256"] != before


def test_flowers(tmp_path, monkeypatch):
    own = torchvision.datasets.Flowers102
    monkeypatch.setattr(own, "_file_dict", {key: (file, None) for key, (file, _) in own._file_dict.items()})
    folder = tmp_path / "flowers-102"
    for number in range(1, 7):
        picture(folder / "jpg" / f"image_{number:05d}.jpg", 10 * number)
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 77, 2]])})
    savemat(folder / "setid.mat", {"trnid": [[1, 2, 5]], "valid": [[3, 6]], "tstid": [[4, 6]]})
    splits = opened("Flowers102", tmp_path).splits()
    assert {split: len(s) for split, s in splits.items()} == {"train": 3, "validation": 2, "test": 2}
    assert len(set(splits["train"].labels)) == 3
    assert splits["test"].names == ["flowers-102/jpg/image_00004.jpg", "flowers-102/jpg/image_00006.jpg"]


def test_pets_train_on_trainval(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for split in ("trainval", "test"):
        lines = [
            f"{name}_{split}{i} {code} 1 1" for code, name in ((1, "Abyssinian"), (2, "pug")) for i in (1, 2)
        ]
        lines = [line.replace(f"_{split}", f"_{len(split)}") for line in lines]
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(lines))
        for line in lines:
            picture(folder / "images" / f"{line.split()[0]}.jpg", 9)
    splits = opened("OxfordIIITPet", tmp_path).splits()
    assert splits["test"].labels.tolist() == ["Abyssinian", "Abyssinian", "Pug", "Pug"]
    assert list(splits) == ["train", "test"]


def test_svhn(tmp_path, monkeypatch):
    own = torchvision.datasets.SVHN
    lists = {split: [url, file, None] for split, (url, file, _) in own.split_list.items()}
    monkeypatch.setattr(own, "split_list", lists)
    pixels = np.arange(32 * 32 * 3 * 4).astype(np.uint8).reshape(32, 32, 3, 4)
    for split in ("train", "test"):
        savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [9], [10]])})
    splits = opened("SVHN", tmp_path).splits()
    assert splits["train"].labels.tolist() == [0, 1, 9, 0]
    np.testing.assert_array_equal(np.asarray(splits["test"].read(2)), pixels[..., 2])


def test_dtd_food_aircraft_and_eurosat(tmp_path):
    for split in ("train", "val", "test"):
        for kind in ("banded", "dotted"):
            picture(tmp_path / "dtd" / "dtd" / "images" / kind / f"{kind}_{split}.jpg", 3)
        lists = tmp_path / "dtd" / "dtd" / "labels"
        lists.mkdir(exist_ok=True)
        (lists / f"{split}1.txt").write_text(f"banded/banded_{split}.jpg\ndotted/dotted_{split}.jpg\n")
        data = tmp_path / "fgvc-aircraft-2013b" / "data"
        picture(data / "images" / f"{split}.jpg", 3)
        (data / "variants.txt").write_text("707-320\nAn-12\n")
        (data / f"images_variant_{split}.txt").write_text(f"{split} An-12\n")
    for split in ("train", "test"):
        meta = tmp_path / "food-101" / "meta"
        meta.mkdir(parents=True, exist_ok=True)
        (meta / f"{split}.json").write_text(json.dumps({"pizza": [f"pizza/{split}"], "soup": []}))
        picture(tmp_path / "food-101" / "images" / "pizza" / f"{split}.jpg", 3)
    for kind in ("Forest", "River"):
        picture(tmp_path / "eurosat" / "2750" / kind / f"{kind}_1.jpg", 3)
    for name, labels in (
        ("DTD", {split: ["banded", "dotted"] for split in ("train", "validation", "test")}),
        ("FGVCAircraft", {split: ["An-12"] for split in ("train", "validation", "test")}),
        ("Food101", {"train": ["pizza"], "test": ["pizza"]}),
        ("EuroSAT", {"train": ["Forest", "River"]}),
    ):
        splits = opened(name, tmp_path).splits()
        assert {split: s.labels.tolist() for split, s in splits.items()} == labels
        assert all(s.read(0).size == (6, 5) for s in splits.values())


def test_caltech_paths_are_those_that_torchvision_opens(tmp_path):
    for kind in ("Faces", "ant", "BACKGROUND_Google"):
        for index in (1, 2):
            shade = 40 * index + len(kind)
            picture(tmp_path / "caltech101" / "101_ObjectCategories" / kind / f"image_{index:04d}.jpg", shade)
    for code, kind in ((1, "001.ak47"), (2, "002.flag")):
        picture(tmp_path / "caltech256" / "256_ObjectCategories" / kind / f"{code:03d}_0001.jpg", 7 * code)
    for name, count in (("Caltech101", 4), ("Caltech256", 2)):
        train = opened(name, tmp_path).splits()["train"]
        own = getattr(torchvision.datasets, name)(str(tmp_path))
        assert len(train) == len(own) == count
        for index in range(count):
            pixels, code = own[index]
            np.testing.assert_array_equal(np.asarray(train.read(index)), np.asarray(pixels.convert("RGB")))
            assert train.labels[index] == own.categories[code]


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_cifar_pickles_of_others_are_never_opened(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="CIFAR10: found no whole copy"):
        opened("CIFAR10", tmp_path).splits()


@pytest.mark.parametrize(
    ("name", "address", "home"),
    [
        ("CIFAR10", "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "."),
        ("MNIST", "https?://.*mnist/", "MNIST/raw"),
        ("Flowers102", "https://www.robots.ox.ac.uk/.*102/", "flowers-102"),
        ("SVHN", "http://ufldl.stanford.edu/housenumbers/train_32x32.mat", "."),
        ("Places365", "http://data.csail.mit.edu/places/places365/", "."),
        ("ImageNet", "its authors' page", "."),
        ("StanfordCars", "its authors' page", "stanford_cars"),
    ],
)
def test_without_files_or_network_one_line_says_what_to_fetch(tmp_path, name, address, home, capfd):
    with pytest.raises(InputError) as caught:
        opened(name, tmp_path).splits()
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"torchvision:{name}: found no whole copy (")
    assert re.search(f"; fetch {address} and put it in {tmp_path / home}$", text), text


def test_a_name_that_torchvision_has_not_is_one_line():
    with pytest.raises(InputError, match="torchvision dataset: found 'CIFAR-10'; .* did you mean 'CIFAR10'"):
        open_dataset("torchvision:CIFAR-10")


def test_where_files_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("CRITMASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CRITMASS_DATA", raising=False)
    assert default_root("MNIST") == tmp_path / "cache" / "torchvision" / "MNIST"
    monkeypatch.setenv("CRITMASS_DATA", str(tmp_path / "data"))
    assert default_root("MNIST") == tmp_path / "data" / "torchvision" / "MNIST"
    write_mnist(default_root("MNIST"))
    assert len(open_dataset("torchvision:MNIST").splits()["test"]) == 2


def test_damaged_files_are_named(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="torchvision:MNIST: found no whole copy"):
        opened("MNIST", tmp_path).splits()
    picture(tmp_path / "eurosat" / "2750" / "Forest" / "a.jpg", 3)
    picture(tmp_path / "eurosat" / "2750" / "River" / "b.jpg", 3)
    (tmp_path / "eurosat" / "2750" / "River" / "b.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    samples = opened("EuroSAT", tmp_path).splits()["train"]
    with pytest.raises(BadSampleError, match="eurosat/2750/River/b.jpg: found .*no image of a known format"):
        samples.read(1)


def test_a_dataset_is_selected_from(tmp_path):
    write_mnist(tmp_path)
    chosen = select(opened("MNIST", tmp_path).splits(), limit={"train": 3}, classes=["0 - zero", "1 - one"])
    assert [len(samples) for samples in chosen.values()] == [3, 1]
