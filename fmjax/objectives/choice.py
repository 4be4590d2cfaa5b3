"""Multiple choice by log-likelihood: the answer that a language model finds most likely after the question."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError
from fmjax.core.nets import Net, Objective
from fmjax.core.types import Batch, Mean, Tree
from fmjax.objectives.chunked import score
from fmjax.objectives.tokens import continues, need

PER = ("answer", "token", "character", "byte")
NEVER = -1e30  # the score of an answer that is not there


@dataclasses.dataclass(frozen=True)
class Chooser:
    """What a language model chooses; callable as `(nets, batch) -> {"logits": (B, C), "targets", "weights"}`.

    With `metrics.accuracy` it is lm-eval's `acc` (per answer), `acc_norm` (per character) or `acc_bytes` (per byte);
    of equal scores the first answer is chosen.

    Attributes:
      per: what the summed log-likelihood of an answer is divided by: its "answer" (1), "token"s, "character"s or
        "byte"s.
    """

    per: str = "answer"

    def __post_init__(self) -> None:
        if self.per not in PER:
            raise ConfigError(f"there is no per={self.per!r}; {did_you_mean(self.per, PER)}")

    def __call__(self, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        words = {"targets": batch["label"].astype(jnp.int32), "weights": batch["valid"]}
        return {"logits": self.scores(nets["model"], batch), **words}

    def scores(self, net: Net, batch: Batch) -> jax.Array:
        """(B, C) of the answers."""
        continues(net, "choosing")
        for key in ("choices", "choice_weights"):
            if key not in batch:
                raise ConfigError(f"choosing needs {key!r}, and the batch holds {', '.join(sorted(batch))}")
        tokens, weights = batch["choices"].astype(jnp.int32), batch["choice_weights"]
        rows, count, length = tokens.shape
        tokens = tokens.reshape(rows * count, length)
        nll = score(net(tokens[:, :-1]).astype(jnp.float32), tokens[:, 1:]).nll.reshape(weights.shape)
        totals = -jnp.where(weights == 0, 0.0, nll * weights).sum(-1)
        counted = weights.sum(-1)
        keys = {"character": "choice_characters", "byte": "choice_bytes"}
        if self.per == "token":
            totals = totals / jnp.maximum(counted, 1)
        elif self.per in keys:
            totals = totals / jnp.maximum(batch[keys[self.per]], 1)
        return jnp.where(counted == 0, NEVER, totals)


@dataclasses.dataclass(frozen=True)
class MultipleChoice(Objective):
    """Cross-entropy over the answers, whose logits are their log-likelihoods (`Chooser`); for fine-tuning.

    Reads what `choices.Choices` gives. Reports `loss` and `accuracy`.

    Attributes:
      per: as for Chooser.
    """

    per: str = "answer"

    def __post_init__(self) -> None:
        Chooser(self.per)

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        need(batch, "choices", "choice_weights", "label")
        rows, count, length = batch["choices"].shape
        if batch["choice_weights"].shape != (rows, count, length - 1):
            raise DataError(f"choices {batch['choices'].shape} need weights of their targets, one fewer a row")

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        return {"model": (batch["choices"][:, 0, :-1],)}

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        scores = score(Chooser(self.per).scores(nets["model"], batch), batch["label"].astype(jnp.int32))
        loss = Mean.of(scores.nll, batch["valid"])
        metrics = {"loss": loss, "accuracy": Mean.of(scores.correct, batch["valid"])}
        sown = sum(nets["model"].losses, jnp.zeros(()))
        return loss._replace(sum=loss.sum + sown * loss.weight), metrics

    def predict(self, name: str, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        return Chooser(self.per)(nets, batch) if name == "predict" else super().predict(name, nets, batch)
