"""Tasks over whole texts: a class or a number for one text or a pair."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fmjax.core.nets import Net
from fmjax.core.types import Batch
from fmjax.objectives.supervised import Classify, Regress, Supervised
from fmjax.objectives.tokens import given, need

CONTEXT = ("positions", "segment_ids", "token_types")


@dataclasses.dataclass(frozen=True)
class _Texts(Supervised):
    """What both share: `tokens` (B, T), and where they are there `positions`, `segment_ids`, `token_types`."""

    inputs_from: str = "tokens"

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        return {"model": (batch["tokens"].astype(jnp.int32),)}

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        need(batch, "tokens")
        super().check(batch, outputs)

    def outputs(self, net: Net, batch: Batch) -> jax.Array:
        return net(batch["tokens"].astype(jnp.int32), **given(batch, **{key: key for key in CONTEXT}))

    def _scaled(self, batch: Batch, key: jax.Array | None = None) -> Batch:
        return batch  # ids are no pixels


@dataclasses.dataclass(frozen=True)
class ClassifyText(_Texts, Classify):
    """Softmax cross-entropy of a text's (or a pair's) class, from the logits (B, C) of a `heads.Classifier`."""


@dataclasses.dataclass(frozen=True)
class RegressText(_Texts, Regress):
    """Mean squared error of a text's (or a pair's) number, from a `heads.Classifier` of one class."""

    target: str = "targets"
