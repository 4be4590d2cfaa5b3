"""Pooling tokens: one vector for a row of hidden states."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError

POOLS = ("first", "last", "mean", "max")


def pool_tokens(
    x: Float[Array, "B T D"], segment_ids: Int[Array, "B T"] | None = None, kind: str = "mean"
) -> Float[Array, "B D"]:
    """The first or the last token, the mean or the maximum; padding (segment 0) does not count.

    A row that is all padding gives zeros, but for "first".

    Raises:
      ConfigError: a kind that does not exist.
    """
    if kind not in POOLS:
        raise ConfigError(f"there is no pool {kind!r}; {did_you_mean(kind, POOLS)}")
    if kind == "first":
        return x[:, 0]
    real = jnp.ones(x.shape[:2], bool) if segment_ids is None else segment_ids > 0
    if kind == "max":
        most = jnp.where(real[..., None], x, -jnp.inf).max(1)
        return jnp.where(real.any(1, keepdims=True), most, 0).astype(x.dtype)
    if kind == "last":
        place = jnp.where(real, jnp.arange(x.shape[1]), -1).max(1)
        weights = (jnp.arange(x.shape[1]) == place[:, None])[..., None]
        return jnp.where(weights, x, 0).sum(1)
    weights = real[..., None]
    return jnp.where(weights, x, 0).sum(1) / jnp.maximum(weights.sum(1), 1).astype(x.dtype)
