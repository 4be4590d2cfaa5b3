"""Attention of images: inside windows, and of the class token alone."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fmjax.core.errors import ConfigError
from fmjax.nn.attention import Attention


class WindowAttention(nn.Module):
    """Every place sees the square window it lies in, with a learned bias of the distance (Swin, arXiv 2103.14030).

    Windows of a shifted layer lie half a window further, so that two layers together pass on what is beyond a border;
    places that meet only because the image is rolled around do not see each other.

    Attributes:
      heads: query heads.
      window: rows and columns of a window.
      shift: how far the windows are moved down and right; 0 or half a window.
      dropout: chance of a weight to be dropped in training.
      backend: see nn/attention.py; it must know biases, and masks where there is a shift.
    """

    heads: int
    window: int = 7
    shift: int = 0
    dropout: float = 0.0
    dtype: str | None = None
    backend: str = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W D"], train: bool = False) -> Float[Array, "B H W D"]:
        (B, H, W, D), w, shift = x.shape, self.window, self.shift
        if H % w or W % w:
            raise ConfigError(
                f"{H}x{W} places do not divide into windows of {w}x{w}: pad them, or choose other windows"
            )
        if not 0 <= shift < w:
            raise ConfigError(f"windows of {w}x{w} cannot be moved by {shift}: give a shift from 0 to {w - 1}")

        def cut(x: Array) -> Array:
            """(B, H, W, ...) as (B windows, places, ...)."""
            x = x.reshape(x.shape[0], H // w, w, W // w, w, -1).swapaxes(2, 3)
            return x.reshape(-1, w * w, x.shape[-1])

        table = self.param("position_bias", nn.initializers.normal(0.02), ((2 * w - 1) ** 2, self.heads), jnp.float32)
        bias = table[_distances(w)].transpose(2, 0, 1)[None]
        mask = None
        if shift:
            x = jnp.roll(x, (-shift, -shift), (1, 2))
            rows, columns = (np.arange(n) // w * 2 + (np.arange(n) >= n - shift) for n in (H, W))
            region = cut(np.broadcast_to(rows[:, None] * 2 * W + columns, (1, H, W)))[..., 0]
            mask = jnp.asarray(np.tile(region[:, None, :, None] == region[:, None, None, :], (B, 1, 1, 1)))
        attention = Attention(
            self.heads, rotary=None, use_bias=True, dropout=self.dropout, dtype=self.dtype, backend=self.backend,
            name="attention",
        )  # fmt: skip
        y, _ = attention(cut(x), mask=mask, bias=bias, train=train)
        y = y.reshape(B, H // w, W // w, w, w, D).swapaxes(2, 3).reshape(B, H, W, D)
        return jnp.roll(y, (shift, shift), (1, 2)) if shift else y


def _distances(window: int) -> np.ndarray:
    """(places, places): which row of the table belongs to a query and a key of a window."""
    rows, columns = np.divmod(np.arange(window**2), window)
    down, right = rows[:, None] - rows + window - 1, columns[:, None] - columns + window - 1
    return down * (2 * window - 1) + right


class ClassAttention(nn.Module):
    """Only class tokens ask; they see themselves and all patches, which stay as they are (CaiT, arXiv 2103.17239).

    Attributes:
      heads: query heads.
      dropout: chance of a weight to be dropped in training.
    """

    heads: int
    dropout: float = 0.0
    dtype: str | None = None
    backend: str = "auto"

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B N D"], patches: Float[Array, "B T D"], train: bool = False
    ) -> Float[Array, "B N D"]:
        attention = Attention(
            self.heads, rotary=None, use_bias=True, dropout=self.dropout, dtype=self.dtype, backend=self.backend,
            name="attention",
        )  # fmt: skip
        return attention(tokens, memory=jnp.concatenate([tokens, patches], axis=1), train=train)[0]
