"""Choosing a token from logits: greedy, or drawn from a distribution that was cut and sharpened."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fmjax.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Choice:
    """How the next token is chosen from logits; repeats are punished first, then temperature, top-k, top-p, min-p.

    Attributes:
      temperature: logits are divided by it; 0 takes the most likely token.
      top_k: only the k most likely tokens; 0 is all.
      top_p: only the most likely tokens that together have this probability (arXiv 1904.09751); 1 is all.
      min_p: only tokens at least this probable relative to the most likely one (arXiv 2407.01082); 0 is all.
      repetition_penalty: logits of tokens already in the row are divided by it where positive and multiplied where
        negative (CTRL, arXiv 1909.05858); 1 changes nothing.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        wrong = {
            f"temperature is {self.temperature}: want 0 or more": not self.temperature >= 0,
            f"top_k is {self.top_k}: want 0, which is all, or more": self.top_k < 0,
            f"top_p is {self.top_p}: want above 0 and at most 1": not 0 < self.top_p <= 1,
            f"min_p is {self.min_p}: want 0 to 1": not 0 <= self.min_p <= 1,
            f"repetition_penalty is {self.repetition_penalty}: want above 0": not self.repetition_penalty > 0,
        }
        if why := [text for text, is_wrong in wrong.items() if is_wrong]:
            raise ConfigError(why[0])

    def fits(self, vocab: int) -> None:
        """Refuse a top_k larger than the vocabulary.

        Raises:
          ConfigError: it is.
        """
        if self.top_k > vocab:
            raise ConfigError(f"top_k is {self.top_k}, and the vocabulary has {vocab} tokens")

    def shaped(self, logits: Float[Array, "B V"], seen: Int[Array, "B V"] | None = None) -> Float[Array, "B V"]:
        """Logits of the distribution that is drawn from; tokens that are cut have -inf.

        Args:
          seen: above 0 for tokens that the row holds already; None punishes none.
        """
        self.fits(logits.shape[-1])
        logits = self._punished(logits, seen)
        if self.temperature == 0:
            return jnp.where(jnp.arange(logits.shape[-1]) == first_of_most(logits)[:, None], 0.0, -jnp.inf)
        logits = logits / self.temperature
        if self.top_k:
            floor = jax.lax.top_k(logits, self.top_k)[0][:, -1:]
            logits = jnp.where(logits < floor, -jnp.inf, logits)
        if self.top_p < 1:
            ordered = jnp.sort(logits, axis=-1, descending=True)
            probabilities = jax.nn.softmax(ordered, axis=-1)
            kept = jnp.cumsum(probabilities, axis=-1) - probabilities < self.top_p  # the first is always kept
            floor = jnp.where(kept, ordered, jnp.inf).min(-1, keepdims=True)
            logits = jnp.where(logits < floor, -jnp.inf, logits)
        if self.min_p:
            floor = logits.max(-1, keepdims=True) + jnp.log(self.min_p)
            logits = jnp.where(logits < floor, -jnp.inf, logits)
        return logits

    def draw(
        self, logits: Float[Array, "B V"], key: jax.Array, seen: Int[Array, "B V"] | None = None
    ) -> Int[Array, " B"]:
        """One token a row.

        Raises:
          ConfigError: top_k is larger than the vocabulary.
        """
        if self.temperature == 0:
            self.fits(logits.shape[-1])
            return first_of_most(self._punished(logits, seen))
        return jax.random.categorical(key, self.shaped(logits, seen), axis=-1).astype(jnp.int32)

    def _punished(self, logits: jax.Array, seen: jax.Array | None) -> Float[Array, "B V"]:
        logits = logits.astype(jnp.float32)
        if self.repetition_penalty == 1 or seen is None:
            return logits
        less = jnp.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
        return jnp.where(seen > 0, less, logits)


def first_of_most(x: Float[Array, "B V"]) -> Int[Array, " B"]:
    """Where each row is largest, the first place of several: an argmax in two sums that XLA's CPU compiler vectorises.

    A row with NaN gives the last place.
    """
    size = x.shape[-1]
    places = jnp.where(x == x.max(-1, keepdims=True), jnp.arange(size, dtype=jnp.int32), size - 1)
    return places.min(-1)


def count(seen: Int[Array, "B V"], tokens: Int[Array, "B T"], real: Int[Array, "B T"] | None = None) -> jax.Array:
    """How often each row holds each token, these included."""
    rows = jnp.arange(len(tokens))[:, None]
    return seen.at[rows, tokens].add(1 if real is None else real.astype(seen.dtype))
