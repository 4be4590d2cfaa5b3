"""Continual learning: weights that mattered to an earlier task are held where they were."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.core.trees import flatten, matches
from fmjax.core.types import Batch, Mean, Tree
from fmjax.objectives.wrapped import Wrapped

BEFORE, IMPORTANCE = "before", "importance"


@dataclasses.dataclass(frozen=True)
class Elastic(Wrapped):
    """Another objective, and strength/2 sum F (w - w_before)^2 (elastic weight consolidation, arXiv 1612.00796).

    `config.models` has the same module three times: "model", and "before" and "importance", which no player moves. The
    run starts with `starts.several` from the finished run (nets model and before) and from the diagonal of its Fisher
    information (net importance), which `python -m fmjax.fisher` writes. Reports `penalty`.

    Attributes:
      of: the objective of the new task.
      strength: how much the penalty counts beside the mean loss.
      on: pattern of the addresses that are held, such as all but a new head.
    """

    strength: float = 100.0
    on: str = ".*"

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        own = self.of.inputs(batch)
        return {**own, BEFORE: own["model"], IMPORTANCE: own["model"]}

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        loss, metrics = self.of.loss(player, nets, batch, carry, rng)
        penalty = 0.5 * self.strength * self._far(nets) * loss.weight
        return loss._replace(sum=loss.sum + penalty), {**metrics, "penalty": Mean(penalty, loss.weight)}

    def _far(self, nets: Mapping[str, Net]) -> jax.Array:
        for name in (BEFORE, IMPORTANCE):
            if name not in nets:
                raise ConfigError(f"there is no net {name!r}: give config.models model, {BEFORE} and {IMPORTANCE}")
        now, was, counts = (
            {k: x.astype(jnp.float32) for k, x in flatten(tree).items() if matches(self.on, k)}
            for tree in (nets["model"].params, nets[BEFORE].fixed().params, nets[IMPORTANCE].fixed().params)
        )
        if not now:
            raise ConfigError(f"on={self.on!r} matches no weight such as {next(iter(flatten(nets['model'].params)))}")
        return sum((counts[name] * jnp.square(x - was[name])).sum() for name, x in now.items())
