"""Mistakes: the images that a classifier is most sure about and wrong."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fmjax.core.errors import ConfigError
from fmjax.core.types import Batch
from fmjax.evals.evaluators import Predict, Report
from fmjax.evals.pictures import class_name, picture, shown
from fmjax.evals.prediction import classified


@dataclasses.dataclass(frozen=True, eq=False)
class Mistakes:
    """An evaluator that reports pictures; made by `mistakes`."""

    data: Any
    count: int = 25
    predict: str | Callable = "predict"
    every: int = 0
    _jitted: dict = dataclasses.field(default_factory=dict, init=False, repr=False)

    def check(self, predict: Predict, state: Any, batch: Batch) -> None:
        """Trace one batch of shapes.

        Raises:
          ConfigError: no images, or no one class for each.
        """
        jax.eval_shape(lambda state, batch: self._worst(predict, state, batch), state, batch)

    def evaluate(self, predict: Predict, state: Any, feed: Callable[[Any], Iterable[Batch]]) -> Report:
        """Number "errors" (how many) and artifact "mistakes": a picture each, the most confident first."""
        worst: list[dict[str, Any]] = []
        wrong = 0
        for number, batch in enumerate(feed(self.data)):
            where = getattr(batch["valid"], "sharding", None)
            whole = NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else None
            if (predict, whole) not in self._jitted:

                def step(state: Any, batch: Batch) -> dict[str, jax.Array]:
                    return self._worst(predict, state, batch)

                self._jitted[predict, whole] = jax.jit(step, out_shardings=whole)
            found = jax.device_get(self._jitted[predict, whole](state, batch))
            wrong += int(found.pop("wrong"))
            found["row"] = found["row"] + number * self.data.batch_size
            rows = [{k: v[i] for k, v in found.items()} for i in range(len(found["row"])) if found["sure"][i] >= 0]
            worst = sorted(worst + rows, key=lambda r: (-r["sure"], r["row"]))[: self.count]
        return Report({"errors": float(wrong)}, {"mistakes": [self._picture(row) for row in worst]})

    def _worst(self, predict: Predict, state: Any, batch: Batch) -> dict[str, jax.Array]:
        """The most confident mistakes of a batch; "sure" is -1 where there is none."""
        if "image" not in batch or jnp.ndim(batch["image"]) != 4:
            raise ConfigError("mistakes are shown as images, and the batch has none")
        c = classified(predict(state, batch), batch)
        if c.kind == "multilabel" or c.targets.ndim != 1:
            raise ConfigError("mistakes want one class for each image")
        wrong = (c.correct == 0) & (batch["valid"] != 0)
        sure = jnp.where(wrong, jnp.nan_to_num(c.confidence), -1.0)
        sure, row = jax.lax.top_k(sure, min(self.count, len(sure)))
        rows = {"row": row, "image": batch["image"][row], "true": c.labels[row], "called": c.predicted[row]}
        return {**rows, "sure": sure, "wrong": wrong.sum()}

    def _picture(self, row: dict[str, Any]) -> dict[str, str]:
        true, called = (class_name(int(row[k]), self.data) for k in ("true", "called"))
        return picture(
            shown(np.asarray(row["image"])), f"{true}, called {called} ({row['sure']:.1%}), row {row['row']}"
        )


def mistakes(data: Any, count: int = 25, predict: str | Callable = "predict", every: int = 0) -> Mistakes:
    """The images whose wrong class got the highest probability, over one pass of the data.

    Args:
      data: batches of one pass, with `image` and `label`.
      count: how many at most.
      predict: the name of one of the objective's predictions, or a callable `(nets, batch)`.
      every: steps between evaluations while training; 0 is only at the end.

    Raises:
      ConfigError: endless data, or a count below 1.
    """
    if getattr(data, "endless", False):
        raise ConfigError("an evaluator needs data that ends: use one_pass instead of stream")
    if count < 1:
        raise ConfigError(f"count={count} shows nothing: give at least 1")
    return Mistakes(data, count, predict, every)
