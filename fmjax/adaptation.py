"""How `config.adapt` meets a program: what moves is decided, counted and written into the run's folder."""

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from fmjax.adapters.adapter import Adapter
from fmjax.adapters.intercepted import Intercepted
from fmjax.adapters.low_rank import LowRank
from fmjax.core import trees
from fmjax.core.config import build
from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.core.types import Tree
from fmjax.interop.tensors import listed
from fmjax.training.checkpoint import Checkpoints
from fmjax.training.checkpoint_folder import read_manifest
from fmjax.training.folder import RunFolder
from fmjax.training.program import Program
from fmjax.training.state import init_weights

FILE = "adapt.json"


def divide(program: Program, adapter: Any, folder: Path | None = None) -> Adapter:
    """Let `program` train what `adapter` says and freeze the rest; returns the adapter, with what it left to the run.

    What `config.init` leaves as initialised moves too; a run that was begun before has that written down in its
    `folder`, so that it goes on without what it started from.

    Raises:
      ConfigError: what is no adapter, or one that does not fit these weights.
    """
    if not isinstance(adapter, Adapter):
        raise ConfigError(
            f"--config.adapt gives a {type(adapter).__name__}: name a factory of fmjax/adapters, such as lora"
        )
    program.split = adapter.split  # from here on the program knows that its weights are not all its own
    if adapter.also is None:
        adapter = dataclasses.replace(adapter, fresh=frozenset(_fresh(program, folder)))
    program.split = adapter.split
    try:
        jax.eval_shape(adapter.split, program.learning, jax.random.key(0))
    except ConfigError as error:
        raise ConfigError(f"--config.adapt: {error}") from None
    nets = [net for net in program.learning if not adapter.nets or net in adapter.nets]
    program.merge = {**program.merge, **{net: partial(adapter.merge, net) for net in nets}}
    if not adapter.merges:
        _reaches(program, adapter, nets)
        program.modules = {k: adapter.wrap(v) if k in nets else v for k, v in program.modules.items()}
    return adapter


def _reaches(program: Program, adapter: Adapter, nets: list[str]) -> None:
    """Refuse small arrays beside what is no layer of the kind that goes through them: they would never move.

    Raises:
      ConfigError: there are such.
    """
    layers = {layer for net in nets for layer in _layers(program, adapter, net)}
    own, _ = jax.eval_shape(adapter.split, program.learning, jax.random.key(0))
    new = trees.flatten(own).keys() - trees.flatten(program.learning).keys()
    wanted = {name.rpartition("/")[0].rpartition("/")[0] for name in new}  # layer/bottleneck/up
    if odd := sorted(wanted - layers):
        kind = type(adapter.delta).__name__.lower()
        raise ConfigError(f"--config.adapt: targets: a {kind} has no effect in {listed(odd, 3)}: leave that out")


