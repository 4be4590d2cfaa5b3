"""Small nets and objectives of every kind the contract allows, a batch with padded rows for them, and tiny runs."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.core.nets import Net, Objective, Player
from fmjax.core.types import Mean
from fmjax.data import embedded, pipeline
from fmjax.data.source import InMemory
from fmjax.evals import evaluators, metrics
from fmjax.models import transformer
from fmjax.objectives import language
from fmjax.optim import optimizers, schedules
from fmjax.optim.optimizers import Optimizer
from fmjax.training.checkpoint import Policy
from fmjax.training.policies import Log
from fmjax.training.program import Accumulation
from fmjax.training.records import read_records
from fmjax.training.state import begin
from fmjax.training.step import make_step

KEY = jax.random.key(0)
BATCH = {
    "features": np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32),
    "label": (np.arange(16) % 3).astype(np.int32),
    "valid": (np.arange(16) < 13).astype(np.float32),
}
xent = optax.softmax_cross_entropy_with_integer_labels


class MLP(nn.Module):
    """Dense, norm, tanh, dropout, dense; sows the size of its hidden layer to "losses"."""

    out: int = 3
    norm: bool = False
    dropout: float = 0.0
    width: int = 8

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Dense(self.width, name="up")(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.tanh(x))
        self.sow("losses", "size", (x**2).mean())
        return nn.Dense(self.out, name="down")(x)


@dataclasses.dataclass(frozen=True)
class Plain(Objective):
    """Softmax cross-entropy on features; a label of -1 makes the loss NaN, one of -2 makes it huge."""

    router: float = 0.0  # weight of what the net sowed
    noise: float = 0.0  # added to the features in training, on the device

    def inputs(self, batch):
        return {"model": (batch["features"],)}

    def prepare(self, nets, batch, carry, step, rng, train):
        if not self.noise or not train:
            return batch, carry
        x = batch["features"]
        return {**batch, "features": x + self.noise * jax.random.normal(rng, x.shape)}, carry

    def loss(self, player, nets, batch, carry, rng):
        nll = xent(nets["model"](batch["features"]), batch["label"])
        nll = jnp.where(batch["label"] == -1, jnp.nan, jnp.where(batch["label"] == -2, 1e4, nll))
        loss = Mean.of(nll, batch["valid"])
        extra = self.router * sum(nets["model"].losses) * loss.weight
        return loss._replace(sum=loss.sum + extra), {"loss": loss}

    def predict(self, name, nets, batch):
        if name != "predict":
            return super().predict(name, nets, batch)
        logits = nets["model"](batch["features"])
        return {"logits": logits, "targets": batch["label"], "weights": batch["valid"]}


@dataclasses.dataclass(frozen=True)
class Distill(Plain):
    """A frozen teacher's probabilities are the targets."""

    def inputs(self, batch):
        return dict.fromkeys(("model", "teacher"), (batch["features"],))

    def loss(self, player, nets, batch, carry, rng):
        target = jax.nn.softmax(nets["teacher"](batch["features"]))
        loss = Mean.of(optax.softmax_cross_entropy(nets["model"](batch["features"]), target), batch["valid"])
        return loss, {"loss": loss}


@dataclasses.dataclass(frozen=True)
class GAN(Objective):
    """The generator moves every second step."""

    players = (Player("d", ("disc",)), Player("g", ("gen",), every=2))

    def inputs(self, batch):
        return {"gen": (jnp.zeros((2, 4)),), "disc": (batch["features"],)}

    def loss(self, player, nets, batch, carry, rng):
        x = batch["features"]
        fake = nets["gen"](jax.random.normal(rng, (len(x), 4)))
        if player == "d":
            real, made = jnp.split(nets["disc"](jnp.concatenate([x, jax.lax.stop_gradient(fake)]))[:, 0], 2)
            loss = Mean.of(jax.nn.softplus(-real) + jax.nn.softplus(made))
        else:
            loss = Mean.of(jax.nn.softplus(-nets["disc"](fake)[:, 0]))
        return loss, {player: loss}


