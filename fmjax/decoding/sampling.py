"""Sampling: a language model continues a text, one token at a time, in one compiled loop over its cache."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.core.types import Batch


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Continues every row of `tokens` (B, P); callable as `(nets, batch) -> {"tokens": (B, length)}`.

    The batch may hold `seed`, an integer scalar: the same seed, weights and prompt give the same text.

    Attributes:
      length: tokens to add.
      temperature: logits are divided by it; 0 takes the most likely token.
      top_k: only the k most likely tokens; 0 is all.
      top_p: only the most likely tokens that together have this probability (arXiv 1904.09751); 1 is all.
      eos: once drawn, the rest of the row is this token.
    """

    length: int = 256
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    eos: int | None = None

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ConfigError(f"length is {self.length}: ask for one token or more")
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}: "
                "want temperature >= 0, top_k >= 0 and 0 < top_p <= 1"
            )

    def __call__(self, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        net, prompt = nets["model"], batch["tokens"].astype(jnp.int32)
        if not hasattr(net.module, "init_cache"):
            raise ConfigError(
                f"{type(net.module).__name__} is no language model with a cache: it cannot continue a text"
            )
        rows, given = prompt.shape
        logits, cache = net(prompt, cache=net.module.init_cache(rows, given + self.length))
        keys = jax.random.split(jax.random.key(batch.get("seed", 0)), self.length)

        def one(carry: tuple, key: jax.Array) -> tuple[tuple, jax.Array]:
            last, cache, done = carry
            token = self.draw(last, key)
            if self.eos is not None:
                token = jnp.where(done, self.eos, token)
                done = done | (token == self.eos)
            logits, cache = net(token[:, None], cache=cache)
            return (logits[:, -1], cache, done), token

        start = (logits[:, -1], cache, jnp.zeros(rows, bool))
        return {"tokens": jax.lax.scan(one, start, keys)[1].T}

    def draw(self, logits: jax.Array, key: jax.Array) -> jax.Array:
        """One token a row, (B,), from logits (B, V).

        Raises:
          ConfigError: top_k is larger than the vocabulary.
        """
        if self.top_k > logits.shape[-1]:
            raise ConfigError(f"top_k is {self.top_k}, and the vocabulary has {logits.shape[-1]} tokens")
        if self.temperature == 0:
            return logits.argmax(-1).astype(jnp.int32)
        logits = logits.astype(jnp.float32) / self.temperature
        if self.top_k:
            floor = jax.lax.top_k(logits, self.top_k)[0][:, -1:]
            logits = jnp.where(logits < floor, -jnp.inf, logits)
        if self.top_p < 1:
            ordered = jnp.sort(logits, axis=-1, descending=True)
            probabilities = jax.nn.softmax(ordered, axis=-1)
            kept = jnp.cumsum(probabilities, axis=-1) - probabilities < self.top_p  # the first is always kept
            floor = jnp.where(kept, ordered, jnp.inf).min(-1, keepdims=True)
            logits = jnp.where(logits < floor, -jnp.inf, logits)
        return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
