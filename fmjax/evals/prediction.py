"""What a metric reads from a prediction: classes or values, their targets, and how much each counts."""

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.types import Batch

Outputs = Mapping[str, jax.Array]  # what a predict function returned, in the words of `core/types.py`


class UndefinedMetric(UserWarning):
    """A metric has no value on these rows and is reported as NaN."""


@functools.cache
def undefined(why: str) -> None:
    """Warn once a process that a number is NaN, and why."""
    warnings.warn(f"{why}: reported as NaN", UndefinedMetric, stacklevel=3)


def read(words: Mapping[str, jax.Array], key: str, of: str = "prediction") -> jax.Array:
    """`words[key]`, or an error that lists what there is.

    Raises:
      ConfigError: the prediction (or the batch) holds no such word.
    """
    if key not in words:
        there = ", ".join(sorted(words)) or "nothing"
        raise ConfigError(f"the {of} has no {key!r}, which a metric needs; it has {there}")
    return words[key]


def weigh(outputs: Outputs, batch: Batch, shape: tuple[int, ...]) -> jax.Array:
    """How much each of `shape` counts: the prediction's `weights`, else `valid`; exactly 0 on padded rows.

    Weights broadcast from the left: (B,) fits (B, T). Whatever a padded row holds, NaN included, is ignored.

    Raises:
      ConfigError: weights of a shape that does not fit.
    """
    valid = batch.get("valid")
    weights = outputs.get("weights", jnp.ones(shape[:1]) if valid is None else valid)
    weights = jnp.asarray(weights, jnp.float32)
    while weights.ndim > len(shape) and weights.shape[-1] == 1:
        weights = weights[..., 0]
    if weights.shape != shape[: weights.ndim]:
        raise ConfigError(f"weights of shape {weights.shape} do not fit targets of shape {shape}")
    weights = jnp.broadcast_to(_columns(weights, len(shape)), shape)
    return weights if valid is None else jnp.where(_columns(jnp.asarray(valid), len(shape)) == 0, 0.0, weights)


@dataclasses.dataclass(frozen=True)
class Classified:
    """Logits beside the classes they should have named.

    A valid entry whose logits hold NaN gets weight NaN, so that a diverged model scores NaN and not chance.

    Attributes:
      kind: "softmax" (one of C classes), "binary" (one logit, yes or no) or "multilabel" (L yes or no questions).
      logits: float32, (..., C), (...) or (..., L).
      targets: (...) class indices, (...) 0/1 or (..., L) 0/1.
      weights: float32, the shape of the targets.
    """

    kind: Literal["softmax", "binary", "multilabel"]
    logits: jax.Array
    targets: jax.Array
    weights: jax.Array

    @property
    def labels(self) -> jax.Array:
        """The targets as int32."""
        return jnp.round(self.targets).astype(jnp.int32)

    @property
    def predicted(self) -> jax.Array:
        """The class with the greatest logit (the first of equals); 1 where one logit is above 0."""
        return jnp.argmax(self.logits, -1) if self.kind == "softmax" else (self.logits > 0).astype(jnp.int32)

    @property
    def correct(self) -> jax.Array:
        """1 where the prediction is right, shaped as the targets."""
        return (self.predicted == self.labels).astype(jnp.float32)

    @property
    def probabilities(self) -> jax.Array:
        """Shaped as the logits."""
        return jax.nn.softmax(self.logits) if self.kind == "softmax" else jax.nn.sigmoid(self.logits)

    @property
    def confidence(self) -> jax.Array:
        """The probability of what was predicted, shaped as the targets."""
        return self.probabilities.max(-1) if self.kind == "softmax" else jax.nn.sigmoid(jnp.abs(self.logits))

    @property
    def nll(self) -> jax.Array:
        """Negative log-likelihood in nats, shaped as the targets; NaN where a target is no class."""
        if self.kind == "softmax":
            classes, labels = self.logits.shape[-1], self.labels
            at = jnp.clip(labels, 0, classes - 1)[..., None]
            nll = -jnp.take_along_axis(jax.nn.log_softmax(self.logits), at, -1)[..., 0]
            return jnp.where((labels < 0) | (labels >= classes), jnp.nan, nll)
        y = self.targets.astype(jnp.float32)
        nll = jax.nn.softplus(self.logits) - self.logits * y
        return jnp.where((y < 0) | (y > 1), jnp.nan, nll)


def classified(outputs: Outputs, batch: Batch) -> Classified:
    """Read `logits` and `targets`; their shapes say what is meant.

    Logits (..., C) with targets (...) are a softmax over classes; (..., 1) or (B,) with targets (...) are one
    sigmoid; (..., L) with targets (..., L) are L sigmoids.

    Raises:
      ConfigError: no logits, no targets, or shapes that fit none of these.
    """
    logits = jnp.asarray(read(outputs, "logits"), jnp.float32)
    targets = jnp.asarray(read(outputs, "targets"))
    shapes = f"logits {logits.shape} with targets {targets.shape}"
    if logits.shape == targets.shape and logits.shape[-1:] == (1,) and logits.ndim > 1:
        targets = targets[..., 0]
    one = logits.ndim == 1
    if logits.shape == (*targets.shape, 1):
        logits, one = logits[..., 0], True
    if logits.shape == targets.shape:
        kind, broken = "binary" if one else "multilabel", jnp.isnan(logits)
    elif logits.shape[:-1] == targets.shape:
        kind, broken = "softmax", jnp.isnan(logits).any(-1)
    else:
        raise ConfigError(f"{shapes} are neither classes (..., C) with (...) nor yes-or-no questions of one shape")
    weights = weigh(outputs, batch, targets.shape)
    return Classified(kind, logits, targets, jnp.where(broken & (weights != 0), jnp.nan, weights))


def regressed(outputs: Outputs, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`values`, `targets` and weights, float32 of one shape.

    Raises:
      ConfigError: no values, no targets, or two shapes.
    """
    values = jnp.asarray(read(outputs, "values"), jnp.float32)
    targets = jnp.asarray(read(outputs, "targets"), jnp.float32)
    if values.ndim == targets.ndim + 1 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.shape != targets.shape:  # (B, 1) against (B,) would broadcast to (B, B)
        raise ConfigError(f"values of shape {values.shape} are compared with targets of shape {targets.shape}")
    return values, targets, weigh(outputs, batch, targets.shape)


def _columns(x: jax.Array, ndim: int) -> jax.Array:
    return x.reshape(x.shape + (1,) * (ndim - x.ndim))
