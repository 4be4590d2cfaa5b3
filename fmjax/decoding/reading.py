"""How a language model of any family reads a prompt and then a token at a time; its cache is a tree of arrays.

A decoder reads the prompt itself; an encoder-decoder encodes it, and its decoder begins with a start token.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.core.types import Batch

SHARED = ("memory", "sources")  # what all continuations of a row have in common


def encodes(net: Net) -> bool:
    """Whether the model has an encoder for the prompt."""
    return hasattr(net.module, "encode")


def begin(
    net: Net, batch: Batch, length: int, start: int = 0, slack: int = 0, prefix: bool = False
) -> tuple[Float[Array, "B V"], dict, Int[Array, "B P"], Int[Array, "B P"]]:
    """(logits of the first new token, cache, what the decoder read, 0 where that was padding).

    Args:
      batch: `tokens` (B, P) and, where rows are of different lengths, `segment_ids`, 0 for padding on either side.
      length: tokens to come.
      start: what the decoder of an encoder-decoder reads first.
      slack: how many tokens may be taken back, see `rewound`.
      prefix: whether the tokens of the prompt all see each other (prefix language models).

    Raises:
      ConfigError: a model that cannot continue a text, or a prompt longer than its positions.
    """
    if not hasattr(net.module, "init_cache"):
        raise ConfigError(f"{type(net.module).__name__} is no language model with a cache: it cannot continue a text")
    tokens, segments = batch["tokens"].astype(jnp.int32), batch.get("segment_ids")
    if encodes(net):
        memory = net(tokens, segment_ids=segments, positions=batch.get("positions"), method="encode")
        first = jnp.full((len(tokens), 1), start, jnp.int32)
        cache = net.module.init_cache(len(tokens), 1 + length, slack)
        logits, cache = net(first, memory, segments, cache=cache, method="decode")
        return logits[:, -1], cache, first, jnp.ones_like(first)
    real = jnp.ones_like(tokens) if segments is None else (segments > 0).astype(jnp.int32)
    if segments is not None:
        tokens, real = in_front(tokens, real)
    cache = net.module.init_cache(len(tokens), tokens.shape[1] + length, slack)
    context = {"prefix": real} if prefix else {}
    hidden, cache = net(tokens, segment_ids=real, cache=cache, method="hidden", **context)
    return net(hidden[:, -1], method="head"), cache, tokens, real


def more(net: Net, tokens: Int[Array, "B T"], cache: dict) -> tuple[Float[Array, "B T V"], dict]:
    """(logits after each of these tokens, the cache with them)."""
    return net(tokens, cache=cache, method="decode") if encodes(net) else net(tokens, cache=cache)


def in_front(tokens: Int[Array, "B P"], real: Int[Array, "B P"]) -> tuple[jax.Array, jax.Array]:
    """Rows whose padding stands in front, so that all end at the same place."""
    order = jnp.argsort(real > 0, axis=1, stable=True)
    return jnp.take_along_axis(tokens, order, 1), jnp.take_along_axis(real, order, 1)


def rows(cache: Any, index: Int[Array, " N"]) -> Any:
    """The cache of these rows, in this order, each within the continuations of one prompt."""

    def pick(path: tuple, x: jax.Array) -> jax.Array:
        shared = any(getattr(key, "key", None) in SHARED for key in path)
        return x if x.ndim == 0 or shared else x[index]

    return jax.tree_util.tree_map_with_path(pick, cache)


def repeated(cache: Any, times: int) -> Any:
    """The cache with each row so many times, one after the other."""
    return jax.tree.map(lambda x: x if x.ndim == 0 else jnp.repeat(x, times, 0), cache)


def rewound(cache: dict, by: Int[Array, ""]) -> dict:
    """The cache as if the last `by` tokens had not been read; no more than its slack."""
    return {**cache, "start": cache["start"] - by, "next": cache["next"] - by}
