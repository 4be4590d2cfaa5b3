"""The memory of a decoder: keys and values of what was read, so that a new token costs one token's work.

A cache of the whole model says which places are taken; each block keeps keys and values of them. A block with a window
keeps only as many as it may look back at, in a ring. Rows of different lengths are padded in front: padding has
segment 0, takes places but no positions, and is seen by nobody.

Keys lie head by head, (B, G, L, K), as the products over them want them: turned around at every token, they took a
third of its time.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fmjax.nn import masks
from fmjax.nn.linear import compute_dtype

Kept = dict[str, jax.Array]  # {"key", "value"}: (B, G, L, K), or the last of L in a ring


class Places(NamedTuple):
    """Where the new tokens of a call stand in a cache.

    Attributes:
      start: the place of the first one.
      segments: the documents of all places, the new ones included; 0 is padding, or not yet written.
      ahead: 1 for new tokens that all new ones of their document see, as in a prefix.
    """

    start: Int[Array, ""]
    segments: Int[Array, "B L"]
    ahead: Int[Array, "B T"] | None = None


def empty(batch: int, length: int, groups: int, size: int, dtype: str | None, window: int | None, slack: int) -> Kept:
    """Room for the keys and values of `length` tokens, or of those that a window sees.

    Args:
      slack: how many places may be taken back again (speculative decoding); a ring has so many more.
    """
    room = length if window is None else min(length, window + slack)
    zeros = jnp.zeros((batch, groups, room, size), compute_dtype(dtype))
    return {"key": zeros, "value": zeros}


def keep(k_BSGK: Float[Array, "B S G K"], v_BSGK: Float[Array, "B S G K"]) -> Kept:
    """Keys and values as a cache holds them."""
    return {"key": k_BSGK.swapaxes(1, 2), "value": v_BSGK.swapaxes(1, 2)}


def kept_again(kept: Kept) -> tuple[Float[Array, "B S G K"], Float[Array, "B S G K"]]:
    """Keys and values as attention reads them."""
    return kept["key"].swapaxes(1, 2), kept["value"].swapaxes(1, 2)


def remember(
    kept: Kept, k_BTGK: Float[Array, "B T G K"], v_BTGK: Float[Array, "B T G K"], places: Places, window: int | None
) -> tuple[jax.Array, jax.Array, Kept, Bool[Array, "B 1 T S"]]:
    """(keys, values, what is kept, who of the new tokens sees which of the keys)."""
    new, length, room = k_BTGK.shape[1], places.segments.shape[1], kept["key"].shape[2]
    both = keep(k_BTGK, v_BTGK)
    queries = jax.lax.dynamic_slice_in_dim(places.segments, places.start, new, 1)
    if room == length:  # every place has its own slot
        write = jax.lax.dynamic_update_slice_in_dim
        kept = {name: write(kept[name], x.astype(kept[name].dtype), places.start, 2) for name, x in both.items()}
        mask = masks.behind(new, length, places.start)
        if places.ahead is not None:
            ahead = jnp.zeros(places.segments.shape, bool)
            mask = mask | write(ahead, places.ahead > 0, places.start, 1)[:, None, None]
        if window is not None:
            mask = mask & masks.near(new, length, window, places.start)
        return *kept_again(kept), kept, mask & masks.same_document(queries, places.segments)
    slots = jnp.arange(room)
    before = places.start - 1 - (places.start - 1 - slots) % room  # the place that each slot holds
    last = min(new, room)
    at = (places.start + jnp.arange(new)[-last:]) % room
    after = {name: kept[name].at[:, :, at].set(x[:, :, -last:].astype(kept[name].dtype)) for name, x in both.items()}
    if new == 1:
        there = jnp.where(slots == at, places.start, before)
        keys = after
    else:  # the first new tokens still see what the last ones overwrite
        there = jnp.concatenate([before, places.start + jnp.arange(new)])
        keys = {name: jnp.concatenate([kept[name], x.astype(kept[name].dtype)], 2) for name, x in both.items()}
    distance = (places.start + jnp.arange(new))[:, None] - there
    mask = (distance >= 0)[None, None]
    if places.ahead is not None:
        mask = mask | jnp.pad(places.ahead > 0, ((0, 0), (len(there) - new, 0)))[:, None, None]
    mask = mask & ((jnp.abs(distance) < window) & (there >= 0))[None, None]
    segments = jnp.where(there >= 0, places.segments[:, jnp.maximum(there, 0)], 0)
    return *kept_again(keys), after, mask & masks.same_document(queries, segments)


def begin(batch: int, length: int, blocks: list, tokens: bool) -> dict[str, Any]:
    """The cache of a model that has read nothing; `tokens` keeps the ids too, for what looks back at them."""
    cache = {
        "start": jnp.zeros((), jnp.int32),
        "next": jnp.zeros(batch, jnp.int32),
        "segments": jnp.zeros((batch, length), jnp.int32),
        "blocks": blocks,
    }
    return {**cache, "tokens": jnp.zeros((batch, length), jnp.int32)} if tokens else cache


def take(
    cache: dict[str, Any],
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"] | None,
    segment_ids: Int[Array, "B T"] | None,
) -> tuple[dict[str, Any], Int[Array, "B T"]]:
    """The cache with places for new tokens (their keys are still to come), and the positions of these.

    Without `positions` each token stands after the last real one of its row; without `segment_ids` new tokens belong
    to the document of the last real one.
    """
    B, T = tokens.shape
    if segment_ids is None:
        segment_ids = jnp.broadcast_to(jnp.maximum(cache["segments"].max(1, keepdims=True), 1), (B, T))
    if positions is None:
        positions = cache["next"][:, None] + jnp.maximum(jnp.cumsum(segment_ids > 0, 1) - 1, 0)
        after = cache["next"] + (segment_ids > 0).sum(1)
    else:
        after = positions[:, -1] + 1
    write = jax.lax.dynamic_update_slice_in_dim
    new = {"segments": segment_ids, "tokens": tokens}
    written = {k: write(cache[k], x.astype(jnp.int32), cache["start"], 1) for k, x in new.items() if k in cache}
    return {**cache, **written, "next": after.astype(jnp.int32)}, positions


def moved_on(cache: dict | None, tokens: Int[Array, "B T"], blocks: list | None) -> dict | None:
    """The cache after these tokens."""
    return None if cache is None else {**cache, "start": cache["start"] + tokens.shape[1], "blocks": blocks}
