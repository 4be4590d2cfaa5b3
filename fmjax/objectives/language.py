"""Language modelling: what comes next."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fmjax.core.errors import DataError
from fmjax.core.nets import Net, Objective
from fmjax.core.types import Batch, Mean, Tree


@dataclasses.dataclass(frozen=True)
class NextToken(Objective):
    """Cross-entropy of every token given those before it, in nats.

    Reads `tokens` (B, T + 1), and where they are there `weights` (B, T) of the targets and `segment_ids`,
    `positions` (B, T + 1) of packed rows: a target counts only inside its own document.

    Attributes:
      z_loss: weight of the squared log-normaliser (arXiv 2204.02311, section 5).
    """

    z_loss: float = 0.0

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        return {"model": (batch["tokens"][:, :-1],)}

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        if "tokens" not in batch:
            raise DataError(f"the objective reads 'tokens', and the batch holds {', '.join(sorted(batch))}")
        vocab, tokens = outputs["logits"].shape[-1], batch["tokens"]
        top, low = int(np.max(tokens, initial=0)), int(np.min(tokens, initial=0))
        if low < 0:
            raise DataError(
                f"token {low} is out of range: tokens are 0 or more; padding has weight 0, not another token"
            )
        if top >= vocab:
            raise DataError(
                f"token {top} is out of range: the model has {vocab}; set --config.model.vocab to the data's"
            )

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        logits, targets, weights = self._read(nets["model"], batch)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        nll = log_z - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        loss = Mean.of(nll, weights)
        metrics = {"loss": loss}
        if "bytes" in batch:
            metrics["bits_per_byte"] = Mean(loss.sum / jnp.log(2.0), (batch["bytes"] * batch["valid"]).sum())
        extra = sum(nets["model"].losses, jnp.zeros(())) * loss.weight
        if self.z_loss:
            extra = extra + self.z_loss * Mean.of(jnp.square(log_z), weights).sum
        return loss._replace(sum=loss.sum + extra), metrics

    def predict(self, name: str, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        if name != "predict":
            return super().predict(name, nets, batch)
        logits, targets, weights = self._read(nets["model"], batch)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return {"logits": logits, "targets": targets, "weights": weights, "nll": nll}

    def _read(self, net: Net, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        tokens = batch["tokens"].astype(jnp.int32)
        weights = jnp.broadcast_to(batch["valid"][:, None], tokens[:, 1:].shape)
        if "weights" in batch:
            weights = weights * batch["weights"]
        packed = {}
        if "segment_ids" in batch:
            segments = batch["segment_ids"]
            weights = weights * ((segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0))
            packed = {"segment_ids": segments[:, :-1]}
        if "positions" in batch:
            packed["positions"] = batch["positions"][:, :-1]
        return net(tokens[:, :-1], **packed).astype(jnp.float32), tokens[:, 1:], weights
