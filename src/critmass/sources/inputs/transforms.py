"""Image -> the pixels a network takes: its own evaluation transform, or the paper's augmentation of it.

A transform is a record, so that a store can say exactly what was done. Geometry is Pillow's, whose
results torchvision's and timm's transforms give too (tests); pixels stay bytes until they are a batch,
and are then scaled and normalised on the device.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, require

Pixels = NDArray[np.uint8]
"""Shape (height, width, 3)."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageTransform:
    """Resize, crop the centre, scale to [0, 1], normalise.

    Attributes
    ----------
    crop : (int, int)
        Height and width given to the network.
    resize : int, (int, int) or None
        The shorter side's length, or the height and width whatever the ratio, or no resizing.
    mean, std : three floats
        Of the channels, on the scale [0, 1].
    halves : "even" or "down"
        Where the crop starts when half a pixel is left over: rounded to even, as torchvision does, or down,
        as transformers does.
    """

    crop: tuple[int, int] = (224, 224)
    resize: int | tuple[int, int] | None = 256
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    halves: Literal["even", "down"] = "even"

    def describe(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def at(self, image_size: int | None) -> ImageTransform:
        """Return the transform for square images of another size, what is cropped away in proportion."""
        if image_size is None or (image_size, image_size) == self.crop:
            return self
        if not 16 <= image_size <= 4096:
            raise InputError("image_size", image_size, "16 to 4096 pixels")
        resize: int | tuple[int, int] | None
        if isinstance(self.resize, tuple):
            height, width = (
                round(side * image_size / crop) for side, crop in zip(self.resize, self.crop, strict=True)
            )
            resize = (height, width)
        else:
            resize = round((self.resize or min(self.crop)) * image_size / min(self.crop))
        return replace(self, crop=(image_size, image_size), resize=resize)

    def evaluate(self, image: Any) -> Pixels:
        """Return the evaluation view of an RGB image."""
        return np.asarray(_centre(self._resized(image), self.crop, self.halves))

    def augment(self, image: Any, draw: np.random.Generator) -> Pixels:
        """Return the training view that the authors' code makes, all chance from `draw`.

        RandomResizedCrop (8% to 100% of the area, ratio 3/4 to 4/3), horizontal flip, brightness,
        contrast and saturation x 0.75 to 1.25 in random order, rotation by up to 2 degrees.
        """
        pillow = require("PIL.Image", package="pillow", extra="vision", purpose="augmenting images")
        enhance = require("PIL.ImageEnhance", package="pillow", extra="vision", purpose="augmenting images")
        width, height = image.size
        left, top, width, height = _random_box(width, height, draw)
        image = image.crop((left, top, left + width, top + height))
        image = image.resize(self.crop[::-1], pillow.Resampling.BILINEAR)
        if draw.random() < 0.5:
            image = image.transpose(pillow.Transpose.FLIP_LEFT_RIGHT)
        enhancers = (enhance.Brightness, enhance.Contrast, enhance.Color)
        for index in draw.permutation(3):
            image = enhancers[index](image).enhance(draw.uniform(0.75, 1.25))
        return np.asarray(image.rotate(draw.uniform(-2.0, 2.0), pillow.Resampling.NEAREST))

    def _resized(self, image: Any) -> Any:
        if self.resize is None:
            return image
        pillow = require("PIL.Image", package="pillow", extra="vision", purpose="resizing images")
        width, height = image.size
        if isinstance(self.resize, tuple):
            size = self.resize[1], self.resize[0]
        elif width <= height:
            size = self.resize, int(self.resize * height / width)
        else:
            size = int(self.resize * width / height), self.resize
        return (
            image if size == image.size else image.resize(size, pillow.Resampling[self.interpolation.upper()])
        )


def _centre(image: Any, crop: tuple[int, int], halves: str) -> Any:
    """Return the centre of an image, black where the crop is larger than it."""
    (height, width), (w, h) = crop, image.size
    if (h, w) == crop:
        return image
    if h < height or w < width:
        pillow = require("PIL.Image", package="pillow", extra="vision", purpose="cropping images")
        padded = pillow.new(image.mode, (max(w, width), max(h, height)))
        padded.paste(image, (max(width - w, 0) // 2, max(height - h, 0) // 2))
        image, (w, h) = padded, padded.size
    start = round if halves == "even" else math.floor
    left, top = start((w - width) / 2), start((h - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _random_box(width: int, height: int, draw: np.random.Generator) -> tuple[int, int, int, int]:
    """Return left, top, width, height of torchvision's RandomResizedCrop at its default settings."""
    for _ in range(10):
        area = width * height * draw.uniform(0.08, 1.0)
        ratio = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(draw.integers(0, width - w + 1)), int(draw.integers(0, height - h + 1)), w, h
    ratio = min(max(width / height, 3 / 4), 4 / 3)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h
