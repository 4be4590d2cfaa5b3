"""Images as tokens: patches, where they stand, and tables of positions for other sizes than those learned."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.convolution import check_channels, pair
from fmjax.nn.linear import compute_dtype, default_kernel

LINE = 1 << 15  # a place (row, column) as one number: row * LINE + column
METHODS = {"bicubic": "cubic", "bilinear": "linear"}


class PatchEmbed(nn.Module):
    """One token for every patch: a linear map of its numbers, kept as a kernel (rows, columns, channels, width).

    Attributes:
      width: numbers a token.
      patch: rows and columns of a patch; the kernel has this size.
    """

    width: int
    patch: int | tuple[int, int] = 16
    use_bias: bool = True
    dtype: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], patch: int | tuple[int, int] | None = None
    ) -> Float[Array, "B h w D"]:
        """Tokens, in their grid; with another `patch`, by a resized kernel (FlexiViT, arXiv 2212.08013).

        Raises:
          ConfigError: an image that does not divide into patches, or is smaller than one.
        """
        p, q = pair(self.patch if patch is None else patch)
        (B, H, W, C), own = x.shape, pair(self.patch)

        def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return default_kernel(key, (math.prod(shape[:3]), self.width), jnp.float32).reshape(shape)

        if self.has_variable("params", "kernel"):
            check_channels(self.get_variable("params", "kernel").shape[2], x)
        kernel = self.param("kernel", init, (*own, C, self.width))
        h, w = grid_of((H, W), (p, q))
        if (p, q) != own:
            kernel = resize_kernel(kernel, (p, q))
        dtype = compute_dtype(self.dtype)
        rows = x.astype(dtype).reshape(B, h, p, w, q, C).transpose(0, 1, 3, 2, 4, 5).reshape(B * h * w, p * q * C)
        y = rows @ kernel.reshape(p * q * C, self.width).astype(dtype)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros_init(), (self.width,), jnp.float32).astype(dtype)
        return y.reshape(B, h, w, self.width)


def grid_of(size: tuple[int, int], patch: int | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches in an image.

    Raises:
      ConfigError: an image that does not divide into patches, or is smaller than one.
    """
    p, q = pair(patch)
    if size[0] < p or size[1] < q:
        raise ConfigError(f"an image of {size[0]}x{size[1]} is smaller than a patch of {p}x{q}: give smaller patches")
    if size[0] % p or size[1] % q:
        raise ConfigError(
            f"an image of {size[0]}x{size[1]} does not divide into patches of {p}x{q}: resize or crop it, "
            "or choose other patches"
        )
    return size[0] // p, size[1] // q


def resize_kernel(kernel: Float[Array, "p q C D"], patch: tuple[int, int]) -> Float[Array, "P Q C D"]:
    """The kernel that gives resized patches the tokens of the old ones: exact for larger patches, nearest for smaller.

    A kernel that is only resized like an image would change the size of its products; this one is multiplied by the
    pseudo-inverse of resizing (arXiv 2212.08013, section 3.3).
    """
    p, q, C, D = kernel.shape
    inverse = np.kron(_inverse(p, patch[0]), _inverse(q, patch[1]))  # rows and columns are resized apart
    return (jnp.asarray(inverse, kernel.dtype) @ kernel.reshape(p * q, C * D)).reshape(*patch, C, D)


def _inverse(old: int, new: int) -> np.ndarray:
    """(new, old): the pseudo-inverse of the transposed matrix that resizes a line, bilinearly."""
    resize = np.zeros((new, old))
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(np.floor(centres).astype(int), max(old - 2, 0))
    resize[np.arange(new), low] += 1 - (centres - low)
    resize[np.arange(new), np.minimum(low + 1, old - 1)] += centres - low
    return np.linalg.pinv(resize.T)


def interpolate_positions(
    table: Float[Array, "N D"],
    grid: tuple[int, int],
    own: tuple[int, int],
    kept: int = 0,
    method: str = "bicubic",
) -> Float[Array, "M D"]:
    """A table of positions of another grid, resized as an image is.

    Args:
      grid: rows and columns that are wanted.
      own: those of the table.
      kept: rows of the table before the grid (of class and register tokens), which stay as they are.
      method: bicubic or bilinear.

    Raises:
      ConfigError: a method that does not exist, or a table that is not of this grid.
    """
    if method not in METHODS:
        raise ConfigError(f"there is no way {method!r} to resize positions; {did_you_mean(method, METHODS)}")
    if table.shape[0] != kept + math.prod(own):
        raise ConfigError(f"a table of {table.shape[0]} positions is not one of {kept} and a grid of {own[0]}x{own[1]}")
    if tuple(grid) == tuple(own):
        return table
    image = table[kept:].reshape(*own, -1)
    image = jax.image.resize(image, (*grid, table.shape[1]), METHODS[method])
    return jnp.concatenate([table[:kept], image.reshape(math.prod(grid), -1)])


def sincos2d(grid: tuple[int, int], width: int) -> Float[Array, "T D"]:
    """Fixed waves of the column, then of the row, sines before cosines (arXiv 2104.02057; 2205.01580 for ViT).

    Raises:
      ConfigError: a width that does not divide by four.
    """
    if width % 4:
        raise ConfigError(f"positions in two directions need a width that divides by 4, not {width}")
    turn = 10_000.0 ** (-jnp.arange(width // 4, dtype=jnp.float32) / max(width // 4 - 1, 1))
    rows, columns = jnp.divmod(jnp.arange(math.prod(grid)), grid[1])
    row, column = rows[:, None] * turn, columns[:, None] * turn
    return jnp.concatenate([jnp.sin(column), jnp.cos(column), jnp.sin(row), jnp.cos(row)], axis=1)


def grid_places(grid: tuple[int, int], before: int = 0) -> Int[Array, " T"]:
    """Places of `before` tokens that stand nowhere (-1), then of a grid, as nn/position.py's Rotary2d reads them."""
    rows, columns = np.divmod(np.arange(math.prod(grid)), grid[1])
    return jnp.asarray(np.concatenate([np.full(before, -1), rows * LINE + columns]), jnp.int32)
