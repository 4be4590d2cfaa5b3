"""Masked tokens: what stood where the mask is, and whether one text follows the other."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.errors import DataError
from fmjax.core.nets import Net
from fmjax.core.types import Batch, Mean, Tree
from fmjax.objectives.chunked import score
from fmjax.objectives.tokens import Reading, Tokens, check_ids, counted, given, need


@dataclasses.dataclass(frozen=True)
class MaskedTokens(Tokens):
    """Cross-entropy of the tokens that were hidden from the net (BERT, arXiv 1810.04805).

    Reads `tokens` (B, T), already corrupted (`corruption.MaskTokens`), `targets` and `weights` (B, T), and where they
    are there `segment_ids`, `positions`, `token_types`. Where the batch holds `label` (B,) the net's method "pair"
    says whether the second text of the row follows the first (0) or not (1).

    With labels the loss is the mean over hidden tokens plus `pair_weight` times the mean over rows. A `Mean` has one
    weight, that of the tokens, so a row's pair loss counts as many tokens as a row of the whole batch has on average:
    (S_tokens + w (W / rows) S_pairs) / W. The ratio W / rows is taken in `prepare`, over the whole batch, which is
    what makes accumulation over ragged microbatches equal to one step.

    Attributes:
      pair_weight: how much the mean over rows counts beside the mean over tokens.
      most: hidden tokens a row has at most; only so many of its tokens go through the head, which is most of the
        work in a small model. 0 sends all of them.
    """

    pair_weight: float = 1.0
    most: int = 0

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        need(batch, "tokens", "targets", "weights")
        check_ids(batch, outputs["logits"].shape[-1], "tokens", "targets")
        if "label" in batch:
            wrong = np.setdiff1d(batch["label"], (0, 1))
            if wrong.size:
                raise DataError(f"label {wrong[0]} of a pair is neither 0 (the second text follows) nor 1")
        hidden = int((np.asarray(batch["weights"]) != 0).sum(1).max(initial=0))
        if self.most and hidden > self.most:
            raise DataError(
                f"a row hides {hidden} tokens, more than --config.objective.most={self.most}: raise it, or 0 for all"
            )

    def read(self, batch: Batch) -> Reading:
        context = given(batch, segment_ids="segment_ids", positions="positions", token_types="token_types")
        targets = batch["targets"].astype(jnp.int32)
        weights = counted(batch, targets.shape)
        if "segment_ids" in batch:
            weights = weights * (batch["segment_ids"] > 0)
        return Reading((batch["tokens"].astype(jnp.int32),), context, targets, weights)

    def prepare(
        self, nets: Mapping[str, Net], batch: Batch, carry: Tree, step: Any, rng: jax.Array, train: bool
    ) -> tuple[Batch, Tree]:
        if "label" not in batch:
            return batch, carry
        rows = jnp.maximum(batch["valid"].sum(), 1.0)
        return {**batch, "pair_weights": batch["valid"] * (self.read(batch).weights.sum() / rows)}, carry

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        net, reading = nets["model"], self.read(batch)
        hidden = self._hidden(net, reading, "label" in batch)
        reading, picked = self._pick(reading, hidden)
        loss, metrics = self.summed(net, *self.judge(net, reading, picked), reading, batch)
        if "label" not in batch:
            return loss, metrics
        pair = score(net(hidden, method="pair"), batch["label"].astype(jnp.int32))
        metrics["pair_loss"] = Mean.of(pair.nll, batch["valid"])
        metrics["pair_accuracy"] = Mean.of(pair.correct, batch["valid"])
        return loss._replace(sum=loss.sum + self.pair_weight * Mean.of(pair.nll, batch["pair_weights"]).sum), metrics

    def predict(self, name: str, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        """ "predict" is about hidden tokens, "pair" about the two texts of a row."""
        if name not in ("predict", "pair"):
            return super().predict(name, nets, batch)
        net, reading = nets["model"], self.read(batch)
        hidden = self._hidden(net, reading, name == "pair")
        if name == "pair":
            need(batch, "label")
            logits = net(hidden, method="pair").astype(jnp.float32)
            return {"logits": logits, "targets": batch["label"], "weights": batch["valid"]}
        return self.answer(net, *self._pick(reading, hidden))

    def _hidden(self, net: Net, reading: Reading, pair: bool) -> jax.Array | None:
        """Hidden states of every token, where something needs them."""
        if pair or self.most or self.chunk:
            return net(*reading.tokens, method="hidden", **reading.context)
        return None

    def _pick(self, reading: Reading, hidden: jax.Array | None) -> tuple[Reading, jax.Array | None]:
        """Only the tokens that count, when there are at most so many."""
        if not 0 < self.most < reading.targets.shape[1]:
            return reading, hidden
        _, at = jax.lax.top_k((reading.weights != 0).astype(jnp.float32), self.most)
        targets, weights = (jnp.take_along_axis(x, at, axis=1) for x in (reading.targets, reading.weights))
        return reading._replace(targets=targets, weights=weights), jnp.take_along_axis(hidden, at[..., None], axis=1)
