"""The words a batch speaks, and the numbers that are added before they are divided."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Tree = Any  # a nested dict of arrays, or any other pytree
Batch = Mapping[str, jax.Array]  # leading axis = examples

# Every key a batch may hold; a source or transform that needs another one adds it here, with its meaning. Where rows
# hold an example of each of several tasks (data/tasks.py), the task's name and a slash stand before each.
KEYS = {
    "tokens": "(B, T) integer token ids; next-token objectives read T = length + 1",
    "targets": "(B, T) integer ids to predict (of a decoder, which reads them shifted), or (B, ...) numbers to regress",
    "weights": "(B, ...) how much each target counts; 0 for padding",
    "segment_ids": "(B, T) which packed document a token belongs to; 0 for padding",
    "positions": "(B, T) position inside the document",
    "target_segment_ids": "(B, T) as segment_ids, for the targets of an encoder-decoder",
    "target_positions": "(B, T) as positions, for the targets of an encoder-decoder",
    "token_types": "(B, T) which sentence of a pair a token belongs to, 0 or 1",
    "prefix": "(B, T) 1 for a token that every token of its document may see (prefix language models)",
    "span": "(B, 2) first and last token of an answer; both 0 where there is none",
    "rejected": "(B, T) as tokens, with the answer that was not preferred",
    "rejected_weights": "(B, T) as weights, for the targets in rejected",
    "choices": "(B, C, T) token ids of C answers to choose from, each after its question",
    "choice_weights": "(B, C, T) how much each target in choices counts; 0 for the question and padding",
    "choice_characters": "(B, C) how many characters each answer has",
    "choice_bytes": "(B, C) how many bytes each answer has",
    "score": "(B,) how alike the two texts of a row are, as people said",
    "image": "(B, H, W, C) uint8, or float in [0, 1]",
    "label": "(B,) class index, or (B, C) 0/1 for several classes at once",
    "mix_with": "(B,) the label of the row that a row was mixed with",
    "mix_weight": "(B,) how much of a mixed row is its own, and its own label counts",
    "features": "(B, F) floating-point columns",
    "audio": "(B, S) samples in [-1, 1]",
    "boxes": "(B, N, 4) ymin xmin ymax xmax in [0, 1]",
    "mask": "(B, H, W) class of each pixel",
    "bytes": "(B,) how many bytes of text the row stands for",
    "text": "host only: a string; dropped before the device",
    "valid": "(B,) 1 for a real row, 0 for padding",
}


class Mean(NamedTuple):
    """A weighted sum and its weight: added over microbatches, hosts and padded batches, divided once."""

    sum: jax.Array
    weight: jax.Array

    @classmethod
    def of(cls, values: jax.Array, weights: jax.Array | float = 1.0) -> "Mean":
        """Sum `values` weighted by `weights`, which broadcast from the left (a (B,) weight fits (B, T) values)."""
        w = jnp.asarray(weights, jnp.float32)
        w = jnp.broadcast_to(w.reshape(w.shape + (1,) * (values.ndim - w.ndim)), values.shape)
        # A padded row may hold anything, NaN included; 0 * NaN would be NaN.
        return cls(jnp.where(w == 0, 0.0, values.astype(jnp.float32) * w).sum(), w.sum())

    def value(self) -> jax.Array:
        """The mean; NaN when nothing was weighed."""
        return self.sum / self.weight
