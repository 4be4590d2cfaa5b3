"""The state of a run, one pytree, and how it is begun and bound."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net, Objective
from fmjax.core.trees import map_with_address
from fmjax.core.types import Batch, Tree

NOTHING: Mapping[str, Any] = MappingProxyType({})
Merge = Mapping[str, Callable[[Tree, Tree], Tree]]  # {net: (frozen, own) -> weights}: where an adapter comes in
Split = Callable[[dict, jax.Array], tuple[dict, dict]]  # (params, key) -> (own, frozen): the other way


@flax.struct.dataclass
class State:
    """Everything a run carries from step to step; addresses start with the field, then the net."""

    step: jax.Array
    rng: jax.Array
    params: dict  # {net: tree} what moves
    opt_state: dict  # {player: optimizer state over {net: tree}}
    mutable: dict  # {net: collections}, batch statistics for one
    frozen: dict  # {net: tree} a teacher's weights, or the base under an adapter
    ema: dict  # {net: tree} running averages of params; empty when not asked for
    carry: Tree  # what the objective keeps: target nets, environments, replay


def bind(
    modules: Mapping[str, nn.Module],
    merge: Merge,
    state: State,
    rng: jax.Array | None = None,
    train: bool = False,
    averaged: bool = False,
) -> dict[str, Net]:
    """Every net, ready to call; `averaged` takes the running averages where there are some."""
    nets = {}
    params = {**state.params, **state.ema} if averaged else state.params
    for i, name in enumerate(sorted(modules)):
        own, base = params.get(name), jax.lax.stop_gradient(state.frozen.get(name))
        tree = merge[name](base, own) if name in merge else base if own is None else own
        live = train and own is not None  # a wholly frozen net stays in evaluation mode
        key = jax.random.fold_in(rng, i) if live else None
        nets[name] = Net(modules[name], tree, state.mutable.get(name, {}), key, live)
    return nets


def init_weights(
    modules: Mapping[str, nn.Module], objective: Objective, batch: Batch, rng: jax.Array, frozen: Mapping[str, Any]
) -> tuple[dict, dict]:
    """Fresh (params, mutable) of every net that `frozen` does not give."""
    params, mutable = {}, {}
    inputs = objective.inputs(batch)
    for i, name in enumerate(sorted(modules.keys() - frozen.keys())):
        if name not in inputs:
            raise ConfigError(f"the objective knows no net {name!r}; it speaks of {', '.join(inputs)}")
        made = modules[name].init(jax.random.fold_in(rng, i), *inputs[name], train=False)
        params[name] = made.get("params", {})
        if kept := {k: v for k, v in made.items() if k not in ("params", "losses")}:
            mutable[name] = kept
    return params, mutable


def replaced(params: Mapping[str, Tree], given: Mapping[str, Mapping[str, Any]]) -> dict[str, Tree]:
    """{net: weights} with those in `given`, {net: {address: array}}, in their places."""

    def own(net: str, tree: Tree) -> Tree:
        new = given.get(net, {})
        return map_with_address(lambda name, x: jnp.asarray(new[name], x.dtype) if name in new else x, tree)

    return {net: own(net, tree) for net, tree in params.items()}


def divided(objective: Objective, params: Mapping[str, Tree]) -> tuple[dict[str, Tree], dict[str, Tree]]:
    """({net: weights} that some player moves, those of the others: teachers, references)."""
    moved = {net for player in objective.players for net in player.nets}
    own = {net: tree for net, tree in params.items() if net in moved}
    return own, {net: tree for net, tree in params.items() if net not in moved}


def begin(
    modules: Mapping[str, nn.Module],
    objective: Objective,
    optimizers: Mapping[str, Any],
    batch: Batch,
    rng: jax.Array,
    frozen: Mapping[str, Any] = NOTHING,
    merge: Merge = NOTHING,
    load: Callable[[dict], dict] = lambda params: params,
    averaged: bool = False,
    given: Mapping[str, Mapping[str, Any]] = NOTHING,
    split: Split | None = None,
) -> State:
    """Initialise the weights, load others over them, then make the optimizers' states, then the carry.

    A net that no player moves is frozen as it was loaded.

    Args:
      modules: {net: module}.
      batch: one batch, for shapes and for the carry.
      rng: the run's key; the key of a step is `fold_in(rng, step)`.
      frozen: {net: weights} that never move: teachers, or bases under an adapter.
      merge: see `Merge`; the nets named there have their own (small) weights from `load`.
      load: params -> params.
      averaged: keep running averages of the weights.
      given: {net: {address: array}} of running statistics that replace fresh ones.
      split: divides the weights, when they are loaded, into what moves and more that is frozen.
    """
    params, mutable = init_weights(modules, objective, batch, rng, frozen)
    params, mutable = load(params), replaced(mutable, given)
    params, idle = divided(objective, params)
    frozen = {**frozen, **idle}
    if split is not None:
        params, base = split(params, jax.random.fold_in(rng, len(modules) + 1))
        frozen = {**frozen, **base}
    for player in objective.players:
        if missing := set(player.nets) - params.keys():
            raise ConfigError(f"player {player.name!r} moves {', '.join(missing)}, which has no weights of its own")
        if player.name not in optimizers:
            raise ConfigError(f"player {player.name!r} has no optimizer: write config.optimizers.{player.name}")
    opt = {p.name: optimizers[p.name].init({n: params[n] for n in p.nets}) for p in objective.players}
    ema = jax.tree.map(jnp.copy, params) if averaged else {}
    state = State(jnp.zeros((), jnp.int32), rng, params, opt, mutable, dict(frozen), ema, {})
    key = jax.random.fold_in(rng, len(modules))
    return state.replace(carry=objective.carry(bind(modules, merge, state), batch, key))