@dataclasses.dataclass(frozen=True)
class DQN(Objective):
    """A ring of states: action 0 stays, 1 moves on; reward at state 3; replay, keys and target in the carry."""

    players = (Player(start=2),)

    def inputs(self, batch):
        return {"model": (jnp.zeros((1, 4)),)}

    def carry(self, nets, batch, rng):
        zero = jnp.zeros(64, jnp.int32)
        target = jax.tree.map(jnp.copy, nets["model"].params)
        return {"at": jnp.zeros(4, jnp.int32), "s": zero, "a": zero, "n": zero[0], "key": rng, "target": target}

    def prepare(self, nets, batch, carry, step, rng, train):
        k1, k2, k3 = jax.random.split(jax.random.fold_in(carry["key"], step), 3)
        greedy = nets["model"](jax.nn.one_hot(carry["at"], 4)).argmax(-1)
        act = jnp.where(jax.random.uniform(k1, (4,)) < 0.3, jax.random.randint(k2, (4,), 0, 2), greedy)
        i = (carry["n"] + jnp.arange(4)) % 64
        seen = {"s": carry["s"].at[i].set(carry["at"]), "a": carry["a"].at[i].set(act), "n": carry["n"] + 4}
        new = {**carry, **seen, "at": (carry["at"] + act) % 4}
        j = jax.random.randint(k3, (32,), 0, jnp.minimum(new["n"], 64))
        return {"s": new["s"][j], "a": new["a"][j]}, new

    def loss(self, player, nets, batch, carry, rng):
        after = (batch["s"] + batch["a"]) % 4
        best = nets["model"].fixed(carry["target"])(jax.nn.one_hot(after, 4)).max(-1)
        q = jnp.take_along_axis(nets["model"](jax.nn.one_hot(batch["s"], 4)), batch["a"][:, None], 1)[:, 0]
        loss = Mean.of((q - ((after == 3) + 0.8 * best)) ** 2)
        return loss, {"td": loss}

    def finish(self, nets, batch, carry, step):
        def swap(new, old):
            return jnp.where(step % 20 == 0, new, old)

        return {**carry, "target": jax.tree.map(swap, nets["model"].params, carry["target"])}


def low_rank(base, own):
    """Merge: the first kernel plus a product of two small ones."""
    kernel = base["up"]["kernel"] + own["down"] @ own["up"]
    return {**base, "up": {**base["up"], "kernel": kernel}}


def optimizer(tx) -> Optimizer:
    """An optax transformation as an optimizer of the house that reports a rate."""
    wide = optax.with_extra_args_support(tx)
    return Optimizer(wide.init, wide.update, lambda state: {"rate": jnp.asarray(0.5)})


TEACHER = {"teacher": MLP().init(jax.random.key(7), BATCH["features"])["params"]}
BASE = {"model": MLP().init(jax.random.key(8), BATCH["features"])["params"]}
SMALL = {"model": {"down": jax.random.normal(KEY, (6, 2)), "up": jnp.zeros((2, 8))}}

# name -> the arguments of `Program` that make it up; the objective's players share the optimizer.
CASES = {
    "supervised": {"objective": Plain(router=0.1), "modules": {"model": MLP(norm=True, dropout=0.1)}},
    "gan": {"objective": GAN(), "modules": {"gen": MLP(6, norm=True), "disc": MLP(1, norm=True)}},
    "distill": {"objective": Distill(), "modules": {"model": MLP(), "teacher": MLP()}, "frozen": TEACHER},
    "dqn": {"objective": DQN(), "modules": {"model": MLP(2)}},
    "adapter": {
        "objective": Plain(),
        "modules": {"model": MLP()},
        "frozen": BASE,
        "merge": {"model": low_rank},
        "load": lambda params: {**params, **SMALL},
    },
}


def leaves(tree) -> list[np.ndarray]:
    """The leaves as numpy arrays, keys as their words."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


def same(a, b, tol: float = 0.0) -> None:
    """Assert that two trees are equal, leaf by leaf."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tol, atol=tol)


def setup(
    objective, modules, tx=None, accumulate=1, ema=None, skip_nonfinite=False, clip=None, sam=None, coupled=False, **kw
):
    """(state, jitted step) of an objective whose players share an optimizer."""
    txs = {p.name: optimizer(tx or optax.adam(1e-2)) for p in objective.players}
    state = jax.jit(lambda: begin(modules, objective, txs, BATCH, KEY, averaged=ema is not None, **kw))()
    rest = {"clip": clip, "sam": sam, "ema": ema, "skip_nonfinite": skip_nonfinite, "allow_coupled": coupled}
    return state, jax.jit(make_step(modules, objective, txs, kw.get("merge", {}), accumulate, **rest))


def net_of(module, *inputs) -> Net:
    """A fresh net in training mode."""
    return Net(module, module.init(KEY, *inputs)["params"], {}, KEY, train=True)


# ---- runs -------------------------------------------------------------------------------------------


