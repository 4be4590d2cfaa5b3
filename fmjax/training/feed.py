"""How steps get their rows: a batch at a time from the host, or many steps from rows that lie on the devices."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.errors import UserError
from fmjax.core.types import Batch
from fmjax.sharding.mesh import replicated, row_sharding
from fmjax.training.program import CompiledStep, Program, batch_digest, on_device, pack
from fmjax.training.state import State

SECONDS = 2.0  # that a call lasts, about: a signal is obeyed between calls


class Feed(Protocol):
    """Takes steps. `compiled` names what a step reports; `most` is how many steps one call takes at most."""

    compiled: CompiledStep
    most: int

    def advance(self, state: State, step: int, k: int, steps: int) -> tuple[State, jax.Array, list[str]]:
        """Take up to `steps` steps, at least one, the first from state `step` with batch k.

        Returns:
          The state, the metrics step after step, and the digest of each batch.
        """

    def close(self) -> None:
        """Stop what reads ahead; `advance` starts it anew."""


def feed_of(program: Program, data: Any, most: int) -> Feed:
    """The feed that suits the data: `Resident` where `data.resident` asks for it, else `Streamed`."""
    return Resident(program, data, most) if getattr(data, "resident", False) else Streamed(program, data)


class Streamed:
    """One batch a call, put on the devices one ahead of its use; compiled anew for a batch of another shape."""

    most = 1

    def __init__(self, program: Program, data: Any) -> None:
        self.program, self.data = program, data
        self._stages = program.stages()
        self._shapes: dict[tuple, list[tuple[int, CompiledStep]]] = {}
        first = data.batch(0, program.seed) if getattr(data, "buckets", None) else program.example
        self.compiled = _together(self._compiled(on_device(first)))
        self._ahead: Iterator[tuple[Batch, str]] | None = None
        self._next = -1

    def advance(self, state: State, step: int, k: int, steps: int) -> tuple[State, jax.Array, list[str]]:
        """One step."""
        if self._ahead is None or k != self._next:
            self.close()
            self._ahead = device_batches(self.program, self.data, self.program.seed, k)
        batch, digest = next(self._ahead)
        self._next = k + 1
        state, packed = _stage(self._compiled(batch), step)(state, batch)
        return state, packed, [digest]

    def _compiled(self, batch: Mapping[str, Any]) -> list[tuple[int, CompiledStep]]:
        """Every stage, compiled for batches of this shape."""
        shapes = tuple(batch[name].shape for name in sorted(batch))
        if shapes not in self._shapes:
            alike = shapes == tuple(x.shape for _, x in sorted(on_device(self.program.example).items()))
            stages = self._stages if alike else [(first, p.alike(example=batch)) for first, p in self._stages]
            self._shapes[shapes] = [(first, stage.compile()) for first, stage in stages]
        return self._shapes[shapes]

    def close(self) -> None:
        """Stop reading ahead."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None


