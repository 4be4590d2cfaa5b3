"""Folded convolution: columns and examples share one long axis, so that both threads of a CPU get work.

XLA's CPU convolution is a product of (output columns) x (output features) tiles for each row of each image, and
it hands out only those tiles to threads: an image of 32 columns and 64 features is one tile, so one thread. Put
beside each other, the columns of a batch of B images make one row of W * B places, in which a step of one column
is a step of B places: a kernel *dilated* by B. The numbers multiplied are the same ones.

The gradient with respect to the kernel is such a convolution too, with input channels folded beside the columns
and the output's gradient as the kernel. XLA's own form of it is slow on CPU, and thirty times slower inside
`lax.scan`, where it is not brought into the form its fast kernels want; this one is written in that form.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], tuple[int, int]]  # (above, below), (left, right)

NHWC = ("NHWC", "HWIO", "NHWC")
CHUNK_BYTES = 1 << 20  # of what a pass over part of the batch reads: about one core's cache
FEW_TERMS = 80  # numbers in a sum


def convolve_folded(
    x: Float[Array, "B H W I"], kernel: Float[Array, "h w I O"], strides: tuple[int, int], pads: Pads
) -> Float[Array, "B Y X O"]:
    """Convolution of float32 without groups or dilation."""
    (h, w), (down, right) = kernel.shape[:2], strides
    if strides == (1, 1):
        if h == w == 1 and not any(sum(pads, ())):
            return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:3], -1)
        if any(p > size - 1 for pad, size in zip(pads, (h, w)) for p in pad):  # the gradient would have to crop
            x, pads = jnp.pad(x, ((0, 0), *pads, (0, 0))), ((0, 0), (0, 0))
        return _dense(x, kernel, pads)
    # Every stride-th row and column is an image of its own; those that meet the same weights are convolved alone.
    B, H, W, C = x.shape
    high, wide = H + sum(pads[0]), W + sum(pads[1])
    rows, columns = (high - h) // down + 1, (wide - w) // right + 1
    extra = ((0, 0), (0, -high % down), (0, -wide % right), (0, 0))
    x = jnp.pad(jnp.pad(x, ((0, 0), *pads, (0, 0))), extra)
    x = x.reshape(B, x.shape[1] // down, down, x.shape[2] // right, right, C)
    out = jnp.zeros((), x.dtype)
    for i in range(min(down, h)):
        for j in range(min(right, w)):
            part = kernel[i::down, j::right]
            out = out + convolve_folded(
                x[:, : rows + part.shape[0] - 1, i, : columns + part.shape[1] - 1, j], part, (1, 1), ((0, 0), (0, 0))
            )
    return out


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dense(x: Float[Array, "B H W I"], kernel: Float[Array, "h w I O"], pads: Pads) -> Float[Array, "B Y X O"]:
    """Stride 1, padding below the size of the kernel."""
    if math.prod(kernel.shape[:3]) <= FEW_TERMS:
        return _patches(x, kernel, pads)
    B, H, W, C = x.shape
    rows = x.transpose(1, 2, 0, 3).reshape(1, H, W * B, C)
    wide = (pads[0], tuple(p * B for p in pads[1]))
    out = lax.conv_general_dilated(rows, kernel, (1, 1), wide, rhs_dilation=(1, B), dimension_numbers=NHWC)
    return out.reshape(out.shape[1], -1, B, out.shape[-1]).transpose(2, 0, 1, 3)


def _dense_fwd(x: jax.Array, kernel: jax.Array, pads: Pads) -> tuple:
    return _dense(x, kernel, pads), (x, kernel)


def _dense_bwd(pads: Pads, saved: tuple, dy: jax.Array) -> tuple:
    x, kernel = saved
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    back = tuple((size - 1 - low, size - 1 - high) for size, (low, high) in zip(kernel.shape, pads))
    return _dense(dy, turned, back), _kernel_gradient(x, dy, pads)


_dense.defvjp(_dense_fwd, _dense_bwd)


def _patches(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """The first layer of a network: so few numbers a sum that copying them into the rows of a matrix is cheaper."""
    (h, w, C, O), weights = kernel.shape, kernel.reshape(-1, kernel.shape[3])  # noqa: E741
    Y, X = (n + sum(p) - k + 1 for n, p, k in zip(x.shape[1:3], pads, (h, w)))

    def product(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        terms = jnp.concatenate([x[:, i : i + Y, j : j + X] for i in range(h) for j in range(w)], -1)
        return (terms.reshape(-1, h * w * C) @ weights).reshape(-1, Y, X, O)

    xs = _chunks(CHUNK_BYTES // (4 * Y * X * h * w * C), x)
    out = product(xs[0]) if xs.shape[0] == 1 else lax.map(product, xs)
    return out.reshape(-1, Y, X, O)[: x.shape[0]]


def _kernel_gradient(x: jax.Array, dy: jax.Array, pads: Pads) -> jax.Array:
    def gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
        B, H, W, C = x.shape
        rows = x.transpose(1, 2, 3, 0).reshape(1, H, W * C, B)
        wide = (pads[0], tuple(p * C for p in pads[1]))
        weights = dy.transpose(1, 2, 0, 3)
        out = lax.conv_general_dilated(rows, weights, (1, 1), wide, rhs_dilation=(1, C), dimension_numbers=NHWC)
        return out.reshape(out.shape[1], -1, C, out.shape[-1])

    each = 4 * (math.prod(x.shape[1:]) + math.prod(dy.shape[1:]))
    xs, dys = _chunks(CHUNK_BYTES // each, x), _chunks(CHUNK_BYTES // each, dy)
    if xs.shape[0] == 1:
        return gradient(xs[0], dys[0])
    first = jnp.zeros(jax.eval_shape(gradient, xs[0], dys[0]).shape, jnp.float32)
    return lax.scan(lambda total, pair: (total + gradient(*pair), None), first, (xs, dys))[0]


def _chunks(size: int, x: jax.Array) -> jax.Array:
    """The batch in equal parts of `size` or less, (parts, size, ...), filled up with zero examples."""
    batch = x.shape[0]
    size = max(1, min(size, batch))
    even = max(n for n in range(1, size + 1) if batch % n == 0)
    size = even if 2 * even > size else -(-batch // -(-batch // size))
    if batch % size:
        x = jnp.pad(x, ((0, -batch % size), (0, 0), (0, 0), (0, 0)))
    return x.reshape(-1, size, *x.shape[1:])