class Rows(InMemory):
    """`n` rows of a linear problem in three classes. Row `nan` makes the loss NaN, row `huge` makes it jump."""

    def __init__(self, n: int = 96, seed: int = 0, nan: int | None = None, huge: int | None = None, width: int = 6):
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(n, width)).astype(np.float32)
        label = (features @ np.random.default_rng(1).normal(size=(width, 3))).argmax(-1).astype(np.int32)
        super().__init__(f"Rows({n})", {"features": features, "label": label})
        if nan is not None:
            self.arrays["features"][nan] = np.nan
        if huge is not None:
            self.arrays["label"][huge] = -2


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Adds noise on the host."""

    size: float = 0.1

    def __call__(self, example, rng):
        noise = rng.normal(size=example["features"].shape).astype(np.float32)
        return {**example, "features": example["features"] + self.size * noise}


@dataclasses.dataclass(frozen=True)
class Cut:
    """Two documents in a row, cut at a random place: what packing gives."""

    def __call__(self, example, rng):
        n = len(example["tokens"])
        where = np.arange(n) >= rng.integers(2, n - 2)
        positions = np.where(where, np.arange(n) - where.argmax(), np.arange(n))
        return {**example, "segment_ids": (1 + where).astype(np.int32), "positions": positions.astype(np.int32)}


@dataclasses.dataclass(frozen=True)
class Scripted:
    """An evaluator whose number at step k is written down: `values[k // every - 1]`."""

    data: object
    values: tuple[float, ...]
    every: int = 0
    predict: str = "predict"

    def check(self, predict, state, batch):
        pass

    def evaluate(self, predict, state, feed):
        for _ in feed(self.data):
            pass
        return evaluators.Report({"loss": self.values[int(state.step) // max(self.every, 1) - 1]})


def tiny(steps: int = 12, **rows) -> ConfigDict:
    """A run with dropout, noise on host and device, microbatches, averages and clipping; `rows` are those of `Rows`."""
    config = ConfigDict({"seed": 3, "steps": steps, "ema": 0.9, "clip": 1.0})
    config.model = call(MLP, dropout=0.2)
    config.objective = call(Plain, noise=0.1)
    rate = call(schedules.warmup_cosine, peak=1e-2, steps=config.get_oneway_ref("steps"), warmup=2)
    config.optimizer = call(optimizers.adamw, rate=rate)
    source = call(Rows, **rows)
    bad = "nan" in rows or "huge" in rows  # a bad row is to be in a batch that is known
    config.data = call(
        pipeline.stream, source=source, batch_size=8, threads=0, shuffle=not bad, transforms=(call(Jitter),)
    )
    held_out = call(pipeline.one_pass, source=call(Rows, n=20, seed=5), batch_size=8, threads=0)
    numbers = {"loss": metrics.loss, "accuracy": metrics.accuracy}
    config.evals = {"validation": call(evaluators.average, data=held_out, metrics=numbers, every=4)}
    config.accumulation = call(Accumulation, steps=2)
    config.checkpoint = call(Policy, every=4)
    config.log = call(Log, every=3, tensorboard=False, progress=False)
    return config


def tiny_language(steps: int = 8) -> ConfigDict:
    """A one-block decoder that counts in rows of two documents."""
    config = tiny(steps)
    config.model = call(transformer.Decoder, vocab=16, width=16, depth=1, heads=2, dropout=0.1)
    config.objective = call(language.NextToken)
    source = call(embedded.Counting, vocab=16, length=9, strides=2)
    config.data = call(pipeline.stream, source=source, batch_size=8, threads=0, transforms=(call(Cut),))
    one_pass = call(pipeline.one_pass, source=source, batch_size=8, threads=0)
    config.evals = {"train": call(evaluators.average, data=one_pass, metrics={"loss": metrics.loss})}
    return config


class Crash(Exception):
    """What a power cut is to a test."""


def crash(at: int):
    """A hook that cuts a run off after step `at`."""

    def hook(step, state, metrics):
        if step == at:
            raise Crash

    return hook


def records(folder, kind: str | None = None) -> list[dict]:
    """What metrics.jsonl says, of one kind."""
    return [r for r in read_records(folder / "metrics.jsonl") if kind in (None, r["kind"])]


def course(folder) -> list[tuple]:
    """What training did, without times and speeds: (step, loss, gradient norm, batch) of every record."""
    return [(r["step"], r["loss"], r["grad_norm"], r["rate"], r["batch"]) for r in records(folder, "train")]


def events(folder) -> list[str]:
    return [r["event"] for r in records(folder, "event")]
