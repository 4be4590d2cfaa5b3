"""Where a token stands: rotary angles, sine waves, learned biases of the distance."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError

SCALINGS = ("none", "linear", "ntk", "yarn", "llama3")


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary positions (RoPE, arXiv 2104.09864), stretched for texts longer than those trained on.

    Attributes:
      base: the longest wave is 2 pi base.
      scaling: none; linear (arXiv 2306.15595: positions shrink); ntk (a larger base); yarn (arXiv 2309.00071: short
        waves stay, long ones shrink, scores sharpen); llama3 (as yarn, with other borders, and scores as they were).
      factor: how many times longer texts become.
      length: the length trained on; yarn and llama3 need it.
    """

    base: float = 10_000.0
    scaling: str = "none"
    factor: float = 1.0
    length: int = 0

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise ConfigError(f"there is no rope_scaling {self.scaling!r}; {did_you_mean(self.scaling, SCALINGS)}")
        if self.base <= 1 or self.factor < 1:
            raise ConfigError(f"rope_base {self.base} must be above 1 and rope_factor {self.factor} at least 1")
        if self.scaling in ("yarn", "llama3") and self.length < 1:
            raise ConfigError(f"rope_scaling={self.scaling} needs rope_length, the length that was trained on")

    def frequencies(self, size: int) -> tuple[np.ndarray, float]:
        """(radians a place of the size/2 pairs of a head, what cosines and sines are multiplied by)."""
        half, base = size // 2, self.base
        if self.scaling == "ntk":
            base = base * self.factor ** (size / (size - 2))
        turn = base ** (-np.arange(half) / half)
        if self.scaling == "linear":
            return turn / self.factor, 1.0
        if self.scaling == "llama3":
            turns = self.length * turn / (2 * math.pi)  # over the length trained on: 1 or less shrinks, 4 or more stays
            stays = np.clip((turns - 1) / (4 - 1), 0, 1)
            return turn * (stays + (1 - stays) / self.factor), 1.0
        if self.scaling == "yarn":
            place = [half * math.log(self.length / (n * 2 * math.pi)) / math.log(base) for n in (32, 1)]
            low, high = max(math.floor(place[0]), 0), min(math.ceil(place[1]), size - 1)
            shrinks = np.clip((np.arange(half) - low) / max(high - low, 1e-3), 0, 1)
            return turn * (1 - shrinks + shrinks / self.factor), 0.1 * math.log(self.factor) + 1.0
        return turn, 1.0

    def __call__(self, x_BTHK: Float[Array, "B T H K"], positions: Int[Array, "B T"]) -> Float[Array, "B T H K"]:
        """Turn pairs (i, i + K/2) of every head by an angle that grows with the position.

        The angles are float32 whatever the dtype of x: bfloat16 cannot count past 256.
        """
        half = x_BTHK.shape[-1] // 2
        turn, scale = self.frequencies(x_BTHK.shape[-1])
        angle = positions[:, :, None, None].astype(jnp.float32) * jnp.asarray(turn, jnp.float32)
        cos, sin = (scale * jnp.cos(angle)).astype(x_BTHK.dtype), (scale * jnp.sin(angle)).astype(x_BTHK.dtype)
        a, b = x_BTHK[..., :half], x_BTHK[..., half:]
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


@dataclasses.dataclass(frozen=True)
class Rotary2d:
    """Rotary positions of an image: half of each head is turned by the row, half by the column (arXiv 2403.13298).

    A place is one number, row * 32768 + column, as nn/patches.py's `grid_places` makes it; tokens that stand nowhere
    (class, registers) have -1, and are not turned.

    Attributes:
      base: the longest wave is 2 pi base; images are short, so it is small.
    """

    base: float = 100.0

    def __call__(self, x_BTHK: Float[Array, "B T H K"], positions: Int[Array, "B T"]) -> Float[Array, "B T H K"]:
        K = x_BTHK.shape[-1]
        if K % 4:
            raise ConfigError(f"rotary positions in two directions need heads of a size that divides by 4, not {K}")
        one, places = Rotary(self.base), jnp.maximum(positions, 0)
        rows, columns = one(x_BTHK[..., : K // 2], places >> 15), one(x_BTHK[..., K // 2 :], places & 32767)
        return jnp.concatenate([rows, columns], axis=-1)


def sine(positions: Int[Array, "B T"], width: int) -> Float[Array, "B T D"]:
    """Fixed waves of lengths 2 pi to 20,000 pi, sines then cosines (arXiv 1706.03762, section 3.5)."""
    half = width // 2
    turn = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / max(half - 1, 1))
    angle = positions[..., None].astype(jnp.float32) * turn
    waves = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return jnp.pad(waves, ((0, 0), (0, 0), (0, width - 2 * half)))


class RelativeBias(nn.Module):
    """T5's learned bias for every head and range of distances (arXiv 1910.10683, section 2.1).

    Attributes:
      heads: query heads (H).
      buckets: ranges of distances; half of them are exact, the others grow like logarithms.
      farthest: distances from here on share the last range.
      causal: whether all ranges look back; otherwise half of them look ahead.
    """

    heads: int
    buckets: int = 32
    farthest: int = 128
    causal: bool = True

    @nn.compact
    def __call__(self, queries: int, keys: int, start: int | jax.Array = 0) -> Float[Array, "1 H T S"]:
        table = self.param("embedding", nn.initializers.normal(0.02), (self.buckets, self.heads), jnp.float32)
        ahead = jnp.arange(keys) - (start + jnp.arange(queries)[:, None])
        return table[bucket(ahead, self.buckets, self.farthest, self.causal)].transpose(2, 0, 1)[None]


def bucket(ahead: Int[Array, "T S"], buckets: int, farthest: int, causal: bool) -> Int[Array, "T S"]:
    """The range of a distance: `ahead` is the place of the key minus that of the query."""
    first = 0
    if not causal:
        buckets //= 2
        first = buckets * (ahead > 0)
    distance = jnp.maximum(-ahead, 0) if causal else jnp.abs(ahead)
    exact = buckets // 2
    far = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(farthest / exact)
    far = jnp.minimum(exact + (far * (buckets - exact)).astype(jnp.int32), buckets - 1)
    return first + jnp.where(distance < exact, distance, far)
