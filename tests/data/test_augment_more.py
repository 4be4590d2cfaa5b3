"""Crops, colours and policies: each row for itself, in range, nothing at zero, and Pillow's operations by name."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from fmjax.core.config import build, call, parse
from fmjax.core.errors import ConfigError
from fmjax.data import augment, augment_policy
from fmjax.data.augment_color import autocontrast, blur, equalize, invert, posterize, sharpness, solarize
from fmjax.data.augment_crop import center_crop, crop_box, random_resized_crop, resize
from fmjax.data.augment_policy import NAMES, OPERATIONS, operate, rand_augment, trivial_augment

KEY = jax.random.key(0)
X_BHWC = jax.random.uniform(jax.random.key(7), (6, 18, 16, 3))
ALL = {
    "random_resized_crop": random_resized_crop(),
    "smaller": random_resized_crop((7, 8)),
    "blur": blur((0.1, 1.0), 0.7),
    "solarize": solarize(0.5, 0.5),
    "posterize": posterize(2, 0.5),
    "equalize": equalize(0.5),
    "autocontrast": autocontrast(0.5),
    "invert": invert(0.5),
    "sharpness": sharpness(0.9),
    "hue": augment.color_jitter(hue=0.3),
    "sometimes": augment.color_jitter(0.4, p=0.5),
    "rand_augment": rand_augment(2, 15),
    "trivial_augment": trivial_augment(fill=0.5),
}
JITTED = {name: jax.jit(transform) for name, transform in ALL.items()}
IDENTITIES = {
    "random_resized_crop": random_resized_crop(scale=(1.0, 1.0), ratio=(16 / 18, 16 / 18)),
    "resize": resize((18, 16)),
    "center_crop": center_crop((18, 16)),
    "blur": blur((0.0, 0.0), 1.0),
    "blur_never": blur(p=0.0),
    "solarize": solarize(1.0, 1.0),
    "posterize": posterize(8, 1.0),
    "equalize": equalize(0.0),
    "autocontrast": autocontrast(0.0),
    "invert": invert(0.0),
    "sharpness": sharpness(0.0),
    "color_jitter": augment.color_jitter(0.5, 0.5, 0.5, 0.5, p=0.0),
    "rand_augment": rand_augment(0),
}
PICTURE = np.uint8(
    np.clip(ndimage.gaussian_filter(np.random.default_rng(0).normal(110, 300, (24, 20, 3)), (2, 2, 0)), 5, 250)
)
OPERATE = jax.jit(operate, static_argnums=3)


@pytest.mark.parametrize("name", sorted(ALL))
def test_values_stay_in_range_and_a_row_depends_on_the_key_its_place_and_itself_alone(name):
    out = np.asarray(JITTED[name](KEY, X_BHWC))
    assert out.shape == (6, *((7, 8) if name == "smaller" else (18, 16)), 3)
    assert out.dtype == X_BHWC.dtype
    assert out.min() >= 0
    assert out.max() <= 1
    assert out.shape != X_BHWC.shape or not np.array_equal(out, X_BHWC)
    assert not np.array_equal(out, JITTED[name](jax.random.key(1), X_BHWC))
    others = JITTED[name](KEY, jnp.concatenate([X_BHWC[:1], X_BHWC[:0:-1]]))
    np.testing.assert_array_equal(others[0], out[0])
    alike = JITTED[name](KEY, np.repeat(X_BHWC[:1], len(X_BHWC), 0))
    assert len({row.tobytes() for row in np.asarray(alike)}) > 1


def test_the_size_of_the_batch_changes_no_row():
    few = JITTED["sometimes"](KEY, X_BHWC[:2])
    np.testing.assert_allclose(few, JITTED["sometimes"](KEY, X_BHWC)[:2], atol=1e-6)


@pytest.mark.parametrize("name", sorted(IDENTITIES))
def test_identity_parameters_change_nothing(name):
    out = jax.jit(IDENTITIES[name])(KEY, X_BHWC)
    np.testing.assert_allclose(out, X_BHWC, atol=1e-6)


def test_half_precision_goes_in_and_comes_out():
    out = JITTED["posterize"](KEY, X_BHWC.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    assert 0 <= out.min() <= out.max() <= 1


def test_boxes_have_the_area_and_aspect_that_were_asked_for_and_reach_everywhere():
    keys = jax.random.split(KEY, 2000)
    boxes = jax.jit(jax.vmap(lambda k: jnp.stack(crop_box(k, (40, 60), (0.1, 0.6), (0.5, 2.0)))))(keys)
    top, left, height, width = np.asarray(boxes).T
    assert (np.asarray(boxes) == np.round(boxes)).all()
    assert min(top.min(), left.min()) == 0
    assert ((top + height).max(), (left + width).max()) == (40, 60)
    area = height * width / 2400
    np.testing.assert_allclose([area.min(), area.max()], [0.1, 0.6], atol=0.03)
    aspect = width / height
    assert 0.4 < aspect.min() < 0.6
    assert 1.8 < aspect.max() < 2.2
    assert abs(np.log(aspect).mean()) < 0.1  # as often tall as wide


@pytest.mark.parametrize(
    ("shape", "ratio", "wanted"), [((40, 10), (2.0, 2.0), (5, 10)), ((10, 40), (0.5, 0.5), (10, 5))]
)
def test_a_box_that_never_fits_is_the_middle_of_the_image(shape, ratio, wanted):
    top, left, height, width = (float(b) for b in crop_box(KEY, shape, (1.0, 1.0), ratio))
    assert (height, width) == wanted
    assert (top, left) == ((shape[0] - height) // 2, (shape[1] - width) // 2)


def test_resize_and_the_middle_are_pillows():
    image = np.uint8(np.asarray(X_BHWC[0]) * 255)
    theirs = np.asarray(Image.fromarray(image).resize((5, 6), Image.Resampling.BILINEAR), np.float32)
    ours = jax.jit(resize((6, 5)))(KEY, jnp.float32(image / 255)[None])[0] * 255
    assert np.abs(ours - theirs).max() <= 1.05
    np.testing.assert_array_equal(center_crop((4, 6))(KEY, X_BHWC), X_BHWC[:, 7:11, 5:11])


def moved(x, a, b, c, d, e, f):
    return Image.fromarray(x).transform(
        x.shape[1::-1], Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )


def enhanced(kind):
    return lambda x, amount: getattr(ImageEnhance, kind)(Image.fromarray(x)).enhance(1 + amount)


PILLOW = {
    "identity": (0.0, lambda x, _: x),
    "shear_x": (0.3, lambda x, m: moved(x, 1, m, 0, 0, 1, 0)),
    "shear_y": (-0.25, lambda x, m: moved(x, 1, 0, 0, m, 1, 0)),
    "translate_x": (-4.5, lambda x, m: moved(x, 1, 0, m, 0, 1, 0)),
    "translate_y": (3.0, lambda x, m: moved(x, 1, 0, 0, 0, 1, m)),
    "rotate": (25.0, lambda x, m: Image.fromarray(x).rotate(m, Image.Resampling.BILINEAR)),
    "brightness": (0.4, enhanced("Brightness")),
    "color": (-0.7, enhanced("Color")),
    "contrast": (0.8, enhanced("Contrast")),
    "sharpness": (0.9, enhanced("Sharpness")),
    "posterize": (3.0, lambda x, m: ImageOps.posterize(Image.fromarray(x), 8 - int(m))),
    "solarize": (100.0, lambda x, m: ImageOps.solarize(Image.fromarray(x), 256 - int(m))),
    "autocontrast": (0.0, lambda x, _: ImageOps.autocontrast(Image.fromarray(x))),
    "equalize": (0.0, lambda x, _: ImageOps.equalize(Image.fromarray(x))),
}


@pytest.mark.parametrize("name", NAMES)
def test_an_operation_of_the_policies_is_pillows(name):
    amount, pillow = PILLOW[name]
    image = jnp.float32(PICTURE / 255)
    ours = np.asarray(OPERATE(image, NAMES.index(name), amount)) * 255
    theirs = np.asarray(pillow(PICTURE, amount), np.float32)
    # At the border Pillow repeats half a pixel, and this blends with what is outside.
    geometric = NAMES.index(name) < NAMES.index("brightness")
    inside = np.asarray(OPERATE(jnp.ones_like(image), NAMES.index(name), amount)) > 0.999 if geometric else True
    assert np.mean(inside) > 0.5
    rounded_twice = name in ("color", "contrast", "sharpness")
    assert np.abs(np.where(inside, ours - theirs, 0)).max() <= (2 if rounded_twice else 1.01)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("autocontrast", "equalize")])
def test_an_operation_of_no_amount_is_the_identity(name):
    image = jnp.float32(PICTURE / 255)
    np.testing.assert_allclose(OPERATE(image, NAMES.index(name), 0.0), image, atol=1e-6)


def test_gray_images_take_part_in_the_policies():
    image = jnp.float32(PICTURE[..., :1] / 255)
    np.testing.assert_allclose(OPERATE(image, NAMES.index("color"), 0.5), image, atol=1e-6)
    theirs = ImageOps.equalize(Image.fromarray(PICTURE[..., 0]))
    np.testing.assert_allclose(OPERATE(image, NAMES.index("equalize"), 0.0)[..., 0] * 255, theirs, atol=1e-3)


def test_policies_draw_every_operation_with_either_sign_and_its_published_amount(monkeypatch):
    """What is asked of `operate`, over many keys."""
    monkeypatch.setattr(augment_policy, "operate", lambda image, which, amount, fill: jnp.stack([which, amount]))
    image, keys = jnp.zeros((66, 33, 3)), jax.random.split(KEY, 1000)
    for wide, strength in ((False, 0.5), (True, 1.0)):
        draw = functools.partial(augment_policy._drawn, image=image, strength=strength, wide=wide, fill=0.0)
        which, amount = np.asarray(jax.jit(jax.vmap(draw))(keys)).T
        assert set(which) == set(range(len(NAMES)))
        for i, (name, row) in enumerate(OPERATIONS.items()):
            largest = row[wide] * {"translate_x": 33, "translate_y": 66}.get(name, 1) ** (not wide)
            signs = (-1.0, 1.0) if row[2] else (1.0,)
            wanted = sorted(strength * largest * s for s in signs) if largest else [0.0]
            np.testing.assert_allclose(sorted(set(amount[which == i])), wanted, rtol=1e-6)


def test_a_config_names_a_policy_and_overrides_its_strength():
    config = call(rand_augment, number=1)
    parse(config, ["--config.number=0", "--config.magnitude=3.0"])
    np.testing.assert_array_equal(build(config)(KEY, X_BHWC), X_BHWC)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: random_resized_crop((0, 4)), "size=(0, 4)"),
        (lambda: random_resized_crop(scale=(0.5, 1.5)), "scale=(0.5, 1.5)"),
        (lambda: random_resized_crop(ratio=(2.0, 1.0)), "ratio=(2.0, 1.0)"),
        (lambda: resize((4.5, 4)), "size=(4.5, 4)"),
        (lambda: center_crop((19, 4))(KEY, X_BHWC), "have no middle of 19 x 4"),
        (lambda: blur((2.0, 1.0)), "sigma=(2.0, 1.0)"),
        (lambda: blur((0.0, math.inf)), "sigma=(0.0, inf)"),
        (lambda: solarize(-0.1), "threshold=-0.1"),
        (lambda: posterize(9), "bits=9"),
        (lambda: posterize(2.5), "bits=2.5"),
        (lambda: equalize(2), "p=2"),
        (lambda: autocontrast(-1), "p=-1"),
        (lambda: invert("x"), "p='x'"),
        (lambda: sharpness(2), "amount=2"),
        (lambda: augment.color_jitter(hue=0.6), "hue=0.6"),
        (lambda: augment.color_jitter(hue=0.1)(KEY, X_BHWC[..., :1]), "3 channels"),
        (lambda: rand_augment(magnitude=31), "magnitude=31"),
        (lambda: rand_augment(1.5), "number=1.5"),
        (lambda: trivial_augment(fill=3), "fill=3"),
        (lambda: trivial_augment()(KEY, X_BHWC[..., :2]), "1 or 3 channels"),
        (lambda: equalize()(KEY, jnp.zeros((2, 4, 4, 1), jnp.uint8)), "not uint8"),
    ],
)  # fmt: skip
def test_misuse_is_one_line_that_says_what_is_wrong(make, said):
    with pytest.raises(ConfigError) as error:
        make()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
