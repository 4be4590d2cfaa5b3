"""Means over examples: loss, accuracy, top-k, errors; each knows its standard error."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.errors import ConfigError
from fmjax.core.types import Batch
from fmjax.evals.prediction import Outputs, classified, regressed, undefined, weigh


class SampleMean(NamedTuple):
    """A weighted mean that knows how uncertain it is; added over batches like `Mean`, of which it holds the words.

    The rows are the independent draws: the entries inside one row (the tokens of a sequence) may depend on
    each other. `error` is the linearised standard error of the ratio of two sums, which for one entry of
    weight 1 a row is the sample's standard deviation (ddof=1) over the square root of the rows.
    """

    sum: jax.Array
    weight: jax.Array
    rows: jax.Array  # how many rows count at all
    squares: jax.Array  # sums over rows of s * s, s * w and w * w, where s and w are a row's sum and weight
    cross: jax.Array
    weights: jax.Array

    @classmethod
    def of(cls, values: jax.Array, weights: jax.Array) -> "SampleMean":
        """Of values (B, ...) with weights of the same shape; an entry of weight 0 may hold anything."""
        values = jnp.where(weights == 0, 0.0, values.astype(jnp.float32) * weights)
        s, w = (x.reshape(x.shape[0], -1).sum(1) for x in (values, weights))
        return cls(s.sum(), w.sum(), (w != 0).sum(dtype=jnp.float32), (s * s).sum(), (s * w).sum(), (w * w).sum())

    def value(self) -> float:
        """The mean; NaN when nothing was weighed."""
        return float(self.sum / self.weight) if self.weight != 0 else float("nan")

    def error(self) -> float:
        """The standard error of the mean; NaN for fewer than two rows."""
        if not self.rows > 1:
            return float("nan")
        with np.errstate(invalid="ignore"):  # an infinite loss has no spread
            mean = self.sum / self.weight
            squared = self.squares - 2 * mean * self.cross + mean * mean * self.weights
            return float(np.sqrt(np.maximum(squared, 0) * self.rows / (self.rows - 1)) / self.weight)


def loss(outputs: Outputs, batch: Batch) -> SampleMean:
    """Mean loss in nats: the prediction's own `nll` if it has one, else the negative log-likelihood of its logits."""
    return SampleMean.of(*losses(outputs, batch))


def losses(outputs: Outputs, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(losses, weights), one entry a target; what `loss`, perplexity and bits per byte are made of."""
    if "nll" not in outputs:
        return _nlls(outputs, batch)
    values = jnp.asarray(outputs["nll"], jnp.float32)
    return values, weigh(outputs, batch, values.shape)


def nll(outputs: Outputs, batch: Batch) -> SampleMean:
    """Mean negative log-likelihood of the logits in nats, whatever the objective was trained on.

    Equals scikit-learn's `log_loss`; over several yes-or-no questions it is the mean over all of them.
    """
    return SampleMean.of(*_nlls(outputs, batch))


def accuracy(outputs: Outputs, batch: Batch) -> SampleMean:
    """Share of targets predicted right; every token, or every yes-or-no question, counts by its weight.

    The prediction's own `correct` if it has one, so that the logits of a large vocabulary need not exist all at once.
    """
    if "correct" in outputs:
        correct = jnp.asarray(outputs["correct"], jnp.float32)
        return SampleMean.of(correct, weigh(outputs, batch, correct.shape))
    c = classified(outputs, batch)
    return SampleMean.of(c.correct, c.weights)


def exact_match(outputs: Outputs, batch: Batch) -> SampleMean:
    """Share of rows all of whose weighted targets are predicted right (scikit-learn's multilabel accuracy)."""
    c = classified(outputs, batch)
    right, weights = (x.reshape(x.shape[0], -1) for x in (c.correct, c.weights))
    counts = (weights != 0).any(1).astype(jnp.float32) + 0 * weights.sum(1)  # NaN stays NaN
    return SampleMean.of(((right == 1) | (weights == 0)).all(1), counts)


def mean_squared_error(outputs: Outputs, batch: Batch) -> SampleMean:
    """Mean of (value - target)^2 over every entry."""
    values, targets, weights = regressed(outputs, batch)
    return SampleMean.of(jnp.square(values - targets), weights)


def mean_absolute_error(outputs: Outputs, batch: Batch) -> SampleMean:
    """Mean of |value - target| over every entry."""
    values, targets, weights = regressed(outputs, batch)
    return SampleMean.of(jnp.abs(values - targets), weights)


@dataclasses.dataclass(frozen=True)
class TopK:
    """Share of targets among the k classes with the greatest logits; of equal logits the first class wins.

    So `TopK(k=1)` is the accuracy, and constant logits score k / C on balanced classes, not 1.
    """

    k: int = 5

    def __post_init__(self):
        if self.k < 1:
            raise ConfigError(f"top-k needs k >= 1, not {self.k}")

    def sums(self, outputs: Outputs, batch: Batch) -> SampleMean:
        c = classified(outputs, batch)
        if c.kind != "softmax" or self.k > c.logits.shape[-1]:
            raise ConfigError(f"top-{self.k} of {c.kind} logits {c.logits.shape}: it needs at least {self.k} classes")
        classes = jnp.arange(c.logits.shape[-1])
        target = c.labels[..., None]
        own = jnp.where(classes == target, c.logits, 0.0).sum(-1, keepdims=True)
        ahead = (c.logits > own) | ((c.logits == own) & (classes < target))
        inside = (c.labels >= 0) & (c.labels < len(classes))
        return SampleMean.of((ahead.sum(-1) < self.k) & inside, c.weights)

    def result(self, sums: SampleMean) -> dict[str, float]:
        return mean_result(sums)


def mean_result(mean: NamedTuple) -> dict[str, float]:
    """The number of a `Mean` or `SampleMean`, and for the latter "se", its standard error."""
    if mean.weight == 0:
        undefined("a mean over targets whose weights are all 0 is undefined")
        return {"": float("nan")}
    value = {"": float(mean.sum / mean.weight)}
    return {**value, "se": mean.error()} if isinstance(mean, SampleMean) else value


def _nlls(outputs: Outputs, batch: Batch) -> tuple[jax.Array, jax.Array]:
    c = classified(outputs, batch)
    return c.nll, c.weights
