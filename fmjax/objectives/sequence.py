"""Sequence to sequence: one text given another, for translation, span corruption and mixtures of denoisers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int

from fmjax.core.types import Batch
from fmjax.objectives.tokens import Reading, Tokens, check_ids, counted, given, need


@dataclasses.dataclass(frozen=True)
class SequenceToSequence(Tokens):
    """Cross-entropy of every target given those before it and all of `tokens`, in nats.

    Reads `tokens` (B, S) for the encoder and `targets` (B, T) for the decoder, which sees them shifted right by one
    inside each document. Where they are there, `weights` (B, T) say which targets count, `segment_ids`, `positions`
    (B, S) and `target_segment_ids`, `target_positions` (B, T) which tokens belong together; targets of document 0 are
    padding.

    Attributes:
      start: the id that the decoder reads first.
    """

    start: int = 0

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        need(batch, "tokens", "targets")
        check_ids(batch, outputs["logits"].shape[-1], "tokens", "targets")

    def read(self, batch: Batch) -> Reading:
        targets = batch["targets"].astype(jnp.int32)
        weights = counted(batch, targets.shape)
        segments = batch.get("target_segment_ids")
        if segments is not None:
            weights = weights * (segments > 0)
        context = given(
            batch, segment_ids="segment_ids", positions="positions", decoder_positions="target_positions",
            decoder_segment_ids="target_segment_ids",
        )  # fmt: skip
        tokens = (batch["tokens"].astype(jnp.int32), shifted(targets, self.start, segments))
        return Reading(tokens, context, targets, weights)


def shifted(targets: Int[Array, "B T"], start: int, segments: Int[Array, "B T"] | None = None) -> Int[Array, "B T"]:
    """What a decoder reads: each document's targets moved right by one, after its own `start`."""
    before = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=start)
    if segments is None:
        return before
    first = segments != jnp.pad(segments[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return jnp.where(first, start, before)
