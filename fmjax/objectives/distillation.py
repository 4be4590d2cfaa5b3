"""Distillation: a student learns what a teacher says, beside or instead of the labels."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net, Objective
from fmjax.core.types import Batch, Mean, Tree
from fmjax.objectives.supervised import Classify
from fmjax.objectives.tokens import Tokens
from fmjax.objectives.wrapped import Wrapped


@dataclasses.dataclass(frozen=True)
class Taught(Objective):
    """A teacher: the net "teacher", which stays as `config.init` left it, or a running average of the student.

    It is no player, answers in evaluation mode and gets no gradient.

    Attributes:
      temperature: both answers' logits are divided by it; the loss is multiplied by its square, as in the paper.
      share: of the loss that is the teacher's; the rest is the labels'.
      average: None has a net "teacher"; a decay such as 0.999 makes the student's running average the teacher (mean
        teacher, arXiv 1703.01780), warmed up as min(average, (1 + step) / (10 + step)).
    """

    temperature: float = 2.0
    share: float = 0.5
    average: float | None = None

    def __post_init__(self) -> None:
        getattr(super(), "__post_init__", lambda: None)()
        if not self.temperature > 0 or not 0 <= self.share <= 1:
            raise ConfigError(f"temperature is above 0 and share from 0 to 1, not {self.temperature} and {self.share}")
        if self.average is not None and not 0 <= self.average < 1:
            raise ConfigError(f"average is a decay from 0 to below 1, such as 0.999, not {self.average}")

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        own = super().inputs(batch)
        return own if self.average is not None else {**own, "teacher": own["model"]}

    def carry(self, nets: Mapping[str, Net], batch: Batch, rng: jax.Array) -> Tree:
        if self.average is None:
            return super().carry(nets, batch, rng)
        return {"teacher": jax.tree.map(jnp.copy, nets["model"].params)}

    def finish(self, nets: Mapping[str, Net], batch: Batch, carry: Tree, step: jax.Array) -> Tree:
        if self.average is None:
            return super().finish(nets, batch, carry, step)
        decay = jnp.minimum(self.average, (1 + step) / (10 + step))
        return {
            "teacher": jax.tree.map(lambda a, p: a * decay + p * (1 - decay), carry["teacher"], nets["model"].params)
        }

    def teacher(self, nets: Mapping[str, Net], carry: Tree) -> Net:
        """Who is asked."""
        return nets["model"].fixed(carry["teacher"]) if self.average is not None else teacher_of(nets)


@dataclasses.dataclass(frozen=True)
class Distill(Taught, Classify):
    """Labels, and the softened answers of a teacher to the same augmented images (arXiv 1503.02531).

    The teacher is asked once a step.
    """

    def prepare(
        self, nets: Mapping[str, Net], batch: Batch, carry: Tree, step: Any, rng: jax.Array, train: bool
    ) -> tuple[Batch, Tree]:
        batch, carry = super().prepare(nets, batch, carry, step, rng, train)
        if not train:
            return batch, carry
        said = self.teacher(nets, carry)(batch[self.inputs_from])
        return {**batch, "teacher_logits": jax.lax.stop_gradient(said.astype(jnp.float32))}, carry

    def losses(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        own = super().losses(outputs, batch)
        if "teacher_logits" not in batch:
            return own
        apart = divergence(outputs, batch["teacher_logits"], self.temperature)
        return (1 - self.share) * own + self.share * apart


@dataclasses.dataclass(frozen=True)
class DistillTokens(Taught, Wrapped):
    """The loss of an objective over tokens, and the softened answers of a teacher at every target that counts.

    Teacher and student read the same tokens, so both are of one tokenizer; each has the methods "hidden" and "head".
    Reports `divergence` besides, the teacher's part before `share`.

    Attributes:
      of: NextToken, SequenceToSequence or MaskedTokens (without pairs); its `chunk` bounds the logits of both nets.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.of, Tokens):
            raise ConfigError(f"DistillTokens wraps an objective over tokens, such as NextToken, not {self.of!r}")

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        if "label" in batch:
            raise ConfigError("a teacher says nothing about pairs of sentences: leave their label out of the data")
        net, reading, teacher = nets["model"], self.of.read(batch), self.teacher(nets, carry)
        hidden, theirs = (one(*reading.tokens, method="hidden", **reading.context) for one in (net, teacher))
        total, scores = self.of.judge(net, reading, hidden)
        heads = tuple(_head(one) for one in (net, teacher))
        apart = _apart(heads, (hidden, theirs), reading.weights, self.temperature, self.of.chunk)
        loss, metrics = self.of.summed(net, (1 - self.share) * total + self.share * apart, scores, reading, batch)
        return loss, {**metrics, "divergence": Mean(apart, loss.weight)}


def divergence(student: Float[Array, "*B V"], teacher: Float[Array, "*B V"], temperature: float) -> Float[Array, "*B"]:
    """KL(teacher || student) of the softened answers, times the temperature squared.

    Raises:
      ConfigError: they answer with different numbers of logits.
    """
    if student.shape != teacher.shape:
        raise ConfigError(
            f"the student gives {student.shape[-1]} logits and the teacher {teacher.shape[-1]}: both must have "
            "the same classes or tokens"
        )
    wanted = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
    given = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    return temperature**2 * (jnp.exp(wanted) * (wanted - given)).sum(-1)


def teacher_of(nets: Mapping[str, Net]) -> Net:
    """The net "teacher", without gradient.

    Raises:
      ConfigError: there is none.
    """
    if "teacher" not in nets:
        raise ConfigError("there is no net 'teacher': give config.models both 'model' and 'teacher'")
    return nets["teacher"].fixed()


def _head(net: Net) -> Any:
    silent = Net(net.module, net.params, net.mutable)
    return lambda x: silent(x, method="head")


def _apart(heads: tuple, hidden: tuple, weights: jax.Array, temperature: float, chunk: int) -> jax.Array:
    """The weighted sum of divergences; with `chunk`, the logits of so many tokens exist at once."""

    def summed(weights: jax.Array, *hidden: jax.Array) -> jax.Array:
        logits = (head(x) for head, x in zip(heads, hidden, strict=True))
        return Mean.of(divergence(*logits, temperature), weights).sum

    if not chunk:
        return summed(weights, *hidden)
    size = weights.size
    chunk = min(chunk, size)
    count = -(-size // chunk)

    def cut(x: jax.Array) -> jax.Array:  # every n-th token to a chunk, as in score_chunked
        flat = x.reshape(size, *x.shape[2:])
        flat = jnp.pad(flat, ((0, count * chunk - size),) + ((0, 0),) * (flat.ndim - 1))
        return flat.reshape(chunk, count, *flat.shape[1:]).swapaxes(0, 1)

    rows = tuple(map(cut, (weights, *hidden)))
    return jax.lax.map(jax.checkpoint(lambda row: summed(*row)), rows).sum()
