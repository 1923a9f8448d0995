"""Image files, friendly and hostile -> RGB or one clear line; never a warning, never another program.

Warnings are errors in this suite: where Pillow warns of metadata, only `without_warnings` keeps an image.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from critmass.sources.inputs.images import MAX_PIXELS, decode, without_warnings
from critmass.sources.protocols import BadSampleError

PIXELS = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3) * 4


@pytest.fixture(autouse=True)
def _as_in_an_extraction():
    with without_warnings():
        yield


def encoded(image: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"", extra: bytes = b""):
    header = struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def noise(side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


def rgb_image() -> Image.Image:
    return Image.fromarray(PIXELS)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_pixel(form):
    found = decode(encoded(rgb_image(), form), "x")
    assert found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), PIXELS)


def test_webp_keeps_every_pixel():
    if not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    data = encoded(rgb_image(), "WEBP", lossless=True)
    np.testing.assert_array_equal(np.asarray(decode(data, "x")), PIXELS)


def test_the_suffix_says_nothing():
    np.testing.assert_array_equal(np.asarray(decode(encoded(rgb_image(), "PNG"), "photo.jpg")), PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_what_pillow_makes_of_it(mode):
    image = rgb_image().convert("LA" if mode == "PA" else mode)
    form = {"CMYK": "TIFF", "YCbCr": "TIFF", "PA": "PNG"}.get(mode, "PNG")
    found = decode(encoded(image, form), "x")
    assert found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), np.asarray(image.convert("RGB")))


def test_a_cmyk_jpeg_is_read():
    data = encoded(rgb_image().convert("CMYK"), "JPEG")
    np.testing.assert_array_equal(
        np.asarray(decode(data, "x")), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )


def test_transparency_of_a_palette_is_dropped_in_silence():
    image = rgb_image().quantize(8)
    data = encoded(image, "PNG", transparency=bytes([0, 128, 255, 255, 255, 255, 255, 255]))
    np.testing.assert_array_equal(np.asarray(decode(data, "x")), np.asarray(image.convert("RGB")))


def test_sixteen_bits_keep_their_upper_eight():
    values = np.array([[0, 255, 256, 65_535]], dtype=np.uint16)
    for form in ("PNG", "TIFF"):
        found = np.asarray(decode(encoded(Image.fromarray(values), form), "x"))
        assert found[0, :, 0].tolist() == [0, 0, 1, 255]
    rows = b"\0" + values.astype(">u2").tobytes() * 3
    found = np.asarray(decode(png(4, 1, depth=16, colour=2, rows=rows), "x"))
    assert found.shape == (1, 4, 3)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_images_the_first_counts(form):
    if form == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    frames = [Image.new("RGB", (4, 5), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert np.unique(np.asarray(decode(data, "x")).reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


def test_orientation_is_not_applied():
    exif = Image.Exif()
    exif[274] = 6
    for form in ("JPEG", "TIFF", "PNG"):
        assert decode(encoded(rgb_image(), form, exif=exif), "x").size == (4, 5)


def test_damaged_exif_changes_nothing_and_warns_nobody():
    plain = encoded(rgb_image(), "JPEG")
    # An IFD of one entry, X resolution, that says its value lies far behind the end.
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHLL", 282, 5, 1, 2**30) + b"\0" * 4
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[20:]
    np.testing.assert_array_equal(np.asarray(decode(data, "x")), np.asarray(decode(plain, "x")))


def test_a_false_animation_is_the_image_beside_it():
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    data = png(4, 5, rows=rows, extra=chunk(b"acTL", struct.pack(">LL", 0, 0)) + chunk(b"eXIf", b"junk"))
    np.testing.assert_array_equal(np.asarray(decode(data, "x")), PIXELS)


def test_tags_that_are_not_about_pixels_are_left_out_of_a_tiff():
    data = bytearray(encoded(rgb_image(), "TIFF", tiffinfo={270: "a description of the image"}))
    start = struct.unpack_from("<L", data, 4)[0]
    for index in range(struct.unpack_from("<H", data, start)[0]):
        at = start + 2 + 12 * index
        if struct.unpack_from("<H", data, at)[0] == 270:
            struct.pack_into("<L", data, at + 8, 2**31)
    np.testing.assert_array_equal(np.asarray(decode(bytes(data), "x")), PIXELS)


def test_a_huge_image_is_refused_by_its_header():
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(BadSampleError, match=r"huge.png: found .*\(3600000000 pixels\).*; allowed: up to"):
        decode(png(60_000, 60_000, rows=b"\0" * 100), "huge.png")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(BadSampleError, match="pixels"):
        decode(png(side, side), "x")


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n(touched) (w) file\nshowpage\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found a file of 0 bytes"),
        (b"hello, world", "no image of a known format"),
        (SVG, "no image of a known format"),
        (EPS, "no image of a known format"),
        (b"\xff\xd8\xff\xe0", "a header that is damaged"),
        (encoded(noise(), "JPEG")[:2000], "truncated"),
        (encoded(noise(), "PNG")[:2000], "truncated"),
        (encoded(Image.fromarray(PIXELS[..., 0].astype("float32")), "TIFF"), "mode F, whose scale"),
        (encoded(Image.fromarray(PIXELS[..., 0].astype("int32")), "TIFF"), "mode I, whose scale"),
        (b"Pf 1 1 -1.0\n\0\0\0\0", "mode F, whose scale"),
        (b"II*\0\x08\0\0\0\xff\xff", "error"),
    ],
)
def test_what_cannot_be_read_is_one_line(data, message):
    with pytest.raises(BadSampleError, match=message) as caught:
        decode(data, "photo.jpg")
    text = str(caught.value)
    assert text.startswith("photo.jpg: found ")
    assert "\n" not in text
    assert "leave it out with on_bad='list'" in text


def test_eps_starts_no_program(monkeypatch):
    import subprocess

    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    with pytest.raises(BadSampleError):
        decode(EPS, "photo.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP"])
def test_no_damage_does_more_than_raise_one_error(form, capfd):
    """Warnings are errors in this suite, so that a warning would show here as another exception."""
    if form == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    rng = np.random.default_rng(7)
    image = Image.fromarray(rng.integers(0, 256, size=(24, 24, 3), dtype=np.uint8))
    whole = np.frombuffer(encoded(image, form), dtype=np.uint8)
    outcomes = set()
    for _ in range(200):
        data = whole.copy()
        at = rng.integers(0, min(len(data), 400), size=rng.integers(1, 6))
        data[at] = rng.integers(0, 256, size=len(at))
        try:
            outcomes.add(decode(data.tobytes(), "x").mode)
        except BadSampleError:
            outcomes.add("refused")
    assert outcomes <= {"RGB", "refused"}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("compression", ["jpeg", "tiff_lzw", "tiff_deflate", "packbits"])
def test_a_compressed_tiff_is_read(compression):
    image = rgb_image()
    found = np.asarray(decode(encoded(image, "TIFF", compression=compression), "x.tif"), dtype=int)
    expected = np.asarray(
        Image.open(io.BytesIO(encoded(image, "TIFF", compression=compression))).convert("RGB")
    )
    np.testing.assert_array_equal(found, expected)
