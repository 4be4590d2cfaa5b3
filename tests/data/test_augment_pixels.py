"""Operations on one image: what Pillow, scipy and colorsys compute, and nothing at zero."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage

from fmjax.core.errors import ConfigError
from fmjax.data import pixels

RNG = np.random.default_rng(0)
PICTURE = np.uint8(np.clip(ndimage.gaussian_filter(RNG.normal(110, 300, (21, 17, 3)), (2, 2, 0)), 20, 240))
FLAT = np.full((9, 8, 3), 77, np.uint8)
TWO = np.uint8(RNG.integers(0, 2, (9, 8, 3)) * 40 + 100)
NOISE = np.uint8(RNG.integers(0, 256, (40, 30, 3)))
CUT = jax.jit(pixels.cut, static_argnums=2)


def ours(operation, image, *amounts):
    return np.asarray(jax.jit(operation)(jnp.float32(image / 255), *amounts)) * 255


@pytest.mark.parametrize("image", [PICTURE, FLAT, TWO, NOISE], ids=["picture", "flat", "two", "noise"])
@pytest.mark.parametrize(
    ("operation", "amounts", "pillow", "levels"),
    [
        (lambda x: pixels.solarized(x, 100), (), lambda i: ImageOps.solarize(i, 100), 0),
        (pixels.posterized, (5,), lambda i: ImageOps.posterize(i, 3), 0),
        (pixels.equalized, (), ImageOps.equalize, 0),
        (pixels.autocontrasted, (), ImageOps.autocontrast, 1),  # Pillow cuts what this keeps
        (pixels.smoothed, (), lambda i: i.filter(ImageFilter.SMOOTH), 0.51),
        (pixels.gray, (), lambda i: i.convert("L"), 0.51),
    ],
    ids=["solarized", "posterized", "equalized", "autocontrasted", "smoothed", "gray"],
)
def test_an_operation_is_pillows(operation, amounts, pillow, levels, image):
    theirs = np.asarray(pillow(Image.fromarray(image)), np.float32).reshape(*image.shape[:2], -1)
    np.testing.assert_allclose(ours(operation, image, *amounts), theirs, atol=levels + 1e-3)


def test_zero_amounts_change_no_bit():
    image = jnp.float32(NOISE / 255)
    np.testing.assert_array_equal(pixels.solarized(image, 256), image)
    np.testing.assert_array_equal(pixels.posterized(image, 0), image)
    np.testing.assert_array_equal(pixels.blurred(image, 0.0, 3), image)
    np.testing.assert_array_equal(pixels.hue_turned(image, 0.0), image)
    np.testing.assert_allclose(pixels.sharpened(image, 1.0), image, atol=1e-6)
    np.testing.assert_allclose(CUT(image, (0, 0, 40, 30), (40, 30)), image, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.3])
def test_blur_is_scipys_mirrored_gaussian_filter_and_close_to_pillows(sigma):
    new = ours(lambda x: pixels.blurred(x, sigma, 4), PICTURE)
    wanted = ndimage.gaussian_filter(np.float64(PICTURE), (sigma, sigma, 0), mode="mirror", radius=(4, 4, 0))
    np.testing.assert_allclose(new, wanted, atol=1e-2)
    pillow = np.asarray(Image.fromarray(PICTURE).filter(ImageFilter.GaussianBlur(sigma)), np.float32)
    assert np.abs(new - pillow)[4:-4, 4:-4].max() < 5  # three boxes for a bell, and another border


def test_a_blur_wider_than_the_image_stays_in_range():
    small = jnp.float32(NOISE[:3, :2] / 255)
    out = pixels.blurred(small, 5.0, 9)
    assert np.isfinite(out).all()
    assert out.min() >= small.min() - 1e-6
    assert out.max() <= small.max() + 1e-6
    assert np.ptp(out) < np.ptp(small) / 2


@pytest.mark.parametrize("turn", [0.1, -0.4, 0.5])
def test_hue_is_turned_as_colorsys_turns_it(turn):
    few = NOISE[:6, :6] / 255
    few[0] = few[0, :, :1]  # gray has no hue, and stays
    wanted = [
        colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in (colorsys.rgb_to_hsv(*p) for p in few.reshape(-1, 3))
    ]
    new = ours(pixels.hue_turned, few * 255, turn)
    np.testing.assert_allclose(new.reshape(-1, 3) / 255, wanted, atol=1e-5)
    hsv = np.array(Image.fromarray(NOISE).convert("HSV"))
    hsv[..., 0] += np.uint8(round(turn * 255) % 256)
    pillow = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"), np.float32)
    assert np.abs(ours(pixels.hue_turned, NOISE, turn) - pillow).mean() < 2  # Pillow has 256 hues


@pytest.mark.parametrize("size", [(12, 11), (40, 30), (55, 64)])
@settings(max_examples=15, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_cut_is_pillows_crop_and_resize(size, y, x, tall, wide):
    height, width = 1 + int(tall * 39), 1 + int(wide * 29)
    top, left = int(y * (40 - height)), int(x * (30 - width))
    crop = Image.fromarray(NOISE).crop((left, top, left + width, top + height))
    theirs = np.asarray(crop.resize(size[::-1], Image.Resampling.BILINEAR), np.float32)
    new = CUT(jnp.float32(NOISE / 255), tuple(jnp.float32(b) for b in (top, left, height, width)), size)
    assert np.abs(np.asarray(new) * 255 - theirs).max() <= 1.05  # Pillow rounds between the axes


@pytest.mark.parametrize("operation", [pixels.gray, lambda x: pixels.hue_turned(x, 0.1)])
def test_colours_need_three_channels(operation):
    with pytest.raises(ConfigError, match="3 channels, and these images have 4"):
        operation(jnp.zeros((3, 3, 4)))
