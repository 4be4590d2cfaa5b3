"""Counts of right and wrong by class: confusion matrix, Matthews correlation, precision, recall, F1."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.core.types import Batch
from fmjax.evals.prediction import Classified, Outputs, classified, undefined

AVERAGES = ("macro", "micro", "weighted", "binary")


class Confusion(NamedTuple):
    """Weighted counts (C, C), true class by predicted class; and the weight of targets that are no class."""

    matrix: jax.Array
    outside: jax.Array


@dataclasses.dataclass(frozen=True)
class ConfusionMatrix:
    """How often class i (row) was called class j (column): an array (C, C); two classes for one sigmoid.

    Attributes:
      classes: their names, for the picture: then the result is {"classes": names, "counts": the array}.

    Raises:
      DataError: a valid row whose target is not one of the C classes.
    """

    classes: tuple[str, ...] = ()

    def sums(self, outputs: Outputs, batch: Batch) -> Confusion:
        c = classified(outputs, batch)
        if c.kind == "multilabel":
            raise ConfigError("several yes-or-no questions have no one confusion matrix: use ClassificationReport")
        classes = _classes(c)
        if self.classes and len(self.classes) != classes:
            raise ConfigError(f"{len(self.classes)} names do not fit {classes} classes: give one each, or none")
        true, called = ((x.reshape(-1, 1) == jnp.arange(classes)) for x in (c.labels, c.predicted))
        w = c.weights.reshape(-1, 1)
        # A TPU or GPU may round the factors of a product; 0 and 1 survive that, weights need the highest precision.
        matrix = jnp.matmul(jnp.where(true, w, 0.0).T, called.astype(jnp.float32), precision="highest")
        return Confusion(matrix, jnp.where((w == 0) | true.any(1, keepdims=True), 0.0, w).sum())

    def result(self, sums: Confusion) -> dict[str, Any]:
        _check(sums.outside, len(sums.matrix))
        matrix = np.asarray(sums.matrix)
        return {"": {"classes": list(self.classes), "counts": matrix} if self.classes else matrix}


@dataclasses.dataclass(frozen=True)
class MatthewsCorrelation(ConfusionMatrix):
    """Correlation of the true with the called class (Matthews 1975; over C > 2 classes Gorodkin's R_K): CoLA's score.

    As in scikit-learn, 0 where all rows are, or are called, one class.
    """

    def result(self, sums: Confusion) -> dict[str, float]:
        _check(sums.outside, len(sums.matrix))
        matrix = np.asarray(sums.matrix, np.float64)
        total, right, (true, called) = matrix.sum(), np.trace(matrix), (matrix.sum(1), matrix.sum(0))
        if total == 0:
            undefined("the Matthews correlation of no rows is undefined")
            return {"": float("nan")}
        spread = (total**2 - true @ true) * (total**2 - called @ called)
        return {"": float((right * total - true @ called) / np.sqrt(spread)) if spread != 0 else 0.0}


class Counts(NamedTuple):
    """Weighted counts by class (C,): rightly called so, called so, truly so; the weight of targets that are none."""

    right: jax.Array
    called: jax.Array
    true: jax.Array
    outside: jax.Array


def counts(outputs: Outputs, batch: Batch) -> Counts:
    """The counts that precision and recall are made of.

    The classes are those of the softmax; no and yes for one sigmoid; the L questions (their yes) for L sigmoids.
    """
    c = classified(outputs, batch)
    if c.kind == "multilabel":
        true, called = (c.labels == 1).astype(jnp.float32), (c.predicted == 1).astype(jnp.float32)
        w = c.weights
    else:
        classes = jnp.arange(_classes(c))
        true, called = ((x[..., None] == classes).astype(jnp.float32) for x in (c.labels, c.predicted))
        w = c.weights[..., None]
    by_class = [jnp.where(w == 0, 0.0, x * w).reshape(-1, x.shape[-1]).sum(0) for x in (true * called, called, true)]
    known = (c.labels >= 0) & (c.labels < 2) if c.kind == "multilabel" else true.sum(-1) == 1
    # A target that is no class would vanish from the counts: it leaves its weight here.
    return Counts(*by_class, jnp.where((c.weights == 0) | known, 0.0, c.weights).sum())


@dataclasses.dataclass(frozen=True)
class ClassificationReport:
    """Precision, recall and F1, averaged "macro" and "micro", and the table of the classes as an artifact.

    Macro is the mean over ALL classes of the model, as scikit-learn's with `labels=range(C)`. Where nothing
    was called, or truly is, a class, its score is 0 (scikit-learn's `zero_division=0`).

    Raises:
      DataError: a valid row whose target is not one of the classes.
    """

    def sums(self, outputs: Outputs, batch: Batch) -> Counts:
        return counts(outputs, batch)

    def result(self, sums: Counts) -> dict[str, Any]:
        words = ("precision", "recall", "f1")
        out: dict[str, Any] = {}
        for average in ("macro", "micro"):
            out |= {f"{w}_{average}": s for w, s in zip(words, _average(sums, average), strict=True)}
        return {**out, "per_class": _table(sums)}


@dataclasses.dataclass(frozen=True)
class _Score:
    """One of precision, recall and F1.

    Attributes:
      average: "macro" (mean over all classes), "micro" (from the summed counts), "weighted" (by how often each
        class is true) or "binary" (class 1 of two).
    """

    average: str = "macro"

    def __post_init__(self):
        if self.average not in AVERAGES:
            raise ConfigError(f"no average {self.average!r}; there is {', '.join(AVERAGES)}")

    def sums(self, outputs: Outputs, batch: Batch) -> Counts:
        found = counts(outputs, batch)
        if self.average == "binary" and len(found.true) != 2:
            raise ConfigError(f"average='binary' needs two classes, here are {len(found.true)}")
        return found


class Precision(_Score):
    """Of what was called a class, the share that is: see `ClassificationReport` for classes that never occur."""

    def result(self, sums: Counts) -> dict[str, float]:
        return {"": _average(sums, self.average)[0]}


class Recall(_Score):
    """Of what is a class, the share that was called so: see `ClassificationReport` for classes that never occur."""

    def result(self, sums: Counts) -> dict[str, float]:
        return {"": _average(sums, self.average)[1]}


class F1(_Score):
    """Harmonic mean of precision and recall: see `ClassificationReport` for classes that never occur."""

    def result(self, sums: Counts) -> dict[str, float]:
        return {"": _average(sums, self.average)[2]}


def _classes(c: Classified) -> int:
    return c.logits.shape[-1] if c.kind == "softmax" else 2


def _check(outside: float, classes: int) -> None:
    if outside > 0:  # NaN when the model has diverged: then the numbers are NaN too
        raise DataError(f"targets of weight {float(outside):g} are none of the {classes} classes: check the labels")


def _average(sums: Counts, average: str) -> tuple[float, float, float]:
    """(precision, recall, F1)."""
    _check(sums.outside, len(sums.true))
    right, called, true = sums[:3]
    if true.sum() == 0 and called.sum() == 0:
        undefined("precision, recall and F1 of no rows are undefined")
        return (float("nan"),) * 3
    if average == "micro":
        right, called, true = (x.sum(keepdims=True) for x in (right, called, true))
    if average == "binary":
        right, called, true = (x[1:] for x in (right, called, true))
    scores = (_share(right, called), _share(right, true), _share(2 * right, called + true))
    share = true / true.sum() if average == "weighted" and true.sum() != 0 else np.full(len(true), 1 / len(true))
    return tuple(float(s @ share) for s in scores)


def _table(sums: Counts) -> list[dict[str, float]]:
    right, called, true = sums[:3]
    columns = (_share(right, called), _share(right, true), _share(2 * right, called + true), true)
    words = ("precision", "recall", "f1", "support")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [{"class": i, **dict(zip(words, row, strict=True))} for i, row in enumerate(rows)]


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole == 0, 0.0, part / np.where(whole == 0, 1.0, whole))
