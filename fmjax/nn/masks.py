"""Masks: who may look at whom. True is seen; axes are (batch, 1, queries T, keys S)."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def same_document(queries: Int[Array, "B T"], keys: Int[Array, "B S"] | None = None) -> Bool[Array, "B 1 T S"]:
    """Tokens of one document of a packed row see each other; segment 0 is padding: it sees nothing and is not seen.

    With `keys` the documents are those of another sequence, as in cross-attention.
    """
    keys = queries if keys is None else keys
    alike = queries[:, :, None] == keys[:, None, :]
    return (alike & (queries > 0)[:, :, None])[:, None]


def behind(queries: int, keys: int, start: int | jax.Array = 0) -> Bool[Array, "1 1 T S"]:
    """Keys at or before each query; the first query stands at place `start` among the keys."""
    return (jnp.arange(keys) <= start + jnp.arange(queries)[:, None])[None, None]


def near(queries: int, keys: int, window: int, start: int | jax.Array = 0) -> Bool[Array, "1 1 T S"]:
    """Keys less than `window` places away from each query: itself and window - 1 on each side."""
    distance = start + jnp.arange(queries)[:, None] - jnp.arange(keys)
    return (jnp.abs(distance) < window)[None, None]


def with_prefix(prefix: Int[Array, "B T"]) -> Bool[Array, "B 1 T T"]:
    """Causal, but every token sees the prefix (arXiv 1910.10683, figure 4)."""
    T = prefix.shape[1]
    return behind(T, T) | (prefix > 0)[:, None, None, :]


def both(*masks: jax.Array | None) -> jax.Array | None:
    """What every given mask allows; None allows all."""
    given = [mask for mask in masks if mask is not None]
    return functools.reduce(jnp.logical_and, given) if given else None


def alibi_slopes(heads: int) -> Float[Array, " H"]:
    """How fast each head forgets (arXiv 2108.12409): powers of 2^(-8/n), those of 2n filling up other numbers."""
    power = 2 ** (heads.bit_length() - 1)
    base = 2.0 ** (-8.0 * (jnp.arange(power) + 1) / power)
    more = 2.0 ** (-4.0 * (2 * jnp.arange(heads - power) + 1) / power)
    return jnp.concatenate([base, more])


def alibi(heads: int, queries: int, keys: int, start: int | jax.Array = 0) -> Float[Array, "1 H T S"]:
    """The bias of attention with linear biases: minus the distance, times the head's slope."""
    distance = jnp.abs(start + jnp.arange(queries)[:, None] - jnp.arange(keys)).astype(jnp.float32)
    return (-alibi_slopes(heads)[:, None, None] * distance)[None]
