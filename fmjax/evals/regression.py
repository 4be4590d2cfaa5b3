"""Regression beyond mean errors: how much of the spread of the targets is explained."""

import dataclasses

import jax
import numpy as np

from fmjax.core.types import Batch
from fmjax.evals.prediction import Outputs, regressed, undefined


@dataclasses.dataclass(frozen=True)
class R2:
    """Coefficient of determination, averaged over the columns (scikit-learn's `r2_score`, uniform average).

    It collects its rows: from sums in float32, targets far from zero would lose their variance. Entries of
    rank (B, D) are D columns; deeper ones are flattened to (B, D). A column whose targets are constant, or
    fewer than two rows, have no value: NaN and a warning (scikit-learn says 0 or 1).
    """

    def rows(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        values, targets, weights = regressed(outputs, batch)
        return {"values": values, "targets": targets, "weights": weights}

    def result(self, rows: dict[str, np.ndarray]) -> dict[str, float | list]:
        values, targets, weights = (
            np.asarray(rows[k], np.float64).reshape(len(rows[k]), -1) for k in ("values", "targets", "weights")
        )
        scores = [_r2(v, t, w) for v, t, w in zip(values.T, targets.T, weights.T, strict=True)]
        return {"": float(np.mean(scores)), **({"per_column": scores} if len(scores) > 1 else {})}


def _r2(values: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    values, targets, weights = (x[weights != 0] for x in (values, targets, weights))
    if len(targets) < 2 or (targets == targets[0]).all():
        undefined("R2 of targets that do not vary is undefined")
        return float("nan")
    spread = weights @ np.square(targets - np.average(targets, weights=weights))
    return float(1 - weights @ np.square(values - targets) / spread)
