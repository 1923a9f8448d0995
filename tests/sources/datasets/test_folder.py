"""Folders and zips of images: layouts, what is left out, and hostile archives."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from helpers_data import REAL
from PIL import Image

from critmass.errors import InputError
from critmass.sources import open_dataset
from critmass.sources.datasets import trees
from critmass.sources.protocols import BadSampleError


def image(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


SPLITS = {
    f"{split}/{name}/{index}.png": image(10 * index + place)
    for place, name in enumerate(("ant", "bee"))
    for split, count in (("train", 3), ("val", 2), ("v2", 1))
    for index in range(count)
}
CLASSES = {f"{name}/deep/{index}.png": image(index) for name in ("ant", "bee") for index in range(3)}


def write(where: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a folder, or into a .zip; a path that ends in / is a folder."""
    if where.suffix == ".zip":
        with zipfile.ZipFile(where, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in files.items():
                archive.writestr(path, data)
        return where
    for path, data in files.items():
        (where / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (where / path).mkdir(exist_ok=True)
        else:
            (where / path).write_bytes(data)
    return where


@pytest.fixture(params=["tree", "tree.zip"])
def place(request, tmp_path):
    return tmp_path / request.param


def opened(where: Path):
    return open_dataset(f"folder:{where}")


def test_splits_and_classes_are_found(place):
    dataset = opened(write(place, SPLITS))
    splits = dataset.splits()
    assert list(splits) == ["train", "validation", "v2"]
    assert splits["train"].names == [f"train/{c}/{i}.png" for c in ("ant", "bee") for i in range(3)]
    assert splits["validation"].labels.tolist() == ["ant", "ant", "bee", "bee"]
    assert splits["train"].read(4).getpixel((0, 0)) == (11, 0, 0)
    assert dataset.describe()["splits"] == {"train": 6, "validation": 4, "v2": 2}
    assert dataset.name == "folder:tree"


def test_classes_alone_are_training_rows(place):
    splits = opened(write(place, CLASSES)).splits()
    assert list(splits) == ["train"]
    assert splits["train"].labels.tolist() == ["ant"] * 3 + ["bee"] * 3


def test_a_class_may_be_called_train(place):
    files = {f"{name}/{i}.png": image() for name in ("train", "car", "bus") for i in range(2)}
    assert set(opened(write(place, files)).splits()["train"].labels) == {"train", "car", "bus"}


def test_one_folder_around_everything_is_looked_through(place):
    bare = opened(write(place.with_stem("bare"), SPLITS))
    around = opened(write(place, {f"imagenette2-320/{path}": data for path, data in SPLITS.items()}))
    assert list(around.splits()) == list(bare.splits())
    assert around.splits()["train"].labels.tolist() == bare.splits()["train"].labels.tolist()
    assert around.splits()["train"].read(0).size == (4, 3)


def test_images_without_class_folders_have_no_labels(place):
    flat = opened(write(place, {f"train/{i}.png": image(i) for i in range(3)} | {"test/0.png": image()}))
    assert {split: (len(s), s.labels) for split, s in flat.splits().items()} == {
        "train": (3, None),
        "test": (1, None),
    }
    pile = opened(write(place.with_stem("pile"), {f"{i}.png": image(i) for i in range(3)}))
    assert pile.splits()["train"].names == ["0.png", "1.png", "2.png"]


def test_what_is_no_image_is_left_out_and_counted(place):
    junk = {
        "train/ant/.hidden.png": image(),
        "train/ant/notes.txt": b"x",
        "train/.DS_Store": b"x",
        "__MACOSX/train.png": image(),
        "preview.png": image(),
    }
    dataset = opened(write(place, SPLITS | junk))
    assert sum(map(len, dataset.splits().values())) == len(SPLITS)
    assert dataset.describe()["ignored"] == 5


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": b"x"}, "found no image among 1 files; allowed: image files in SPLIT/CLASS/"),
        (CLASSES | {"cat/": b""}, "cat: found a class folder without images"),
        (SPLITS | {"train/cat/": b""}, "train/cat: found a class folder without images"),
        (SPLITS | {"test/": b""}, "test: found no image; allowed: images in every split"),
        (SPLITS | {"train/stray.png": image()}, "train/stray.png: found an image outside a class folder"),
        ({"ant/0.png": image()}, r"one class only \('ant'\); allowed: two class folders or more"),
        (SPLITS | {"val/Ant/9.png": image()}, "class in 'validation': found 'Ant'; .* did you mean 'ant'"),
        (SPLITS | {"valid/ant/0.png": image()}, "a second folder for 'validation'"),
    ],
)
def test_layouts_that_are_broken_are_one_line(place, files, message):
    dataset = opened(write(place, files))
    for use in (dataset.splits, dataset.describe):
        with pytest.raises(InputError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_what_does_not_exist_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"a folder or a .zip that exists; check the path"):
        opened(tmp_path / "nowhere")
    (tmp_path / "a.tar").write_bytes(b"x")
    with pytest.raises(InputError, match="unpack the archive"):
        opened(tmp_path / "a.tar")


