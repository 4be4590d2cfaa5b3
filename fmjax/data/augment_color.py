"""Augmentation of colours and edges, each with a probability a row: blur, solarize, posterize, equalize and others."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.data import pixels
from fmjax.data.augment import Augment, check, per_example


def blur(sigma: tuple[float, float] = (0.1, 2.0), p: float = 0.5) -> Augment:
    """Gaussian blur with probability `p`, of `sigma` pixels drawn evenly from (least, largest), cut off at 3 sigma."""
    check(p=(p, 0, 1))
    if len(sigma) != 2 or not 0 <= sigma[0] <= sigma[1] < math.inf:
        raise ConfigError(f"sigma={sigma!r}: give (least, largest) in pixels, both >= 0")
    radius = math.ceil(3 * sigma[1])

    def soften(rng: jax.Array, image: jax.Array) -> jax.Array:
        yes, amount = jax.random.uniform(rng, (2,))
        drawn = jnp.where(yes < p, sigma[0] + (sigma[1] - sigma[0]) * amount, 0.0)
        return pixels.blurred(image, drawn, radius)

    return per_example(soften)


def solarize(threshold: float = 0.5, p: float = 0.2) -> Augment:
    """What is brighter than `threshold`, in [0, 1], is inverted with probability `p`."""
    check(threshold=(threshold, 0, 1), p=(p, 0, 1))
    return _sometimes(p, lambda x: pixels.solarized(x, round(256 * threshold)))


def posterize(bits: int = 4, p: float = 0.2) -> Augment:
    """Only the `bits` highest bits of each level are kept with probability `p`; 8 keep all."""
    check(bits=(bits, 0, 8), p=(p, 0, 1))
    if bits != int(bits):
        raise ConfigError(f"bits={bits!r}: give a whole number from 0 to 8")
    return _sometimes(p, lambda x: pixels.posterized(x, 8 - bits))


def equalize(p: float = 0.2) -> Augment:
    """The histogram of every channel is made even with probability `p`."""
    check(p=(p, 0, 1))
    return _sometimes(p, pixels.equalized)


def autocontrast(p: float = 0.2) -> Augment:
    """Every channel is stretched over the whole range with probability `p`."""
    check(p=(p, 0, 1))
    return _sometimes(p, pixels.autocontrasted)


def invert(p: float = 0.2) -> Augment:
    """Dark and bright are exchanged with probability `p`."""
    check(p=(p, 0, 1))
    return _sometimes(p, lambda x: 1 - x)


def sharpness(amount: float = 0.5) -> Augment:
    """Edges times a factor in [1 - amount, 1 + amount]; as Pillow's ImageEnhance.Sharpness."""
    check(amount=(amount, 0, 1))
    return per_example(
        lambda rng, x: pixels.sharpened(x, 1 + amount * jax.random.uniform(rng, minval=-1.0)) if amount else x
    )


def _sometimes(p: float, change: Callable[[jax.Array], jax.Array]) -> Augment:
    return per_example(lambda rng, x: jnp.where(jax.random.bernoulli(rng, p), change(x), x))
