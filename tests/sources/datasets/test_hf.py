"""Datasets of the hub's library, from folders that it wrote or reads; nothing is fetched."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import polars as pl
import pytest
from PIL import Image

from critmass.errors import InputError
from critmass.sources import open_dataset
from critmass.sources.protocols import BadSampleError, DatasetRequest


def picture(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 5), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def images(labels=(0, 1, 0), first: int = 0) -> datasets.Dataset:
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "ant"])}
    )
    stored = [{"bytes": picture(first + index), "path": None} for index in range(len(labels))]
    return datasets.Dataset.from_dict({"img": stored, "label": list(labels)}, features=features)


def texts(**columns) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": ["one", "two", "three"], **columns})


def saved(folder: Path, data) -> str:
    data.save_to_disk(str(folder))
    return f"hf:{folder}"


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def opened(name: str, root: Path | None = None, **columns: str):
    return open_dataset(name, DatasetRequest(columns=columns, root=root))


def test_images_of_save_to_disk(tmp_path):
    data = datasets.DatasetDict({"train": images(), "valid": images((1, 0), first=9)})
    dataset = opened(saved(tmp_path / "pets", data))
    splits = dataset.splits()
    assert (dataset.kind, dataset.name, list(splits)) == ("image", "hf:pets", ["train", "valid"])
    assert splits["train"].labels.tolist() == ["cat", "ant", "cat"]
    assert splits["valid"].read(1).getpixel((0, 0)) == (10, 0, 0)
    assert dataset.describe()["columns"] == {"sample": "img", "label": "label"}


def test_rows_in_another_order_are_read_in_it(tmp_path):
    """Datasets keep an order of rows beside the table."""
    dataset = opened(saved(tmp_path / "a", images((0, 1, 0)).select([2, 1])))
    train = dataset.splits()["train"]
    assert [train.read(i).getpixel((0, 0))[0] for i in range(2)] == [2, 1]
    assert train.labels.tolist() == ["cat", "ant"]


def test_texts_of_parquet_files(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split, labels in (("train", [0.5, 1.0]), ("test", [2.5])):
        values = {"sentence": [f"{split} {i}" for i in range(len(labels))], "target": labels, "group": labels}
        pl.DataFrame(values).write_parquet(folder / f"{split}-00000.parquet")
    dataset = opened(f"hf:{folder}", tmp_path / "cache")
    splits = dataset.splits()
    assert (dataset.kind, list(splits)) == ("text", ["train", "test"])
    assert splits["train"].read(1) == "train 1"
    assert splits["train"].labels.tolist() == [0.5, 1.0]
    assert splits["test"].groups.tolist() == ["2.5"]


def test_a_folder_of_images(tmp_path):
    for split in ("train", "test"):
        for shade, name in enumerate(("ant", "bee")):
            path = tmp_path / "tree" / split / name / "0.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(picture(shade))
    splits = opened(f"hf:{tmp_path / 'tree'}", tmp_path / "cache").splits()
    assert splits["test"].labels.tolist() == ["ant", "bee"]
    assert splits["test"].read(1).getpixel((0, 0)) == (1, 0, 0)
    (tmp_path / "tree" / "test" / "bee" / "0.png").unlink()
    with pytest.raises(BadSampleError, match="hf:tree test, row 2: found .*No such file"):
        splits["test"].read(1)


def test_columns_are_named_or_have_usual_names(tmp_path):
    data = texts(fine=["a", "b", "a"], coarse=["x", "x", "y"])
    name = saved(tmp_path / "a", data)
    assert opened(name, label="fine").splits()["train"].labels.tolist() == ["a", "b", "a"]
    assert opened(name, label="").splits()["train"].labels is None
    with pytest.raises(
        InputError, match="label column: found none with a usual name; allowed: one of fine, "
    ):
        opened(name).splits()
    with pytest.raises(InputError, match="text column: found 'txt'; .* did you mean 'text'"):
        opened(name, text="txt").splits()
    with pytest.raises(InputError, match="columns: found 'split'; allowed: group, image, label, text"):
        opened(name, split="x")
    with pytest.raises(InputError, match="image column: found none with a usual name; allowed: one of text,"):
        opened(name, image="text").splits()
    numbers = saved(tmp_path / "b", datasets.Dataset.from_dict({"x": [1, 2]}))
    with pytest.raises(InputError, match="text column: found none with a usual name; allowed: one of x"):
        opened(numbers).splits()


def test_the_one_column_of_classes_is_the_label(tmp_path):
    data = texts(fine=["a", "b", "a"], number=[1, 2, 3]).class_encode_column("fine")
    assert opened(saved(tmp_path / "a", data)).splits()["train"].labels.tolist() == ["a", "b", "a"]
    both = texts(fine=["a", "b", "a"], coarse=["x", "x", "y"])
    both = both.class_encode_column("fine").class_encode_column("coarse")
    with pytest.raises(InputError, match="label column: found several: fine, coarse"):
        opened(saved(tmp_path / "b", both)).splits()


def test_hidden_labels_are_none(tmp_path):
    data = datasets.DatasetDict({"train": images(), "test": images((-1, -1)), "odd": images((0, -1))})
    dataset = opened(saved(tmp_path / "a", datasets.DatasetDict({k: data[k] for k in ("train", "test")})))
    assert dataset.splits()["test"].labels is None
    with pytest.raises(InputError, match="odd, row 2: found -1; allowed: a label, 0 to 1"):
        opened(saved(tmp_path / "b", data)).splits()


def test_samples_that_are_not_there_are_bad(tmp_path):
    data = images((0, 1)).to_dict()
    data["img"] = [None, {"bytes": b"%!PS-Adobe", "path": None}]
    stored = datasets.Dataset.from_dict(data, features=images().features)
    train = opened(saved(tmp_path / "a", stored)).splits()["train"]
    for index, message in enumerate(("no image", "no image of a known format")):
        with pytest.raises(BadSampleError, match=f"train, row {index + 1}: found .*{message}"):
            train.read(index)
    blank = opened(saved(tmp_path / "b", datasets.Dataset.from_dict({"text": ["a", None, " "]})))
    for index in (1, 2):
        with pytest.raises(BadSampleError, match=f"row {index + 1}: found an empty text"):
            blank.splits()["train"].read(index)


def test_the_identity_is_that_of_texts_labels_and_sizes(tmp_path):
    def identity(name: str, data) -> str:
        return opened(saved(tmp_path / name / "x", data)).describe()["sha256"]

    assert identity("a", images()) == identity("b", images())
    assert identity("c", images((0, 1, 1))) != identity("a2", images())
    larger = images().to_dict()
    larger["img"] = [{"bytes": picture(0) + b"\0", "path": None}, *larger["img"][1:]]
    assert identity("d", datasets.Dataset.from_dict(larger, features=images().features)) != identity(
        "a3", images()
    )
    same = texts(label=[0, 1, 0])
    other = datasets.Dataset.from_dict({"text": ["one", "two", "thred"], "label": [0, 1, 0]})
    assert identity("e", same) != identity("f", other)


def test_the_librarys_own_settings_stay_as_they_were(tmp_path):
    name = saved(tmp_path / "a", texts(label=[0, 1, 0]))
    for switch, hidden in ((datasets.enable_progress_bars, False), (datasets.disable_progress_bars, True)):
        switch()
        opened(name)
        assert datasets.are_progress_bars_disabled() == hidden


@pytest.mark.parametrize("name", ["hf:org/none", "hf:org/none:config"])
def test_without_a_network_one_line_says_what_to_fetch(tmp_path, name):
    with pytest.raises(InputError) as caught:
        opened(name, tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"dataset: found '{name}'; allowed: a dataset of the hub that can be reached")
    assert "fetch https://huggingface.co/datasets/org/none elsewhere and give its folder, hf:PATH" in text


def test_names_and_folders_that_cannot_be_are_one_line(tmp_path):
    with pytest.raises(InputError, match="hf:ORG/NAME, hf:ORG/NAME:CONFIG, or a folder that exists"):
        opened(f"hf:{tmp_path}/nowhere/at/all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="a folder of save_to_disk, or of parquet, csv or image files"):
        opened(f"hf:{tmp_path / 'empty'}", tmp_path / "cache")


def test_no_script_is_run(tmp_path):
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (folder / "train.csv").write_text("text,label\na,b\n")
    with pytest.raises(InputError, match="scripts are no longer supported"):
        opened(f"hf:{folder}", tmp_path / "cache")
    assert not (tmp_path / "ran").exists()


def test_pixels_are_those_that_the_library_gives(tmp_path):
    data = images()
    train = opened(saved(tmp_path / "a", data)).splits()["train"]
    for index in range(len(data)):
        np.testing.assert_array_equal(np.asarray(train.read(index)), np.asarray(data[index]["img"]))
