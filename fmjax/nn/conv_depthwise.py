"""Depthwise convolution as shifted products: what a CPU does fast where XLA's own form takes seconds.

The result is a sum over the kernel's taps of shifted images times a weight a channel, which XLA makes one loop; so is
the gradient of the images. The gradient of the kernel goes through the batch image by image, which stay in the cache.
On two cores, 128 images of 32 x 32 x 48, 3 x 3: gradients of both in 15 ms where XLA's own form takes 476, and seconds
within `lax.scan`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fmjax.nn.conv_folded import Pads

Pair = tuple[int, int]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve_depthwise(
    x: Float[Array, "B H W C"], kernel: Float[Array, "h w 1 C"], strides: Pair, pads: Pads, dilation: Pair
) -> Float[Array, "B Y X C"]:
    """Convolution of float32 with as many groups as channels, one feature each."""
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    out = jnp.zeros((), x.dtype)
    for i, row in enumerate(_shifted(padded, kernel.shape[:2], strides, dilation)):
        for j, part in enumerate(row):
            out = out + part * kernel[i, j, 0]
    return out


def _forward(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads, dilation: Pair) -> tuple:
    return convolve_depthwise(x, kernel, strides, pads, dilation), (x, kernel)


def _backward(strides: Pair, pads: Pads, dilation: Pair, saved: tuple, dy: jax.Array) -> tuple:
    x, kernel = saved
    return _image_gradient(x, kernel, dy, strides, pads, dilation), _kernel_gradient(
        x, kernel, dy, strides, pads, dilation
    )


convolve_depthwise.defvjp(_forward, _backward)


def _shifted(x: jax.Array, size: Pair, strides: Pair, dilation: Pair) -> list[list[jax.Array]]:
    """What each tap meets, for padded images (..., H, W, C)."""
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation)]
    ends = [(n - r) // s * s + 1 for n, r, s in zip(x.shape[-3:-1], reach, strides)]
    starts = [[t * d for t in range(k)] for k, d in zip(size, dilation)]
    return [
        [x[..., i : i + ends[0] : strides[0], j : j + ends[1] : strides[1], :] for j in starts[1]] for i in starts[0]
    ]


def _image_gradient(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, strides: Pair, pads: Pads, dilation: Pair
) -> jax.Array:
    """The taps turned round, over gradients that stand `strides` apart."""
    edges = []
    for axis in (0, 1):
        reach = (kernel.shape[axis] - 1) * dilation[axis]
        wide = (dy.shape[axis + 1] - 1) * strides[axis] + 1
        low = reach - pads[axis][0]
        edges.append((low, x.shape[axis + 1] + reach - wide - low, strides[axis] - 1))
    spread = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *edges, (0, 0, 0)])  # a negative edge is cut
    return convolve_depthwise(spread, jnp.flip(kernel, (0, 1)), (1, 1), ((0, 0), (0, 0)), dilation)


def _kernel_gradient(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, strides: Pair, pads: Pads, dilation: Pair
) -> jax.Array:
    def add(total: jax.Array, pair: tuple) -> tuple[jax.Array, None]:
        image, dy = jnp.pad(pair[0], (*pads, (0, 0))), pair[1]
        rows = _shifted(image, kernel.shape[:2], strides, dilation)
        return total + jnp.stack([jnp.stack([(part * dy).sum((0, 1)) for part in row]) for row in rows]), None

    total = lax.scan(add, jnp.zeros((*kernel.shape[:2], kernel.shape[3]), dy.dtype), (x, dy))[0]
    return total[:, :, None]
