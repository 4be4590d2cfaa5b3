"""Recurrent models: a language model of named cells, and sequence to sequence with attention.

They have the signatures of the transformers, so that objectives, samplers and evaluators do not tell them apart; a
state knows the order of its tokens by itself, and `positions` are accepted and not used.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.embedding import Embed, HashedNgrams
from fmjax.nn.feed_forward import GATED, FeedForward
from fmjax.nn.linear import Linear, compute_dtype
from fmjax.nn.linear_recurrence import LinearRecurrence, last_real
from fmjax.nn.recurrent import GRU, LSTM, Bidirectional, Elman

CELLS = {"elman": Elman, "lstm": LSTM, "gru": GRU, "linear": LinearRecurrence}
NORMS = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}


class Block(nn.Module):
    """x + cell(norm(x)), then x + feed_forward(norm(x)) where there is one; without `residual` the bare cell."""

    cell: str
    width: int
    inner: int
    feed_forward: str
    residual: bool
    norm: str
    dropout: float
    unroll: int
    dtype: str | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], segment_ids: Any = None, state: Any = None, train: bool = False
    ) -> tuple[Float[Array, "B T D"], Any]:
        norm = partial(NORMS[self.norm], dtype=compute_dtype(self.dtype))
        drop = nn.Dropout(self.dropout, deterministic=not train)
        layer = make_layer(self.cell, self.width, self.unroll, self.dtype, name=self.cell)
        y, state = layer(norm(name="cell_norm")(x) if self.residual else x, segment_ids, state)
        x = x + drop(y) if self.residual else drop(y)
        if not self.inner:
            return x, state
        forward = FeedForward(self.inner, self.feed_forward, dtype=self.dtype, name="feed_forward")
        return x + drop(forward(norm(name="feed_forward_norm")(x), train)), state


class LanguageModel(nn.Module):
    """A recurrent language model.

    Attributes:
      vocab: number of token ids (V).
      width: size of the stream and of every state (D).
      depth: number of blocks.
      cell: elman, lstm, gru, or linear (Griffin's RG-LRU).
      inner: width of a feed-forward after each cell; 0 is none.
      feed_forward: its activation, or swiglu, geglu, reglu.
      residual: pre-norm residual blocks; False stacks the bare cells, as before 2016.
      norm: rms or layer.
      tied: output weights are the embedding's.
      ngrams: orders of hashed n-gram embeddings added to the input; () is none.
      buckets: rows of each n-gram table.
      dropout: of the embedding and of what each cell and feed-forward gives.
      unroll: steps in one turn of the loops of elman, lstm and gru.
    """

    vocab: int
    width: int = 256
    depth: int = 2
    cell: str = "lstm"
    inner: int = 0
    feed_forward: str = "gelu"
    residual: bool = True
    norm: str = "rms"
    tied: bool = True
    ngrams: tuple[int, ...] = ()
    buckets: int = 8192
    dropout: float = 0.0
    unroll: int = 1
    dtype: str | None = None

    def setup(self) -> None:
        if self.norm not in NORMS:
            raise ConfigError(f"there is no norm {self.norm!r}; {did_you_mean(self.norm, NORMS)}")
        self.embed = Embed(self.vocab, self.width, dtype=self.dtype)
        if self.ngrams:
            self.ngram_embed = HashedNgrams(self.ngrams, self.buckets, self.width, dtype=self.dtype)
        for i in range(self.depth):
            setattr(self, f"block_{i}", Block(
                self.cell, self.width, self.inner, self.feed_forward, self.residual, self.norm, self.dropout,
                self.unroll, self.dtype,
            ))  # fmt: skip
        if self.residual:
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
        prefix: Any = None,
        cache: dict | None = None,
        train: bool = False,
    ) -> Any:
        """Logits (B, T, V); with a cache (logits, cache)."""
        x, cache_out = self._stream(tokens, segment_ids, prefix, cache, train)
        return self.head(x) if cache is None else (self.head(x), cache_out)

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Any = None,
        segment_ids: Any = None,
        prefix: Any = None,
        cache: dict | None = None,
        train: bool = False,
    ) -> Any:
        """What the head reads, (B, T, D); with a cache (that, cache)."""
        x, cache_out = self._stream(tokens, segment_ids, prefix, cache, train)
        return x if cache is None else (x, cache_out)

    def head(self, x: Float[Array, "... D"], train: bool = False) -> Float[Array, "... V"]:
        """Logits of hidden states."""
        return self.embed.attend(x) if self.tied else self.head_linear(x)

    def _stream(self, tokens: Any, segment_ids: Any, prefix: Any, cache: dict | None, train: bool) -> tuple:
        if prefix is not None:
            raise ConfigError("a recurrent model reads from left to right and cannot see a prefix whole: use a Decoder")
        out = None if cache is None else {"start": cache["start"] + tokens.shape[1]}
        x, layers = self.embed(tokens), []
        if self.ngrams and cache is None:
            x = x + self.ngram_embed(tokens, segment_ids)
        elif self.ngrams:
            past = cache["tokens"].shape[1]
            ids = jnp.maximum(cache["segments"][:, -1:], 1) if segment_ids is None else segment_ids
            ids = jnp.concatenate([cache["segments"], jnp.broadcast_to(ids, tokens.shape).astype(jnp.int32)], 1)
            seen = jnp.concatenate([cache["tokens"], tokens.astype(jnp.int32)], 1)
            x = x + self.ngram_embed(seen, ids)[:, past:]
            out["tokens"], out["segments"] = last_real(seen, ids, past)
        x = self.drop(x, deterministic=not train)
        for i in range(self.depth):
            state = None if cache is None else cache["layers"][i]
            x, state = getattr(self, f"block_{i}")(x, segment_ids, state, train)
            layers.append(state)
        x = self.final_norm(x) if self.residual else x
        return x, None if out is None else {**out, "layers": layers}

    def init_cache(self, batch: int, length: int, slack: int = 0) -> dict:
        """The states before any token; plain arrays that do not grow with `length`, no weights needed."""
        layer = make_layer(self.cell, self.width, self.unroll, self.dtype, parent=None)
        cache = {"start": jnp.zeros((), jnp.int32), "layers": [layer.init_state(batch) for _ in range(self.depth)]}
        if self.ngrams:  # the last tokens, of segment 0 for none
            past = (batch, max(*self.ngrams, 2) - 1)
            cache |= {"tokens": jnp.zeros(past, jnp.int32), "segments": jnp.zeros(past, jnp.int32)}
        return cache

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of the products for a batch of `tokens` (B, T + 1)."""
        B, T = shapes["tokens"][0], shapes["tokens"][1] - 1
        layer = make_layer(self.cell, self.width, self.unroll, self.dtype, parent=None)
        forward = 2 * (3 if self.feed_forward in GATED else 2) * self.width * self.inner
        return float(B * T * (self.depth * (layer.flops(self.width) + forward) + 2 * self.width * self.vocab))


class SequenceToSequence(nn.Module):
    """A bidirectional encoder, and a decoder that attends to it: Luong's global attention (arXiv 1508.04025).

    Scores are `general`; the attended state is not fed back into the decoder, so that all its steps are attended for
    at once. Unlike there, the decoder starts from zeros and learns of its source through attention alone: documents
    packed into a row (`segment_ids` of the source, `decoder_segment_ids` of the target) are as if alone.

    Attributes:
      vocab: number of token ids (V), of both languages.
      width: size of the stream, of both directions together, and of the decoder's states (D).
      depth: layers of each.
      cell: lstm, gru or elman.
      tied: output weights are the embedding's.
      dropout: of the embeddings and of what each layer gives.
      unroll: steps in one turn of the loops.
    """

    vocab: int
    width: int = 256
    depth: int = 1
    cell: str = "lstm"
    tied: bool = True
    dropout: float = 0.0
    unroll: int = 1
    dtype: str | None = None

    def setup(self) -> None:
        cells = [name for name in CELLS if name != "linear"]
        if self.cell not in cells:
            raise ConfigError(f"there is no cell {self.cell!r} for both directions; {did_you_mean(self.cell, cells)}")
        norm = partial(nn.RMSNorm, dtype=compute_dtype(self.dtype))
        self.embed = Embed(self.vocab, self.width, dtype=self.dtype)
        for i in range(self.depth):
            both = Bidirectional(CELLS[self.cell], self.width, self.unroll, self.dtype)
            setattr(self, f"encoder_{i}", both)
            setattr(self, f"encoder_norm_{i}", norm())
            setattr(self, f"decoder_{i}", make_layer(self.cell, self.width, self.unroll, self.dtype))
            setattr(self, f"decoder_norm_{i}", norm())
        self.memory_norm, self.query_norm = norm(), norm()
        self.query = Linear((self.width,), dtype=self.dtype)
        self.combine = Linear((self.width,), dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)
        if not self.tied:
            self.head_linear = Linear((self.vocab,), dtype=self.dtype, name="head")

    def __call__(self, tokens: Int[Array, "B S"], decoder_tokens: Int[Array, "B T"], **given: Any) -> Any:
        """Logits (B, T, V); takes what `hidden` takes."""
        return self.head(self.hidden(tokens, decoder_tokens, **given))

    def hidden(
        self,
        tokens: Int[Array, "B S"],
        decoder_tokens: Int[Array, "B T"],
        *,
        positions: Any = None,
        segment_ids: Int[Array, "B S"] | None = None,
        decoder_positions: Any = None,
        decoder_segment_ids: Int[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """What the head reads."""
        memory = self.encode(tokens, segment_ids=segment_ids, train=train)
        return self._look(decoder_tokens, memory, segment_ids, decoder_segment_ids, None, train)[0]

    def head(self, x: Float[Array, "... D"], train: bool = False) -> Float[Array, "... V"]:
        """Logits of hidden states."""
        return self.embed.attend(x) if self.tied else self.head_linear(x)

    def encode(
        self, tokens: Int[Array, "B S"], *, positions: Any = None, segment_ids: Any = None, train: bool = False
    ) -> jax.Array:
        """The memory (B, S, D) that the decoder attends to."""
        x = self.drop(self.embed(tokens), deterministic=not train)
        for i in range(self.depth):
            y = getattr(self, f"encoder_{i}")(getattr(self, f"encoder_norm_{i}")(x), segment_ids)
            x = x + self.drop(y, deterministic=not train)
        return self.memory_norm(x)

    def decode(
        self,
        decoder_tokens: Int[Array, "B T"],
        memory: Float[Array, "B S D"] | None = None,
        segment_ids: Any = None,
        *,
        decoder_segment_ids: Any = None,
        cache: dict | None = None,
        train: bool = False,
    ) -> Any:
        """Logits over a memory; with a cache (logits, cache), a piece at a time as all at once.

        The cache keeps the memory, so that a later call need not give it again.
        """
        if cache is not None and memory is None:
            memory, segment_ids = cache["memory"], cache["sources"]
        x, cache_out = self._look(decoder_tokens, memory, segment_ids, decoder_segment_ids, cache, train)
        return self.head(x) if cache is None else (self.head(x), cache_out)

    def _look(
        self, tokens: Any, memory: jax.Array, sources: Any, targets: Any, cache: dict | None, train: bool
    ) -> tuple[jax.Array, dict | None]:
        x, layers = self.drop(self.embed(tokens), deterministic=not train), []
        for i in range(self.depth):
            state = None if cache is None else cache["layers"][i]
            y, state = getattr(self, f"decoder_{i}")(getattr(self, f"decoder_norm_{i}")(x), targets, state)
            x = x + self.drop(y, deterministic=not train)
            layers.append(state)
        x = self.query_norm(x)
        scores = jnp.einsum("btd,bsd->bts", self.query(x), memory, preferred_element_type=jnp.float32)
        seen = None
        if sources is not None:
            alike = (sources[:, None] > 0) if targets is None else (sources[:, None] == targets[..., None])
            seen = alike & (sources[:, None] > 0)
            scores = jnp.where(seen, scores, -1e30)
        weights = jax.nn.softmax(scores, -1)
        if seen is not None:
            weights = jnp.where(seen, weights, 0)  # who sees nothing gets zeros
        context = jnp.einsum("bts,bsd->btd", weights.astype(memory.dtype), memory)
        x = jnp.tanh(self.combine(jnp.concatenate([context, x], -1)))
        if cache is None:
            return x, None
        sources = jnp.ones(memory.shape[:2], jnp.int32) if sources is None else sources
        return x, {"start": cache["start"] + tokens.shape[1], "layers": layers, "memory": memory, "sources": sources}

    def init_cache(self, batch: int, length: int, slack: int = 0) -> dict:
        """The decoder's states before any token; they do not grow with `length`, no weights needed."""
        layer = make_layer(self.cell, self.width, self.unroll, self.dtype, parent=None)
        return {"start": jnp.zeros((), jnp.int32), "layers": [layer.init_state(batch) for _ in range(self.depth)]}

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of the products for a batch of `tokens` (B, S) and `targets` (B, T)."""
        (B, S), T, D = shapes["tokens"], shapes["targets"][1], self.width
        half = make_layer(self.cell, D // 2, self.unroll, self.dtype, parent=None)
        whole = make_layer(self.cell, D, self.unroll, self.dtype, parent=None)
        attention = 2 * 2 * S * D + 2 * 3 * D * D  # scores and weighted sum; query and combine
        decoder = self.depth * whole.flops(D) + attention + 2 * D * self.vocab
        return float(B * (S * self.depth * 2 * half.flops(D) + T * decoder))


def make_layer(cell: str, width: int, unroll: int, dtype: str | None, **kw: Any) -> Any:
    """The recurrent layer called `cell`.

    Raises:
      ConfigError: there is none of that name.
    """
    if cell not in CELLS:
        raise ConfigError(f"there is no cell {cell!r}; {did_you_mean(cell, CELLS)}")
    options = {} if cell == "linear" else {"unroll": unroll}  # nothing there is a loop
    return CELLS[cell](width, dtype=dtype, **options, **kw)


elman = partial(LanguageModel, cell="elman")
lstm = partial(LanguageModel, cell="lstm")
gru = partial(LanguageModel, cell="gru")
linear = partial(LanguageModel, cell="linear", inner=768, feed_forward="geglu")  # without attention: Hawk
