"""Speculative decoding (arXiv 2211.17192): a small model drafts, the target checks several tokens in one reading.

What comes out is what the target alone would write: the same tokens when greedy, the same distribution when drawn.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.core.types import Batch
from fmjax.decoding import reading
from fmjax.decoding.choosing import Choice


@dataclasses.dataclass(frozen=True)
class Speculative(Choice):
    """Continues every row of `tokens` (B, P) with nets "model", the target, and "draft", of the same vocabulary.

    Callable as `(nets, batch) -> {"tokens": (B, length), "accepted": (B,)}`, of the same batch as `Sampler`; `accepted`
    is the share of drafted tokens that the target kept. Rows go on at their own pace.

    Attributes:
      length: tokens to write at most.
      drafted: tokens that the draft proposes at a time.
      eos: once drawn, the rest of the row is this token.
      start: what the decoder of an encoder-decoder reads first.
    """

    length: int = 256
    drafted: int = 4
    eos: int | None = None
    start: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1 or self.drafted < 1:
            raise ConfigError(f"length is {self.length} and drafted {self.drafted}: ask for one token or more")
        if self.repetition_penalty != 1:
            raise ConfigError("a draft cannot know what will have been said: repetition_penalty must be 1 here")

    @property
    def room(self) -> int:
        """Places after the prompt: drafts that are taken back again stand behind the last token."""
        return self.length + self.drafted + 1

    def __call__(self, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        target, draft = nets["model"], nets.get("draft")
        if draft is None:
            raise ConfigError("speculative decoding needs a second net, 'draft'")
        for net in (target, draft):
            if not hasattr(net.module, "empty_blocks"):
                raise ConfigError(f"{type(net.module).__name__} cannot take tokens back: draft with a transformer")
        sizes = [net.module.vocab for net in (target, draft)]
        if sizes[0] != sizes[1]:
            raise ConfigError(f"the draft has {sizes[1]} token ids and the target {sizes[0]}: they must be the same")
        keys = jax.random.split(jax.random.key(batch.get("seed", 0)), len(batch["tokens"]))
        kept = {k: batch[k] for k in ("tokens", "segment_ids", "positions") if k in batch}

        def row(own: dict, key: jax.Array) -> dict[str, jax.Array]:
            return self._row(target, draft, {k: x[None] for k, x in own.items()}, key)

        return jax.vmap(row)(kept, keys)

    def _row(self, target: Net, draft: Net, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """One text: {"tokens": (length,), "accepted": ()}."""
        k, room = self.drafted, self.room
        begun = [reading.begin(net, batch, room, self.start, slack=k + 1)[:2] for net in (target, draft)]
        (logits, cache), (_, ahead) = begun
        key, own = jax.random.split(key)
        first = self.draw(logits, own)
        state = {
            "key": key, "last": first, "cache": cache, "ahead": ahead, "made": jnp.ones((), jnp.int32),
            "text": jnp.zeros(room, jnp.int32).at[0].set(first[0]),
            "kept": jnp.zeros((), jnp.int32), "asked": jnp.zeros((), jnp.int32),
        }  # fmt: skip

        def goes_on(state: dict[str, Any]) -> jax.Array:
            over = jnp.zeros((), bool) if self.eos is None else (state["text"] == self.eos)[: self.length].any()
            return (state["made"] < self.length) & ~over

        if self.eos is not None:  # places that are not written yet hold no token
            state["text"] = jnp.where(jnp.arange(room) < 1, state["text"], -1)
        state = jax.lax.while_loop(goes_on, lambda s: self._round(target, draft, s), state)
        text = state["text"][: self.length]
        if self.eos is not None:
            after = jnp.cumsum(text == self.eos) - (text == self.eos) > 0
            text = jnp.where(after | (text < 0), self.eos, text)
        return {"tokens": text, "accepted": state["kept"] / jnp.maximum(state["asked"], 1)}

    def _round(self, target: Net, draft: Net, state: dict[str, Any]) -> dict[str, Any]:
        """Draft, check, keep what agrees and one token more."""
        k = self.drafted
        key, accept, fill = jax.random.split(state["key"], 3)

        def propose(carry: tuple, i: jax.Array) -> tuple:
            token, ahead = carry
            logits, ahead = reading.more(draft, token[:, None], ahead)
            shaped = self.shaped(logits[:, -1])
            token = jax.random.categorical(jax.random.fold_in(key, i), shaped).astype(jnp.int32)
            return (token, ahead), (token[0], jax.nn.softmax(shaped[0]))

        # The last draft is read too, so that the draft's cache is whole when all are kept.
        (_, ahead), (tokens, q) = jax.lax.scan(propose, (state["last"], state["ahead"]), jnp.arange(k + 1))
        guessed = tokens[:k]
        logits, cache = reading.more(target, jnp.concatenate([state["last"], guessed])[None], state["cache"])
        p = jax.nn.softmax(self.shaped(logits[0]))
        at = jnp.arange(k)
        chance = p[at, guessed] / jnp.maximum(q[at, guessed], 1e-30)
        good = jax.random.uniform(accept, (k,)) < chance
        n = jnp.cumprod(good).sum()  # the first so many are kept
        rest = jnp.where(n < k, jnp.maximum(p[n] - q[n], 0), p[n])
        rest = jnp.where(rest.sum() > 0, rest, p[n])  # only rounding can leave nothing
        last = jax.random.categorical(fill, jnp.log(rest)).astype(jnp.int32)
        new = jnp.where(jnp.arange(k + 1) < n, tokens, -1).at[n].set(last)
        back = k - n  # k + 1 tokens were read, n + 1 of them stay
        made = jnp.minimum(n, self.length - state["made"])
        return {
            "key": jax.random.fold_in(key, k + 1), "last": last[None], "made": state["made"] + n + 1,
            "cache": reading.rewound(cache, back), "ahead": reading.rewound(ahead, back),
            "text": jax.lax.dynamic_update_slice(state["text"], new, (state["made"],)),
            "kept": state["kept"] + made, "asked": state["asked"] + jnp.minimum(k, self.length - state["made"]),
        }  # fmt: skip
