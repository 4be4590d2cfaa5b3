"""Several objectives at once: each sees its own part of the batch, and their mean losses are added with weights."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net, Objective, Player
from fmjax.core.traced import is_traced, matters
from fmjax.core.types import Batch, Mean, Tree

FACTOR = "mixture_factor"  # (B,) what a part's summed loss is multiplied by; all rows have the same


@dataclasses.dataclass(frozen=True)
class Part:
    """One objective of a mixture.

    Attributes:
      objective: has one player, which moves at every step.
      weight: of its mean loss in the sum: a number, or a schedule of the step (optim/schedules.py).
      under: where its data lies: the keys "<under>/<key>" of the batch (data/tasks.py makes such), "" for all keys.
      nets: {its word for a net: the run's}, where they differ.
      options: arguments that the net "model" gets in every call, such as {"head": "colour"}.
    """

    objective: Objective
    weight: float | Callable[[jax.Array], jax.Array] = 1.0
    under: str = ""
    nets: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if callable(self.weight) or is_traced(self.weight):
            return
        if not math.isfinite(self.weight) or self.weight < 0:
            raise ConfigError(f"the weight of a part is 0 or more, or a schedule, not {self.weight}")

    def view(self, batch: Batch) -> Batch:
        """Its part of a batch, with plain keys; {} where the batch has none of it."""
        if not self.under:
            return batch
        mine = _below(batch, self.under)
        if mine and "valid" in batch:
            mine["valid"] = batch["valid"] * mine.get("valid", 1.0)
        return mine

    def see(self, nets: Mapping[str, Net]) -> dict[str, Net]:
        """The nets by its own words, each with nothing sown or watched yet."""
        for name in self.nets.values():
            if name not in nets:
                raise ConfigError(f"there is no net {name!r}; {did_you_mean(name, nets)}")
        named = {**nets, **{word: nets[name] for word, name in self.nets.items()}}
        return {
            word: dataclasses.replace(net, losses=[], watch=(), inside={}, options=self._options(word, net))
            for word, net in named.items()
        }

    def _options(self, word: str, net: Net) -> dict[str, Any]:
        return {**net.options, **(self.options if word == "model" else {})}


@dataclasses.dataclass(frozen=True)
class Mixture(Objective):
    """The weighted sum of the mean losses of its parts, each over its own targets of the whole batch.

    What a part's loss is divided by is found in `prepare`, over the whole batch, so that microbatches change nothing; a
    part without a target in a batch adds nothing. Reports `loss`, and all that the parts report as "<part>/<name>".
    Predicts what the first part (by name) that finds its data predicts, and anything of any part as "<part>/<name>".

    Attributes:
      parts: {name: part}; their order means nothing.
    """

    parts: Mapping[str, Part]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("a mixture has one part or more")
        for name, part in self.parts.items():
            if "/" in name or not isinstance(part, Part):
                raise ConfigError(f"parts are mixture.Part objects with names without a slash, not {name!r}: {part!r}")
            players = part.objective.players
            if len(players) != 1 or (players[0].every, players[0].start) != (1, 0):
                raise ConfigError(f"part {name!r}: a mixture takes objectives with one player that moves at every step")

        object.__setattr__(self, "parts", dict(sorted(self.parts.items())))  # keys are drawn by place

    @property
    def players(self) -> tuple[Player, ...]:
        named = [part.nets.get(net, net) for part in self.parts.values() for net in part.objective.players[0].nets]
        return (Player(nets=tuple(dict.fromkeys(named))),)

    @property
    def couples_batch(self) -> bool:
        return any(part.objective.couples_batch for part in self.parts.values())

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        found: dict[str, tuple] = {}
        for part in self.parts.values():
            for net, given in part.objective.inputs(part.view(batch)).items():
                found.setdefault(part.nets.get(net, net), given)
        return found

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        for name, part, mine in self._there(batch):
            if said := _below(outputs, name):
                part.objective.check(mine, said)

    def carry(self, nets: Mapping[str, Net], batch: Batch, rng: jax.Array) -> Tree:
        return {
            name: part.objective.carry(part.see(nets), part.view(batch), _key(rng, i))
            for i, (name, part) in enumerate(self.parts.items())
        }

    def prepare(
        self, nets: Mapping[str, Net], batch: Batch, carry: Tree, step: Any, rng: jax.Array, train: bool
    ) -> tuple[Batch, Tree]:
        ready, carry = {}, dict(carry)
        for i, (name, part, mine) in enumerate(self._there(batch)):
            rows, key, seen = len(batch["valid"]), _key(rng, i), part.see(nets)
            mine, carry[name] = part.objective.prepare(seen, mine, carry[name], step, key, train)
            if train:
                player = part.objective.players[0].name
                # Only the weight is used; the rest of the loss is never computed.
                counted = part.objective.loss(player, part.see(nets), mine, carry[name], key)[0].weight
                weight = part.weight(step) if callable(part.weight) else part.weight
                mine = {**mine, FACTOR: jnp.full(len(mine["valid"]), weight * rows / jnp.maximum(counted, 1e-8))}
            ready |= {f"{name}/{key}": value for key, value in mine.items()}
        return {**ready, "valid": batch["valid"]}, carry

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        total, shown, metrics = jnp.zeros(()), jnp.zeros(()), {}
        for i, (name, part) in enumerate(self.parts.items()):
            mine, seen = _below(batch, name), part.see(nets)
            factor = mine.pop(FACTOR)[0]
            lost, said = part.objective.loss(part.objective.players[0].name, seen, mine, carry[name], _key(rng, i))
            if matters(part.weight):  # 0 times a loss that is not finite is not 0
                total = total + factor * lost.sum
                shown = shown + factor * said.get("loss", lost).sum  # as the part reports it, without what nets sow
            metrics |= {f"{name}/{key}": value for key, value in said.items()}
            for word, net in seen.items():  # running statistics and dropout keys go on from part to part
                own = nets[part.nets.get(word, word)]
                if net.calls > own.calls:
                    own.mutable, own.calls = net.mutable, net.calls
        rows = jnp.float32(len(batch["valid"]))
        return Mean(total, rows), {"loss": Mean(shown, rows), **metrics}

    def finish(self, nets: Mapping[str, Net], batch: Batch, carry: Tree, step: jax.Array) -> Tree:
        return {
            name: part.objective.finish(part.see(nets), _below(batch, name), carry[name], step)
            for name, part in self.parts.items()
        }

    def changes(self) -> tuple[int, ...]:
        return tuple(sorted({step for part in self.parts.values() for step in part.objective.changes()}))

    def at(self, step: int) -> "Mixture":
        parts = {n: dataclasses.replace(p, objective=p.objective.at(step)) for n, p in self.parts.items()}
        return dataclasses.replace(self, parts=parts)

    def predict(self, name: str, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        chosen, slash, what = name.partition("/")
        there = [n for n in self.parts if _below(batch, n)]
        if slash and chosen in self.parts:
            if chosen not in there:
                raise ConfigError(f"{name}: the data has nothing under {self.parts[chosen].under!r}")
            return self._said(chosen, what, nets, batch)
        if name != "predict" or not there:
            raise KeyError(f"a mixture predicts 'predict' and '<part>/<name>' of {', '.join(self.parts)}, not {name!r}")
        said = {n: self._said(n, name, nets, batch) for n in there}
        return {**said[there[0]], **{f"{n}/{key}": x for n, words in said.items() for key, x in words.items()}}

    def _said(self, name: str, what: str, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        part = self.parts[name]
        return part.objective.predict(what, part.see(nets), _below(batch, name))

    def _there(self, batch: Batch) -> list[tuple[str, Part, Batch]]:
        """The parts that the batch has data of."""
        found = [(name, part, part.view(batch)) for name, part in self.parts.items()]
        return [(name, part, mine) for name, part, mine in found if mine]


def _below(words: Mapping[str, Any], name: str) -> dict[str, Any]:
    """{key: what lies at "<name>/<key>"}."""
    return {key.removeprefix(f"{name}/"): x for key, x in words.items() if key.startswith(f"{name}/")}


def _key(rng: jax.Array, part: int) -> jax.Array:
    """The first part has the key that it would have alone."""
    return jax.random.fold_in(rng, part) if part else rng
