"""RandAugment and TrivialAugment: every row draws its own operations from the published table.

Choosing by `lax.switch` under `vmap` would run all 14 branches. Here an operation is a set of amounts, nothing for
all but one: the five geometric ones are one affine warp, the four enhancements one step away from what each is
blended with, and the others tables or thresholds on levels.
"""

import math

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.data import augment, pixels
from fmjax.data.augment import Augment, check, per_example

# name: (largest amount of RandAugment, of TrivialAugment, whether the amount has either sign)
OPERATIONS: dict[str, tuple[float, float, bool]] = {
    "identity": (0.0, 0.0, False),
    "shear_x": (0.3, 0.99, True),  # columns a row
    "shear_y": (0.3, 0.99, True),
    "translate_x": (150 / 331, 32.0, True),  # part of the width; TrivialAugment: pixels
    "translate_y": (150 / 331, 32.0, True),
    "rotate": (30.0, 135.0, True),  # degrees
    "brightness": (0.9, 0.99, True),  # added to the factor 1 of Pillow's ImageEnhance
    "color": (0.9, 0.99, True),
    "contrast": (0.9, 0.99, True),
    "sharpness": (0.9, 0.99, True),
    "posterize": (4.0, 6.0, False),  # bits that are dropped
    "solarize": (256.0, 256.0, False),  # how far the threshold is below 256
    "autocontrast": (0.0, 0.0, False),
    "equalize": (0.0, 0.0, False),
}
NAMES = tuple(OPERATIONS)
STRENGTHS = 31  # magnitudes 0 to 30


def rand_augment(number: int = 2, magnitude: float = 9.0, fill: float = 0.0) -> Augment:
    """`number` operations drawn for every row, one after the other, all of one strength (arXiv:1909.13719).

    Args:
      number: operations on an image; 0 is the identity.
      magnitude: strength, 0 to 30, as torchvision's.
      fill: value of what comes in from outside.
    """
    check(number=(number, 0, math.inf), magnitude=(magnitude, 0, STRENGTHS - 1), fill=(fill, 0, 1))
    if number != int(number):
        raise ConfigError(f"number={number!r}: give a whole number of operations")

    def several(rng: jax.Array, image: jax.Array) -> jax.Array:
        for i in range(number):
            image = _drawn(jax.random.fold_in(rng, i), image, magnitude / (STRENGTHS - 1), False, fill)
        return image

    return per_example(several) if number else lambda rng, images: images


def trivial_augment(fill: float = 0.0) -> Augment:
    """One operation for every row, of a strength that is drawn too (wide; arXiv:2103.10158)."""
    check(fill=(fill, 0, 1))

    def one(rng: jax.Array, image: jax.Array) -> jax.Array:
        how, rng = jax.random.split(rng)
        return _drawn(rng, image, jax.random.randint(how, (), 0, STRENGTHS) / (STRENGTHS - 1), True, fill)

    return per_example(one)


def _drawn(rng: jax.Array, image: jax.Array, strength: jax.Array | float, wide: bool, fill: float) -> jax.Array:
    which, sign = jax.random.split(rng)
    which = jax.random.randint(which, (), 0, len(NAMES))
    largest = jnp.array([row[wide] for row in OPERATIONS.values()])[which]
    either = jnp.array([row[2] for row in OPERATIONS.values()])[which]
    amount = strength * largest * jnp.where(either & jax.random.bernoulli(sign), -1.0, 1.0)
    side = jnp.where(which == NAMES.index("translate_x"), image.shape[1], image.shape[0])
    moved = (which == NAMES.index("translate_x")) | (which == NAMES.index("translate_y"))
    return operate(image, which, amount if wide else jnp.where(moved, amount * side, amount), fill)


def operate(image: jax.Array, which: jax.Array | int, amount: jax.Array | float, fill: float = 0.0) -> jax.Array:
    """The operation NAMES[which] on an image (H, W, C); `amount` as in OPERATIONS, translations in pixels.

    Each is Pillow's up to rounding; geometric ones are bilinear. Zero is the identity for all but autocontrast and
    equalize, which have no amount.
    """
    if image.shape[-1] not in (1, 3):
        raise ConfigError(f"RandAugment and its kin need 1 or 3 channels, and these images have {image.shape[-1]}")

    def of(name: str) -> jax.Array:
        return jnp.where(which == NAMES.index(name), amount, 0.0)

    def among(*names: str) -> jax.Array:
        return sum((which == NAMES.index(name) for name in names), False) > 0

    angle, shear_x, shear_y = jnp.radians(of("rotate")), of("shear_x"), of("shear_y")
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    back = jnp.array([[cos, sin + shear_y], [-sin + shear_x, cos]])
    # Pillow shears around the corner of the image, which lies half the size away from the centre.
    corner = jnp.array([shear_y * image.shape[1], shear_x * image.shape[0]]) / 2
    x = augment.warp(image, back, corner + jnp.stack([of("translate_y"), of("translate_x")]), fill)

    gray = pixels.gray(x) if x.shape[-1] == 3 else x
    towards = jnp.where(among("color"), gray, jnp.where(among("contrast"), gray.mean(), 0.0))
    towards = jnp.where(among("sharpness"), pixels.smoothed(x), towards)
    enhanced = jnp.clip(towards + (x - towards) * (1 + amount), 0.0, 1.0)
    x = jnp.where(among("brightness", "color", "contrast", "sharpness"), enhanced, x)
    x = pixels.posterized(x, jnp.round(of("posterize")))
    x = pixels.solarized(x, jnp.round(256 - of("solarize")))
    x = jnp.where(among("autocontrast"), pixels.autocontrasted(x), x)
    return jnp.where(among("equalize"), pixels.equalized(x), x)
