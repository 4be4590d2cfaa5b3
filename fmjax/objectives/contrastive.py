"""Contrastive learning: two texts that belong together are closer than either is to the others of the batch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net, Objective
from fmjax.core.types import Batch, Mean, Tree
from fmjax.objectives.chunked import score
from fmjax.objectives.tokens import given, need


@dataclasses.dataclass(frozen=True)
class InBatch(Objective):
    """InfoNCE with the other rows of the batch as negatives (arXiv 1807.03748, 1705.00652).

    Reads `tokens` and `targets` with their segment ids and positions, as `Pairs` gives them; one net embeds both.
    Every row's loss depends on all rows, and so does the number of negatives: accumulation over microbatches is
    another loss, which `couples_batch` says. The loss is a mean over the rows that are there; padded rows are
    neither questions nor negatives.

    Attributes:
      temperature: similarities are divided by it.
      symmetric: whether targets look for their tokens too, the mean of both losses.
    """

    temperature: float = 0.05
    symmetric: bool = True

    couples_batch = True

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature is above 0, not {self.temperature}")

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        need(batch, "tokens", "targets")

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        return {"model": (batch["tokens"],)}

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        vectors, targets = self.embedded(nets["model"], batch)
        similarity = vectors @ targets.T
        real, own = batch["valid"] != 0, jnp.arange(len(similarity))
        logits = jnp.where(real[None], similarity / self.temperature, -1e30)
        scores = score(logits, own)
        nll = scores.nll
        if self.symmetric:
            back = jnp.where(real[None], similarity.T / self.temperature, -1e30)
            nll = (nll + score(back, own).nll) / 2
        loss = Mean.of(nll, batch["valid"])
        metrics = {"loss": loss, "accuracy": Mean.of(scores.correct, batch["valid"])}
        metrics["similarity"] = Mean.of(jnp.diagonal(similarity), batch["valid"])
        sown = sum(nets["model"].losses, jnp.zeros(()))
        return loss._replace(sum=loss.sum + sown * loss.weight), metrics

    def predict(self, name: str, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        """ "predict" gives the vectors of both sides, "embed" those of `tokens`."""
        if name == "embed":
            return {"vectors": self._side(nets["model"], batch, ""), "weights": batch["valid"]}
        if name != "predict":
            return super().predict(name, nets, batch)
        vectors, targets = self.embedded(nets["model"], batch)
        return {"vectors": vectors, "target_vectors": targets, "weights": batch["valid"]}

    def embedded(self, net: Net, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The vectors (B, D) of tokens and of targets."""
        return self._side(net, batch, ""), self._side(net, batch, "target_")

    def _side(self, net: Net, batch: Batch, prefix: str) -> jax.Array:
        context = given(batch, segment_ids=f"{prefix}segment_ids", positions=f"{prefix}positions")
        return net(batch["targets" if prefix else "tokens"].astype(jnp.int32), **context)
