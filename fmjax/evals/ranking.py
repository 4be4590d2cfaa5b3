"""Ranking: areas under the ROC and the precision-recall curve, exact with ties, from all rows."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.types import Batch
from fmjax.evals.prediction import Outputs, classified, undefined

POINTS = 200  # of a curve kept as an artifact


def log_odds(logits: jax.Array) -> jax.Array:
    """log(p / (1 - p)) of each class of a softmax, (..., C): ranks as p does, where p in float32 has long become 1."""
    first = jnp.arange(logits.shape[-1]) == jnp.argmax(logits, -1, keepdims=True)
    top = logits.max(-1, keepdims=True)
    shares = jnp.exp(logits - top)
    # For all classes but the first, the rest still holds the greatest share: nothing cancels.
    rest = top + jnp.log(jnp.where(first, 1.0, shares.sum(-1, keepdims=True) - shares))
    rest_of_first = jax.nn.logsumexp(jnp.where(first, -jnp.inf, logits), -1, keepdims=True)
    return logits - jnp.where(first, rest_of_first, rest)


@dataclasses.dataclass(frozen=True)
class _Area:
    """What both areas share: the rows they collect, and one against the rest.

    One sigmoid or a softmax over two classes is one binary question, whose curve is the artifact "curve".
    Over C > 2 classes (one against the rest) or L questions, it is the plain mean over all of them, with the
    table "per_class". Where one of them has no value the mean is NaN, with a warning.
    """

    def rows(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        c = classified(outputs, batch)
        if c.kind != "softmax":
            return {"scores": c.logits, "targets": c.labels, "weights": c.weights}
        binary = c.logits.shape[-1] == 2
        scores = c.logits[..., 1] - c.logits[..., 0] if binary else log_odds(c.logits)
        return {"scores": scores, "targets": c.labels, "weights": c.weights}

    def result(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        scores, targets, weights = (np.asarray(rows[k]) for k in ("scores", "targets", "weights"))
        if scores.ndim == targets.ndim + 1:  # a softmax: class by class
            questions = [(scores[..., i], targets == i, weights) for i in range(scores.shape[-1])]
        elif scores.ndim > 1:
            questions = [(scores[..., i], targets[..., i] == 1, weights[..., i]) for i in range(scores.shape[-1])]
        else:
            steps = _steps(scores, targets == 1, weights)
            area = self.area(*steps, "the targets")
            return {"": area, **({} if np.isnan(area) else {"curve": _thin(self.curve(*steps))})}
        areas = [self.area(*_steps(*q), f"class {i}") for i, q in enumerate(questions)]
        table = [{"class": i, "value": None if np.isnan(area) else area} for i, area in enumerate(areas)]
        return {"": float(np.mean(areas)), "per_class": table}

    def area(self, hits: np.ndarray, misses: np.ndarray, who: str) -> float:
        raise TypeError(f"{type(self).__name__} must define area(hits, misses, who)")

    def curve(self, hits: np.ndarray, misses: np.ndarray) -> dict[str, np.ndarray]:
        raise TypeError(f"{type(self).__name__} must define curve(hits, misses)")


class RocAuc(_Area):
    """Area under the ROC curve: how likely a positive outranks a negative, ties counting half.

    Equals scikit-learn's `roc_auc_score` (over classes: `multi_class="ovr"`, macro). Without both a positive
    and a negative it has no value: NaN and a warning.
    """

    def area(self, hits: np.ndarray, misses: np.ndarray, who: str) -> float:
        if hits[-1] == 0 or misses[-1] == 0:
            undefined(f"the ROC-AUC of {who} is undefined without both positives and negatives")
            return float("nan")
        return float(np.trapezoid(hits, misses) / (hits[-1] * misses[-1]))

    def curve(self, hits: np.ndarray, misses: np.ndarray) -> dict[str, np.ndarray]:
        return {"false_positive_rate": misses / misses[-1], "true_positive_rate": hits / hits[-1]}


class AveragePrecision(_Area):
    """Area under the precision-recall curve, as scikit-learn's `average_precision_score`: no interpolation.

    Without a positive it has no value: NaN and a warning (scikit-learn says 0).
    """

    def area(self, hits: np.ndarray, misses: np.ndarray, who: str) -> float:
        if hits[-1] == 0:
            undefined(f"the average precision of {who} is undefined without positives")
            return float("nan")
        precision = hits[1:] / (hits[1:] + misses[1:])
        return float(precision @ np.diff(hits) / hits[-1])

    def curve(self, hits: np.ndarray, misses: np.ndarray) -> dict[str, np.ndarray]:
        return {"recall": hits[1:] / hits[-1], "precision": hits[1:] / (hits[1:] + misses[1:])}


def _steps(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cumulated weight of positives and of negatives, from the greatest score down; equal scores are one step."""
    kept = weights.ravel() != 0
    scores, positive, weights = (x.ravel()[kept] for x in (scores, positive, weights.astype(np.float64)))
    order = np.argsort(-scores, kind="stable")
    last = np.ones(len(scores), bool)
    last[:-1] = scores[order][1:] != scores[order][:-1]
    hits, misses = (np.cumsum((weights * x)[order])[last] for x in (positive, ~positive))
    return np.concatenate([[0.0], hits]), np.concatenate([[0.0], misses])


def _thin(curve: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """At most POINTS points of a curve, the first and the last among them."""
    length = len(next(iter(curve.values())))
    at = np.unique(np.linspace(0, length - 1, min(length, POINTS)).round().astype(int))
    return [{k: float(v[i]) for k, v in curve.items()} for i in at]
