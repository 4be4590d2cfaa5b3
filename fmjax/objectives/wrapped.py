"""An objective around another one, which it leaves as it is in all that it does not say itself."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from fmjax.core.nets import Net, Objective, Player
from fmjax.core.types import Batch, Mean, Tree
from fmjax.objectives.supervised import Supervised
from fmjax.objectives.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class Wrapped(Objective):
    """What wrappers share.

    Attributes:
      of: the objective inside.
    """

    of: Objective

    @property
    def players(self) -> tuple[Player, ...]:
        return self.of.players

    @property
    def couples_batch(self) -> bool:
        return self.of.couples_batch

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        return self.of.inputs(batch)

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self.of.check(batch, outputs)

    def carry(self, nets: Mapping[str, Net], batch: Batch, rng: jax.Array) -> Tree:
        return self.of.carry(nets, batch, rng)

    def prepare(
        self, nets: Mapping[str, Net], batch: Batch, carry: Tree, step: Any, rng: jax.Array, train: bool
    ) -> tuple[Batch, Tree]:
        return self.of.prepare(nets, batch, carry, step, rng, train)

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        return self.of.loss(player, nets, batch, carry, rng)

    def finish(self, nets: Mapping[str, Net], batch: Batch, carry: Tree, step: jax.Array) -> Tree:
        return self.of.finish(nets, batch, carry, step)

    def changes(self) -> tuple[int, ...]:
        return self.of.changes()

    def at(self, step: int) -> "Wrapped":
        return dataclasses.replace(self, of=self.of.at(step))

    def predict(self, name: str, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        return self.of.predict(name, nets, batch)


def innermost(objective: Objective) -> Objective:
    """The objective that all wrappers stand around."""
    return innermost(objective.of) if isinstance(objective, Wrapped) else objective


def weights_of(objective: Objective, batch: Batch) -> jax.Array:
    """How much each target of a prepared batch counts, (B,) or (B, T): as the objective's own loss counts it."""
    objective = innermost(objective)
    if isinstance(objective, Tokens):
        return objective.read(batch).weights
    return objective.weights(batch) if isinstance(objective, Supervised) else batch["valid"]
