"""Sampling: a language model continues texts, one token at a time, in one compiled loop over its cache."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.core.types import Batch
from fmjax.decoding import reading
from fmjax.decoding.choosing import Choice, count


@dataclasses.dataclass(frozen=True)
class Sampler(Choice):
    """Continues every row of `tokens` (B, P), or writes what an encoder-decoder makes of it; see `Choice`.

    Callable as `(nets, batch) -> {"tokens": (B, length)}`. Rows of different lengths are padded, with `segment_ids` 0,
    on either side. The batch may hold `seed`, an integer scalar: the same seed, weights and prompts give the same
    texts. The loop ends when every row has. `begin` and `more` do the same a few tokens at a time, for streaming.

    Attributes:
      length: tokens to write at most.
      eos: once drawn, the rest of the row is this token.
      start: what the decoder of an encoder-decoder reads first.
      prefix: the tokens of a prompt all see each other (prefix language models).
    """

    length: int = 256
    eos: int | None = None
    start: int = 0
    prefix: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1:
            raise ConfigError(f"length is {self.length}: ask for one token or more")

    @property
    def room(self) -> int:
        """Places after the prompt."""
        return self.length

    def __call__(self, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        return {"tokens": self.more(nets, self.begin(nets, batch), self.length)[1]}

    def begin(self, nets: Mapping[str, Net], batch: Batch) -> dict[str, Any]:
        """The prompts read; what `more` goes on from."""
        logits, cache, tokens, real = reading.begin(nets["model"], batch, self.length, self.start, prefix=self.prefix)
        self.fits(logits.shape[-1])
        state = {"logits": logits, "cache": cache, "done": jnp.zeros(len(tokens), bool), "made": jnp.zeros((), int)}
        state["key"] = jax.random.key(batch.get("seed", 0))
        if self.repetition_penalty != 1:
            state["seen"] = count(jnp.zeros(logits.shape, jnp.int32), tokens, real)
        return state

    def more(self, nets: Mapping[str, Net], state: dict[str, Any], length: int) -> tuple[dict[str, Any], jax.Array]:
        """(state, the next tokens (B, length)); rows that have ended, and all once all have, are filled up."""
        filler = 0 if self.eos is None else self.eos
        out = jnp.full((len(state["done"]), length), filler, jnp.int32)

        def goes_on(carry: tuple) -> jax.Array:
            i, state, _ = carry
            return (i < length) & ~state["done"].all()

        def one(carry: tuple) -> tuple:
            i, state, out = carry
            token = self.draw(state["logits"], jax.random.fold_in(state["key"], state["made"]), state.get("seen"))
            state = dict(state)
            if self.eos is not None:
                token = jnp.where(state["done"], self.eos, token)
                state["done"] = state["done"] | (token == self.eos)
            if "seen" in state:
                state["seen"] = count(state["seen"], token[:, None])
            logits, state["cache"] = reading.more(nets["model"], token[:, None], state["cache"])
            state |= {"logits": logits[:, -1], "made": state["made"] + 1}
            return i + 1, state, jax.lax.dynamic_update_slice_in_dim(out, token[:, None], i, 1)

        _, state, out = jax.lax.while_loop(goes_on, one, (jnp.zeros((), int), state, out))
        return state, out
