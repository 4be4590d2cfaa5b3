"""Learning from preferences, without a reward model: of two answers, the preferred one is to become more likely."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmjax.core.errors import ConfigError, DataError
from fmjax.core.nets import Net, Objective
from fmjax.core.types import Batch, Mean, Tree
from fmjax.objectives.chunked import score
from fmjax.objectives.tokens import continues, need


class Likelihoods(NamedTuple):
    """Summed log-likelihoods of the preferred and the rejected answers, (B,) each, and their numbers of tokens."""

    chosen: jax.Array
    rejected: jax.Array
    chosen_tokens: jax.Array
    rejected_tokens: jax.Array


@dataclasses.dataclass(frozen=True)
class Preference(Objective):
    """What preference losses share; subclasses say in `rewards` and `judged` what is compared, and how.

    Reads `tokens`, `rejected` (B, T + 1) and `weights`, `rejected_weights` (B, T) of their targets; both answers go
    through the net in one call. Reports `loss`, `accuracy` (the share of pairs whose preferred answer has the greater
    reward, equal ones counting half), `margin` (how much greater) and the mean rewards.
    """

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        need(batch, "tokens", "rejected", "weights", "rejected_weights")
        for tokens, weights in (("tokens", "weights"), ("rejected", "rejected_weights")):
            rows, length = batch[tokens].shape
            if batch[weights].shape != (rows, length - 1):
                raise DataError(
                    f"{tokens} {batch[tokens].shape} need {weights} of their targets, ({rows}, {length - 1})"
                )

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        return {"model": (batch["tokens"][:, :-1],)}

    def rewards(self, nets: Mapping[str, Net], batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The rewards (B,) of the preferred and of the rejected answers."""
        raise TypeError(f"{type(self).__name__} must define rewards(nets, batch)")

    def judged(self, margin: Float[Array, " B"]) -> Float[Array, " B"]:
        """The loss of each pair, from the margin between its rewards."""
        raise TypeError(f"{type(self).__name__} must define judged(margin)")

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        chosen, rejected = self.rewards(nets, batch)
        margin = chosen - rejected
        loss = Mean.of(self.judged(margin), batch["valid"])
        values = {"accuracy": _ahead(margin), "margin": margin, "chosen_reward": chosen, "rejected_reward": rejected}
        metrics = {"loss": loss, **{name: Mean.of(value, batch["valid"]) for name, value in values.items()}}
        sown = sum(nets["model"].losses, jnp.zeros(()))
        return loss._replace(sum=loss.sum + sown * loss.weight), metrics

    def predict(self, name: str, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        """ "predict" compares rewards, "choice" the log-likelihoods of the model alone: 0 is the preferred answer."""
        if name == "choice":
            found = likelihoods(nets["model"], batch)
            logits = jnp.stack([found.chosen, found.rejected], -1)
            return {"logits": logits, "targets": jnp.zeros(len(logits), jnp.int32), "weights": batch["valid"]}
        if name != "predict":
            return super().predict(name, nets, batch)
        margin = jnp.subtract(*self.rewards(nets, batch))
        words = {"logits": margin, "targets": jnp.ones(len(margin), jnp.int32), "weights": batch["valid"]}
        return {**words, "nll": self.judged(margin), "correct": _ahead(margin)}


@dataclasses.dataclass(frozen=True)
class DPO(Preference):
    """Direct preference optimisation (arXiv 2305.18290).

    The reward of an answer is `beta` times how much more likely it is than under the net "reference", which gets no
    gradient: the config has `models` "model" and "reference", started from the same weights.

    Attributes:
      beta: how much straying from the reference costs.
      smoothing: the share of preferences that are taken to be the wrong way round (conservative DPO).
    """

    beta: float = 0.1
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        _positive(self.beta)
        if not 0 <= self.smoothing < 0.5:
            raise ConfigError(f"smoothing is from 0 to below 0.5, not {self.smoothing}")

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        return dict.fromkeys(("model", "reference"), (batch["tokens"][:, :-1],))

    def rewards(self, nets: Mapping[str, Net], batch: Batch) -> tuple[jax.Array, jax.Array]:
        if "reference" not in nets:
            raise ConfigError("DPO compares with a net 'reference': give config.models both 'model' and 'reference'")
        now, then = likelihoods(nets["model"], batch), likelihoods(nets["reference"].fixed(), batch)
        return self.beta * (now.chosen - then.chosen), self.beta * (now.rejected - then.rejected)

    def judged(self, margin: Float[Array, " B"]) -> Float[Array, " B"]:
        right, wrong = jax.nn.softplus(-margin), jax.nn.softplus(margin)
        return right if not self.smoothing else (1 - self.smoothing) * right + self.smoothing * wrong


@dataclasses.dataclass(frozen=True)
class IPO(DPO):
    """Identity preference optimisation (arXiv 2310.12036): the log-ratio is to be 1 / (2 beta) ahead, and no more.

    Rewards are `beta` times summed log-ratios as in DPO, so that margins compare; `smoothing` has no meaning here.
    """

    def __post_init__(self) -> None:
        _positive(self.beta)
        if self.smoothing:
            raise ConfigError(f"IPO takes no smoothing, and it is {self.smoothing}")

    def judged(self, margin: Float[Array, " B"]) -> Float[Array, " B"]:
        return jnp.square(margin / self.beta - 1 / (2 * self.beta))


@dataclasses.dataclass(frozen=True)
class SimPO(Preference):
    """Simple preference optimisation (arXiv 2405.14734): no reference, rewards are mean log-likelihoods of tokens.

    Attributes:
      beta: rewards are multiplied by it.
      target: the margin that is asked for (gamma).
    """

    beta: float = 2.0
    target: float = 1.0

    def __post_init__(self) -> None:
        _positive(self.beta)

    def rewards(self, nets: Mapping[str, Net], batch: Batch) -> tuple[jax.Array, jax.Array]:
        found = likelihoods(nets["model"], batch)
        pairs = ((found.chosen, found.chosen_tokens), (found.rejected, found.rejected_tokens))
        chosen, rejected = (self.beta * total / jnp.maximum(tokens, 1) for total, tokens in pairs)
        return chosen, rejected

    def judged(self, margin: Float[Array, " B"]) -> Float[Array, " B"]:
        return jax.nn.softplus(self.target - margin)


def likelihoods(net: Net, batch: Batch) -> Likelihoods:
    """What a causal language model thinks of both answers; they may differ in length, padding counts for nothing."""
    continues(net, "a preference")
    tokens, rejected = (batch[key].astype(jnp.int32) for key in ("tokens", "rejected"))
    most = max(tokens.shape[1], rejected.shape[1])
    both = jnp.concatenate([_wide(tokens, most), _wide(rejected, most)])
    weights = jnp.concatenate([_wide(batch[key], most - 1) for key in ("weights", "rejected_weights")])
    scores = score(net(both[:, :-1]).astype(jnp.float32), both[:, 1:])
    totals = -jnp.where(weights == 0, 0.0, scores.nll * weights).sum(1)
    return Likelihoods(*jnp.split(totals, 2), *jnp.split(weights.sum(1), 2))


def _wide(x: jax.Array, length: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1])))


def _ahead(margin: jax.Array) -> jax.Array:
    """1 where the preferred answer is ahead, a half where neither is; NaN stays NaN."""
    return jnp.where(jnp.isnan(margin), jnp.nan, ((margin > 0).astype(jnp.float32) + (margin >= 0)) / 2)


def _positive(beta: float) -> None:
    if not beta > 0:
        raise ConfigError(f"beta is above 0, not {beta}")
