"""A text as one vector: the pooled hidden states of any language model, for similarity and retrieval."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fmjax.models.heads import reading_flops
from fmjax.nn.token_pooling import pool_tokens


class Embedder(nn.Module):
    """A backbone with method "hidden", and a pool over its tokens (arXiv 1908.10084).

    Attributes:
      backbone: an encoder or a decoder; its head, if it has one, is not used.
      pool: "mean", "max", "first" (BERT's first token) or "last" (what a decoder's last token has seen).
      normalize: whether vectors have length 1, so that products are cosines.
    """

    backbone: nn.Module
    pool: str = "mean"
    normalize: bool = True

    @property
    def vocab(self) -> int:
        """Number of token ids, that of the backbone."""
        return self.backbone.vocab

    @property
    def couples_batch(self) -> bool:
        """Whether the backbone couples the rows of a batch."""
        return getattr(self.backbone, "couples_batch", False)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        token_types: Int[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B D"]:
        """One vector a row, float32; tokens of segment 0 are padding and do not count."""
        context = {"positions": positions, "segment_ids": segment_ids, "token_types": token_types}
        context = {key: value for key, value in context.items() if value is not None}
        x = self.backbone.hidden(tokens, train=train, **context).astype(jnp.float32)
        vector = pool_tokens(x, segment_ids, self.pool)
        if not self.normalize:
            return vector
        # A row of padding pools to zeros, whose norm has no gradient.
        return vector * jax.lax.rsqrt(jnp.maximum(jnp.square(vector).sum(-1, keepdims=True), 1e-24))

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch: of `tokens`, and of `targets` where both sides are embedded."""
        sides = [shapes[key] for key in ("tokens", "targets") if key in shapes]
        return sum(reading_flops(self.backbone, {"tokens": side}) for side in sides)
