"""Hostile input, end to end: one line, exit code 2, nothing executed, no store that looks finished."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from critmass.cli import main
from critmass.features.features import Features


def jpeg(shade: int, mode: str = "RGB", form: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(shade).integers(0, 256, size=(40, 40, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form)
    return stream.getvalue()


def huge_png() -> bytes:
    """A header that claims 60,000 x 60,000 pixels, and hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def images(**more: bytes) -> dict[str, bytes]:
    """Twelve good images of two classes, and more files by path."""
    good = {
        f"{split}/{label}/{i}.jpg": jpeg(10 * i + j)
        for i in range(3)
        for j, (split, label) in enumerate(
            (split, label) for split in ("train", "test") for label in ("ant", "bee")
        )
    }
    return {**good, **more}


def zipped(folder: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return folder / "images.zip"


@pytest.fixture
def refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any) -> str:
        with pytest.raises(SystemExit) as done:
            main(["extract", *map(str, arguments), "--out", "store"])
        out, err = capfd.readouterr()
        last = err.splitlines()[-1]
        assert (done.value.code, out) == (2, ""), err
        assert last.startswith("critmass: ")
        assert "Traceback" not in err
        assert not (tmp_path / "store" / "manifest.json").exists()
        return last

    return run


FILES = {
    "truncated": ({"train/ant/x.jpg": jpeg(1)[:500]}, "x.jpg: found OSError"),
    "0 bytes": ({"train/ant/x.jpg": b""}, "x.jpg: found a file of 0 bytes"),
    "60,000 x 60,000": ({"test/bee/x.png": huge_png()}, "x.png: found Image size (3600000000 pixels)"),
    "no image": ({"train/bee/x.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n/ showpage"}, "x.jpg: found"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_cannot_be_read_stops_or_is_listed(
    refused: Callable[..., str], tmp_path: Path, kind: str
) -> None:
    more, words = FILES[kind]
    path = zipped(tmp_path, images(**more))
    model = ("lite0:", f"folder:{path}", "--image-size", 32)
    assert words in refused(*model)
    with pytest.raises(SystemExit) as done:
        main(["extract", *map(str, model), "--out", "store", "--on-bad", "list"])
    assert done.value.code == 0
    features = Features.open("store")
    assert [row["sample"].rpartition("/")[2] for row in features.provenance["left_out"]] == [
        next(iter(more)).rpartition("/")[2]
    ]
    assert sum(split.x.shape[0] for split in features.splits.values()) == 12


def test_odd_images_are_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    deep = io.BytesIO()
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40).save(deep, "PNG")
    moving = io.BytesIO()
    frames = [Image.fromarray(np.full((40, 40), shade, dtype=np.uint8)) for shade in (0, 250)]
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    odd = {
        "train/ant/grey.jpg": jpeg(1, "L"),
        "train/ant/cmyk.jpg": jpeg(2, "CMYK"),
        "train/bee/palette.png": jpeg(3, "P", "PNG"),
        "train/bee/deep.png": deep.getvalue(),
        "test/ant/moving.gif": moving.getvalue(),
    }
    path = zipped(tmp_path, images(**odd))
    with pytest.raises(SystemExit) as done:
        main(["extract", "lite0:", f"folder:{path}", "--image-size", "32", "--out", "store"])
    assert done.value.code == 0
    assert {n: s.x.shape[0] for n, s in Features.open("store").splits.items()} == {"train": 10, "test": 7}


def test_archives_that_lead_outside_or_are_cut(refused: Callable[..., str], tmp_path: Path) -> None:
    path = zipped(tmp_path, {**images(), "../../escaped.jpg": jpeg(1)})
    assert "escaped.jpg" in refused("lite0:", f"folder:{path}")
    assert not (tmp_path.parent / "escaped.jpg").exists()
    path.write_bytes(zipped(tmp_path, images()).read_bytes()[:-200])
    assert "images.zip" in refused("lite0:", f"folder:{path}")


def test_an_empty_class(refused: Callable[..., str], tmp_path: Path) -> None:
    for name, data in images().items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(data)
    (tmp_path / "tree" / "train" / "cat").mkdir()
    assert "cat" in refused("lite0:", f"folder:{tmp_path / 'tree'}")


class Code:
    """Makes a folder where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


def test_checkpoints_with_code_or_of_another_shape(refused: Callable[..., str], tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "code": Code()}, tmp_path / "code.pt")
    assert "nothing of it was run" in refused("checkpoint:resnet20-cifar@code.pt", "mnist5k:")
    assert not (tmp_path / "owned").exists()
    torch.save({"conv1.weight": torch.zeros(3, 3, 3, 3)}, tmp_path / "shape.pt")
    assert "conv1.weight" in refused("checkpoint:resnet20-cifar@shape.pt", "mnist5k:")