class Resident:
    """All examples lie on every device, and one program takes up to `most` steps without the host.

    The batches are those of `Streamed`, and so are their digests, which the host makes while the devices work.

    Raises:
      UserError: rows that the objective cannot use, found before the first step.
    """

    def __init__(self, program: Program, data: Any, most: int) -> None:
        self.program, self.data, self.most = program, data, most
        self.held = data.held()
        for first in range(0, data.examples, data.batch_size):
            places = np.arange(first, first + data.batch_size) % data.examples
            try:
                program.check({name: array[places] for name, array in self.held.items()})
            except UserError as error:
                raise type(error)(f"training examples from {first} on: {error}") from None
        place = replicated(program.mesh)
        self._arrays = {name: _everywhere(array, place) for name, array in on_device(self.held).items()}
        self._place = place
        self._began, self._taken, self._pace = time.perf_counter(), 0, math.inf  # of the call before; seconds a step
        self._stages = [(first, self._compile(stage)) for first, stage in program.stages()]
        self.compiled = _together(self._stages)

    def _compile(self, program: Program) -> CompiledStep:
        began, names, most = time.perf_counter(), program.metric_names, self.most
        indices = jax.ShapeDtypeStruct((most, self.data.batch_size), jnp.int32, sharding=self._place)
        count = jax.ShapeDtypeStruct((), jnp.int32, sharding=self._place)
        rows = row_sharding(program.mesh)

        def many(state: State, arrays: Batch, indices: jax.Array, count: jax.Array) -> tuple[State, jax.Array]:
            def one(i: jax.Array, carried: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
                state, out = carried
                batch = {k: x.at[indices[i]].get(mode="promise_in_bounds") for k, x in arrays.items()}
                state, metrics = program.step(state, jax.lax.with_sharding_constraint(batch, rows))
                return state, out.at[i].set(pack(metrics, names))

            return jax.lax.fori_loop(0, count, one, (state, jnp.zeros((most, 2 * len(names)))))

        jitted = jax.jit(many, donate_argnums=0, out_shardings=(program.shardings, self._place))
        executable = jitted.lower(program.abstract, self._arrays, indices, count).compile()
        return CompiledStep(executable, names, time.perf_counter() - began)

    def advance(self, state: State, step: int, k: int, steps: int) -> tuple[State, jax.Array, list[str]]:
        """Up to `most` steps, about SECONDS long, and none past the end of a stage."""
        steps = min(steps, self.most, self._affordable(), *(first - step for first, _ in self._stages if first > step))
        self._began, self._taken = time.perf_counter(), steps
        plan = np.zeros((self.most, self.data.batch_size), np.int32)
        plan[:steps] = [self.data.plan(k + i, self.program.seed) for i in range(steps)]
        state, packed = _stage(self._stages, step).executable(
            state, self._arrays, _everywhere(plan, self._place), _everywhere(np.int32(steps), self._place)
        )
        mine = self.program.local_rows(self.data.batch_size)
        digests = [batch_digest({name: x[row[mine]] for name, x in self.held.items()}) for row in plan[:steps]]
        return state, packed, digests

    def _affordable(self) -> int:
        """Steps that last SECONDS, by the fastest call so far; how a run is cut into calls changes no bit of it."""
        now = time.perf_counter()
        if self._taken:
            self._pace = min(self._pace, (now - self._began) / self._taken)
        if math.isinf(self._pace) or jax.process_count() > 1:  # processes must agree
            return self.most
        return max(1, int(SECONDS / self._pace))

    def close(self) -> None:
        """Nothing is read ahead."""


def _stage(stages: list[tuple[int, CompiledStep]], step: int) -> CompiledStep:
    return next(compiled for first, compiled in reversed(stages) if first <= step)


def _together(stages: list[tuple[int, CompiledStep]]) -> CompiledStep:
    """The first stage, with the seconds that all of them took to compile."""
    return dataclasses.replace(stages[0][1], seconds=sum(compiled.seconds for _, compiled in stages))


def _everywhere(array: Any, place: Any) -> jax.Array:
    return jax.make_array_from_callback(np.shape(array), place, lambda index: np.asarray(array)[index])


def device_batches(
    program: Program, data: Any, seed: int, start: int, check: bool = True
) -> Iterator[tuple[Batch, str]]:
    """(batch on the devices, digest of its host rows) for k = start, start + 1, ...; one batch ahead of its use."""
    rows = program.local_rows(data.batch_size)
    ahead: list[tuple[Batch, str]] = []
    for k, batch in enumerate(data.iterate(seed=seed, start=start, rows=rows), start):
        if check:
            try:
                program.check(batch)
            except UserError as error:
                raise type(error)(f"training batch {k}: {error}") from None
        ahead.append((program.put(batch), batch_digest(batch)))
        if len(ahead) > 1:
            yield ahead.pop(0)
    yield from ahead
