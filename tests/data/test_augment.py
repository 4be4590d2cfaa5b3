"""Augmentation: what Pillow and scipy compute, row by row, and nothing at the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy import ndimage

from fmjax.core.config import build, call, parse
from fmjax.core.errors import ConfigError
from fmjax.data import augment

X_BHWC = jax.random.uniform(jax.random.key(7), (6, 12, 10, 3))
KEY = jax.random.key(0)
ALL = {
    "flip": augment.flip(),
    "padded_crop": augment.padded_crop(3),
    "affine": augment.affine(30, 20, 0.3, 0.2),
    "affine_fill": augment.affine(30, 20, 0.3, 0.2, fill=1.0),
    "erase": augment.erase(0.7),
    "color_jitter": augment.color_jitter(0.8, 0.8, 0.8),
    "grayscale": augment.grayscale(0.5),
    "noise": augment.noise(0.3),
    "compose": augment.compose((augment.flip(), augment.padded_crop(2), augment.color_jitter(0.5))),
}
JITTED = {name: jax.jit(transform) for name, transform in ALL.items()}
IDENTITIES = {
    "flip": augment.flip(0.0),
    "padded_crop": augment.padded_crop(0),
    "affine": augment.affine(),
    "affine_edge": augment.affine(edge=True),
    "affine_fill": augment.affine(fill=0.5),
    "erase": augment.erase(0.0),
    "color_jitter": augment.color_jitter(),
    "grayscale": augment.grayscale(0.0),
    "noise": augment.noise(0.0),
    "compose": augment.compose(()),
}
WARPS = {fill: jax.jit(lambda x, m, s, fill=fill: augment.warp(x, m, s, fill)) for fill in (0.0, 0.75, None)}


def apply(transform, images, key=KEY):
    return jax.jit(transform)(key, images)


@pytest.mark.parametrize("name", sorted(ALL))
def test_images_stay_in_range_keep_their_shape_and_change(name):
    out = JITTED[name](KEY, X_BHWC)
    assert (out.shape, out.dtype) == (X_BHWC.shape, X_BHWC.dtype)
    assert out.min() >= 0
    assert out.max() <= 1
    assert not np.array_equal(out, X_BHWC)
    np.testing.assert_array_equal(out, JITTED[name](KEY, X_BHWC))
    assert not np.array_equal(out, JITTED[name](jax.random.key(1), X_BHWC))


@pytest.mark.parametrize("name", sorted(IDENTITIES))
def test_identity_parameters_change_no_bit(name):
    np.testing.assert_array_equal(apply(IDENTITIES[name], X_BHWC), X_BHWC)


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_row_depends_on_the_key_its_place_and_itself_alone(name):
    whole = JITTED[name](KEY, X_BHWC)
    if name in ("affine", "compose", "noise"):  # not on the size of the batch
        np.testing.assert_allclose(JITTED[name](KEY, X_BHWC[:2]), whole[:2], atol=1e-6)
    others = JITTED[name](KEY, jnp.concatenate([X_BHWC[:1], X_BHWC[:0:-1]]))  # nor on the neighbours
    np.testing.assert_array_equal(others[0], whole[0])
    alike = JITTED[name](KEY, np.repeat(X_BHWC[:1], len(X_BHWC), 0))
    assert len({row.tobytes() for row in np.asarray(alike)}) > 1  # and rows draw for themselves


@pytest.mark.parametrize("name", ["affine", "compose", "erase"])
def test_half_precision_goes_in_and_comes_out(name):
    out = JITTED[name](KEY, X_BHWC.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    assert out.min() >= 0
    assert out.max() <= 1


def test_flip_exchanges_left_and_right_of_about_half_the_rows():
    x = jax.random.uniform(KEY, (400, 2, 3, 1))
    out = np.asarray(apply(augment.flip(0.25), x))
    flipped = (out == np.asarray(x)[:, :, ::-1]).all((1, 2, 3))
    assert ((out == np.asarray(x)).all((1, 2, 3)) != flipped).all()
    assert 60 < flipped.sum() < 140
    np.testing.assert_array_equal(apply(augment.flip(1.0, vertical=True), x), x[:, ::-1])


@pytest.mark.parametrize(("mode", "padding"), [("constant", 0.5), ("edge", None), ("reflect", None)])
def test_padded_crop_cuts_a_window_out_of_the_padded_image_anywhere(mode, padding):
    out = np.asarray(apply(augment.padded_crop(2, mode, padding or 0.0), jnp.repeat(X_BHWC[:1], 200, 0)))
    more = {"constant_values": padding} if padding else {}
    padded = np.pad(np.asarray(X_BHWC[0]), ((2, 2), (2, 2), (0, 0)), mode, **more)
    windows = {padded[i : i + 12, j : j + 10].tobytes(): (i, j) for i in range(5) for j in range(5)}
    seen = {windows[row.tobytes()] for row in out}
    assert {i for i, _ in seen} == {j for _, j in seen} == set(range(5))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1.5, 1.5), min_size=4, max_size=4),
    st.lists(st.floats(-6, 6), min_size=2, max_size=2),
    st.sampled_from([0.0, 0.75, None]),
)
def test_warp_is_scipys_affine_transform(matrix, shift, fill):
    matrix, shift = np.float32(matrix).reshape(2, 2), np.float32(shift)
    image = np.asarray(X_BHWC[0])
    centre = (np.array(image.shape[:2]) - 1) / 2
    ours = WARPS[fill](image, matrix, shift)
    mode = {"mode": "nearest"} if fill is None else {"mode": "grid-constant", "cval": fill}
    for channel in range(3):
        theirs = ndimage.affine_transform(
            image[..., channel].astype(np.float64),
            np.float64(matrix),
            centre + shift - matrix @ centre,
            order=1,
            **mode,
        )
        np.testing.assert_allclose(ours[..., channel], theirs, atol=2e-5)


def test_affine_draws_within_its_ranges_and_reaches_both_ends():
    """A blob's centre of mass and axes tell how far it was moved, turned and grown."""
    row, column = np.float32(np.mgrid[:41, :41]) - 20
    blob = np.exp(-(row**2) / 50 - column**2 / 8).astype(np.float32)[None, :, :, None].repeat(150, 0)

    def moments(x):
        x = np.asarray(x)[..., 0]
        mass = x.sum((1, 2))
        y, z = (x * row).sum((1, 2)) / mass, (x * column).sum((1, 2)) / mass
        turn = 0.5 * np.arctan2(2 * (x * row * column).sum((1, 2)), (x * (row**2 - column**2)).sum((1, 2)))
        return y, z, np.degrees(turn), np.sqrt(mass / blob[0].sum())

    y, x, _, _ = moments(apply(augment.affine(translate=0.1), blob))
    for shift in (y, x):
        np.testing.assert_allclose([shift.min(), shift.max()], [-4.1, 4.1], atol=0.3)
    turn = moments(apply(augment.affine(rotate=30), blob))[2]
    np.testing.assert_allclose([turn.min(), turn.max()], [-30, 30], atol=1.5)
    grown = moments(apply(augment.affine(zoom=0.2), blob))[3]
    np.testing.assert_allclose([grown.min(), grown.max()], [0.8, 1.2], atol=0.03)
    leaning = apply(augment.affine(shear=20), blob)
    y, x, turn, grown = moments(leaning)
    assert abs(turn).max() > 15
    assert turn.min() < 0 < turn.max()
    np.testing.assert_allclose(grown, 1, atol=0.02)  # leaning keeps the area
    np.testing.assert_allclose(np.asarray(leaning).sum((2, 3)), blob.sum((2, 3)), rtol=0.02, atol=0.02)  # and the rows


