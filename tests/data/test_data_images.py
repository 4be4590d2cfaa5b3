"""Decoding: the pixels are those that Pillow gives, upright and in 8 bits; what is no image is one line."""

import io
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fmjax.core.errors import ConfigError, DataError
from fmjax.data import images
from fmjax.data.images import Decode, Unreadable
from fmjax.data.source import identity

RNG = np.random.default_rng(0)
PHOTO = np.array(Image.fromarray(RNG.integers(0, 256, (9, 14, 3), np.uint8)).resize((280, 180), 2))


def saved(image, kind="PNG", **more):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    return exif


def by_pillow(raw, mode, size, box=None):
    """Every step spelled out: open, turn, convert, resize, crop."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(raw))).convert(mode)
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR).crop(box or (0, 0, *size)))
    return pixels.reshape(*pixels.shape[:2], -1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright_before_they_are_resized_and_cropped(orientation):
    raw = saved(PHOTO, "JPEG", exif=turned(orientation), quality=95)
    high = orientation in images.SIDEWAYS
    size, box = ((32, 50), (2, 11, 30, 39)) if high else ((50, 32), (11, 2, 39, 30))
    # 180 x 280 with a shorter side of 32: the longer one is 49.8, rounded to 50.
    decode = Decode(size=(28, 28), shorter=32, draft=False)
    np.testing.assert_array_equal(decode.pixels(raw), by_pillow(raw, "RGB", size, box))
    assert Decode().size_of(raw) == ((280, 180) if high else (180, 280)) == Decode().pixels(raw).shape[:2]


def test_without_a_size_the_pixels_are_those_of_the_file():
    np.testing.assert_array_equal(Decode().pixels(saved(PHOTO)), PHOTO)
    np.testing.assert_array_equal(
        Decode(shorter=90, draft=False).pixels(saved(PHOTO)), by_pillow(saved(PHOTO), "RGB", (140, 90))
    )
    np.testing.assert_array_equal(
        Decode((20, 20), fit="stretch", draft=False).pixels(saved(PHOTO)), by_pillow(saved(PHOTO), "RGB", (20, 20))
    )
    covered = by_pillow(saved(PHOTO), "RGB", (62, 40), (11, 0, 51, 40))
    np.testing.assert_array_equal(Decode((40, 40), draft=False).pixels(saved(PHOTO)), covered)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_colour_becomes_rgb_or_grey_as_pillow_converts_it(mode, channels):
    source = Image.fromarray(PHOTO).convert(mode)
    raw = saved(source, "JPEG" if mode == "CMYK" else "PNG")
    expected = np.asarray(Image.open(io.BytesIO(raw)).convert(images.MODES[channels])).reshape(180, 280, channels)
    np.testing.assert_array_equal(Decode(channels=channels).pixels(raw), expected)


def test_sixteen_bits_keep_the_upper_eight_and_numbers_beyond_are_refused():
    ramp = np.arange(0, 1 << 16, 64, dtype=np.uint16).reshape(32, 32)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(Decode(channels=1).pixels(saved(ramp, kind))[..., 0], ramp >> 8)
    with pytest.raises(Unreadable, match="from 0 to 70000: images of 8 or 16 bits"):
        Decode().pixels(saved(np.array([[0, 70000]], np.int32), "TIFF"), "x.tif")
    with pytest.raises(Unreadable, match="floating-point"):
        Decode().pixels(saved(np.zeros((2, 2), np.float32), "TIFF"), "x.tif")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 12), st.integers(1, 12), st.integers(0, 9))
def test_whatever_the_image_the_size_is_the_one_asked_for(height, width, h, w, more):
    raw = saved(np.zeros((height, width), np.uint8))
    for decode in (Decode((h, w)), Decode((h, w), fit="stretch"), Decode((h, w), shorter=max(h, w) + more)):
        assert decode.pixels(raw).shape == (h, w, 3) == (*decode.size_of(raw), 3)


def test_a_draft_of_a_large_jpeg_is_close_and_all_else_is_untouched():
    large = np.asarray(Image.fromarray(PHOTO).resize((1120, 720)))
    raw = saved(large, "JPEG", quality=95, exif=turned(6))
    whole, draft = (Decode((32, 32), shorter=40, draft=d).pixels(raw).astype(int) for d in (False, True))
    assert 0 < np.abs(whole - draft).mean() < 2
    for small in (saved(PHOTO, "JPEG"), saved(PHOTO)):
        np.testing.assert_array_equal(*(Decode((90, 140), draft=d).pixels(small) for d in (False, True)))


def test_an_image_of_too_many_pixels_is_refused_by_its_header(monkeypatch):
    monkeypatch.setattr(images, "LARGEST", 50_000)
    with pytest.raises(Unreadable, match=r"big.png has 280x180 pixels, more than 50000: it is not decoded"):
        Decode().pixels(saved(PHOTO), "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    with pytest.raises(Unreadable, match="decompression bomb"):
        Decode().size_of(saved(PHOTO), "big.png")


FILES = [saved(PHOTO[:20, :20], kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(FILES), st.data())
def test_any_damage_gives_pixels_or_one_line(raw, data):
    raw = bytearray(raw[: data.draw(st.integers(0, len(raw)))])
    for at in data.draw(st.lists(st.integers(0, max(len(raw) - 1, 0)), max_size=6)):
        if raw:
            raw[at] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's, about metadata
        try:
            said, shape = "x ", Decode((8, 8)).pixels(bytes(raw), "x").shape
        except Unreadable as error:
            said, shape = str(error), (8, 8, 3)
    assert shape == (8, 8, 3)
    assert said.startswith("x ")
    assert "\n" not in said


def test_settings_that_make_no_sense_are_refused():
    for settings_, said in [
        ({"channels": 2}, "1 or 3 channels"),
        ({"size": (3,)}, "height, width"),
        ({"fit": "strech"}, "did you mean 'stretch'"),
        ({"fit": "stretch"}, "wants a size"),
        ({"size": (9, 9), "shorter": 8}, "leaves no crop"),
        ({"shorter": 0}, "at least 1"),
    ]:
        with pytest.raises(ConfigError, match=said):
            Decode(**settings_)
    with pytest.raises(DataError, match="give the source decode=None"):
        Decode()({"image": PHOTO}, RNG)
    assert pickle.loads(pickle.dumps(Decode((4, 4)))) == Decode((4, 4))
    assert identity(Decode()) != identity(Decode((4, 4)))