def _layers(program: Program, adapter: Adapter, net: str) -> set[str]:
    """The addresses of all modules of a net that can go through an adapter."""
    found: set[str] = set()

    def note(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        y = call(*args, **kwargs)
        if context.method_name == "__call__" and adapter.delta.fits(context.module, args, y):
            found.add("/".join((net, *context.module.path)))
        return y

    def fresh(batch: Any, rng: jax.Array) -> Any:
        return init_weights({net: program.modules[net]}, program.objective, batch, rng, {})

    with nn.intercept_methods(note):
        jax.eval_shape(fresh, program.device_example, jax.random.key(0))
    return found


def _fresh(program: Program, folder: Path | None) -> list[str]:
    """The addresses that `config.init` did not fill; none where everything begins fresh."""
    if folder is not None and (folder / FILE).is_file():
        try:
            return json.loads((folder / FILE).read_text())["fresh"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / FILE} is damaged: {error}") from None
    if program.initial is None:
        return []
    filled = {f"{net}/{name}" for net, given in program.given.items() for name in given}
    return sorted(trees.flatten(program.learning).keys() - filled)


def summary(program: Program) -> dict[str, Any]:
    """What moves and what it costs: numbers of parameters, bytes of the optimizer, and the addresses."""
    state = program.abstract
    trainable = trees.count(state.params)
    own = trees.addresses(state.params)
    made, known = trees.count(program.learning), trees.flatten(program.learning)
    return {
        "trainable": trainable,
        "total": made,
        "share": trainable / made,
        "optimizer_bytes": trees.nbytes(state.opt_state),
        "whole": [name for name in own if name in known],
        "adapted": sorted({name.rpartition("/")[0] for name in own if name not in known}),
    }


def record(program: Program, adapter: Adapter) -> dict[str, Any]:
    """What `adapt.json` holds: the summary, and what no weights were loaded for."""
    return {**summary(program), "fresh": sorted(adapter.fresh)}


def line(found: Mapping[str, Any]) -> str:
    """The summary in a line."""
    return (
        f"{found['trainable']:,} parameters move, {found['share']:.2%} of the model's {found['total']:,}: "
        f"{len(found['adapted'])} weights are adapted, {len(found['whole'])} move whole; "
        f"the optimizer holds {found['optimizer_bytes'] / 1e6:,.2f} MB"
    )


def products(parts: Any, state: Any, net: str) -> tuple[Tree, float]:
    """(small tree, scale) of a net that is adapted by products, its running averages where there are some.

    Raises:
      ConfigError: a run that has no products.
    """
    delta = parts.adapter.delta if parts.adapter else None
    if not isinstance(delta, LowRank) or net not in parts.program.merge:
        raise ConfigError(f"the net {net!r} of this run is not adapted by lora or dora: convert it without --adapter")
    return jax.device_get({**state.params, **state.ema}[net]), delta.scale


def swapped(run: Any, folder: Path, step: int | None = None) -> Any:
    """The state of an adapted run with the small trees of another one on the same base.

    Raises:
      CheckpointError: no adapted run, one on another base, or one that adapts other weights.
    """
    from fmjax.run import load_config

    home, state = RunFolder(folder, writes=False), run.state
    theirs = build(load_config(home).adapt, "config.adapt")
    if not isinstance(theirs, Adapter) or run.parts.adapter is None or run.folder is None:
        raise CheckpointError(f"{folder} or this run has no config.adapt: only adapters on one base can be swapped")
    with Checkpoints(home.checkpoints, writable=False) as other:
        step = other.latest() if step is None else step
        if step not in other.steps():
            raise CheckpointError(f"{folder} has no checkpoint{'' if step is None else f' {step}'}")
        there = read_manifest(home.checkpoints.absolute() / str(step))
        here = read_manifest(RunFolder(run.folder, writes=False).checkpoints.absolute() / str(run.step))
        if there.get("frozen") != here.get("frozen"):
            raise CheckpointError(
                f"{folder} is an adapter for another base: {there.get('frozen')}, not {here['frozen']}"
            )
        own = {"params": state.params} | ({"ema": state.ema} if state.ema else {})
        wanted = {name: tuple(x.shape) for name, x in trees.flatten(own).items()}
        found = {k: tuple(v["shape"]) for k, v in there["leaves"].items() if k.partition("/")[0] in own}
        if found != wanted:
            odd = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
            raise CheckpointError(f"{folder} adapts other weights, or by another rank: {odd[0]}; load it by itself")
        target = run.parts.program.abstract
        read, _ = other.restore({key: getattr(target, key) for key in own}, step, partial=True)
    mine = run.parts.adapter.delta
    if not isinstance(mine, LowRank) and theirs.delta != mine:
        raise CheckpointError(f"{folder} adapts in another way, {theirs.delta} and not {mine}: load it by itself")
    ratio = theirs.delta.scale / mine.scale if isinstance(mine, LowRank) else 1.0
    flat = trees.flatten(read)
    products = {name for name in flat if name.endswith("/up") and f"{name.removesuffix('up')}down" in flat}
    return state.replace(**trees.map_with_address(lambda name, x: x * ratio if name in products else x, read))


def merged(adapt: Any, net: str, base: Tree | None, own: Tree) -> Tree:
    """What a run's net is called with, put together from its two trees, as numpy arrays."""
    return jax.device_get(build(adapt, "config.adapt").merge(net, base, own))


def wrapped(adapt: Any, module: nn.Module) -> Any:
    """The module as it is called with what `merged` gives; an Intercepted one where that are not its weights alone."""
    return module if adapt is None else build(adapt, "config.adapt").wrap(module)


def must_merge(module: Any, what: str, who: str) -> None:
    """Refuse a net whose calls go through an adapter, where weights alone are wanted.

    Raises:
      CheckpointError: it says what can be done instead.
    """
    if isinstance(module, Intercepted):
        raise CheckpointError(
            f"{who} was adapted by layers that are no part of its model, so there are no merged weights {what}: "
            "generate from it, evaluate it, or swap it in with --adapter, or adapt by lora"
        )
