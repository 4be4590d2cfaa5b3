"""Where a token stands: rotary angles."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rotate(
    x_BTHK: Float[Array, "B T H K"], positions: Int[Array, "B T"], base: float = 10_000.0
) -> Float[Array, "B T H K"]:
    """Turn pairs (i, i + K/2) of every head by an angle that grows with the position (RoPE, arXiv 2104.09864).

    The angles are float32 whatever the dtype of x: bfloat16 cannot count past 256.
    """
    half = x_BTHK.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[:, :, None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle).astype(x_BTHK.dtype), jnp.sin(angle).astype(x_BTHK.dtype)
    a, b = x_BTHK[..., :half], x_BTHK[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
