"""Images as networks take them, against torchvision on Pillow images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import transforms as tv
from torchvision.transforms import functional

import critmass as cm
from critmass.sources.inputs.transforms import ImageTransform, _random_box

SIZES = [(37, 53), (64, 64), (201, 97), (97, 201), (333, 500), (225, 224), (20, 400), (31, 30)]


def picture(width, height, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("resize", [32, 35, (40, 33), None])
def test_evaluation_is_torchvisions_to_the_byte(size, interpolation, resize):
    image = picture(*size)
    ours = ImageTransform(crop=(32, 29), resize=resize, interpolation=interpolation).evaluate(image)
    mode = functional.InterpolationMode(interpolation)
    steps = [tv.CenterCrop((32, 29))]
    if resize is not None:
        steps.insert(0, tv.Resize(resize, interpolation=mode))
    np.testing.assert_array_equal(ours, np.asarray(tv.Compose(steps)(image)))


def test_a_crop_larger_than_the_image_is_padded_as_torchvision_pads():
    for size in SIZES:
        image = picture(*size)
        ours = ImageTransform(crop=(131, 250), resize=None).evaluate(image)
        np.testing.assert_array_equal(ours, np.asarray(tv.CenterCrop((131, 250))(image)))


def test_half_a_pixel_left_over_is_rounded_as_asked():
    image = picture(35, 35)
    pixels = np.asarray(image)
    even = ImageTransform(crop=(32, 32), resize=None).evaluate(image)
    down = ImageTransform(crop=(32, 32), resize=None, halves="down").evaluate(image)
    np.testing.assert_array_equal(even, pixels[2:34, 2:34])
    np.testing.assert_array_equal(down, pixels[1:33, 1:33])


class TestAnotherSize:
    def test_the_part_cropped_away_stays_in_proportion(self):
        assert ImageTransform().at(112).resize == 128
        assert ImageTransform().at(112).crop == (112, 112)
        assert ImageTransform(resize=(240, 240)).at(448).resize == (480, 480)
        assert ImageTransform(resize=None).at(64).resize == 64

    def test_its_own_size_is_itself(self):
        assert ImageTransform().at(224) == ImageTransform().at(None) == ImageTransform()

    @pytest.mark.parametrize("size", [0, 15, 4097, -32])
    def test_absurd_sizes_are_refused(self, size):
        with pytest.raises(cm.InputError, match=rf"image_size: found {size}; allowed: 16 to 4096 pixels"):
            ImageTransform().at(size)


class Recorded:
    """A generator that keeps what it draws."""

    def __init__(self, seed):
        self.rng, self.draws = np.random.default_rng(seed), []

    def __getattr__(self, name):
        def draw(*arguments):
            self.draws.append(value := getattr(self.rng, name)(*arguments))
            return value

        return draw


class TestAugmentation:
    transform = ImageTransform(crop=(48, 48))

    def test_the_same_state_gives_the_same_pixels(self):
        image = picture(97, 201)
        for seed in range(5):
            first, second = (self.transform.augment(image, np.random.default_rng(seed)) for _ in range(2))
            np.testing.assert_array_equal(first, second)
            assert first.shape == (48, 48, 3)
            assert first.dtype == np.uint8

    def test_another_state_gives_others(self):
        image = picture(97, 201)
        views = {self.transform.augment(image, np.random.default_rng(seed)).tobytes() for seed in range(20)}
        assert len(views) == 20

    @pytest.mark.parametrize("seed", range(24))
    def test_every_step_is_torchvisions(self, seed):
        image = picture(97, 201, seed)
        draw = Recorded(seed)
        ours = self.transform.augment(image, draw)
        left, top, width, height = _random_box(97, 201, np.random.default_rng(seed))
        flip, order, *factors, angle = draw.draws[-6:]
        view = functional.resized_crop(image, top, left, height, width, [48, 48])
        view = functional.hflip(view) if flip < 0.5 else view
        adjust = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
        for step, factor in zip(order, factors, strict=True):
            view = adjust[step](view, factor)
        np.testing.assert_array_equal(ours, np.asarray(functional.rotate(view, angle)))

    def test_the_ranges_are_the_authors(self):
        draws = []
        for seed in range(300):
            draw = Recorded(seed)
            self.transform.augment(picture(40, 30), draw)
            draws.append(draw.draws[-6:])
        flips, orders, *factors, angles = zip(*draws, strict=True)
        assert 0.4 < np.mean(np.array(flips) < 0.5) < 0.6
        assert len({tuple(order) for order in orders}) == 6
        for values, low, high in ((np.ravel(factors), 0.75, 1.25), (np.array(angles), -2.0, 2.0)):
            assert (
                ks_2samp(values, np.random.default_rng(1).uniform(low, high, 20_000), method="asymp").pvalue
                > 1e-3
            )


@pytest.mark.parametrize("size", [(64, 64), (100, 37), (30, 200), (400, 25)])
def test_boxes_follow_the_law_of_random_resized_crop(size):
    rng = np.random.default_rng(3)
    ours = np.array([_random_box(*size, rng) for _ in range(4000)])
    torch.manual_seed(3)
    image = Image.new("RGB", size)
    theirs = np.array(
        [tv.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    )[:, [1, 0, 3, 2]]
    for name, a, b in zip(("left", "top", "width", "height"), ours.T, theirs.T, strict=True):
        assert ks_2samp(a, b, method="asymp").pvalue > 1e-3, name
    inside = (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= size).all()
    assert inside