def test_the_order_is_that_of_the_posix_paths(place):
    names = ["b/1.png", "b-1/1.png", "a/10.png", "a/9.png", "B/1.png", "a/é.png"]
    found = opened(write(place, {name: image() for name in names})).splits()["train"].names
    assert found == sorted(names)


def test_the_identity_changes_with_names_and_content_only(place):
    def identity(where: str, files: Mapping[str, bytes]) -> str:
        return opened(write(place.with_stem(where), files)).describe()["sha256"]

    first = next(iter(SPLITS))
    whole = identity("a", SPLITS)
    assert identity("b", dict(reversed(SPLITS.items()))) == whole
    assert identity("c", SPLITS | {first: SPLITS[first] + b"\0"}) != whole
    assert identity("d", {("train/ant/z.png" if k == first else k): v for k, v in SPLITS.items()}) != whole
    same_size = SPLITS[first][:-1] + b"\0"
    assert identity("e", SPLITS | {first: same_size}) != whole


def test_nothing_is_written_when_a_zip_is_read(tmp_path, monkeypatch):
    where = write(tmp_path / "a.zip", SPLITS)
    monkeypatch.setattr(zipfile.ZipFile, "extract", lambda *a: pytest.fail("extracted"))
    before = sorted(tmp_path.rglob("*"))
    for samples in opened(where).splits().values():
        for index in range(len(samples)):
            samples.read(index)
    assert sorted(tmp_path.rglob("*")) == before


# Links


def test_links_are_followed_out_of_the_tree(tmp_path):
    store = write(tmp_path / "store", {"n1/0.png": image(1), "n2/0.png": image(2), "n3/0.png": image(3)})
    subset = tmp_path / "subset"
    subset.mkdir()
    for name in ("n1", "n3"):
        (subset / name).symlink_to(store / name)
    samples = opened(subset).splits()["train"]
    assert samples.labels.tolist() == ["n1", "n3"]
    assert samples.read(1).getpixel((0, 0)) == (3, 0, 0)


def test_links_that_lead_nowhere_or_back_are_refused(tmp_path):
    tree = write(tmp_path / "tree", CLASSES)
    (tree / "ant" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match="ant/lost.png: found a link that leads nowhere"):
        opened(tree)
    (tree / "ant" / "lost.png").unlink()
    (tree / "ant" / "deep" / "loop").symlink_to(tree)
    with pytest.raises(InputError, match="ant/deep/loop: found a link to a folder above"):
        opened(tree)


def test_a_pipe_called_like_an_image_is_not_opened(tmp_path):
    tree = write(tmp_path / "tree", CLASSES)
    os.mkfifo(tree / "ant" / "pipe.png")
    assert len(opened(tree).splits()["train"]) == len(CLASSES)


def test_a_file_that_goes_away_is_a_bad_sample(tmp_path):
    samples = opened(write(tmp_path / "tree", CLASSES)).splits()["train"]
    (tmp_path / "tree" / "ant" / "deep" / "0.png").unlink()
    with pytest.raises(BadSampleError, match="ant/deep/0.png: found FileNotFoundError"):
        samples.read(0)


# Hostile zips


