"""Augmentation that changes the size of images: random-resized crop, resize, centre crop."""

import math

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.data.augment import Augment, per_example
from fmjax.data.pixels import cut

ATTEMPTS = 10  # as torchvision: a box that does not fit is drawn again, and after so many the middle is taken


def random_resized_crop(
    size: tuple[int, int] | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Augment:
    """A random part of the image, of random area and aspect, at one size (Szegedy et al., arXiv:1409.4842).

    Bilinear with antialiasing, as Pillow's; boxes are drawn as torchvision's RandomResizedCrop draws them.

    Args:
      size: (height, width) of the result; None keeps that of the input.
      scale: least and largest part of the area.
      ratio: least and largest width over height, drawn evenly in its logarithm.
    """
    _check_size(size)
    for name, pair, high in (("scale", scale, 1.0), ("ratio", ratio, math.inf)):
        if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= high:
            raise ConfigError(f"{name}={pair!r}: give (least, largest), both > 0" + (" and <= 1" if high == 1 else ""))

    def crop(rng: jax.Array, image: jax.Array) -> jax.Array:
        return cut(image, crop_box(rng, image.shape[:2], scale, ratio), size or image.shape[:2])

    return per_example(crop)


def crop_box(
    rng: jax.Array, shape: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(top, left, height, width) in whole pixels of a random part of an image of `shape`; see above."""
    H, W = shape
    area, aspect, *place = jax.random.uniform(rng, (4, ATTEMPTS))
    area = (scale[0] + (scale[1] - scale[0]) * area) * H * W
    aspect = jnp.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * aspect)
    height, width = jnp.round(jnp.sqrt(area / aspect)), jnp.round(jnp.sqrt(area * aspect))
    fits = (height >= 1) & (height <= H) & (width >= 1) & (width <= W)
    middle = (min(H, round(W / ratio[0])), min(W, round(H * ratio[1])))
    first, found = jnp.argmax(fits), fits.any()
    height, width = (jnp.where(found, x[first], max(m, 1)) for x, m in zip((height, width), middle, strict=True))
    y, x = (p[first] for p in place)
    top = jnp.where(found, jnp.floor(y * (H - height + 1)), jnp.floor((H - height) / 2))
    left = jnp.where(found, jnp.floor(x * (W - width + 1)), jnp.floor((W - width) / 2))
    return top, left, height, width


def resize(size: tuple[int, int]) -> Augment:
    """Every image at `size` (height, width), bilinear with antialiasing; the aspect is not kept."""
    _check_size(size)
    return per_example(lambda rng, x: x if x.shape[:2] == tuple(size) else cut(x, (0, 0, *x.shape[:2]), size))


def center_crop(size: tuple[int, int]) -> Augment:
    """The middle of every image, of `size` (height, width)."""
    _check_size(size)

    def middle(rng: jax.Array, image: jax.Array) -> jax.Array:
        top, left = (have - want for have, want in zip(image.shape, size))
        if min(top, left) < 0:
            raise ConfigError(f"images of {image.shape[0]} x {image.shape[1]} have no middle of {size[0]} x {size[1]}")
        return image[top // 2 : top // 2 + size[0], left // 2 : left // 2 + size[1]]

    return per_example(middle)


def _check_size(size: tuple[int, int] | None) -> None:
    if size is not None and (len(size) != 2 or any(s != int(s) or s < 1 for s in size)):
        raise ConfigError(f"size={size!r}: give (height, width) in whole pixels")