def test_erase_fills_one_rectangle_of_a_size_within_its_range():
    x = jnp.ones((200, 20, 30, 1))
    out = np.asarray(apply(augment.erase(0.6, (0.1, 0.2), (0.5, 2.0)), x))[..., 0]
    count = 0
    for image in out:
        rows, columns = (image == 0).any(1), (image == 0).any(0)
        if rows.any():
            count += 1
            height, width = rows.sum(), columns.sum()
            assert (image[np.ix_(rows, columns)] == 0).all()
            assert np.ptp(np.flatnonzero(rows)) == height - 1
            assert np.ptp(np.flatnonzero(columns)) == width - 1
            assert 0.08 <= height * width / 600 <= 0.23
            assert 0.4 <= height / width <= 2.4
    assert 90 < count < 150
    reached = (out == 0).any(0)
    assert reached.any(1).all()
    assert reached.any(0).all()


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_enhance_is_pillows(name, factor):
    image = np.round(np.asarray(X_BHWC[0]) * 255).astype(np.uint8)
    kind = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color"}[name]
    theirs = np.asarray(getattr(ImageEnhance, kind)(Image.fromarray(image)).enhance(factor))
    ours = augment.enhance(jnp.float32(image / 255), **{name: jnp.float32(factor)})
    assert np.abs(np.asarray(ours) * 255 - theirs).max() <= 2  # Pillow rounds to whole levels on its way


