"""Distillation from inside: what the student's modules give is to be like what the teacher's give."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net, Objective, Player
from fmjax.core.types import Batch, Mean, Tree
from fmjax.objectives.distillation import Taught, teacher_of
from fmjax.objectives.wrapped import Wrapped, weights_of

KINDS = ("l2", "cosine", "attention")


@dataclasses.dataclass(frozen=True)
class MatchFeatures(Wrapped):
    """The loss of another objective, and how far the student's features are from the teacher's (FitNets, 1412.6550).

    The teacher is that of a distillation inside, or the net "teacher"; it gets the arguments that the student got.
    Reports `features`, the distance before `weight`: the mean over the pairs.

    Attributes:
      of: the objective, such as Classify, Distill, NextToken or DistillTokens; MatchFeatures again for another kind.
      pairs: (address inside the student, address inside the teacher), such as ("block_1", "block_3").
      kind: "l2", the mean square of the difference over the last axis; "cosine", one less the cosine; or "attention",
        the mean square between attention weights (TinyBERT, arXiv 1909.10351), at addresses such as
        "block_1/attention/weights"; where the numbers of heads differ, between their means.
      weight: how much the distance counts beside the loss.
      bridge: whether there is a net "bridge" (nn/bridge.py) that maps the student's widths to the teacher's, in the
        order of the pairs, and learns with it.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    kind: str = "l2"
    weight: float = 1.0
    bridge: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"there is no kind {self.kind!r}; {did_you_mean(self.kind, KINDS)}")
        if not self.pairs or not all(len(pair) == 2 for pair in self.pairs):
            raise ConfigError(f"pairs are (address in the student, address in the teacher), not {self.pairs}")
        if self.bridge and self.kind == "attention":
            raise ConfigError("attention weights have no width to bridge: set bridge=False")

    @property
    def players(self) -> tuple[Player, ...]:
        if not self.bridge:
            return self.of.players
        return tuple(p._replace(nets=(*p.nets, "bridge")) if "model" in p.nets else p for p in self.of.players)

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        own = self.of.inputs(batch)
        teacher = {} if _taught(self.of) else {"teacher": own["model"]}
        return {**teacher, **own, **({"bridge": ()} if self.bridge else {})}

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        net, (mine, theirs) = nets["model"], zip(*self.pairs, strict=True)
        net.watch = (*net.watch, *mine)
        loss, metrics = self.of.loss(player, nets, batch, carry, rng)
        if not net.inside:  # another player's turn
            return loss, metrics
        taught = _taught(self.of)
        teacher = taught.teacher(nets, carry) if taught else teacher_of(nets)
        teacher.watch = theirs
        args, options = net.asked
        teacher(*args, **options)
        given, wanted = ([one.inside[name] for name in names] for one, names in ((net, mine), (teacher, theirs)))
        if self.bridge:
            given = nets["bridge"](*given)
        weights = weights_of(self.of, batch)
        parts = [self._apart(*pair, weights, batch) for pair in zip(given, wanted, strict=True)]
        apart = Mean(sum(part.sum for part in parts) / len(parts), parts[0].weight)
        return loss._replace(sum=loss.sum + self.weight * apart.sum), {**metrics, "features": apart}

    def _apart(self, a: jax.Array, b: jax.Array, weights: jax.Array, batch: Batch) -> Mean:
        """The distance of one pair, counted as the targets are."""
        a, b = a.astype(jnp.float32), jax.lax.stop_gradient(b.astype(jnp.float32))
        if self.kind == "attention" and a.ndim == b.ndim == 4 and a.shape[1] != b.shape[1]:
            a, b = a.mean(1, keepdims=True), b.mean(1, keepdims=True)
        if a.shape != b.shape or a.ndim < 2:
            hint = "; a net 'bridge' (nn/bridge.py) maps widths" if a.shape[:-1] == b.shape[:-1] else ""
            raise ConfigError(
                f"the student's features are {a.shape} and the teacher's {b.shape}: name such that fit{hint}"
            )
        if self.kind == "cosine":
            squares = jnp.square(a).sum(-1) * jnp.square(b).sum(-1)
            far = 1 - (a * b).sum(-1) * jax.lax.rsqrt(squares + 1e-12)  # a norm has no gradient at 0
        else:
            far = jnp.square(a - b).mean(-1)
        if self.kind == "attention":
            far = far.mean(1)  # over heads: left are (B, T), the queries
        if far.shape[: weights.ndim] == weights.shape:
            return Mean.of(far.reshape(*weights.shape, -1).mean(-1), weights)
        # Features of other places than the targets', an encoder's for one: a row counts as much as its targets do.
        there = jnp.ones(far.shape)
        if far.ndim == 2 and batch.get("segment_ids", far[:0]).shape == far.shape:
            there = (batch["segment_ids"] > 0).astype(jnp.float32)
        rows = (far * there).reshape(len(far), -1).sum(-1) / jnp.maximum(there.reshape(len(far), -1).sum(-1), 1.0)
        return Mean.of(rows, weights.reshape(len(far), -1).sum(-1))


def _taught(objective: Objective) -> Taught | None:
    """The distillation inside an objective, which knows its teacher."""
    if isinstance(objective, Taught):
        return objective
    return _taught(objective.of) if isinstance(objective, Wrapped) else None
