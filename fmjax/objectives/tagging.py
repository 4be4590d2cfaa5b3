"""Tagging: a class for every token that is asked for one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from fmjax.core.errors import DataError
from fmjax.core.types import Batch
from fmjax.objectives.tokens import Reading, Tokens, counted, given, need


@dataclasses.dataclass(frozen=True)
class TagTokens(Tokens):
    """Softmax cross-entropy of a tag for each token, from the logits (B, T, C) of a `heads.TokenClassifier`.

    Reads `tokens`, `targets` and `weights` (B, T), and where they are there `segment_ids`, `positions`, `token_types`.
    A token of weight 0 (a later subword of its word, padding) is not asked.
    """

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        need(batch, "tokens", "targets", "weights")
        tags, classes = np.asarray(batch["targets"]), outputs["logits"].shape[-1]
        wrong = tags[((tags < 0) | (tags >= classes)) & (np.asarray(batch["weights"]) != 0)]
        if wrong.size:
            raise DataError(f"tag {int(wrong[0])} is out of range: the model has {classes} classes, 0 to {classes - 1}")

    def read(self, batch: Batch) -> Reading:
        context = given(batch, segment_ids="segment_ids", positions="positions", token_types="token_types")
        targets = batch["targets"].astype(jnp.int32)
        weights = counted(batch, targets.shape)
        if "segment_ids" in batch:
            weights = weights * (batch["segment_ids"] > 0)
        return Reading((batch["tokens"].astype(jnp.int32),), context, targets, weights)
