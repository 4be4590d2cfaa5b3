"""Pooling: one number for every window of an image."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from fmjax.core.errors import ConfigError
from fmjax.nn.conv_folded import Pads
from fmjax.nn.convolution import explicit_padding, out_size, pair

FEW = 9  # numbers in a window that are compared one by one on a CPU


def max_pool(
    x: Float[Array, "B H W C"],
    window: int | tuple[int, int] = 2,
    strides: int | tuple[int, int] | None = None,
    padding: str | int | Pads = "VALID",
) -> Float[Array, "B Y X C"]:
    """The largest number of every window; its gradient goes to the first (rows, then columns) of several equal ones.

    Args:
      strides: rows and columns between windows; None is the window, so that they lie side by side.

    Raises:
      ConfigError: an image smaller than the window.
    """
    window, strides, pads = _check(x, window, strides, padding)
    if strides == window and not any(sum(pads, ())):
        return _max_of_tiles(_tiles(x, window))
    if jax.default_backend() == "cpu" and math.prod(window) <= FEW:
        return _max_of_windows(x, window, strides, pads)
    start = np.array(_least(x), x.dtype)  # of numpy: an array of jax hides that this is a maximum, which has a gradient
    return lax.reduce_window(x, start, lax.max, (1, *window, 1), (1, *strides, 1), _all(pads))


def avg_pool(
    x: Float[Array, "B H W C"],
    window: int | tuple[int, int] = 2,
    strides: int | tuple[int, int] | None = None,
    padding: str | int | Pads = "VALID",
) -> Float[Array, "B Y X C"]:
    """The mean of every window; padding is not counted.

    Raises:
      ConfigError: an image smaller than the window.
    """
    window, strides, pads = _check(x, window, strides, padding)
    if strides == window and not any(sum(pads, ())):
        return _tiles(x, window).mean((2, 4))

    def total(x: jax.Array) -> jax.Array:
        return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, (1, *window, 1), (1, *strides, 1), _all(pads))

    if not any(sum(pads, ())):
        return total(x) / math.prod(window)
    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def global_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B C"]:
    """The mean of the whole image."""
    return x.mean((1, 2))


def adaptive_avg_pool(x: Float[Array, "B H W C"], size: int | tuple[int, int]) -> Float[Array, "B h w C"]:
    """Means of `size` rows and columns of windows that cover the image, overlapping where they must, as PyTorch's do.

    An image that is smaller than `size` is repeated.
    """
    rows, columns = (jnp.asarray(_bins(n, s), x.dtype) for n, s in zip(x.shape[1:3], pair(size)))
    return jnp.einsum("hH,wW,BHWC->BhwC", rows, columns, x)


def _bins(n: int, size: int) -> np.ndarray:
    """(size, n): how much of each place goes into each mean."""
    out = np.zeros((size, n))
    for i in range(size):
        first, end = i * n // size, -(-(i + 1) * n // size)
        out[i, first:end] = 1 / (end - first)
    return out


def _check(
    x: jax.Array, window: int | tuple[int, int], strides: int | tuple[int, int] | None, padding: object
) -> tuple:
    window = pair(window)
    strides = window if strides is None else pair(strides)
    pads = explicit_padding(padding, x.shape[1:3], window, strides)
    if 0 in out_size(x.shape[1:3], window, strides, pads):
        raise ConfigError(
            f"an image of {x.shape[1]}x{x.shape[2]} is smaller than the {window[0]}x{window[1]} window it is pooled by"
        )
    return window, strides, pads


def _all(pads: Pads) -> tuple:
    return ((0, 0), *pads, (0, 0))


def _tiles(x: jax.Array, window: tuple[int, int]) -> jax.Array:
    """(B, Y, h, X, w, C); rows and columns that fill no window are left out."""
    (B, H, W, C), (h, w) = x.shape, window
    return x[:, : H // h * h, : W // w * w].reshape(B, H // h, h, W // w, w, C)


@jax.custom_jvp
def _max_of_tiles(tiles: Float[Array, "B Y h X w C"]) -> Float[Array, "B Y X C"]:
    return tiles.max((2, 4))


@_max_of_tiles.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    """XLA's CPU gradient of a maximum over windows searches each of them again; this one remembers which was it."""
    (tiles,), (moved,) = primals, tangents
    h, w = tiles.shape[2], tiles.shape[4]
    largest, which = _first_of_largest([tiles[:, :, i // w, :, i % w] for i in range(h * w)], jnp.int16)
    places = jnp.arange(h * w, dtype=jnp.int16).reshape(1, 1, h, 1, w, 1)
    chosen = which[:, :, None, :, None] == places
    return largest, jnp.where(chosen, moved, 0).sum((2, 4))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_of_windows(
    x: Float[Array, "B H W C"], window: tuple[int, int], strides: tuple[int, int], pads: Pads
) -> Float[Array, "B Y X C"]:
    return functools.reduce(jnp.maximum, _places(x, window, strides, pads, _least(x)))


@_max_of_windows.defjvp
def _(window: tuple[int, int], strides: tuple[int, int], pads: Pads, primals: tuple, tangents: tuple) -> tuple:
    """As for tiles: XLA would search every window again, with the place of each number beside it."""
    (x,), (moved,) = primals, tangents
    largest, which = _first_of_largest(_places(x, window, strides, pads, _least(x)), jnp.int8)
    chosen = [jnp.where(which == i, m, 0) for i, m in enumerate(_places(moved, window, strides, pads, 0))]
    return largest, sum(chosen[1:], chosen[0])


def _first_of_largest(places: list[jax.Array], dtype: type) -> tuple[jax.Array, jax.Array]:
    """The largest of arrays, number by number, and which of them was the first to have it."""
    largest, *others = places
    which = jnp.zeros(largest.shape, dtype)
    for i, here in enumerate(others, 1):
        which = jnp.where(here > largest, dtype(i), which)
        largest = jnp.maximum(largest, here)
    return largest, which


def _places(
    x: jax.Array, window: tuple[int, int], strides: tuple[int, int], pads: Pads, fill: float
) -> list[Float[Array, "B Y X C"]]:
    """The first number of every window, the second, ..., row by row."""
    rows, columns = out_size(x.shape[1:3], window, strides, pads)
    x = jnp.pad(x, _all(pads), constant_values=fill)
    (down, right), (h, w) = strides, window
    return [
        x[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right]
        for i in range(h)
        for j in range(w)
    ]


def _least(x: jax.Array) -> float:
    return -jnp.inf if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.iinfo(x.dtype).min
