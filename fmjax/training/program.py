"""A run as compiled functions: the step, the predictions, and where every array lies."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net, Objective
from fmjax.core.trees import flatten
from fmjax.core.types import Batch, Mean, Tree
from fmjax.sharding.mesh import put_rows, replicated, row_sharding, row_shards
from fmjax.sharding.rules import shard_like, shard_params
from fmjax.training.state import NOTHING, Merge, Split, State, begin, bind, divided, init_weights, replaced
from fmjax.training.step import make_step

HOST_ONLY = ("text",)


@dataclasses.dataclass(frozen=True)
class Accumulation:
    """Microbatches a step, and whether coupled rows may be split all the same."""

    steps: int = 1
    allow_coupled: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"accumulation.steps must be at least 1, not {self.steps}")


@dataclasses.dataclass
class Program:
    """Modules, objective and optimizers on a mesh, compiled when first needed.

    Attributes:
      modules: {net: module}.
      optimizers: {player: Optimizer}.
      seed: of the run; weights, dropout and everything random on the device follow from it.
      sharding: recipe of sharding/rules.py.
      frozen, merge, load, split: see training/state.py.
      initial: has `read(params) -> {net: {address: array}}`, weights from elsewhere that replace fresh ones, and may
        have `read_mutable`, which says the same of running statistics.
      example: one global host batch, for shapes.
    """

    modules: Mapping[str, nn.Module]
    objective: Objective
    optimizers: Mapping[str, Any]
    mesh: Mesh
    example: Mapping[str, np.ndarray]
    seed: int = 0
    sharding: str | tuple = "replicate"
    accumulation: Accumulation = Accumulation()
    clip: float | None = None
    sam: float | None = None
    ema: float | None = None
    skip_nonfinite: bool = False
    frozen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    merge: Merge = dataclasses.field(default_factory=dict)
    load: Callable[[dict], dict] | None = None
    initial: Any = None
    split: Split | None = None

    def __post_init__(self) -> None:
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ConfigError(f"--config.ema must be a decay from 0 to below 1, such as 0.999, not {self.ema}")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"--config.clip must be a norm above 0, not {self.clip}; None does not clip")
        if self.sam is not None and not self.sam > 0:
            raise ConfigError(f"--config.sam must be a radius above 0, such as 0.05, not {self.sam}; None is without")
        rows = len(next(iter(self.example.values())))
        parts = row_shards(self.mesh)
        self.local_rows(rows)
        if rows % self.accumulation.steps or (rows // self.accumulation.steps) % parts:
            raise ConfigError(
                f"a batch of {rows} rows does not divide into {self.accumulation.steps} microbatches on {parts} devices"
            )

    # ---- shapes and places -------------------------------------------------------------------------
    @cached_property
    def device_example(self) -> dict[str, jax.ShapeDtypeStruct]:
        rows = row_sharding(self.mesh)
        return {
            k: jax.ShapeDtypeStruct(v.shape, jax.dtypes.canonicalize_dtype(v.dtype), sharding=rows)
            for k, v in on_device(self.example).items()
        }

    def fresh(
        self, batch: Batch, rng: jax.Array, frozen: Tree, given: Tree = NOTHING, mutable: Tree = NOTHING
    ) -> State:
        """The state before step 0, as a pure function of a batch, a key and what does not begin fresh."""

        def load(params: dict) -> dict:
            params = replaced(params, given)
            return self.load(params) if self.load else params

        return begin(
            self.modules, self.objective, self.optimizers, batch, rng, frozen, self.merge, load, self.ema is not None,
            mutable, self.split,
        )  # fmt: skip

    @cached_property
    def abstract(self) -> State:
        """Shape, dtype and sharding of every leaf of the state, without computing any."""
        shapes = jax.eval_shape(self.fresh, self.device_example, jax.random.key(self.seed), dict(self.frozen))
        nets = {**flatten(shapes.frozen), **flatten(shapes.params)}  # a net may have weights in both
        places = shard_params(nets, self.mesh, self.sharding)
        shardings = shard_like(shapes, nets, places, self.mesh)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)

    @property
    def shardings(self) -> State:
        """Where every leaf of the state lies."""
        return jax.tree.map(lambda x: x.sharding, self.abstract)

    def begin(self) -> State:
        """The state before step 0, made where it lies."""
        start = jax.jit(self.fresh, out_shardings=self.shardings)
        rows = self.local_rows(len(next(iter(self.example.values()))))
        mine = {k: v[rows] for k, v in self.example.items()}
        own = self._placed(self.given, {**flatten(self.abstract.frozen), **flatten(self.abstract.params)})
        others = self._placed(self.given_mutable, flatten(self.abstract.mutable))
        for name in ("given", "given_mutable"):
            self.__dict__.pop(name)  # the host's copy is let go
        return start(self.put(mine), jax.random.key(self.seed), dict(self.frozen), own, others)

    def _placed(self, given: Mapping[str, Mapping[str, Any]], places: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Arrays from elsewhere where the leaves of the state lie: a device gets its part, and a host reads no other.

        Args:
          given: {net: {address: array}}.
          places: {net/address: shape, dtype and sharding}.
        """

        def put(x: Any, place: jax.ShapeDtypeStruct) -> jax.Array:
            def part(index: Any) -> np.ndarray:
                return np.asarray(x[index], place.dtype)

            return jax.make_array_from_callback(place.shape, place.sharding, part)

        return {
            net: {name: put(x, places[f"{net}/{name}"]) for name, x in own.items() if f"{net}/{name}" in places}
            for net, own in given.items()
        }

    @property
    def told(self) -> Mapping[str, Any]:
        """{net: facts} of what became of the weights from elsewhere, once `given` was read."""
        return getattr(self.initial, "told", NOTHING)

    @cached_property
    def given(self) -> dict[str, dict[str, Any]]:
        """{net: {address: array}} of the weights that do not begin fresh; read when first asked for."""
        return {} if self.initial is None else self.initial.read(self.undivided)

    @cached_property
    def undivided(self) -> dict[str, Tree]:
        """{net: shapes of its weights} of what does not begin frozen, before `split` divides them."""

        def fresh(batch: Batch, rng: jax.Array) -> dict:
            return init_weights(self.modules, self.objective, batch, rng, self.frozen)[0]

        return jax.eval_shape(fresh, self.device_example, jax.random.key(self.seed))

    @property
    def learning(self) -> dict[str, Tree]:
        """Those of them that a player moves: what an adapter is asked about."""
        return divided(self.objective, self.undivided)[0]

    @cached_property
    def given_mutable(self) -> dict[str, dict[str, Any]]:
        """{net: {address: array}} of the running statistics that do not begin fresh."""
        read = getattr(self.initial, "read_mutable", None)
        return read(self.abstract.mutable) if read and self.abstract.mutable else {}

    def put(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """A host batch (this process's rows) as device arrays, rows split over the mesh."""
        return put_rows(self.mesh, on_device(batch))

    def local_rows(self, batch_size: int) -> slice:
        """The rows of a global batch that this process reads.

        Raises:
          ConfigError: the batch does not divide over the devices.
        """
        parts, n = row_shards(self.mesh), jax.process_count()
        if batch_size % parts:
            raise ConfigError(f"a batch of {batch_size} rows does not divide over {parts} devices (mesh data x fsdp)")
        if batch_size % n:
            raise ConfigError(f"a batch of {batch_size} rows does not divide over {n} processes")
        per = batch_size // n
        return slice(jax.process_index() * per, (jax.process_index() + 1) * per)

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Refuse a host batch that the objective cannot use."""
        self.objective.check(batch, self._outputs)

    @cached_property
    def _outputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        try:
            return jax.eval_shape(self.predictor("predict"), self.abstract, self.device_example)
        except KeyError:
            return {}  # an objective that predicts nothing checks what it can without shapes

    def feed(self, batches: Any) -> Iterator[Batch]:
        """The batches of one pass on the devices, each checked; what an evaluator reads."""
        rows = self.local_rows(batches.batch_size)
        for batch in batches.iterate(stop=len(batches), rows=rows):
            self.check(batch)
            yield self.put(batch)

    # ---- functions ---------------------------------------------------------------------------------
    @cached_property
    def step(self) -> Callable[[State, Batch], tuple[State, dict[str, Mean]]]:
        """The pure training step."""
        return make_step(
            self.modules, self.objective, self.optimizers, self.merge, self.accumulation.steps,
            self.accumulation.allow_coupled, self.clip, self.sam, self.ema, self.skip_nonfinite,
        )  # fmt: skip

    def stages(self) -> list[tuple[int, "Program"]]:
        """(first step, program) of every stage of the objective; they share the state."""
        later = self.objective.changes()
        return [(0, self), *((step, self.alike(objective=self.objective.at(step))) for step in later)]

    def alike(self, **changes: Any) -> "Program":
        """A program with some fields changed whose state has the same shapes and places, which are not found again."""
        made = dataclasses.replace(self, **changes)
        made.__dict__["abstract"] = self.abstract
        return made

    @cached_property
    def metric_names(self) -> list[str]:
        """What a step reports; tracing it shows what is wrong with the parts before anything is compiled or written."""
        return list(jax.eval_shape(self.step, self.abstract, self.device_example)[1])

    def compile(self) -> "CompiledStep":
        """Compile the step ahead of time, donating the state."""
        began, names = time.perf_counter(), self.metric_names

        def packed(state: State, batch: Batch) -> tuple[State, jax.Array]:
            state, metrics = self.step(state, batch)
            return state, pack(metrics, names)

        out = (self.shardings, replicated(self.mesh))
        lowered = jax.jit(packed, donate_argnums=0, out_shardings=out).lower(self.abstract, self.device_example)
        return CompiledStep(lowered.compile(), names, time.perf_counter() - began)

    def predictor(self, name: str | Callable, averaged: bool = True) -> Callable[[State, Batch], dict[str, jax.Array]]:
        """A pure function (state, batch) -> outputs: one of the objective's predictions, or `name(nets, batch)`.

        It sees the running averages of the weights where there are some. The same arguments give the same function
        object, so that what is jitted around it is compiled once.
        """
        key = (name, averaged)
        made = self.__dict__.setdefault("_predictors", {})
        if key not in made:
            made[key] = partial(_predict, self.modules, self.merge, self.objective, name, averaged)
        return made[key]

    def nets(self, state: State, averaged: bool = True) -> dict[str, Net]:
        """The nets in evaluation mode, to call from a notebook."""
        return bind(self.modules, self.merge, state, averaged=averaged)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """The executable step; metrics come as one array, `unpack` names them."""

    executable: Any
    names: list[str]
    seconds: float

    def __call__(self, state: State, batch: Batch) -> tuple[State, jax.Array]:
        return self.executable(state, batch)

    def unpack(self, packed: np.ndarray) -> dict[str, float]:
        """{name: mean}; a metric that weighed nothing in this step is left out."""
        pairs = zip(self.names, packed.reshape(-1, 2).tolist(), strict=True)
        return {name: total / weight for name, (total, weight) in pairs if weight}


def _predict(modules: Any, merge: Any, objective: Objective, name: Any, averaged: bool, state: State, batch: Batch):
    nets = bind(modules, merge, state, averaged=averaged)
    batch, _ = objective.prepare(nets, batch, state.carry, state.step, state.rng, False)
    return name(nets, batch) if callable(name) else objective.predict(name, nets, batch)


def pack(metrics: Mapping[str, Mean], names: list[str]) -> jax.Array:
    """The metrics in one array: it is cheaper to fetch than twenty."""
    return jnp.stack([x.astype(jnp.float32) for name in names for x in metrics[name]])


def on_device(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What of a batch goes to the devices: all but texts."""
    return {k: v for k, v in batch.items() if k not in HOST_ONLY}


def batch_digest(batch: Mapping[str, np.ndarray]) -> str:
    """16 hex digits that say which batch this was."""
    seen = hashlib.blake2b(digest_size=8)
    for key in sorted(batch):
        if key not in HOST_ONLY:
            seen.update(key.encode())
            seen.update(
                np.ascontiguousarray(batch[key]).view(np.uint8).data if batch[key].ndim else batch[key].tobytes()
            )
    return seen.hexdigest()


def describe(shardings: Tree) -> dict[str, str]:
    """{address: spec} of every leaf that is split."""
    return {k: str(s.spec) for k, s in flatten(shardings).items() if isinstance(s, NamedSharding) and any(s.spec)}
