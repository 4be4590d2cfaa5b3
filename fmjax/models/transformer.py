"""The transformer (arXiv 1706.03762): decoder, encoder, and both; later choices as options, see nn/stack.py.

Presets that reproduce published architectures exactly: gpt2.py, llama.py, bert.py, t5.py. Unusual: optional hashed
n-gram embeddings (arXiv 2412.09871) for small models over bytes; layers scanned or unrolled from the same weights.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn import cache as caches
from fmjax.nn import masks
from fmjax.nn.embedding import Embed, HashedNgrams, looked_around, looked_back
from fmjax.nn.feed_forward import activation
from fmjax.nn.linear import Linear, compute_dtype
from fmjax.nn.stack import Blocks, side

HEADS = ("tied", "masked", "none")


class Decoder(Blocks, kw_only=True):
    """A decoder-only language model.

    Attributes:
      vocab: number of token ids (V).
      tied: output weights are the embedding's.
      embed_scale: the embedded tokens are multiplied by it.
      logit_scale: the logits are multiplied by it.
      logit_softcap: bound on the logits, as softcap on the scores.
      ngrams: orders of hashed n-gram embeddings added to the input; () is none.
      buckets: rows of each n-gram table.
    """

    vocab: int
    tied: bool = True
    embed_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    ngrams: tuple[int, ...] = ()
    buckets: int = 8192

    def setup(self) -> None:
        self.embed = Embed(self.vocab, self.width, dtype=self.dtype)
        if self.ngrams:
            self.ngram_embed = HashedNgrams(self.ngrams, self.buckets, self.width, dtype=self.dtype)
        self.make_blocks(causal=True)
        if not self.tied:
            self.head_linear = Linear((self.vocab,), dtype=self.dtype, name="head")

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        prefix: Int[Array, "B T"] | None = None,
        cache: dict | None = None,
        train: bool = False,
    ) -> Any:
        """Logits (B, T, V); with a cache (logits, cache).

        Args:
          positions: where each token stands; None counts from 0, or from the end of the cache.
          segment_ids: which document of a packed row a token belongs to; 0 is padding.
          prefix: 1 for tokens that every token of the document sees (prefix language model).
          cache: what `init_cache` makes, or an earlier call gave.
        """
        x, cache = self._stream(tokens, positions, segment_ids, prefix, cache, train)
        return self.head(x) if cache is None else (self.head(x), cache)

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        prefix: Int[Array, "B T"] | None = None,
        cache: dict | None = None,
        train: bool = False,
    ) -> Any:
        """What the head reads, the normalised last stream (B, T, D); with a cache (that, cache)."""
        x, cache = self._stream(tokens, positions, segment_ids, prefix, cache, train)
        return x if cache is None else (x, cache)

    def head(self, x: Float[Array, "... D"], train: bool = False) -> Float[Array, "... V"]:
        """Logits of hidden states."""
        return finish(self.embed.attend(x) if self.tied else self.head_linear(x), self.logit_scale, self.logit_softcap)

    def _stream(
        self, tokens: Any, positions: Any, segment_ids: Any, prefix: Any, cache: dict | None, train: bool
    ) -> tuple[jax.Array, dict | None]:
        x = self.embed(tokens)
        if self.embed_scale != 1.0:
            x = x * jnp.asarray(self.embed_scale, x.dtype)
        if cache is not None:
            cache, positions = caches.take(cache, tokens, positions, segment_ids)
        if self.ngrams:
            x = x + looked_back(self.ngram_embed, tokens, segment_ids, cache)
        x, blocks = self.run(x, positions, segment_ids, prefix, cache, train=train)
        return x, caches.moved_on(cache, tokens, blocks)

    def init_cache(self, batch: int, length: int, slack: int = 0) -> dict:
        """An empty cache for `length` tokens; plain arrays, no weights needed.

        Args:
          slack: how many tokens `rewound` may take back.
        """
        return caches.begin(batch, length, self.empty_blocks(batch, length, slack), bool(self.ngrams))

    def flops(self, shapes: dict[str, tuple[int, ...]], causal: bool = False) -> float:
        """Forward FLOPs of a batch of `tokens` (B, T + 1); `causal` counts only the half of attention that is seen."""
        B, T = shapes["tokens"][0], shapes["tokens"][1] - 1
        return self.block_flops(B, T, causal) + 2.0 * B * T * self.width * self.vocab


class Encoder(Blocks, kw_only=True):
    """An encoder: every token sees all of its document (BERT, arXiv 1810.04805).

    Attributes:
      vocab: number of token ids (V).
      token_types: kinds of sentences with an embedding of their own; 0 is none.
      output: "tied" reads the embedding backwards; "masked" does so after a dense layer and a norm, and adds a bias
        (BERT's head for masked tokens); "none" has no head.
      pairs: whether there is a head for pairs of sentences: a tanh layer over the first token, then two logits.
      ngrams: orders of hashed n-gram embeddings that end, and of others that begin, at each token; () is none.
      buckets: rows of each n-gram table.
    """

    vocab: int
    position: str = "learned"
    token_types: int = 0
    output: str = "masked"
    pairs: bool = False
    ngrams: tuple[int, ...] = ()
    buckets: int = 8192

    both_ways = True  # what comes after a token tells of it: no model of what comes next

    def setup(self) -> None:
        if self.output not in HEADS:
            raise ConfigError(f"there is no output {self.output!r}; {did_you_mean(self.output, HEADS)}")
        self.embed = Embed(self.vocab, self.width, dtype=self.dtype)
        if self.token_types:
            self.type_embed = Embed(self.token_types, self.width, dtype=self.dtype)
        if self.ngrams:
            self.ngram_embed = HashedNgrams(self.ngrams, self.buckets, self.width, dtype=self.dtype)
            self.ngram_embed_ahead = HashedNgrams(self.ngrams, self.buckets, self.width, dtype=self.dtype)
        self.make_blocks(causal=False)
        if self.output == "masked":
            self.head_dense = Linear((self.width,), use_bias=True, dtype=self.dtype)
            self.head_norm = self.spec.norm_layer()
            self.head_bias = self.param("head_bias", nn.initializers.zeros_init(), (self.vocab,), jnp.float32)
        if self.pairs:
            self.pooler = Linear((self.width,), use_bias=True, dtype=self.dtype)
            self.pair_head = Linear((2,), use_bias=True, dtype=self.dtype)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        token_types: Int[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T V"]:
        """Logits of every token; without a head, the hidden states."""
        x = self.hidden(tokens, positions=positions, segment_ids=segment_ids, token_types=token_types, train=train)
        if self.pairs and self.is_initializing():
            self.pair(x)
        return x if self.output == "none" else self.head(x)

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        token_types: Int[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """The last stream."""
        x = self.embed(tokens)
        if self.token_types:
            x = x + self.type_embed(jnp.zeros_like(tokens) if token_types is None else token_types)
        if self.ngrams:
            x = x + looked_around(self.ngram_embed, self.ngram_embed_ahead, tokens, segment_ids)
        return self.run(x, positions, segment_ids, train=train)[0]

    def head(self, x: Float[Array, "... D"], train: bool = False) -> Float[Array, "... V"]:
        """Logits of hidden states."""
        if self.output == "masked":
            x = self.head_norm(activation(self.feed_forward)(self.head_dense(x)))
            return self.embed.attend(x) + self.head_bias.astype(compute_dtype(self.dtype))
        return self.embed.attend(x)

    def pooled(self, x: Float[Array, "B T D"], train: bool = False) -> Float[Array, "B D"]:
        """One vector a row, from the hidden state of its first token."""
        return jnp.tanh(self.pooler(x[:, 0]))

    def pair(self, x: Float[Array, "B T D"], train: bool = False) -> Float[Array, "B 2"]:
        """Whether the second sentence follows the first (0) or not (1), from hidden states."""
        return self.pair_head(self.pooled(x))

    def flops(self, shapes: dict[str, tuple[int, ...]], causal: bool = False) -> float:
        """Forward FLOPs of a batch of `tokens` (B, T)."""
        B, T = shapes["tokens"]
        heads = {"none": 0, "tied": self.vocab, "masked": self.vocab + self.width}
        return self.block_flops(B, T, False) + 2.0 * B * T * self.width * heads[self.output]


class EncoderDecoder(Blocks, kw_only=True):
    """An encoder, and a decoder that attends over what it gives; one table of tokens for both.

    Attributes:
      vocab: number of token ids (V).
      encoder_depth: blocks of the encoder; None is `depth`, which the decoder has.
      tied, embed_scale, logit_scale: as in Decoder.
      ngrams, buckets: as in Encoder for the one side, and as in Decoder for the other.
    """

    vocab: int
    encoder_depth: int | None = None
    tied: bool = True
    embed_scale: float = 1.0
    logit_scale: float = 1.0
    ngrams: tuple[int, ...] = ()
    buckets: int = 8192

    def setup(self) -> None:
        self.embed = Embed(self.vocab, self.width, dtype=self.dtype)
        if self.ngrams:
            table = partial(HashedNgrams, self.ngrams, self.buckets, self.width, dtype=self.dtype)
            self.ngram_embed, self.ngram_embed_ahead, self.decoder_ngram_embed = table(), table(), table()
        self.encoder = side(self, self.encoder_depth, one_way=False)
        self.decoder = side(self, one_way=True, cross=True)
        if not self.tied:
            self.head_linear = Linear((self.vocab,), dtype=self.dtype, name="head")

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        decoder_tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B S"] | None = None,
        segment_ids: Int[Array, "B S"] | None = None,
        decoder_positions: Int[Array, "B T"] | None = None,
        decoder_segment_ids: Int[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T V"]:
        """Logits of the decoder; packed rows give documents of the same number in both sequences."""
        return self.head(self.hidden(
            tokens, decoder_tokens, positions=positions, segment_ids=segment_ids,
            decoder_positions=decoder_positions, decoder_segment_ids=decoder_segment_ids, train=train,
        ))  # fmt: skip

    def hidden(
        self,
        tokens: Int[Array, "B S"],
        decoder_tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B S"] | None = None,
        segment_ids: Int[Array, "B S"] | None = None,
        decoder_positions: Int[Array, "B T"] | None = None,
        decoder_segment_ids: Int[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """What the head reads: the last stream of the decoder."""
        memory = self.encode(tokens, positions=positions, segment_ids=segment_ids, train=train)
        mask = None
        if segment_ids is not None:
            whole = jnp.ones_like(decoder_tokens) if decoder_segment_ids is None else decoder_segment_ids
            mask = masks.same_document(whole, segment_ids)
        return self.decoder(
            self._decoded(decoder_tokens, decoder_segment_ids), positions=decoder_positions,
            segment_ids=decoder_segment_ids, memory=memory, memory_mask=mask, train=train,
        )[0]  # fmt: skip

    def encode(
        self,
        tokens: Int[Array, "B S"],
        *,
        positions: Int[Array, "B S"] | None = None,
        segment_ids: Int[Array, "B S"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B S D"]:
        """The memory that the decoder attends over."""
        x = self._embedded(tokens)
        if self.ngrams:
            x = x + looked_around(self.ngram_embed, self.ngram_embed_ahead, tokens, segment_ids)
        return self.encoder(x, positions=positions, segment_ids=segment_ids, train=train)[0]

    def decode(
        self,
        decoder_tokens: Int[Array, "B T"],
        memory: Float[Array, "B S D"] | None = None,
        segment_ids: Int[Array, "B S"] | None = None,
        *,
        cache: dict,
        train: bool = False,
    ) -> tuple[Float[Array, "B T V"], dict]:
        """(logits, cache) of the tokens after those in the cache.

        Args:
          memory: what `encode` gave; the first call needs it, later ones find what they need in the cache.
          segment_ids: 0 where the memory is padding; needed as long as the memory.
        """
        if memory is not None:
            whole = jnp.ones(memory.shape[:2], jnp.int32) if segment_ids is None else segment_ids
            cache = {**cache, "memory": whole > 0}
        mask = cache["memory"][:, None, None]
        cache, positions = caches.take(cache, decoder_tokens, None, None)
        x = self._decoded(decoder_tokens, None, cache)
        x, blocks = self.decoder(x, positions=positions, cache=cache, memory=memory, memory_mask=mask, train=train)
        return self.head(x), caches.moved_on(cache, decoder_tokens, blocks)

    def head(self, x: Float[Array, "... D"], train: bool = False) -> Float[Array, "... V"]:
        """Logits of the decoder's hidden states."""
        return finish(self.embed.attend(x) if self.tied else self.head_linear(x), self.logit_scale)

    def _embedded(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        return x if self.embed_scale == 1.0 else x * jnp.asarray(self.embed_scale, x.dtype)

    def _decoded(self, tokens: jax.Array, segment_ids: Any, cache: dict | None = None) -> jax.Array:
        x = self._embedded(tokens)
        return x + looked_back(self.decoder_ngram_embed, tokens, segment_ids, cache) if self.ngrams else x

    def init_cache(self, batch: int, length: int, slack: int = 0) -> dict:
        """An empty cache of the decoder for `length` tokens; see Decoder."""
        return caches.begin(batch, length, self.empty_blocks(batch, length, slack), bool(self.ngrams))

    def flops(self, shapes: dict[str, tuple[int, ...]], causal: bool = False) -> float:
        """Forward FLOPs of a batch of `tokens` (B, S) and `targets` (B, T)."""
        (B, S), T = shapes["tokens"], shapes["targets"][1]
        encoder = self.block_flops(B, S, False) * (self.encoder_depth or self.depth) / self.depth
        return encoder + self.block_flops(B, T, causal, memory=S) + 2.0 * B * T * self.width * self.vocab


def finish(logits: jax.Array, scale: float = 1.0, softcap: float | None = None) -> jax.Array:
    """Logits scaled and bounded."""
    if scale != 1.0:
        logits = logits * jnp.asarray(scale, logits.dtype)
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)
