"""How sure a number is: standard errors and bootstrap confidence intervals over examples."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.core.types import Batch, Mean
from fmjax.evals.prediction import Outputs, undefined


class Interval(NamedTuple):
    """A number between the ends of its confidence interval."""

    value: float
    low: float
    high: float


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of independent values (N,): deviation (ddof=1) over sqrt(N); NaN for N < 2."""
    values = np.asarray(values, np.float64)
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def bootstrap(
    values: np.ndarray,
    weights: np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    statistic: Callable[[np.ndarray], float] | None = None,
) -> Interval:
    """Percentile bootstrap over examples (Efron 1979): the same seed gives the same interval.

    Args:
      values: (N,) one number an example, or (N, ...) what `statistic` takes.
      weights: (N,) for a weighted mean; an example is drawn together with its weight.
      level: the share of resamples between the ends.
      resamples: how many samples of N are drawn with replacement.
      seed: of the draws.
      statistic: what is computed from values drawn, by default their mean.

    Raises:
      ConfigError: a level outside (0, 1), or weights beside a statistic of one's own.
      DataError: no values.
    """
    if statistic is not None and weights is not None:
        raise ConfigError("a statistic of your own takes no weights: put them beside the values")
    values = np.asarray(values)
    if statistic is not None:
        draws = [statistic(values[at]) for at in _draws(len(values), level, resamples, seed)]
        return _percentiles(statistic(values), draws, level)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    both = np.stack([np.asarray(values, np.float64) * weights, weights])
    sums = [both[:, at].sum(1) for at in _draws(len(values), level, resamples, seed)]
    return _percentiles(_ratio(both.sum(1)), [_ratio(s) for s in sums], level)


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Interval of mean(a) - mean(b), for two models scored on the SAME examples (N,), which are drawn in pairs.

    Where zero lies outside the interval, the difference is larger than the choice of examples explains.

    Raises:
      DataError: two lengths, or no values.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise DataError(f"a paired bootstrap compares the same examples: here are {len(a)} and {len(b)}")
    return bootstrap(a - b, None, level, resamples, seed)


def paired_t(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p-value of Student's t-test that paired values (N,) have equal means; NaN for N < 2.

    It supposes differences that are roughly normal, and holds for few of them, where a bootstrap is too narrow.

    Raises:
      DataError: two lengths.
    """
    from scipy.special import stdtr

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise DataError(f"a paired test compares the same runs: here are {len(a)} and {len(b)}")
    error = standard_error(a - b)
    if error == 0:  # all differences are the same
        return float((a == b).all())
    return float(2 * stdtr(len(a) - 1, -abs((a - b).mean()) / error)) if len(a) > 1 else float("nan")


def holm(p: np.ndarray) -> np.ndarray:
    """P-values (N,) corrected for being N (Holm 1979): below `level`, all of them together err with that chance.

    NaN, for what could not be tested, stays and does not count.
    """
    p = np.asarray(p, np.float64)
    out, tested = np.full(p.shape, np.nan), np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    times = np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(p[order] * times), 1.0)
    return out


@dataclasses.dataclass(frozen=True)
class Bootstrapped:
    """A mean with its bootstrap interval: the number, "low" and "high".

    Attributes:
      metric: a function (outputs, batch) -> Mean or SampleMean, as those of `fmjax.evals.metrics`.
      level: the share of resamples between low and high.
      resamples: how many are drawn.
      seed: of the draws.
      keep: whether the examples' own values are kept as the artifact "values", for a paired bootstrap later.
    """

    metric: Callable[[Outputs, Batch], Mean]
    level: float = 0.95
    resamples: int = 2000
    seed: int = 0
    keep: bool = False

    def rows(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        def one(outputs: Outputs, batch: Batch) -> tuple[jax.Array, jax.Array]:
            mean = self.metric(*jax.tree.map(lambda x: x[None], (dict(outputs), dict(batch))))
            return mean.sum, mean.weight

        sums, weights = jax.vmap(one)(dict(outputs), dict(batch))
        return {"sums": sums, "weights": weights}

    def result(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        weights = np.asarray(rows["weights"], np.float64)
        sums, weights = np.asarray(rows["sums"], np.float64)[weights != 0], weights[weights != 0]
        if not len(weights):
            undefined("a bootstrapped mean of no rows is undefined")
            return dict.fromkeys(("", "low", "high"), float("nan"))
        interval = bootstrap(sums / weights, weights, self.level, self.resamples, self.seed)
        kept = {"values": (sums / weights).tolist()} if self.keep else {}
        return {"": interval.value, "low": interval.low, "high": interval.high, **kept}


def _draws(examples: int, level: float, resamples: int, seed: int):
    if not 0 < level < 1 or resamples < 1:
        raise ConfigError(f"a bootstrap needs a level between 0 and 1 and resamples > 0, not {level} and {resamples}")
    if examples < 1:
        raise DataError("there is nothing to bootstrap: no values")
    rng = np.random.default_rng(seed)
    return (rng.integers(0, examples, examples) for _ in range(resamples))


def _ratio(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1]) if sums[1] != 0 else float("nan")


def _percentiles(value: float, draws: list[float], level: float) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))
