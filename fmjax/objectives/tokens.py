"""What the objectives over tokens share: packed batches, losses plain or in chunks, and predictions."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.core.nets import Net, Objective
from fmjax.core.types import Batch, Mean, Tree
from fmjax.objectives.chunked import Scores, score, score_chunked


class Reading(NamedTuple):
    """How a batch is read: what the net gets, what it should answer, and how much each answer counts."""

    tokens: tuple[jax.Array, ...]
    context: dict[str, jax.Array]
    targets: jax.Array
    weights: jax.Array


@dataclasses.dataclass(frozen=True)
class Tokens(Objective):
    """Cross-entropy of target tokens, in nats; subclasses say in `read` which ones, given what.

    Reports `loss` (without smoothing and z-loss), `accuracy` and, where the batch holds `bytes`, `bits_per_byte`.

    Attributes:
      z_loss: weight of the squared log-normaliser (arXiv 2204.02311, section 5).
      smoothing: label smoothing (arXiv 1512.00567).
      chunk: tokens whose logits exist at once, through the net's methods "hidden" and "head"; 0 makes all logits.
    """

    z_loss: float = 0.0
    smoothing: float = 0.0
    chunk: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1 or self.chunk < 0:
            raise ConfigError(
                f"smoothing is from 0 to below 1 and chunk 0 or more, not {self.smoothing} and {self.chunk}"
            )

    def read(self, batch: Batch) -> Reading:
        """What the net reads of a batch and what it is asked."""
        raise TypeError(f"{type(self).__name__} must define read(batch) -> Reading")

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        return {"model": self.read({"valid": jnp.ones(len(batch["tokens"])), **batch}).tokens}

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        net, reading = nets["model"], self.read(batch)
        total, scores = self.judge(net, reading)
        return self.summed(net, total, scores, reading, batch)

    def predict(self, name: str, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        if name != "predict":
            return super().predict(name, nets, batch)
        return self.answer(nets["model"], self.read(batch))

    def judge(self, net: Net, reading: Reading, hidden: jax.Array | None = None) -> tuple[jax.Array, Scores]:
        """The weighted sum of the losses, and the scores of every target; `hidden` saves computing it again."""
        settings = {"smoothing": self.smoothing, "z_loss": self.z_loss}
        if hidden is None and self.chunk:
            hidden = net(*reading.tokens, method="hidden", **reading.context)
        if self.chunk:
            silent = Net(net.module, net.params, net.mutable)
            head = lambda x: silent(x, method="head")  # noqa: E731
            return score_chunked(head, hidden, reading.targets, reading.weights, self.chunk, **settings)
        scores = score(_logits(net, reading, hidden), reading.targets, **settings)
        return Mean.of(scores.loss, reading.weights).sum, scores

    def answer(self, net: Net, reading: Reading, hidden: jax.Array | None = None) -> dict[str, jax.Array]:
        """What evaluators read. Under jit, logits that no metric asks for are never made."""
        if hidden is None and self.chunk:
            hidden = net(*reading.tokens, method="hidden", **reading.context)
        logits = _logits(net, reading, hidden)
        scores = self.judge(net, reading, hidden)[1] if self.chunk else score(logits, reading.targets)
        words = {"logits": logits, "targets": reading.targets, "weights": reading.weights}
        return {**words, "nll": scores.nll, "correct": scores.correct}

    def summed(
        self, net: Net, total: jax.Array, scores: Scores, reading: Reading, batch: Batch
    ) -> tuple[Mean, dict[str, Mean]]:
        """The loss with what the net sowed, and what to report."""
        loss = Mean.of(scores.nll, reading.weights)
        metrics = {"loss": loss, "accuracy": Mean.of(scores.correct, reading.weights)}
        if "bytes" in batch:
            metrics["bits_per_byte"] = Mean(loss.sum / jnp.log(2.0), (batch["bytes"] * batch["valid"]).sum())
        return Mean(total + sum(net.losses, jnp.zeros(())) * loss.weight, loss.weight), metrics


def need(batch: Mapping[str, Any], *keys: str) -> None:
    """Refuse a batch that lacks one of the keys.

    Raises:
      DataError: it does.
    """
    for key in keys:
        if key not in batch:
            raise DataError(f"the objective reads {key!r}, and the batch holds {', '.join(sorted(batch))}")


def continues(net: Net, what: str) -> None:
    """Refuse a net that sees what comes after a token: it would know the answers that it is asked to judge.

    Raises:
      ConfigError: it does, or reads another text first.
    """
    if getattr(net.module, "both_ways", False) or hasattr(net.module, "encode"):
        raise ConfigError(
            f"{what} needs a language model that reads from left to right, and this is a {type(net.module).__name__}"
        )


def check_ids(batch: Mapping[str, Any], vocab: int, *keys: str) -> None:
    """Refuse token ids that the model does not have.

    Raises:
      DataError: an id below 0, or one of `vocab` or more.
    """
    for key in keys:
        word = {"tokens": "token", "targets": "target"}[key]
        top, low = int(np.max(batch[key], initial=0)), int(np.min(batch[key], initial=0))
        if low < 0:
            raise DataError(f"{word} {low} is out of range: {key} are 0 or more; padding has weight 0, not another id")
        if top >= vocab:
            raise DataError(
                f"{word} {top} is out of range: the model has {vocab}; set --config.model.vocab to the data's"
            )


def counted(batch: Batch, shape: tuple[int, int]) -> jax.Array:
    """How much each target counts, as far as `valid` and `weights` say."""
    weights = jnp.broadcast_to(jnp.asarray(batch["valid"], jnp.float32)[:, None], shape)
    return weights * batch["weights"] if "weights" in batch else weights


def given(batch: Batch, **keys: str) -> dict[str, jax.Array]:
    """{argument: batch[key]} of the keys that are there."""
    return {argument: batch[key] for argument, key in keys.items() if key in batch}


def _logits(net: Net, reading: Reading, hidden: jax.Array | None) -> jax.Array:
    if hidden is None:
        return net(*reading.tokens, **reading.context).astype(jnp.float32)
    return net(hidden, method="head").astype(jnp.float32)
