"""Embeddings: a row of a table for every token."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fmjax.nn.linear import compute_dtype


class Embed(nn.Module):
    """A table of `vocab` rows; `attend` reads it the other way, as tied output weights.

    Attributes:
      vocab: number of rows.
      width: numbers a row.
      scale: standard deviation of the fresh table.
    """

    vocab: int
    width: int
    scale: float = 0.02
    dtype: str | None = None

    def setup(self) -> None:
        init = nn.initializers.normal(self.scale)
        self.embedding = self.param("embedding", init, (self.vocab, self.width), jnp.float32)

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return self.embedding.astype(compute_dtype(self.dtype))[tokens]

    def attend(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        table = self.embedding.astype(compute_dtype(self.dtype))
        return (x.reshape(-1, self.width).astype(table.dtype) @ table.T).reshape(*x.shape[:-1], self.vocab)


class HashedNgrams(nn.Module):
    """Adds a learned row for the last n tokens of every place, found by a hash (arXiv 2412.09871, section 3.2.1).

    A small model over bytes gets the statistics of frequent words and operators for the price of a few lookups.

    Attributes:
      orders: the n of the n-grams.
      buckets: rows of each table; n-grams that meet in a row share it.
    """

    orders: tuple[int, ...]
    buckets: int
    width: int
    scale: float = 0.02
    dtype: str | None = None

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], segment_ids: Int[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        out = 0.0
        for n in self.orders:
            table = self.param(f"embedding_{n}", nn.initializers.normal(self.scale), (self.buckets, self.width))
            out = out + table.astype(compute_dtype(self.dtype))[hash_ngrams(tokens, n, segment_ids) % self.buckets]
        return out


def hash_ngrams(tokens: Int[Array, "B T"], n: int, segment_ids: Int[Array, "B T"] | None = None) -> jax.Array:
    """A uint32 for the n tokens that end at each place; places before the start of a document count as one value."""

    def before(x: jax.Array, back: int) -> jax.Array:
        return jnp.pad(x, ((0, 0), (back, 0)))[:, : x.shape[1]]

    code = jnp.zeros(tokens.shape, jnp.uint32)
    for back in range(n - 1, -1, -1):
        earlier = before(tokens.astype(jnp.uint32) + 1, back)
        if segment_ids is not None:
            earlier = jnp.where(before(segment_ids, back) == segment_ids, earlier, 0)
        code = (code ^ earlier) * jnp.uint32(0x9E3779B1)
        code = code ^ (code >> 15)
    return code


def looked_back(table: HashedNgrams, tokens: jax.Array, segment_ids: Any, cache: dict | None) -> jax.Array:
    """The rows of the n-grams that end at each token, those in the cache before it included."""
    if cache is None:
        return table(tokens, segment_ids)
    back = max(table.orders) - 1

    def last(x: jax.Array) -> jax.Array:
        """The new places and those before them that matter."""
        return jax.lax.dynamic_slice_in_dim(jnp.pad(x, ((0, 0), (back, 0))), cache["start"], back + tokens.shape[1], 1)

    return table(last(cache["tokens"]), last(cache["segments"]))[:, back:]


def looked_around(back: HashedNgrams, ahead: HashedNgrams, tokens: jax.Array, segment_ids: Any) -> jax.Array:
    """The rows of the n-grams that end, and of those that begin, at each token."""
    turned = None if segment_ids is None else segment_ids[:, ::-1]
    return back(tokens, segment_ids) + ahead(tokens[:, ::-1], turned)[:, ::-1]