def test_color_jitter_draws_its_factors_within_range():
    x = jnp.full((300, 2, 2, 1), 0.5)
    levels = np.asarray(apply(augment.color_jitter(brightness=0.4), x))[:, 0, 0, 0] / 0.5
    np.testing.assert_allclose([levels.min(), levels.max()], [0.6, 1.4], atol=0.02)


def test_grayscale_is_pillows_luma_in_three_channels():
    image = np.round(np.asarray(X_BHWC) * 255).astype(np.uint8)
    ours = np.asarray(apply(augment.grayscale(1.0), jnp.float32(image / 255))) * 255
    for row, out in zip(image, ours):
        assert np.abs(out - np.asarray(Image.fromarray(row).convert("L"))[..., None]).max() <= 1


def test_noise_has_its_standard_deviation():
    x = jnp.full((4, 32, 32, 3), 0.5)
    added = apply(augment.noise(0.1), x) - x
    assert abs(added.mean()) < 0.005
    assert added.std() == pytest.approx(0.1, rel=0.05)


def test_transforms_in_a_composition_draw_from_keys_of_their_own():
    gray = jnp.full((1, 8, 8, 1), 0.5)
    both = apply(augment.compose((augment.noise(0.01), augment.noise(0.01))), gray) - gray
    first = apply(augment.noise(0.01), gray, jax.random.fold_in(KEY, 0)) - gray
    assert abs(np.corrcoef((both - first).ravel(), first.ravel())[0, 1]) < 0.5


def test_a_config_names_it_and_overrides_its_options():
    config = call(augment.compose, transforms=(call(augment.flip, p=1), call(augment.padded_crop, pad=0)))
    parse(config, ["--config.transforms[0].p=0.0"])
    np.testing.assert_array_equal(build(config)(KEY, X_BHWC), X_BHWC)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: augment.flip(1.5), "p=1.5"),
        (lambda: augment.padded_crop(-1), "pad=-1"),
        (lambda: augment.padded_crop(1.5), "pad=1.5"),
        (lambda: augment.padded_crop(2, "wrap"), "mode='wrap'"),
        (lambda: augment.padded_crop(10, "reflect")(KEY, X_BHWC), "pad=10 cannot be reflected"),
        (lambda: augment.affine(rotate=-5), "rotate=-5"),
        (lambda: augment.affine(zoom=1.0), "zoom=1.0"),
        (lambda: augment.affine(shear=90), "shear=90"),
        (lambda: augment.affine(fill=float("nan")), "fill=nan"),
        (lambda: augment.erase(area=(0.5, 0.1)), "area=(0.5, 0.1)"),
        (lambda: augment.erase(aspect=(0.0, 1.0)), "aspect=(0.0, 1.0)"),
        (lambda: augment.color_jitter(saturation=2), "saturation=2"),
        (lambda: augment.noise("0.1"), "std='0.1'"),
        (lambda: augment.grayscale()(KEY, X_BHWC[..., :1]), "3 channels"),
        (lambda: augment.color_jitter(saturation=0.1)(KEY, X_BHWC[..., :1]), "3 channels"),
        (lambda: augment.flip()(KEY, jnp.zeros((2, 4, 4, 1), jnp.uint8)), "not uint8"),
        (lambda: augment.flip()(KEY, X_BHWC[0]), "shape (B, H, W, C)"),
    ],
)
def test_misuse_is_one_line_that_says_what_is_wrong(make, said):
    with pytest.raises(ConfigError) as error:
        make()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