def zipped(where: Path, path: str, *, data: bytes | None = None, mode: int = 0, **attributes) -> Path:
    """Write a good zip with one more member, whose record says what it should not."""
    with zipfile.ZipFile(where, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in CLASSES.items():
            archive.writestr(name, content)
        info = zipfile.ZipInfo(path)
        info.filename = info.orig_filename = path
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = mode << 16
        for name, value in attributes.items():
            setattr(info, name, value)
        archive.writestr(info, image() if data is None else data)
    return where


@pytest.mark.parametrize(
    ("path", "attributes", "message"),
    [
        ("../evil.png", {}, "member ../evil.png: found a path that leads out of the zip"),
        ("ant/../../evil.png", {}, "leads out of the zip"),
        ("/etc/evil.png", {}, "leads out of the zip"),
        ("C:/evil.png", {}, "leads out of the zip"),
        ("ant\\evil.png", {}, "leads out of the zip"),
        ("ant//evil.png", {}, "leads out of the zip"),
        ("ant/link.png", {"mode": stat.S_IFLNK | 0o777}, "ant/link.png: found a link or a device"),
        ("ant/pipe.png", {"mode": stat.S_IFIFO | 0o666}, "a link or a device"),
        ("ant/bomb.png", {"data": bytes(2**22)}, "4194304 bytes packed into .*; allowed: images compressed"),
        ("ant/lzma.png", {"compress_type": zipfile.ZIP_LZMA}, "ant/lzma.png: found compression method 14"),
    ],
)
def test_a_hostile_member_makes_the_zip_refused(tmp_path, path, attributes, message):
    with pytest.raises(InputError, match=message) as caught:
        opened(zipped(tmp_path / "a.zip", path, **attributes))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("make the zip again")


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        where = zipped(tmp_path / "a.zip", "ant/deep/0.png")
    with pytest.raises(InputError, match="ant/deep/0.png: found a name that is there twice"):
        opened(where)


def directory_record(data: bytes, path: str) -> int:
    """Return where the record of a member starts in a zip's central directory."""
    return data.rindex(path.encode()) - 46


@pytest.mark.parametrize(
    ("field", "form", "value", "message"),
    [
        (8, "<H", 1, "an encrypted member"),
        (24, "<L", 2**31, "2147483648 bytes; allowed: images up to"),
        (20, "<L", 2**20, "beyond the end of the file"),
    ],
)
def test_records_that_lie_are_refused(tmp_path, field, form, value, message):
    where = zipped(tmp_path / "a.zip", "ant/evil.png")
    data = bytearray(where.read_bytes())
    struct.pack_into(form, data, directory_record(data, "ant/evil.png") + field, value)
    where.write_bytes(data)
    with pytest.raises(InputError, match=f"member ant/evil.png: found .*{message}"):
        opened(where)


def test_a_bomb_that_declares_little_is_not_unpacked(tmp_path):
    """The declared size is what is unpacked at most, and the member is then seen to lie."""
    where = zipped(tmp_path / "a.zip", "ant/evil.png", data=bytes(2**26))
    data = bytearray(where.read_bytes())
    struct.pack_into("<L", data, directory_record(data, "ant/evil.png") + 24, 1000)
    where.write_bytes(data)
    samples = opened(where).splits()["train"]
    with pytest.raises(BadSampleError, match="ant/evil.png: found error: bytes that do not agree"):
        samples.read(samples.names.index("ant/evil.png"))


def test_a_flipped_bit_in_the_directory_makes_no_new_class(tmp_path):
    """The directory says "bnt/deep/0.png" where the member itself says "ant/deep/0.png"."""
    where = write(tmp_path / "a.zip", CLASSES)
    data = bytearray(where.read_bytes())
    data[directory_record(data, "ant/deep/0.png") + 46] ^= 3
    where.write_bytes(data)
    samples = opened(where).splits()["train"]
    with pytest.raises(BadSampleError, match="bnt/deep/0.png: found error: another name than the zip's"):
        samples.read(samples.names.index("bnt/deep/0.png"))


def test_a_flipped_byte_is_a_bad_sample(tmp_path):
    where = write(tmp_path / "a.zip", CLASSES)
    samples = opened(where).splits()["train"]
    data = bytearray(where.read_bytes())
    data[data.index(b"ant/deep/0.png") + 40] ^= 1
    where.write_bytes(data)
    with pytest.raises(BadSampleError, match="ant/deep/0.png: found error"):
        samples.read(0)


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_a_truncated_zip_is_one_line(tmp_path, kept):
    where = write(tmp_path / "a.zip", SPLITS)
    data = where.read_bytes()
    where.write_bytes(data[: int(kept * len(data)) if kept == 0.5 else kept])
    with pytest.raises(InputError, match="allowed: a whole .zip; BadZipFile: .*; copy it again"):
        opened(where)


def test_a_file_too_large_to_be_an_image_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "MAX_BYTES", 50)
    samples = opened(write(tmp_path / "tree", CLASSES)).splits()["train"]
    with pytest.raises(BadSampleError, match="bytes; allowed: files up to 50 bytes"):
        samples.read(0)


# ImageNetV2


def test_imagenetv2_is_one_test_split_of_indices(place):
    files = {f"imagenetv2-top/{label}/{i}.jpeg": image(i) for label in (0, 7, 999) for i in range(2)}
    dataset = open_dataset(f"imagenetv2:{write(place, files)}")
    splits = dataset.splits()
    assert list(splits) == ["test"]
    assert splits["test"].labels.tolist() == [0, 0, 7, 7, 999, 999]
    assert json.loads(json.dumps(dataset.describe())) == dataset.describe()


@pytest.mark.parametrize("stray", ["1000/0.png", "cat/0.png", "stray.png"])
def test_imagenetv2_refuses_other_trees(place, stray):
    dataset = open_dataset(
        f"imagenetv2:{write(place, {'0/0.png': image(), '1/0.png': image(), stray: image()})}"
    )
    with pytest.raises(InputError, match=f"{stray}: found an image in no folder called 0 to 999"):
        dataset.splits()


# Real data


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("file", "counts", "n_classes", "size"),
    [
        ("cifar10.zip", {"train": 20_000, "test": 5_000}, 10, (32, 32)),
        ("imagenette224.zip", {"train": 1_500, "validation": 600}, 10, (224, 224)),
        ("tinyimagenet32.zip", {"train": 40_000, "validation": 10_000}, 200, (32, 32)),
    ],
)
def test_real_zips(file, counts, n_classes, size):
    if not (REAL / file).exists():
        pytest.skip(f"{file} is missing")
    splits = opened(REAL / file).splits()
    assert {split: len(samples) for split, samples in splits.items()} == counts
    for samples in splits.values():
        assert len(np.unique(samples.labels)) == n_classes
        assert {samples.read(i).size for i in range(0, len(samples), 500)} == {size}
