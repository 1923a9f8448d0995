"""One image file -> RGB pixels, safely: what cannot be read is named, nothing is guessed or executed.

The format is told by the first bytes, never by the suffix, and only those listed are known, so that no
plugin that starts another program (EPS) is ever reached. Greyscale, palette, CMYK and transparent images
become RGB as Pillow converts them (transparency is dropped), 16-bit ones keep their upper 8 bits, of an
animation or a multi-page file the first image counts, and EXIF orientation is not applied, as in
torchvision. Damaged metadata, which cannot change a pixel here, is where Pillow warns: `without_warnings`.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from critmass.errors import first_line, require
from critmass.sources.protocols import BadSampleError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
MAX_PIXELS = 89_478_485
"""Pillow's own limit, above which an image may be a decompression bomb."""
MAX_BYTES = 2**28
"""A file above 256 MiB is no photograph."""

_TIFF = (b"II*\0", b"MM\0*")
_TIFF_SIZES = {1: 1, 3: 2, 4: 4, 7: 1}
"""Bytes of a value of each type of a tag; 7 holds the tables of JPEG."""
_TIFF_SINGLE = (256, 257, 259, 262, 266, 277, 278, 284, 317, 322, 323)
_TIFF_TAGS = (*_TIFF_SINGLE, 258, 273, 279, 320, 324, 325, 338, 339, 347, 529, 530, 532)
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings, which are about metadata; enter it before threads that decode are started.

    Filters of warnings belong to the process, so a thread of many cannot set them for itself.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def decode(data: bytes, name: str) -> Any:
    """Return the RGB image (PIL.Image.Image) in the bytes of a file, or raise BadSampleError with `name`.

    Examples
    --------
    >>> decode(b"P6 2 1 255 rgbRGB", "two.ppm").size
    (2, 1)
    """
    pillow = require("PIL.Image", package="pillow", extra="vision", purpose="reading images")
    if not data:
        raise BadSampleError(name, "a file of 0 bytes")
    try:
        pixels = _tiff_pixels(data) if data.startswith(_TIFF) else data
        image = pillow.open(io.BytesIO(pixels), formats=FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise BadSampleError(name, f"{width} x {height} pixels", f"up to {MAX_PIXELS} pixels")
        return rgb(image)
    except BadSampleError:
        raise
    except pillow.UnidentifiedImageError as error:
        found = f"no image of a known format ({', '.join(FORMATS)}), or a header that is damaged"
        raise BadSampleError(name, found) from error
    except pillow.DecompressionBombError as error:
        raise BadSampleError(name, first_line(error), f"up to {MAX_PIXELS} pixels") from error
    except Exception as error:
        # Damaged files make Pillow raise almost anything.
        raise BadSampleError(name, f"{type(error).__name__}: {error}") from error


def rgb(image: Any) -> Any:
    """Return an image of any mode as RGB; raises what Pillow raises where its pixels cannot be read."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError(f"pixels of mode {image.mode}, whose scale no one can know")
    image.info.pop("transparency", None)
    if image.mode.startswith("I"):
        upper = np.asarray(image.convert("I")).clip(0, 65_535) >> 8
        pillow = require("PIL.Image", package="pillow", extra="vision", purpose="reading images")
        image = pillow.fromarray(upper.astype(np.uint8))
    # A copy at least, so that the pixels are decoded here, where a fault has a name.
    return image.convert("RGB")


def _tiff_pixels(data: bytes) -> bytes:
    """Return a TIFF file with the tags of its first page that say where its pixels are.

    Pillow refuses a file for a damaged tag of any kind, and turns it by its orientation.
    """
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "L", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    kept = []
    for index in range(count):
        entry = data[start + 2 + 12 * index : start + 14 + 12 * index]
        tag, kind, number, value = struct.unpack(order + "HHLL", entry)
        if tag not in _TIFF_TAGS:
            continue
        size = _TIFF_SIZES.get(kind, 8) * number
        if (size > 4 and value + size > len(data)) or (tag in _TIFF_SINGLE and number != 1):
            raise ValueError(f"TIFF tag {tag} with {number} values at {value}")
        kept.append(entry)
    out = bytearray(data)
    page = struct.pack(order + "H", len(kept)) + b"".join(kept) + b"\0\0\0\0"
    out[start : start + len(page)] = page
    return bytes(out)
