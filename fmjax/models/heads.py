"""Heads on a language model: a class for a text, a class for every token.

The language model is a field, so that its weights lie under "backbone" as they do in the model alone, and any one
with a method `hidden` will do: Encoder, Decoder, rnn.LanguageModel.
"""

import inspect
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.models.rnn import LanguageModel
from fmjax.models.transformer import Decoder
from fmjax.nn.linear import Linear
from fmjax.nn.token_pooling import POOLS, pool_tokens

POOLER = "pooler"


class _Headed(nn.Module):
    """What heads share: the backbone, without the head over the vocabulary that it may have.

    Attributes:
      backbone: a language model.
    """

    backbone: nn.Module

    def __post_init__(self) -> None:
        if getattr(self.backbone, "output", "none") != "none":  # BERT's head makes its bias whether it is used or not
            object.__setattr__(self, "backbone", self.backbone.clone(output="none"))
        super().__post_init__()

    @property
    def vocab(self) -> int:
        """Token ids of the backbone."""
        return self.backbone.vocab

    @property
    def couples_batch(self) -> bool:
        """Whether the loss of a row depends on other rows: where the backbone's does."""
        return getattr(self.backbone, "couples_batch", False)

    def read(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None,
        segment_ids: Int[Array, "B T"] | None,
        token_types: Int[Array, "B T"] | None,
        train: bool,
    ) -> Float[Array, "B T D"]:
        """Hidden states of the backbone, which gets `token_types` where it knows more than one."""
        more: dict[str, Any] = {}
        if hasattr(self.backbone, "encode"):
            raise ConfigError(
                f"a head reads one text, and a {type(self.backbone).__name__} reads two: take an encoder or a decoder"
            )
        known = inspect.signature(type(self.backbone).hidden).parameters
        if "token_types" in known and getattr(self.backbone, "token_types", 2) > 1:
            more["token_types"] = token_types
        return self.backbone.hidden(tokens, positions=positions, segment_ids=segment_ids, train=train, **more)


class Classifier(_Headed):
    """Logits of a class for each row: hidden states, pooled to one vector, then a linear layer.

    Attributes:
      classes: number of classes (C); 1 for a number to regress.
      pool: "first", "last", "mean", "max" token, see nn/token_pooling.py; or "pooler", the backbone's own trained
        tanh layer over the first token.
      hidden: width of a tanh layer between the pool and the logits; 0 is none.
      dropout: of what each linear layer here reads.
    """

    classes: int = 2
    pool: str = "first"
    hidden: int = 0
    dropout: float = 0.1
    dtype: str | None = None

    def setup(self) -> None:
        if self.pool not in (*POOLS, POOLER):
            raise ConfigError(f"there is no pool {self.pool!r}; {did_you_mean(self.pool, (*POOLS, POOLER))}")
        if self.pool == "first" and isinstance(self.backbone, (Decoder, LanguageModel)):
            raise ConfigError("pool='first' of a model that reads from left to right has seen one token: use 'last'")
        if self.pool == POOLER and not getattr(self.backbone, "pairs", False):
            raise ConfigError("pool='pooler' needs a backbone with one: an Encoder with pairs=True")
        self.drop = nn.Dropout(self.dropout)
        if self.hidden:
            self.dense = Linear((self.hidden,), use_bias=True, dtype=self.dtype)
        self.head = _last(self.classes, self.dtype)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        token_types: Int[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B C"]:
        x = self.read(tokens, positions, segment_ids, token_types, train)
        x = self.backbone.pooled(x) if self.pool == POOLER else pool_tokens(x, segment_ids, self.pool)
        x = self.drop(x, deterministic=not train)
        if self.hidden:
            x = self.drop(jnp.tanh(self.dense(x)), deterministic=not train)
        return self.head(x)

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `tokens` (B, T)."""
        width = self.backbone.width
        pooler = width * width if self.pool == POOLER else 0
        last = width * self.hidden + self.hidden * self.classes if self.hidden else width * self.classes
        return reading_flops(self.backbone, shapes) + 2.0 * shapes["tokens"][0] * (pooler + last)


class TokenClassifier(_Headed):
    """Logits of a class for every token: a linear layer over hidden states. Two classes are an answer's start and end.

    Attributes:
      classes: number of classes (C).
      dropout: of the hidden states.
    """

    classes: int = 2
    dropout: float = 0.1
    dtype: str | None = None

    def setup(self) -> None:
        self.drop = nn.Dropout(self.dropout)
        self.head = _last(self.classes, self.dtype)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        token_types: Int[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T C"]:
        x = self.read(tokens, positions, segment_ids, token_types, train)
        return self.head(self.drop(x, deterministic=not train))

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `tokens` (B, T)."""
        B, T = shapes["tokens"]
        return reading_flops(self.backbone, shapes) + 2.0 * B * T * self.backbone.width * self.classes


def reading_flops(backbone: nn.Module, shapes: dict[str, tuple[int, ...]]) -> float:
    """Forward FLOPs of a language model's `hidden` for a batch of `tokens` (B, T)."""
    B, T = shapes["tokens"]
    if hasattr(backbone, "block_flops"):
        return backbone.block_flops(B, T, False)
    # The others count a head over the vocabulary, and targets that are one token shorter than their input.
    return backbone.flops({"tokens": (B, T + 1)}) - 2.0 * B * T * backbone.width * backbone.vocab


def _last(classes: int, dtype: str | None) -> Linear:
    # Small, as BERT's: the first steps must not tear at a trained backbone.
    return Linear((classes,), use_bias=True, dtype=dtype, kernel_init=nn.initializers.normal(0.02))
