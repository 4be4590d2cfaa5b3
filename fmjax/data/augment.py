"""Augmentation on the device: factories that give `(rng, images) -> images`, to run inside the jitted step.

Images are floating point in [0, 1], (B, H, W, C), and stay so. Every row draws for itself: what happens to row
i depends on the key, on i and on that row, not on its neighbours, the batch's size or the mesh. Coordinates and
colours are computed in float32 whatever the dtype; the result has the dtype of the input.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.data import pixels

Augment = Callable[[jax.Array, jax.Array], jax.Array]


def compose(transforms: tuple[Augment, ...] = ()) -> Augment:
    """One after the other, each with its own key."""

    def apply(rng: jax.Array, images: jax.Array) -> jax.Array:
        for i, transform in enumerate(transforms):
            images = transform(jax.random.fold_in(rng, i), images)
        return images

    return apply


def per_example(transform: Augment) -> Augment:
    """`transform(key, image (H, W, C) float32)` on every row of a batch, with a key of its own."""

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        return transform(key, image.astype(jnp.float32)).astype(image.dtype)

    def apply(rng: jax.Array, images: jax.Array) -> jax.Array:
        if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
            raise ConfigError(
                f"augmentation takes floating-point images in [0, 1] of shape (B, H, W, C), not {images.dtype} "
                f"{images.shape}: convert them first"
            )
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, jnp.arange(images.shape[0]))
        return jax.vmap(one)(keys, images)

    return apply


def flip(p: float = 0.5, vertical: bool = False) -> Augment:
    """Left and right exchanged with probability `p`; top and bottom with `vertical`."""
    check(p=(p, 0, 1))
    return per_example(lambda rng, x: jnp.where(jax.random.bernoulli(rng, p), x[::-1] if vertical else x[:, ::-1], x))


def padded_crop(pad: int = 4, mode: str = "constant", fill: float = 0.0) -> Augment:
    """Pad by `pad` pixels on every side, and cut the old size out at a random place.

    Args:
      pad: pixels.
      mode: what the padding holds: "constant" (`fill`), "edge" (the nearest pixel) or "reflect".
      fill: its value in mode "constant".
    """
    check(pad=(pad, 0, math.inf), fill=(fill, 0, 1))
    if pad != int(pad):
        raise ConfigError(f"pad={pad!r}: give a whole number of pixels")
    if mode not in ("constant", "edge", "reflect"):
        raise ConfigError(f"mode={mode!r}: give constant, edge or reflect")
    values = {"constant_values": fill} if mode == "constant" else {}

    def crop(rng: jax.Array, image: jax.Array) -> jax.Array:
        if mode == "reflect" and pad >= min(image.shape[:2]):
            raise ConfigError(f"pad={pad} cannot be reflected in images of {image.shape[0]} x {image.shape[1]}")
        padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode, **values)
        top, left = jax.random.randint(rng, (2,), 0, 2 * pad + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return per_example(crop)


def affine(
    rotate: float = 0.0,
    shear: float = 0.0,
    zoom: float = 0.0,
    translate: float = 0.0,
    fill: float = 0.0,
    edge: bool = False,
) -> Augment:
    """Turn, slant, zoom and shift by amounts drawn evenly from a range around nothing; bilinear.

    Args:
      rotate: degrees, to either side.
      shear: degrees by which vertical lines lean, to either side.
      zoom: the image grows by a factor in [1 - zoom, 1 + zoom].
      translate: part of the height and the width, in all directions.
      fill: value of what comes in from outside.
      edge: repeat the nearest pixel there instead.
    """
    check(rotate=(rotate, 0, 180), zoom=(zoom, 0, 0.99), translate=(translate, 0, 1), fill=(fill, 0, 1))
    check(shear=(shear, 0, 80))

    if not (rotate or shear or zoom or translate):
        return lambda rng, images: images  # free, so that a config can hold one for overrides to turn on

    def move(rng: jax.Array, image: jax.Array) -> jax.Array:
        turn, slant, grow, *shift = jax.random.uniform(rng, (5,), minval=-1.0, maxval=1.0)
        angle, lean, size = math.radians(rotate) * turn, jnp.tan(math.radians(shear) * slant), 1 + zoom * grow
        # The inverse of rotate @ shear @ zoom: a pixel of the result asks where it comes from.
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        back = jnp.array([[cos, sin], [-sin - lean * cos, cos - lean * sin]]) / size
        extent = jnp.array(image.shape[:2]) * translate
        return warp(image, back, -(back * extent * jnp.stack(shift)).sum(1), None if edge else fill)

    return per_example(move)


def warp(image: jax.Array, matrix: jax.Array, shift: jax.Array, fill: float | None = 0.0) -> jax.Array:
    """The image whose pixel p shows what was at `matrix @ (p - centre) + centre + shift`, bilinear.

    Args:
      image: (H, W, C).
      matrix: (2, 2), for (row, column).
      shift: (2,), in pixels.
      fill: the value outside; None repeats the nearest pixel.
    """
    H, W, C = image.shape
    row, column = jnp.arange(H)[:, None] - (H - 1) / 2, jnp.arange(W)[None, :] - (W - 1) / 2
    y = matrix[0, 0] * row + matrix[0, 1] * column + shift[0] + (H - 1) / 2
    x = matrix[1, 0] * row + matrix[1, 1] * column + shift[1] + (W - 1) / 2
    if fill is None:
        y, x = jnp.clip(y, 0, H - 1), jnp.clip(x, 0, W - 1)
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = y - top, x - left
    top, left, pixels = top.astype(jnp.int32), left.astype(jnp.int32), image.reshape(H * W, C)
    out, covered = jnp.zeros_like(image), jnp.zeros((H, W))
    # Four gathers from the flat image; under vmap they stay within their row of the batch, so that a sharded
    # batch is not gathered. On CPU this is 1.3 to 4 times as fast as map_coordinates or two products by matrices.
    for i, down_weight in ((top, 1 - down), (top + 1, down)):
        for j, right_weight in ((left, 1 - right), (left + 1, right)):
            inside = (i >= 0) & (i < H) & (j >= 0) & (j < W)
            weight = jnp.where(inside, down_weight * right_weight, 0.0)
            place = jnp.clip(i, 0, H - 1) * W + jnp.clip(j, 0, W - 1)
            out += weight[..., None] * pixels.at[place].get(mode="promise_in_bounds")
            covered += weight
    if fill:
        out += fill * (1 - covered)[..., None]
    return jnp.clip(out, 0.0, 1.0)  # the weights of a pixel may add up to 1 + 1e-7


def erase(
    p: float = 0.25,
    area: tuple[float, float] = (0.02, 0.33),
    aspect: tuple[float, float] = (0.3, 3.3),
    fill: float = 0.0,
) -> Augment:
    """A random rectangle is filled with probability `p` (Zhong et al., arXiv:1708.04896).

    Args:
      p: probability.
      area: least and largest part of the image; a rectangle longer than the image is cut to it.
      aspect: least and largest height over width, drawn evenly in its logarithm.
      fill: value of the rectangle.
    """
    check(p=(p, 0, 1), fill=(fill, 0, 1))
    for name, pair, high in (("area", area, 1.0), ("aspect", aspect, math.inf)):
        if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= high:
            raise ConfigError(f"{name}={pair!r}: give (least, largest), both > 0" + (" and <= 1" if high == 1 else ""))

    def cover(rng: jax.Array, image: jax.Array) -> jax.Array:
        H, W, _ = image.shape
        yes, size, ratio, y, x = jax.random.uniform(rng, (5,))
        pixels = (area[0] + (area[1] - area[0]) * size) * H * W
        ratio = jnp.exp(math.log(aspect[0]) + (math.log(aspect[1]) - math.log(aspect[0])) * ratio)
        height = jnp.clip(jnp.round(jnp.sqrt(pixels * ratio)), 1, H)
        width = jnp.clip(jnp.round(jnp.sqrt(pixels / ratio)), 1, W)
        row = jnp.arange(H)[:, None] - jnp.floor(y * (H - height + 1))
        column = jnp.arange(W)[None, :] - jnp.floor(x * (W - width + 1))
        covered = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (yes < p)
        return jnp.where(covered[..., None], fill, image)

    return per_example(cover)


def color_jitter(
    brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0, p: float = 1.0
) -> Augment:
    """Brightness, then contrast, then saturation, each times a factor in [1 - x, 1 + x]; as Pillow's ImageEnhance.

    0 leaves one out. Contrast is around the mean gray of the image, saturation around its gray version.

    Args:
      hue: then the hue moves by up to this part of its circle, to either side.
      p: probability that a row changes at all.
    """
    check(brightness=(brightness, 0, 1), contrast=(contrast, 0, 1), saturation=(saturation, 0, 1))
    check(hue=(hue, 0, 0.5), p=(p, 0, 1))

    def jitter(rng: jax.Array, image: jax.Array) -> jax.Array:
        *factors, turn, yes = jax.random.uniform(rng, (5,), minval=-1.0, maxval=1.0)
        amounts = zip((brightness, contrast, saturation), factors)
        new = enhance(image, *(1 + x * f if x else None for x, f in amounts))
        new = pixels.hue_turned(new, hue * turn) if hue else new
        return new if p == 1 else jnp.where((yes + 1) / 2 < p, new, image)

    return per_example(jitter)


def enhance(
    image: jax.Array,
    brightness: jax.Array | None = None,
    contrast: jax.Array | None = None,
    saturation: jax.Array | None = None,
) -> jax.Array:
    """An image (H, W, C) in [0, 1] with its brightness, contrast and saturation multiplied; None leaves one out."""
    if brightness is not None:
        image = jnp.clip(image * brightness, 0.0, 1.0)
    if contrast is not None:
        weights = jnp.array(pixels.GRAY if image.shape[-1] == 3 else [1 / image.shape[-1]] * image.shape[-1])
        count = image.shape[0] * image.shape[1]
        mean = (image.reshape(-1) * jnp.tile(weights, count) / count).sum()
        image = jnp.clip(mean + (image - mean) * contrast, 0.0, 1.0)
    if saturation is not None:
        gray = pixels.gray(image)
        image = jnp.clip(gray + (image - gray) * saturation, 0.0, 1.0)
    return image


def grayscale(p: float = 0.1) -> Augment:
    """Three equal channels of gray with probability `p`."""
    check(p=(p, 0, 1))
    return per_example(lambda rng, x: jnp.where(jax.random.bernoulli(rng, p), pixels.gray(x), x))


def noise(std: float = 0.05) -> Augment:
    """Gaussian noise of standard deviation `std` on every number, cut to [0, 1].

    On CPU the random numbers cost more than all else here: 6 ms for 128 images of 32 x 32 x 3.
    """
    check(std=(std, 0, 1))
    return per_example(lambda rng, x: jnp.clip(x + std * jax.random.normal(rng, x.shape), 0.0, 1.0))


def check(**options: tuple[float, float, float]) -> None:
    """Refuse options out of range, each `name=(value, least, largest)`."""
    for name, (value, least, largest) in options.items():
        if not isinstance(value, (int, float)) or not least <= value <= largest:
            limit = "" if math.isinf(largest) else f" and <= {largest:g}"
            raise ConfigError(f"{name}={value!r}: give a number >= {least:g}{limit}")
