"""The transformer: a decoder of readable blocks (arXiv 1706.03762), pre-norm, later choices as options.

Unusual: optional hashed n-gram embeddings (arXiv 2412.09871) for small models over bytes.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.attention import Attention
from fmjax.nn.embedding import Embed, HashedNgrams
from fmjax.nn.feed_forward import FeedForward
from fmjax.nn.linear import Linear, compute_dtype

NORMS = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}
POSITIONS = ("rotary", "learned", "none")


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    heads: int
    groups: int | None
    hidden: int
    kind: str
    norm: str
    rotary: bool
    qk_norm: bool
    use_bias: bool
    dropout: float
    depth: int
    dtype: str | None
    attention: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], positions: Any, mask: Any, cache: Any, start: Any, train: bool
    ) -> tuple[Float[Array, "B T D"], Any]:
        norm = partial(NORMS[self.norm], dtype=compute_dtype(self.dtype))
        # Two branches a block add to the stream; their sum keeps its size when each starts this small (GPT-2).
        small = nn.initializers.variance_scaling(0.5 / self.depth, "fan_in", "truncated_normal")
        drop = nn.Dropout(self.dropout, deterministic=not train)
        attended, cache = Attention(
            self.heads, self.groups, causal=True, rotary=self.rotary, qk_norm=self.qk_norm, use_bias=self.use_bias,
            dtype=self.dtype, out_init=small, backend=self.attention, name="attention",
        )(norm(name="attention_norm")(x), positions, mask, cache, start)  # fmt: skip
        x = x + drop(attended)
        forward = FeedForward(
            self.hidden, self.kind, self.use_bias, self.dropout, self.dtype, down_init=small, name="feed_forward"
        )
        return x + drop(forward(norm(name="feed_forward_norm")(x), train)), cache


class Decoder(nn.Module):
    """A decoder-only language model.

    Attributes:
      vocab: number of token ids (V).
      width: size of the residual stream (D).
      depth: number of blocks.
      heads: query heads.
      groups: key/value heads; None is `heads`.
      inner: width of the feed-forward; None is 4 x width.
      length: longest input; only learned positions need it.
      feed_forward: an activation, or swiglu, geglu, reglu.
      norm: rms or layer.
      position: rotary, learned or none.
      qk_norm: normalise queries and keys.
      use_bias: biases everywhere.
      tied: output weights are the embedding's.
      ngrams: orders of hashed n-gram embeddings added to the input; () is none.
      buckets: rows of each n-gram table.
      dropout: of the embedding and both branches of a block.
      attention: backend, see nn/attention.py.
      remat: recompute blocks in the backward pass instead of keeping their insides.
    """

    vocab: int
    width: int = 128
    depth: int = 4
    heads: int = 4
    groups: int | None = None
    inner: int | None = None
    length: int = 1024
    feed_forward: str = "gelu"
    norm: str = "rms"
    position: str = "rotary"
    qk_norm: bool = False
    use_bias: bool = False
    tied: bool = True
    ngrams: tuple[int, ...] = ()
    buckets: int = 8192
    dropout: float = 0.0
    attention: str = "auto"
    remat: bool = False
    dtype: str | None = None

    def setup(self) -> None:
        for what, given, known in (("norm", self.norm, NORMS), ("position", self.position, POSITIONS)):
            if given not in known:
                raise ConfigError(f"there is no {what} {given!r}; {did_you_mean(given, known)}")
        self.embed = Embed(self.vocab, self.width, dtype=self.dtype)
        if self.position == "learned":
            self.position_embed = Embed(self.length, self.width, dtype=self.dtype)
        if self.ngrams:
            self.ngram_embed = HashedNgrams(self.ngrams, self.buckets, self.width, dtype=self.dtype)
        block = nn.remat(Block, static_argnums=(6,)) if self.remat else Block
        for i in range(self.depth):
            setattr(self, f"block_{i}", block(
                self.heads, self.groups, self.inner or 4 * self.width, self.feed_forward, self.norm,
                self.position == "rotary", self.qk_norm, self.use_bias, self.dropout, self.depth, self.dtype,
                self.attention,
            ))  # fmt: skip
        self.final_norm = NORMS[self.norm](dtype=compute_dtype(self.dtype))
        self.drop = nn.Dropout(self.dropout)
        if not self.tied:
            self.head_linear = Linear((self.vocab,), dtype=self.dtype, name="head")

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        cache: dict | None = None,
        train: bool = False,
    ) -> Any:
        """Logits (B, T, V); with a cache (logits, cache)."""
        x, cache_out = self._stream(tokens, positions, segment_ids, cache, train)
        logits = self.head(x)
        return logits if cache is None else (logits, cache_out)

    def hidden(
        self, tokens: Int[Array, "B T"], *, positions: Any = None, segment_ids: Any = None, train: bool = False
    ) -> Float[Array, "B T D"]:
        """What the head reads: the normalised last stream."""
        return self._stream(tokens, positions, segment_ids, None, train)[0]

    def head(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Logits of hidden states."""
        return self.embed.attend(x) if self.tied else self.head_linear(x)

    def _stream(self, tokens: Any, positions: Any, segment_ids: Any, cache: dict | None, train: bool) -> tuple:
        B, T = tokens.shape
        if self.position == "learned" and self.length < T:
            raise ConfigError(f"{T} tokens do not fit {self.length} learned positions: raise --config.model.length")
        start = None if cache is None else cache["start"]
        if positions is None:
            offset = 0 if start is None else start
            positions = jnp.broadcast_to(offset + jnp.arange(T), (B, T))
        mask = None if segment_ids is None else same_document(segment_ids)
        x, blocks = self.embed(tokens), []
        if self.position == "learned":
            x = x + self.position_embed(positions)
        if cache is not None:
            seen = jax.lax.dynamic_update_slice_in_dim(cache["tokens"], tokens.astype(jnp.int32), start, 1)
            mask = (jnp.arange(seen.shape[1]) <= (start + jnp.arange(T))[:, None])[None, None]
            mask = jnp.broadcast_to(mask, (B, 1, T, seen.shape[1]))
        if self.ngrams:
            table = self.ngram_embed(tokens if cache is None else seen, segment_ids)
            x = x + (table if cache is None else jax.lax.dynamic_slice_in_dim(table, start, T, 1))
        x = self.drop(x, deterministic=not train)
        for i in range(self.depth):
            layer = None if cache is None else cache["blocks"][i]
            x, layer = getattr(self, f"block_{i}")(x, positions, mask, layer, start, train)
            blocks.append(layer)
        out = None if cache is None else {"start": start + T, "tokens": seen, "blocks": blocks}
        return self.final_norm(x), out

    def init_cache(self, batch: int, length: int) -> dict:
        """An empty cache for `length` tokens; plain arrays, no weights needed."""
        G, K = self.groups or self.heads, self.width // self.heads
        zeros = jnp.zeros((batch, length, G, K), compute_dtype(self.dtype))
        blocks = [{"key": zeros, "value": zeros} for _ in range(self.depth)]
        return {"start": jnp.zeros((), jnp.int32), "tokens": jnp.zeros((batch, length), jnp.int32), "blocks": blocks}

    def flops(self, shapes: dict[str, tuple[int, ...]], causal: bool = False) -> float:
        """Forward FLOPs of a batch of `tokens` (B, T + 1); `causal` counts only the half of attention that is seen."""
        B, T = shapes["tokens"][0], shapes["tokens"][1] - 1
        K, F = self.width // self.heads, self.inner or 4 * self.width
        gated = 3 if self.feed_forward in ("swiglu", "geglu", "reglu") else 2
        projections = self.width * (2 * self.width + 2 * (self.groups or self.heads) * K)
        scores = 2 * T * self.width * (0.5 if causal else 1.0)
        per_token = self.depth * (projections + gated * self.width * F + scores) + self.width * self.vocab
        return 2.0 * B * T * per_token


def same_document(segment_ids: Int[Array, "B T"]) -> Bool[Array, "B 1 T T"]:
    """Who may look at whom in a packed row: tokens of one document; segment 0 is padding and sees nothing."""
    alike = segment_ids[:, :, None] == segment_ids[:, None, :]
    return (alike & (segment_ids > 0)[:, :, None])[:, None]
