"""Small nets with the methods of language models, for the objectives over tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fmjax.core.nets import Net


class Small(nn.Module):
    """An encoder, a decoder, or with `decoder_tokens` both: each token sees the mean of its own document."""

    vocab: int = 23
    width: int = 8
    causal: bool = False

    def setup(self):
        self.embed = self.param("embed", nn.initializers.normal(0.7), (self.vocab, self.width))
        self.bias = self.param("bias", nn.initializers.normal(0.1), (self.vocab,))
        self.judge = nn.Dense(2)

    def __call__(self, *tokens, train: bool = False, **context):
        x = self.hidden(*tokens, train=train, **context)
        if self.is_initializing():
            self.pair(x)
        return self.head(x)

    def hidden(
        self, tokens, decoder_tokens=None, *, positions=None, segment_ids=None, token_types=None, prefix=None,
        decoder_positions=None, decoder_segment_ids=None, train: bool = False,
    ):  # fmt: skip
        if train:
            self.sow("losses", "size", 0.01 * jnp.square(self.embed).mean())
        keys, read = self.embed[tokens], tokens if decoder_tokens is None else decoder_tokens
        own = segment_ids if decoder_tokens is None else decoder_segment_ids
        if segment_ids is None:
            seen = jnp.ones((*read.shape, tokens.shape[1]))
        else:
            seen = (own[:, :, None] == segment_ids[:, None]) & (segment_ids[:, None] > 0)
        seen = jnp.tril(seen) if self.causal else seen
        x = self.embed[read] + seen @ keys / (seen.sum(-1, keepdims=True) + 1e-6)
        for i, more in enumerate((token_types, prefix, positions if decoder_tokens is None else decoder_positions)):
            x = x if more is None else x.at[..., i].add(jnp.sin(more))
        return jnp.tanh(x)

    def head(self, x, train: bool = False):
        return x @ self.embed.T + self.bias

    def pair(self, x, train: bool = False):
        return self.judge(x[:, 0])


def net_of(module, params, train: bool = True) -> Net:
    return Net(module, params, {}, jax.random.key(1), train)
