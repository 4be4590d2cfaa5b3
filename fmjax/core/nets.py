"""What an objective sees: nets to call, players that move, and the contract it fulfils."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten
from fmjax.core.types import Batch, Mean, Tree


@dataclasses.dataclass
class Net:
    """A module bound to its weights for one trace; `net(x)` applies it in its mode.

    In training it passes `train=True`, hands out dropout keys, remembers what the module wrote to
    `mutable` (batch statistics) and collects what it sowed to "losses" (a router's). `fixed()` is its
    silent, gradient-free evaluation copy: for teachers, targets, and inside transforms of your own.

    Where an objective adds to `watch`, `inside` is what the modules at these addresses gave in the first call, and
    `asked` the arguments of that call: features of a student, and what to ask the teacher. `options` are arguments that
    every call gets besides, such as which head answers.
    """

    module: nn.Module
    params: Tree
    mutable: dict = dataclasses.field(default_factory=dict)
    rng: jax.Array | None = None
    train: bool = False
    losses: list = dataclasses.field(default_factory=list)
    calls: int = 0
    watch: tuple[str, ...] = ()
    inside: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    asked: tuple[tuple, dict] = ((), {})
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kwargs = {**self.options, **kwargs}
        keep = [*self.mutable, "losses"] if self.train else []
        rngs = {"dropout": jax.random.fold_in(self.rng, self.calls)} if self.train else None
        variables, watched = {"params": self.params, **self.mutable}, {}
        if look := bool(self.watch) and not self.inside:
            keep = [*keep, "intermediates"]
            watched["capture_intermediates"] = lambda module, method: method == "__call__"
        out, new = self.module.apply(variables, *args, train=self.train, mutable=keep, rngs=rngs, **watched, **kwargs)
        if look:
            found = named(new.get("intermediates", {}))
            self.inside = {name: _picked(name, found, self.module) for name in self.watch}
            self.asked = args, kwargs
        self.losses += jax.tree.leaves(new.get("losses", {}))
        self.mutable = {k: new.get(k, v) for k, v in self.mutable.items()}
        self.calls += 1
        return out

    def fixed(self, params: Tree = None) -> "Net":
        params = jax.lax.stop_gradient(self.params if params is None else params)
        return Net(self.module, params, self.mutable, options=self.options)


def named(intermediates: Mapping[str, Any]) -> dict[str, jax.Array]:
    """{address: array} of what flax collected: a module's first answer at its address, sown values by their names."""
    found: dict[str, jax.Array] = {}
    for name, value in flatten(dict(intermediates)).items():
        found.setdefault(re.sub(r"(^|/)__call__(/0)+$|/0$", "", name), value)
    return found


def _picked(name: str, found: Mapping[str, jax.Array], module: nn.Module) -> jax.Array:
    if name not in found:
        scanned = "; a scanned stack hides its blocks: set its scan=False" if getattr(module, "scan", False) else ""
        raise ConfigError(
            f"nothing at {name!r} inside of a {type(module).__name__}; {did_you_mean(name, found)}{scanned}"
        )
    return found[name]


class Player(NamedTuple):
    """One optimizer move in a step: whose weights, and when (step >= start, every n-th)."""

    name: str = "model"
    nets: tuple[str, ...] = ("model",)
    every: int = 1
    start: int = 0


class Objective:
    """What is corrupted, lost, and updated after the step. Subclass as a frozen dataclass."""

    players: tuple[Player, ...] = (Player(),)
    couples_batch = (
        False  # True: a row's loss depends on other rows, so accumulation is refused; modules may say so too
    )

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        """The arguments each net that learns is initialised with."""
        raise TypeError(f"{type(self).__name__} must define inputs(batch) -> {{net: arguments}}")

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Refuse a host batch this objective cannot use (missing key, label out of range): raise DataError.

        Called on every host batch, so it must be cheap; `outputs` are the shapes that `predict("predict")` gives.
        """

    def carry(self, nets: Mapping[str, Net], batch: Batch, rng: jax.Array) -> Tree:
        """What lives across steps besides weights: target nets, environments, replay, queues."""
        return {}

    def prepare(
        self, nets: Mapping[str, Net], batch: Batch, carry: Tree, step: jax.Array, rng: jax.Array, train: bool
    ) -> tuple[Batch, Tree]:
        """Corrupt, augment, mix or collect: once a step, whole batch, no gradient."""
        return batch, carry

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        """The summed loss of `player` and what to report; gradients are of the sum, divided by the weight."""
        raise TypeError(f"{type(self).__name__} must define loss(player, nets, batch, carry, rng)")

    def finish(self, nets: Mapping[str, Net], batch: Batch, carry: Tree, step: jax.Array) -> Tree:
        """After all players moved: the new carry."""
        return carry

    def changes(self) -> tuple[int, ...]:
        """The steps, in order, from which `at` gives another objective."""
        return ()

    def at(self, step: int) -> "Objective":
        """The objective of a step, where shapes within it change as training goes on (progressive resizing).

        Each is compiled before the first step. What it reports keeps its names; weights and carry keep their shapes.
        """
        return self

    def predict(self, name: str, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        """What an evaluator may ask for by name, on a batch that `prepare(train=False)` has seen."""
        raise KeyError(f"{type(self).__name__} predicts nothing called {name!r}")
