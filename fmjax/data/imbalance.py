"""Classes of unequal size: sets cut to a ratio, classes that come more often, numbers to weigh losses by."""

import math
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.source import Source
from fmjax.data.splits import View

BLOCK = 4096  # labels read in one go


class LongTailed(View):
    """The first examples of every class, fewer and fewer from the first class to the last (arXiv 1901.05555).

    Of C classes, class c keeps n * ratio ** (-c / (C - 1)) examples, n being the number in the smallest class: the
    first keeps `ratio` times as many as the last.
    """

    def __init__(self, source: Source, ratio: float = 50.0, label: str = "label"):
        if not ratio >= 1:
            raise ConfigError(f"ratio={ratio}: the first class is 1 or more times as large as the last")
        labels = labels_of(source, label)
        counts = np.bincount(labels)
        steps = np.arange(len(counts)) / max(1, len(counts) - 1)
        kept = np.maximum(1, np.round(counts.min() * ratio**-steps)).astype(int)
        of_class = [np.flatnonzero(labels == c)[:n] for c, n in enumerate(kept)]
        self.source, self.ratio = source, ratio
        self._index = np.sort(np.concatenate(of_class))
        super().__init__(source, len(self._index), (ratio, label))

    def __repr__(self) -> str:
        return f"{self.source} with classes of sizes 1:{self.ratio:g}"

    def index(self, i: np.ndarray) -> np.ndarray:
        return self._index[i]


class Balanced(View):
    """A source in which examples of small classes come several times, so that classes are more alike in size.

    Class c has a share as n_c ** (1 - power) of the examples: with `power` 1 all are equal, with 0 nothing changes, 0.5
    is between. The largest class is seen whole once; no example is left out, and within a class they come equally
    often, but for one.
    """

    def __init__(self, source: Source, power: float = 1.0, label: str = "label"):
        if not 0 <= power <= 1:
            raise ConfigError(f"power={power}: give a number from 0 (as it is) to 1 (all classes equal)")
        labels = labels_of(source, label)
        counts = np.bincount(labels)
        wanted = [round(n * (counts.max() / n) ** power) if n else 0 for n in counts.tolist()]
        of_class = [np.resize(np.flatnonzero(labels == c), n) for c, n in enumerate(wanted)]
        self.source, self.power = source, power
        self._index = np.concatenate(of_class)
        super().__init__(source, len(self._index), (power, label))

    def __repr__(self) -> str:
        return f"{self.source} balanced to the power {self.power:g}"

    def index(self, i: np.ndarray) -> np.ndarray:
        return self._index[i]


def class_weights(source: Source, beta: float | None = None, label: str = "label") -> tuple[float, ...]:
    """A weight a class, for `objective.class_weights`: one over its size, scaled so that the mean over examples is 1.

    Args:
      beta: below 1; one over the "effective number" (1 - beta**n) / (1 - beta) instead (arXiv 1901.05555).
    """
    counts = class_counts(source, label).astype(np.float64)
    if beta is not None and not 0 <= beta < 1:
        raise ConfigError(f"beta={beta}: give a number from 0 (all equal) to below 1, such as 0.999")
    sizes = counts if beta is None else (1 - beta**counts) / (1 - beta)
    weights = 1 / sizes
    return tuple((weights * counts.sum() / (weights * counts).sum()).tolist())


def priors(source: Source, label: str = "label") -> tuple[float, ...]:
    """The share of every class, for `objective.priors`."""
    counts = class_counts(source, label)
    return tuple((counts / counts.sum()).tolist())


def class_counts(source: Source, label: str = "label") -> np.ndarray:
    """How many examples every class has.

    Raises:
      DataError: a class without any.
    """
    counts = np.bincount(labels_of(source, label))
    if not counts.all():
        raise DataError(f"{source} has no example of class {int(np.argmin(counts))}: give classes without gaps")
    return counts


def labels_of(source: Any, label: str = "label") -> np.ndarray:
    """The class of every example; of a source in memory by looking, of another by reading it whole.

    Raises:
      DataError: there are none, or they are no classes.
    """
    n, take = len(source), getattr(source, "rows", None)
    try:
        if take is not None:
            blocks = [np.arange(k * BLOCK, min(n, (k + 1) * BLOCK)) for k in range(math.ceil(n / BLOCK))]
            labels = np.concatenate([take(block)[label] for block in blocks])
        else:
            labels = np.array([source[i][label] for i in range(n)])
    except KeyError:
        raise DataError(f"the examples of {source} have no {label!r}") from None
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataError(f"{label!r} of {source} must be one class an example, from 0")
    return labels
