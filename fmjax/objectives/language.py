"""Language modelling: what comes next."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from fmjax.core.types import Batch
from fmjax.objectives.tokens import Reading, Tokens, check_ids, counted, need


@dataclasses.dataclass(frozen=True)
class NextToken(Tokens):
    """Cross-entropy of every token given those before it, in nats.

    Reads `tokens` (B, T + 1), and where they are there `weights` (B, T) of the targets and `segment_ids`,
    `positions` (B, T + 1) of packed rows: a target counts only inside its own document. Where the batch holds
    `prefix` (B, T + 1), the net sees the prefix both ways and no token of it counts as a target.
    """

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        need(batch, "tokens")
        check_ids(batch, outputs["logits"].shape[-1], "tokens")

    def read(self, batch: Batch) -> Reading:
        tokens = batch["tokens"].astype(jnp.int32)
        weights = counted(batch, tokens[:, 1:].shape)
        if "segment_ids" in batch:
            segments = batch["segment_ids"]
            weights = weights * ((segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0))
        if "prefix" in batch:
            weights = weights * (batch["prefix"][:, 1:] == 0)
        context = {key: batch[key][:, :-1] for key in ("segment_ids", "positions", "prefix") if key in batch}
        return Reading((tokens[:, :-1],), context, tokens[:, 1:], weights)
