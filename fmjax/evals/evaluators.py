"""Evaluators: one pass over data, every row counted once, and a report of numbers and artifacts."""

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fmjax.core.errors import ConfigError, DataError
from fmjax.core.types import Batch, Tree
from fmjax.evals.metrics import Rows, Sums, resolve

Predict = Callable[[Any, Batch], Mapping[str, jax.Array]]  # (state, batch) -> outputs, pure
IN_FLIGHT = 4  # batches the device may be behind the host: enough to stay busy, few enough to fit


@dataclasses.dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
      numbers: one float a name.
      artifacts: arrays, tables and curves: numpy arrays or lists.
    """

    numbers: dict[str, float] = dataclasses.field(default_factory=dict)
    artifacts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, results: Mapping[str, Mapping[str, Any]]) -> "Report":
        """Sort the results of metrics: scalars are numbers, everything else artifacts; "" keeps the metric's name.

        Raises:
          ConfigError: two metrics report under one name.
        """
        report = cls()
        for name, result in results.items():
            for key, value in result.items():
                full = f"{name}_{key}" if key else name
                if full in report.numbers or full in report.artifacts:
                    raise ConfigError(f"two metrics report {full!r}: rename one of them")
                if isinstance(value, (list, dict)) or np.ndim(value):
                    report.artifacts[full] = value
                else:
                    report.numbers[full] = float(value)
        return report

    @classmethod
    def merge(cls, reports: Mapping[str, "Report"]) -> "Report":
        """Several as one, under "<name>/<metric>"."""
        numbers = {f"{name}/{k}": v for name, report in reports.items() for k, v in report.numbers.items()}
        artifacts = {f"{name}/{k}": v for name, report in reports.items() for k, v in report.artifacts.items()}
        return cls(numbers, artifacts)


@dataclasses.dataclass(frozen=True, eq=False)
class Average:
    """An evaluator of metrics over one pass; made by `average`."""

    data: Any
    metrics: Mapping[str, Sums | Rows]
    predict: str | Callable = "predict"
    limit: int | None = None
    every: int = 0
    _steps: dict[Any, tuple[Callable, Tree]] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @property
    def examples(self) -> int:
        """How many rows must be seen: all of the data, or the limit."""
        limits = (self.limit, getattr(self.data, "limit", None))
        return min([self.data.examples, *(limit for limit in limits if limit is not None)])

    def check(self, predict: Predict, state: Any, batch: Batch) -> None:
        """Trace everything on one batch (or its shapes) without running it, so that a mismatch shows before step 0.

        Raises:
          ConfigError: a metric needs what the prediction or the batch does not have.
        """
        jax.eval_shape(lambda state, batch: self._measure(predict, state, batch, jnp.zeros(())), state, batch)

    def evaluate(self, predict: Predict, state: Any, feed: Callable[[Any], Iterable[Batch]]) -> Report:
        """Evaluate one pass of the data.

        Sums stay on the device until the end; rows are fetched a few batches late. The step is compiled once for
        each `predict` object, so hand in the same one at every evaluation. Under several processes each gets the
        same report.

        Args:
          predict: pure `(state, batch) -> outputs`.
          state: what `predict` takes.
          feed: `data -> batches` of one pass, on the device, in order, the last one padded (`valid` 0).

        Raises:
          DataError: the rows that came are not `examples`, each once.
        """
        total, kept, flying = None, [], deque()
        batches = feed(self.data)
        most = -(-self.examples // self.data.batch_size) + (self.limit is None)  # one too many is found out below
        try:
            for batch in itertools.islice(batches, most):
                step, zeros = self._compiled(predict, state, batch)
                total, rows = step(state, batch, zeros if total is None else total)
                jax.tree.map(lambda x: x.copy_to_host_async(), rows)
                flying.append((total["seen"], rows))
                if len(flying) > IN_FLIGHT:
                    kept.append(_land(*flying.popleft()))
        finally:
            getattr(batches, "close", lambda: None)()
        kept += [_land(*late) for late in flying]
        seen = 0 if total is None else int(total["seen"])
        if seen != self.examples or total is None:
            raise DataError(f"the evaluation saw {seen} rows of {self.examples}: the data must give each row once")
        high, low = (jax.tree.map(lambda x: np.asarray(x, np.float64), total[k]) for k in ("high", "low"))
        sums = jax.tree.map(np.add, high, low)
        results = {}
        for name, metric in self.metrics.items():
            if name in sums:
                results[name] = metric.result(sums[name])
            else:
                parts = [rows[name] for rows in kept]
                results[name] = metric.result({k: np.concatenate([p[k] for p in parts]) for k in parts[0]})
        return Report.of(results)

    def _compiled(self, predict: Predict, state: Any, batch: Batch) -> tuple[Callable, Tree]:
        """The jitted step for this predict function, and the total it starts from."""
        if "valid" not in batch:
            raise DataError("a batch to evaluate must say in 'valid' which rows are real")
        where = getattr(batch["valid"], "sharding", None)
        # Results are needed whole by every process, and a total that keeps its sharding compiles only once.
        whole = NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else None
        if (predict, whole) not in self._steps:

            def step(state: Any, batch: Batch, total: Tree) -> tuple[Tree, Tree]:
                valid, sums, rows = self._measure(predict, state, batch, total["seen"])
                seen = total["seen"] + (valid != 0).sum(dtype=jnp.int32)
                high, low = _add(total["high"], total["low"], sums)
                rows = {"": {"valid": valid}, **rows} if rows else {}
                return {"seen": seen, "high": high, "low": low}, rows

            sums = jax.eval_shape(lambda s, b: self._measure(predict, s, b, jnp.zeros(()))[1], state, batch)
            zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), sums)
            total = {"seen": np.zeros((), np.int32), "high": zeros, "low": zeros}
            self._steps[predict, whole] = jax.jit(step, out_shardings=whole), jax.device_put(total, whole)
        return self._steps[predict, whole]

    def _measure(self, predict: Predict, state: Any, batch: Batch, seen: jax.Array) -> tuple[jax.Array, Tree, Tree]:
        """(valid, sums by metric, rows by metric) of one batch; rows past the limit become padding."""
        valid = jnp.asarray(batch["valid"])
        if self.limit is not None:
            place = seen + jnp.cumsum(valid != 0)
            valid = jnp.where(place <= self.limit, valid, 0)
        batch = {**batch, "valid": valid}
        outputs = predict(state, batch)
        sums = {k: m.sums(outputs, batch) for k, m in self.metrics.items() if hasattr(m, "sums")}
        rows = {k: m.rows(outputs, batch) for k, m in self.metrics.items() if hasattr(m, "rows")}
        return valid, sums, rows


def average(
    data: Any,
    metrics: Mapping[str, Any],
    predict: str | Callable = "predict",
    limit: int | None = None,
    every: int = 0,
) -> Average:
    """An evaluator that averages metrics over one pass of the data, padding left out.

    Args:
      data: batches of one pass (`data.pipeline.one_pass`).
      metrics: {name: metric}, see `fmjax.evals.metrics`.
      predict: the name of one of the objective's predictions, or a callable `(nets, batch)`.
      limit: evaluate only the first so many rows.
      every: steps between evaluations while training; 0 is only at the end.

    Raises:
      ConfigError: no metrics, something that is no metric, endless data, or a limit below 1.
    """
    if not metrics:
        raise ConfigError("an evaluator needs metrics, such as {'loss': metrics.loss}")
    if getattr(data, "endless", False):
        raise ConfigError("an evaluator needs data that ends: use one_pass instead of stream")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} evaluates nothing: give at least 1, or None for all rows")
    return Average(data, {name: resolve(name, metric) for name, metric in metrics.items()}, predict, limit, every)


def _add(high: Tree, low: Tree, new: Tree) -> tuple[Tree, Tree]:
    """Add in two parts, the rounded sum and what rounding lost (Knuth's two-sum): counts stay exact past 2^24."""

    def lost(a: jax.Array, b: jax.Array, s: jax.Array) -> jax.Array:
        there = s - a
        return jnp.where(jnp.isfinite(s), (a - (s - there)) + (b - there), 0)

    new = jax.tree.map(lambda x: x.astype(jnp.float32), new)
    total = jax.tree.map(jnp.add, high, new)
    return total, jax.tree.map(lambda low, *parts: low + lost(*parts), low, high, new, total)


def _land(seen: jax.Array, rows: Mapping[str, Mapping[str, jax.Array]]) -> dict[str, dict[str, np.ndarray]]:
    """Wait for a batch; its rows on the host without the padded ones."""
    if not rows:
        seen.block_until_ready()
        return {}
    real = np.asarray(rows[""]["valid"]) != 0
    return {name: {k: np.asarray(v)[real] for k, v in part.items()} for name, part in rows.items() if name}
