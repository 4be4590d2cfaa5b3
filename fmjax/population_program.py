"""A population as compiled functions: runs that differ in seed and continuous numbers, stacked along a leading axis.

The step of one run is vmapped over its state, its batch and its numbers, which are inputs of the program rather than
constants in it. Members lie on the devices side by side, as many on each.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from fmjax.assembly import Parts, one_or_several
from fmjax.core.config import build, walk
from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten
from fmjax.core.types import Batch
from fmjax.training.program import CompiledStep, on_device, pack
from fmjax.training.state import State
from fmjax.training.step import make_step

TRACEABLE = ("optimizer", "optimizers", "objective", "clip", "ema", "sam")  # what the step is made of, beside the nets
AXES = State(step=0, rng=0, params=0, opt_state=0, mutable=0, frozen=None, ema=0, carry=0)  # frozen weights are shared


def numbers(config: ConfigDict) -> dict[str, float]:
    """{path: value} of every number that may differ between members: floats of what the step is made of."""
    return {
        path: value
        for path, _, _, value in walk(config)
        if isinstance(value, float) and path.split(".")[1].partition("[")[0] in TRACEABLE
    }


def skeleton(config: ConfigDict) -> dict[str, Any]:
    """All of a config but the seed and those numbers; configs with one skeleton fit into one program.

    A number that is 0 stays: it leaves a term out, and with it perhaps a part of the state (momentum, say).
    """
    masked = {path: "(number)" for path, value in numbers(config).items() if value} | {"config.seed": "(seed)"}
    return {path: masked.get(path, repr(value)) for path, _, _, value in walk(config)}


def traced(configs: Sequence[ConfigDict]) -> dict[str, np.ndarray]:
    """{path: (M,) values} of the numbers that differ between the members.

    Raises:
      ConfigError: they differ in something else.
    """
    first = skeleton(configs[0])
    for config in configs[1:]:
        other = skeleton(config)
        apart = sorted(p for p in first.keys() | other.keys() if first.get(p) != other.get(p))
        if apart:
            raise ConfigError(
                f"--{apart[0]} cannot vary inside one program: only seeds and numbers such as 0.1 of "
                f"{', '.join(TRACEABLE)} can; run those apart"
            )
    found = {path: [numbers(config)[path] for config in configs] for path in numbers(configs[0])}
    return {path: np.asarray(values, np.float32) for path, values in found.items() if len(set(values)) > 1}


class Stacked:
    """The program of a population.

    Args:
      parts: of the first member: modules, data, mesh and everything that all share.
      configs: of every member, durations resolved.

    Raises:
      ConfigError: the members differ in what cannot be traced; names the key.
    """

    def __init__(self, parts: Parts, configs: Sequence[ConfigDict]) -> None:
        self.parts, self.configs, self.program = parts, list(configs), parts.program
        self.seeds = [config.seed for config in configs]
        self.values = traced(configs)
        if self.program.objective.changes():
            raise ConfigError(
                "--config.objective: it changes in stages, which a population cannot; run its members alone"
            )
        if self.values:
            self._try(list(self.values))
        # Members lie on as many devices as divide them evenly.
        devices = jax.devices()
        many = math.gcd(len(configs), len(devices))
        self.mesh = jax.make_mesh((many,), ("member",), axis_types=(AxisType.Auto,), devices=devices[:many])
        self.apart = NamedSharding(self.mesh, PartitionSpec("member"))
        self.together = NamedSharding(self.mesh, PartitionSpec())
        self.one_batch = len(set(self.seeds)) == 1

    def _try(self, paths: Sequence[str]) -> None:
        """Trace the step with these numbers unknown, and name the one that Python must know."""
        example = self.program.device_example
        unknown = {path: jax.ShapeDtypeStruct((), jnp.float32) for path in paths}
        try:
            jax.eval_shape(self._step, self.program.abstract, example, unknown)
            jax.eval_shape(self._begin, example, jax.random.key(0), unknown, self.program.abstract.frozen, {}, {})
        except (
            jax.errors.JAXTypeError,
            TypeError,
            ConfigError,
        ) as error:  # with values known, all of this was made before
            if len(paths) > 1:
                for path in paths:
                    self._try([path])
            if not paths:
                raise
            raise ConfigError(
                f"--{paths[0]} is used where Python must know its value ({type(error).__name__}): it cannot vary "
                "inside one program; run those apart"
            ) from None

    # ---- one member --------------------------------------------------------------------------------
    def _made(self, values: Mapping[str, jax.Array]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """(objective, optimizers, the step's own numbers), with these values in the config."""
        program, config = self.program, copy.deepcopy(self.configs[0])
        for path, holder, key, _ in walk(config):
            if path in values:
                with holder.ignore_type(), holder.unlocked():
                    holder[key] = values[path]
        rest = {name: config[name] for name in ("clip", "ema", "sam")}
        parts = {path.split(".")[1] for path in values}
        objective = build(config.objective, "config.objective") if "objective" in parts else program.objective
        moved = parts & {"optimizer", "optimizers"}
        optimizers = one_or_several(config, "optimizer", "optimizers") if moved else program.optimizers
        return objective, optimizers, rest

    def _begin(
        self, batch: Batch, rng: jax.Array, values: Mapping[str, jax.Array], frozen: Any, given: Any, mutable: Any
    ) -> State:
        objective, optimizers, _ = self._made(values)
        own = dataclasses.replace(self.program, objective=objective, optimizers=optimizers)
        return own.fresh(batch, rng, frozen, given, mutable)

    def _step(self, state: State, batch: Batch, values: Mapping[str, jax.Array]) -> tuple[State, jax.Array]:
        program, (objective, optimizers, rest) = self.program, self._made(values)
        step = make_step(
            program.modules, objective, optimizers, program.merge, program.accumulation.steps,
            program.accumulation.allow_coupled, skip_nonfinite=program.skip_nonfinite, **rest,
        )  # fmt: skip
        state, metrics = step(state, batch)
        return state, pack(metrics, program.metric_names)

    # ---- all of them -------------------------------------------------------------------------------
    @cached_property
    def shardings(self) -> State:
        """Where the stacked state lies: members apart, frozen weights everywhere."""
        return jax.tree.map(
            lambda axis: self.together if axis is None else self.apart, AXES, is_leaf=lambda x: x is None
        )

    @cached_property
    def _values(self) -> dict[str, jax.Array]:
        return {path: jax.device_put(values, self.apart) for path, values in self.values.items()}

    def begin(self) -> State:
        """The stacked state before step 0: of each member what it would begin with alone.

        Raises:
          ConfigError: weights that nothing moves differ between members.
        """
        data, frozen = self.parts.data, dict(self.program.frozen)
        for net in self.program.undivided.keys() - self.program.learning.keys():
            if flatten(self.program.undivided[net]).keys() - self.program.given.get(net, {}).keys():
                raise ConfigError(
                    f"--config.init: it does not give all weights of the net {net!r}, which nothing moves and all "
                    "members share; run them alone, where each has its own"
                )
        example = self.put({seed: data.batch(0, seed=seed) for seed in set(self.seeds)}, apart=True)
        keys = jnp.stack([jax.random.key(seed) for seed in self.seeds])
        made = jax.vmap(self._begin, in_axes=(0, 0, 0, None, None, None), out_axes=AXES)
        start = jax.jit(made, out_shardings=self.shardings)
        keys = jax.device_put(keys, self.apart)
        return start(example, keys, self._values, frozen, self.program.given, self.program.given_mutable)

    def stack(self, states: Sequence[State]) -> State:
        """Members' own states, put together."""
        first = states[0]
        together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(s.replace(frozen={}) for s in states))
        places = jax.tree.map(lambda _: self.apart, together)
        return jax.device_put(together, places).replace(frozen=jax.device_put(first.frozen, self.together))

    def member(self, state: State, m: int) -> State:
        """The state of one member, as it would lie alone."""
        own = jax.tree.map(lambda x: x[m], state.replace(frozen={})).replace(frozen=state.frozen)
        return jax.device_put(own, self.program.shardings)

    def put(self, batches: Mapping[int, Mapping[str, np.ndarray]], apart: bool = False) -> Batch:
        """{seed: host batch} on the devices: one for all, or a row of the stack for each member."""
        batches = {seed: on_device(batch) for seed, batch in batches.items()}
        if self.one_batch and not apart:
            return jax.device_put(batches[self.seeds[0]], self.together)
        stacked = {k: np.stack([batches[seed][k] for seed in self.seeds]) for k in batches[self.seeds[0]]}
        return jax.device_put(stacked, self.apart)

    def compile(self, state: State, batch: Batch) -> CompiledStep:
        """The step of all members, (state, batch) -> (state, packed metrics (M, 2 names))."""
        began = time.perf_counter()
        one = jax.vmap(self._step, in_axes=(AXES, None if self.one_batch else 0, 0), out_axes=(AXES, 0))
        jitted = jax.jit(one, donate_argnums=0, out_shardings=(self.shardings, self.apart))
        executable = jitted.lower(state, batch, self._values).compile()

        def step(state: State, batch: Batch) -> tuple[State, jax.Array]:
            return executable(state, batch, self._values)

        return CompiledStep(step, self.program.metric_names, time.perf_counter() - began)
