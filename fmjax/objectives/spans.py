"""Spans: where in a text an answer begins and where it ends (BERT, arXiv 1810.04805, section 4.2)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fmjax.core.errors import DataError
from fmjax.core.nets import Net, Objective
from fmjax.core.types import Batch, Mean, Tree
from fmjax.objectives.tokens import given, need

NEVER = -1e30  # a logit of what may not be; infinities would make NaN of a row of padding


@dataclasses.dataclass(frozen=True)
class Spans(Objective):
    """The mean of two softmax cross-entropies over the tokens of a row: the first token of the answer, and the last.

    Reads `tokens` (B, T), `span` (B, 2), `weights` (B, T), 1 for the tokens that may begin or end an answer, and where
    they are there `segment_ids`, `positions`, `token_types`; the logits (B, T, 2) are a `heads.TokenClassifier`'s.
    Reports `loss` and `accuracy`, how often both ends are right.
    """

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        return {"model": (batch["tokens"].astype(jnp.int32),)}

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        need(batch, "tokens", "span", "weights")
        span, allowed = np.asarray(batch["span"]), np.asarray(batch["weights"]) != 0
        inside = (span >= 0) & (span < allowed.shape[1])
        open_ = np.take_along_axis(allowed, np.where(inside, span, 0), 1) & inside
        wrong = ~(open_.all(1) & (span[:, 0] <= span[:, 1])) & (np.asarray(batch["valid"]) > 0)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"the answer of row {row} is from token {span[row, 0]} to {span[row, 1]}, which are not tokens that an "
                "answer may begin and end with (weights is 1 there), in this order"
            )

    def scores(self, net: Net, batch: Batch) -> Float[Array, "B T 2"]:
        """Log-probabilities of each token to be the first, and the last."""
        context = given(batch, segment_ids="segment_ids", positions="positions", token_types="token_types")
        logits = net(batch["tokens"].astype(jnp.int32), **context).astype(jnp.float32)
        return jax.nn.log_softmax(jnp.where(batch["weights"][..., None] != 0, logits, NEVER), axis=1)

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        net = nets["model"]
        nll, correct = self._judge(self.scores(net, batch), batch)
        loss = Mean.of(nll, batch["valid"])
        metrics = {"loss": loss, "accuracy": Mean.of(correct, batch["valid"])}
        return loss._replace(sum=loss.sum + loss.weight * sum(net.losses, jnp.zeros(()))), metrics

    def predict(self, name: str, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        """`start` and `end` (B, T), log-probabilities, `NEVER` and less where no answer may begin or end."""
        if name != "predict":
            return super().predict(name, nets, batch)
        scores = self.scores(nets["model"], batch)
        out = {"start": scores[..., 0], "end": scores[..., 1], "weights": batch["valid"]}
        if "span" not in batch:
            return out
        nll, correct = self._judge(scores, batch)
        return {**out, "nll": nll, "correct": correct}

    def _judge(self, scores: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(B,) losses, and whether both ends are right."""
        span = batch["span"].astype(jnp.int32)
        own = jnp.take_along_axis(scores, span[:, None], axis=1)[:, 0]
        right = (scores.argmax(1) == span).all(-1)
        return -own.mean(-1), jnp.where(jnp.isnan(scores).any((1, 2)), jnp.nan, right.astype(jnp.float32))
