"""Distillation: a student learns what a teacher says, beside or instead of the labels."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.core.types import Batch, Tree
from fmjax.objectives.supervised import Classify


@dataclasses.dataclass(frozen=True)
class Distill(Classify):
    """Labels, and the softened answers of the net "teacher" to the same augmented images (arXiv 1503.02531).

    The teacher is no player: it stays as `config.init` left it, in evaluation mode, and is asked once a step.

    Attributes:
      temperature: both answers' logits are divided by it; the loss is multiplied by its square, as in the paper.
      share: of the loss that is the teacher's; the rest is the labels'.
    """

    temperature: float = 2.0
    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0 or not 0 <= self.share <= 1:
            raise ConfigError(f"temperature is above 0 and share from 0 to 1, not {self.temperature} and {self.share}")

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        return {**super().inputs(batch), "teacher": super().inputs(batch)["model"]}

    def prepare(
        self, nets: Mapping[str, Net], batch: Batch, carry: Tree, step: Any, rng: jax.Array, train: bool
    ) -> tuple[Batch, Tree]:
        batch, carry = super().prepare(nets, batch, carry, step, rng, train)
        if not train:
            return batch, carry
        said = nets["teacher"].fixed()(batch[self.inputs_from])
        return {**batch, "teacher_logits": jax.lax.stop_gradient(said.astype(jnp.float32))}, carry

    def losses(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        own = super().losses(outputs, batch)
        if "teacher_logits" not in batch:
            return own
        wanted = jax.nn.log_softmax(batch["teacher_logits"] / self.temperature)
        given = jax.nn.log_softmax(outputs / self.temperature)
        apart = self.temperature**2 * (jnp.exp(wanted) * (wanted - given)).sum(-1)
        return (1 - self.share) * own + self.share * apart
