"""Beam search: the continuation that is most likely as a whole, as far as a few kept ones can tell."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.core.types import Batch
from fmjax.decoding import reading

NEVER = -1e30


@dataclasses.dataclass(frozen=True)
class Beam:
    """The best continuation of every row of `tokens` (B, P) among `beams` that are kept at each step.

    Callable as `(nets, batch) -> {"tokens": (B, length), "score": (B,)}`, of the same batch as `Sampler`. A text that
    ends at `eos` after n tokens, eos included, scores its log-probability / n ** length_penalty, as in transformers;
    one that does not end competes with that of its `length` tokens. The search of a row ends when no kept text can
    beat the `beams`-th that ended.

    Attributes:
      beams: texts kept a row; 1 is greedy.
      length: tokens to write at most.
      length_penalty: 0 prefers short texts, 1 compares means.
      eos: ends a text; the rest of the row is this token.
      start, prefix: as for `Sampler`.
    """

    beams: int = 4
    length: int = 64
    length_penalty: float = 1.0
    eos: int | None = None
    start: int = 0
    prefix: bool = False

    def __post_init__(self) -> None:
        if self.beams < 1 or self.length < 1:
            raise ConfigError(f"beams is {self.beams} and length {self.length}: ask for one or more")

    @property
    def room(self) -> int:
        """Places after the prompt."""
        return self.length

    def __call__(self, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        net, K, L = nets["model"], self.beams, self.length
        logits, cache, *_ = reading.begin(net, batch, L, self.start, prefix=self.prefix)
        B, V = logits.shape
        if K > V:
            raise ConfigError(f"beams is {K}, and the vocabulary has {V} tokens")
        filler = 0 if self.eos is None else self.eos
        state = {
            "i": jnp.zeros((), jnp.int32),
            "logits": jnp.repeat(logits, K, 0),
            "cache": reading.repeated(cache, K),
            "alive": jnp.full((B, K, L), filler, jnp.int32),
            "alive_score": jnp.where(jnp.arange(K) == 0, 0.0, jnp.full((B, K), NEVER)),  # all begin as one
            "ended": jnp.full((B, K, L), filler, jnp.int32),
            "ended_score": jnp.full((B, K), NEVER),
        }
        state = jax.lax.while_loop(self._goes_on, lambda s: self._step(net, s), state)
        # Texts that never ended are as good as their score says.
        score = jnp.concatenate([state["ended_score"], state["alive_score"] / L**self.length_penalty], 1)
        texts = jnp.concatenate([state["ended"], state["alive"]], 1)
        full = jnp.where(state["i"] >= L, score, score.at[:, K:].set(NEVER))
        best = full.argmax(1)
        take = jnp.arange(B)
        return {"tokens": texts[take, best], "score": full[take, best]}

    def _goes_on(self, state: dict) -> jax.Array:
        """Whether a kept text may still beat the worst that ended: penalties shrink with length, so try the longest."""
        longest = self.length if self.length_penalty > 0 else state["i"] + 1
        hope = state["alive_score"].max(1) / longest**self.length_penalty
        return (state["i"] < self.length) & (hope > state["ended_score"].min(1)).any()

    def _step(self, net: Net, state: dict) -> dict:
        (B, K), i = state["alive_score"].shape, state["i"]
        V = state["logits"].shape[-1]
        logp = jax.nn.log_softmax(state["logits"].astype(jnp.float32)).reshape(B, K, V)
        total = state["alive_score"][..., None] + logp
        # Of twice as many candidates at least K do not end.
        n = min(2 * K, K * V)
        score, place = jax.lax.top_k(total.reshape(B, K * V), n)
        parent, token = place // V, (place % V).astype(jnp.int32)
        texts = jnp.take_along_axis(state["alive"], parent[..., None], 1).at[:, :, i].set(token)
        ends = jnp.zeros_like(token, bool) if self.eos is None else token == self.eos
        done = jnp.where(ends & (jnp.arange(n) < K), score / (i + 1.0) ** self.length_penalty, NEVER)
        ended_score, best = jax.lax.top_k(jnp.concatenate([state["ended_score"], done], 1), K)
        ended = jnp.take_along_axis(jnp.concatenate([state["ended"], texts], 1), best[..., None], 1)
        alive_score, kept = jax.lax.top_k(jnp.where(ends, NEVER, score), K)
        alive = jnp.take_along_axis(texts, kept[..., None], 1)
        rows = (jnp.arange(B)[:, None] * K + jnp.take_along_axis(parent, kept, 1)).reshape(-1)
        token = jnp.take_along_axis(token, kept, 1).reshape(-1, 1)
        logits, cache = reading.more(net, token, reading.rows(state["cache"], rows))
        return {
            "i": i + 1, "logits": logits[:, -1], "cache": cache, "alive": alive, "alive_score": alive_score,
            "ended": ended, "ended_score": ended_score,
        }  # fmt: skip
