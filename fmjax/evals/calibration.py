"""Calibration: does a model that says 80 % turn out right 80 % of the time?"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.errors import ConfigError
from fmjax.core.types import Batch
from fmjax.evals.means import SampleMean
from fmjax.evals.prediction import Outputs, classified, undefined


def brier(outputs: Outputs, batch: Batch) -> SampleMean:
    """Brier score, a proper score: mean squared error of the probabilities (Brier 1950).

    For yes or no (one sigmoid, each of several, or a softmax over two) it is (p - y)^2, in [0, 1]; over C > 2
    classes the sum over classes, in [0, 2]: scikit-learn's `brier_score_loss` with its `scale_by_half="auto"`.
    """
    c = classified(outputs, batch)
    if c.kind != "softmax":
        return SampleMean.of(jnp.square(c.probabilities - c.targets), c.weights)
    classes = jnp.arange(c.logits.shape[-1])
    squared = jnp.square(c.probabilities - (c.labels[..., None] == classes)).sum(-1)
    return SampleMean.of(squared / 2 if len(classes) == 2 else squared, c.weights)


class Bins(NamedTuple):
    """Weight, and weighted sums of confidence and of being right, by bin."""

    weight: jax.Array
    confidence: jax.Array
    correct: jax.Array


@dataclasses.dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error of the predicted class over bins of equal width (Guo et al. 2017).

    The mean over bins, by weight, of |accuracy - mean confidence|, where the confidence is the probability of
    what was predicted. Bin i is (i / bins, (i + 1) / bins]. The artifact "bins" is the reliability diagram.
    """

    bins: int = 15

    def __post_init__(self):
        _check(self.bins)

    def sums(self, outputs: Outputs, batch: Batch) -> Bins:
        c = classified(outputs, batch)
        at = jnp.clip(jnp.ceil(c.confidence * self.bins).astype(jnp.int32) - 1, 0, self.bins - 1)
        mine = (at[..., None] == jnp.arange(self.bins)) & (c.weights != 0)[..., None]
        # NaN confidences fall into some bin, with weight NaN.
        parts = (c.weights, c.weights * c.confidence, c.weights * c.correct)
        return Bins(*(jnp.where(mine, x[..., None], 0.0).reshape(-1, self.bins).sum(0) for x in parts))

    def result(self, sums: Bins) -> dict[str, Any]:
        edges = np.arange(self.bins + 1) / self.bins
        return _summary(sums, edges[:-1], edges[1:])


@dataclasses.dataclass(frozen=True)
class EqualMassCalibrationError:
    """Expected calibration error over bins of equal mass (Nguyen & O'Connor 2015): exact, from all rows.

    The rows, sorted by confidence, are cut where their weight reaches i / bins of the whole; equal confidences
    stay in one bin, so the order of the rows does not matter. Otherwise as `CalibrationError`.
    """

    bins: int = 15

    def __post_init__(self):
        _check(self.bins)

    def rows(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        c = classified(outputs, batch)
        return {"confidence": c.confidence, "correct": c.correct, "weights": c.weights}

    def result(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        weights = np.asarray(rows["weights"], np.float64).ravel()
        kept = weights != 0
        weights, confidence = weights[kept], np.asarray(rows["confidence"], np.float64).ravel()[kept]
        correct = np.asarray(rows["correct"], np.float64).ravel()[kept]
        if np.isnan(weights).any():
            return {"": float("nan"), "bins": []}
        values, which = np.unique(confidence, return_inverse=True)
        mass = np.bincount(which, weights, len(values))
        before = np.cumsum(mass) - mass
        # A little is added before rounding down: 0.3 of 10 is 2.9999999999999996.
        at = np.floor(before * self.bins / max(mass.sum(), 1e-300) + 1e-9).astype(int)[which]
        at = np.clip(at, 0, self.bins - 1)
        sums = Bins(*(np.bincount(at, x, self.bins) for x in (weights, weights * confidence, weights * correct)))
        low = [confidence[at == i].min(initial=np.inf) for i in range(self.bins)]
        high = [confidence[at == i].max(initial=-np.inf) for i in range(self.bins)]
        return _summary(sums, np.array(low), np.array(high))


def _summary(sums: Bins, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """The error, and a row for every bin that holds something."""
    full = sums.weight != 0
    weight, confidence, correct = (x[full] for x in sums)
    if not full.any():
        undefined("the calibration error of no rows is undefined")
        return {"": float("nan"), "bins": []}
    error = np.abs(correct - confidence).sum() / weight.sum()
    words = ("low", "high", "confidence", "accuracy", "weight")
    columns = (low[full], high[full], confidence / weight, correct / weight, weight)
    table = [dict(zip(words, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]
    return {"": float(error), "bins": table}


def _check(bins: int) -> None:
    if bins < 1:
        raise ConfigError(f"a calibration error needs at least one bin, not {bins}")
