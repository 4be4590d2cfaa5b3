"""Every metric a config can name, and what a metric is.

A metric is one of three things; `outputs` is what a prediction returned (`logits targets weights nll correct` or
`values targets weights`) and `batch` what it was made from.

1. A function `(outputs, batch) -> Mean` (or `SampleMean`, which also reports its standard error as "se").
2. Sums: an object with `sums` and `result`, see `Sums`.
3. Rows: an object with `rows` and `result`, see `Rows`, for what cannot be added (areas under curves).

A result is a dict: scalars become numbers, everything else artifacts. Under the metric's name `auc`, the key
"" is reported as `auc` and the key "se" as `auc_se`. What has no value is NaN, with one warning that says why.

    config.evals.val = call(evaluators.average, data=one_pass, metrics={
        "loss": metrics.loss, "accuracy": metrics.accuracy, "top5": call(metrics.TopK, k=5), "auc": metrics.RocAuc})
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.core.types import Batch, Mean, Tree
from fmjax.evals.calibration import CalibrationError, EqualMassCalibrationError, brier
from fmjax.evals.classification import (
    F1,
    ClassificationReport,
    ConfusionMatrix,
    MatthewsCorrelation,
    Precision,
    Recall,
)
from fmjax.evals.intervals import Bootstrapped
from fmjax.evals.means import (
    SampleMean,
    TopK,
    accuracy,
    exact_match,
    loss,
    mean_absolute_error,
    mean_result,
    mean_squared_error,
    nll,
)
from fmjax.evals.prediction import Outputs, UndefinedMetric
from fmjax.evals.ranking import AveragePrecision, RocAuc
from fmjax.evals.regression import R2
from fmjax.evals.text import BitsPerByte, Perplexity

__all__ = [
    "F1",
    "R2",
    "AveragePrecision",
    "BitsPerByte",
    "Bootstrapped",
    "CalibrationError",
    "ClassificationReport",
    "ConfusionMatrix",
    "EqualMassCalibrationError",
    "MatthewsCorrelation",
    "Perplexity",
    "Precision",
    "Recall",
    "RocAuc",
    "Rows",
    "SampleMean",
    "Sums",
    "TopK",
    "UndefinedMetric",
    "accuracy",
    "brier",
    "exact_match",
    "loss",
    "mean_absolute_error",
    "mean_squared_error",
    "nll",
    "resolve",
]


class Sums(Protocol):
    """A metric made of sums over rows."""

    def sums(self, outputs: Outputs, batch: Batch) -> Tree:
        """Float arrays that are added over batches: pure jnp; a padded row adds nothing, whatever it holds."""

    def result(self, sums: Tree) -> dict[str, Any]:
        """From the added sums, as float64 numpy arrays in the same tree."""


class Rows(Protocol):
    """A metric that must see all rows together."""

    def rows(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Arrays (B, ...) that are kept row by row: pure jnp."""

    def result(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """From the valid rows of all batches, in order; their dtype is kept."""


@dataclasses.dataclass(frozen=True)
class Averaged:
    """A function `(outputs, batch) -> Mean` as a metric."""

    fn: Callable[[Outputs, Batch], Mean]

    def sums(self, outputs: Outputs, batch: Batch) -> Mean:
        found = self.fn(outputs, batch)
        if not isinstance(found, (Mean, SampleMean)):
            raise ConfigError(f"the metric {_named(self.fn)} returns {type(found).__name__}, not a Mean")
        return found

    def result(self, sums: Mean) -> dict[str, float]:
        return mean_result(sums)


def resolve(name: str, metric: Any) -> Sums | Rows:
    """What a config gave under `name`: an object as it is, a class without arguments made, a function wrapped.

    Raises:
      ConfigError: none of these.
    """
    if isinstance(metric, type):
        try:
            inspect.signature(metric).bind()
        except TypeError as error:
            raise ConfigError(f"the metric {name!r} is {_named(metric)}: {error}; write it as a call") from None
        metric = metric()
    if hasattr(metric, "result") and hasattr(metric, "sums") != hasattr(metric, "rows"):
        return metric
    if callable(metric):
        return Averaged(metric)
    if isinstance(metric, str):
        raise ConfigError(f"the metric {name!r} is the string {metric!r}; {did_you_mean(metric, __all__)}")
    raise ConfigError(f"the metric {name!r} is {metric!r}: it has neither sums nor rows and is no function")


def _named(fn: Any) -> str:
    return getattr(fn, "__qualname__", repr(fn))
