"""A run from a config: what `python -m fmjax.train` and a notebook's `fit(config)` both do."""

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from fmjax import run_tokenizer
from fmjax.core import configfile
from fmjax.core.config import build, call, did_you_mean, parse
from fmjax.core.durations import resolve
from fmjax.core.errors import CheckpointError, ConfigError, DataError, UserError
from fmjax.core.fingerprint import config_hash
from fmjax.core.types import Tree
from fmjax.sharding.devices import peak_flops
from fmjax.sharding.mesh import make_mesh
from fmjax.training.checkpoint import Checkpoints, Policy
from fmjax.training.folder import RunFolder, environment, git_sha
from fmjax.training.loop import Hook, Loop
from fmjax.training.policies import Log, Nan
from fmjax.training.program import Accumulation, Program
from fmjax.training.state import NOTHING, State
from fmjax.training.writers import JsonLines, Progress, TensorBoard

REQUIRED = ("steps", "objective", "data")
ONE_OF = (("model", "models"), ("optimizer", "optimizers"))
MESH = {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1, "expert": 1, "stage": 1}


def complete(config: ConfigDict) -> ConfigDict:
    """Write down, in place, the default of every top-level key that is left out.

    Raises:
      ConfigError: a key that nothing reads, or a needed one that is missing.
    """
    defaults = {
        "seed": 0,
        "mesh": ConfigDict(MESH),
        "sharding": "replicate",
        "evals": ConfigDict(),
        "ema": placeholder(float),
        "accumulation": call(Accumulation),
        "clip": placeholder(float),
        "dtype": "float32",
        "checkpoint": call(Policy),
        "nan": call(Nan),
        "log": call(Log),
        "early_stop": placeholder(object),
    }
    known = {*REQUIRED, *defaults, *(name for pair in ONE_OF for name in pair)}
    for key in config:
        if key not in known:
            raise ConfigError(f"--config.{key}: nothing reads this key; {did_you_mean(key, sorted(known))}")
    for key in REQUIRED:
        if key not in config:
            raise ConfigError(f"the config has no {key!r}")
    for one, several in ONE_OF:
        if (one in config) == (several in config):
            raise ConfigError(f"the config must have either {one!r} or {several!r}")
    for key, value in defaults.items():
        if key not in config:
            config[key] = value
        elif key == "mesh":
            config[key] = ConfigDict({**MESH, **config.mesh})
        elif key in ("ema", "clip") and isinstance(config[key], int):
            with config.ignore_type():
                config[key] = float(config[key])
    return config


def prepare(spec: str | ConfigDict, overrides: Sequence[str] = ()) -> tuple[ConfigDict, dict[str, Any]]:
    """The complete config of a file (or an object), overridden; and what was overridden."""
    config = complete(configfile.read(spec) if isinstance(spec, str) else spec)
    return config, parse(config, list(overrides))


@dataclasses.dataclass
class Parts:
    """Everything a config names, built: what training, evaluation and planning share."""

    config: ConfigDict
    data: Any
    evaluators: dict[str, Any]
    program: Program

    @property
    def modules(self) -> dict[str, Any]:
        return dict(self.program.modules)


def assemble(
    config: ConfigDict, frozen: Mapping[str, Any] = NOTHING, merge: Mapping[str, Any] = NOTHING, load: Any = None
) -> Parts:
    """Build what the config names, resolving its durations in place; pull and check one batch of everything.

    Raises:
      UserError: anything that could fail later and can be seen now.
    """
    mesh = make_mesh(dict(config.mesh))
    data = build(config.data, "config.data")
    if not getattr(data, "endless", False):
        raise ConfigError("--config.data: training needs data without end: use pipeline.stream")
    resolve(config, data.examples, data.batch_size)
    modules = {k: _in_dtype(m, config.dtype) for k, m in _one_or_several(config, "model", "models").items()}
    run_tokenizer.fits(data.source, modules)
    optimizers = _one_or_several(config, "optimizer", "optimizers")
    program = Program(
        modules=modules,
        objective=build(config.objective, "config.objective"),
        optimizers=optimizers,
        mesh=mesh,
        example=data.batch(0, seed=config.seed),
        seed=config.seed,
        sharding=build(config.sharding) if not isinstance(config.sharding, str) else config.sharding,
        accumulation=build(config.accumulation, "config.accumulation"),
        clip=config.clip,
        ema=config.ema,
        skip_nonfinite=config.nan.action == "skip",
        frozen=frozen,
        merge=merge,
        load=load,
    )
    program.check(program.example)
    evaluators = {name: build(node, f"config.evals.{name}") for name, node in config.evals.items()}
    for name, evaluator in evaluators.items():
        run_tokenizer.same(data.source, getattr(evaluator.data, "source", None), name)
        _try(name, evaluator, program)
    _watch(config, evaluators)
    return Parts(config, data, evaluators, program)


def _one_or_several(config: ConfigDict, one: str, several: str) -> dict[str, Any]:
    """{name: what is built}; a single one is called "model"."""
    if one in config:
        return {"model": build(config[one], f"config.{one}")}
    return {name: build(node, f"config.{several}.{name}") for name, node in config[several].items()}


def _try(name: str, evaluator: Any, program: Program) -> None:
    """One batch of an evaluator through checks and shapes, so that it fails now or not at all."""
    try:
        program.local_rows(evaluator.data.batch_size)
        batch = evaluator.data.batch(0)
        program.check(batch)
        shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items() if k != "text"}
        try:
            evaluator.check(program.predictor(evaluator.predict), program.abstract, shapes)
        except Exception as error:  # a model may take other sizes; one that does not says so in its own words
            known = {k: v.shape[1:] for k, v in program.example.items()}
            wrong = [k for k in shapes.keys() & known.keys() if shapes[k].shape[1:] != known[k]]
            if isinstance(error, UserError) or not wrong:
                raise
            seen = ", ".join(f"{k} is {shapes[k].shape[1:]} here and {known[k]} in training" for k in sorted(wrong))
            raise DataError(f"{seen}, and the model does not take both") from error
    except KeyError as error:
        raise ConfigError(f"--config.evals.{name}: {error.args[0]}") from None
    except UserError as error:
        raise type(error)(f"--config.evals.{name}: {error}") from None


def _watch(config: ConfigDict, evaluators: Mapping[str, Any]) -> None:
    """Refuse a number to stop or keep by that no evaluation will give while training."""
    watched = {"early_stop.metric": config.early_stop and config.early_stop.metric}
    watched["checkpoint.best"] = config.checkpoint.best
    for key, metric in watched.items():
        if not metric:
            continue
        name = metric.partition("/")[0]
        if name not in evaluators:
            raise ConfigError(
                f"--config.{key}={metric}: there is no evaluator {name!r}; {did_you_mean(name, evaluators)}"
            )
        if not evaluators[name].every:
            raise ConfigError(f"--config.{key}={metric}: it runs only at the end; set --config.evals.{name}.every")


def _in_dtype(module: Any, dtype: str) -> Any:
    """The module computing in the run's dtype, unless it says its own."""
    try:
        np.dtype(jax.numpy.dtype(dtype))
    except TypeError:
        raise ConfigError(f"--config.dtype={dtype}: no such dtype; write float32 or bfloat16") from None
    if dtype == "float32" or getattr(module, "dtype", None) is not None:
        return module
    if not hasattr(module, "dtype"):
        raise ConfigError(f"--config.dtype={dtype}: {type(module).__name__} computes in float32 only")
    return module.clone(dtype=dtype)


def flops_per_step(program: Program) -> float | None:
    """FLOPs of a training step: three times the forward pass of every net that can tell."""
    shapes = {k: tuple(v.shape) for k, v in program.example.items()}
    known = [m.flops(shapes) for m in program.modules.values() if hasattr(m, "flops")]
    return 3.0 * sum(known) if known else None


class Run:
    """A trained (or resumed) run: its numbers, and its weights to predict with."""

    def __init__(
        self, parts: Parts, state: State, step: int, numbers: dict[str, float], folder: Path | None, word: str
    ):
        self.parts, self.state, self.step, self.numbers, self.folder, self.word = (
            parts,
            state,
            step,
            numbers,
            folder,
            word,
        )

    @property
    def config(self) -> ConfigDict:
        return self.parts.config

    @classmethod
    def load(cls, folder: str | Path, step: int | None = None, overrides: Sequence[str] = ()) -> "Run":
        """The run of a folder at its latest (or this) checkpoint, ready to predict and evaluate.

        Raises:
          CheckpointError: there is no run, or no checkpoint that is whole.
        """
        home = RunFolder(folder, writes=False)
        config = load_config(home)
        parse(config, list(overrides))
        parts = assemble(config)
        checkpoints = Checkpoints(home.checkpoints, writable=False)
        if checkpoints.latest() is None:
            raise CheckpointError(f"{home.path} has no checkpoint yet")
        loop = Loop(parts.program, parts.data, config.steps, parts.evaluators, checkpoints=checkpoints)
        stopped = config.early_stop is not None and config.early_stop.restore
        best = checkpoints.best() if stopped and step is None else step
        state, manifest = loop.restore(best)
        checkpoints.close()
        run_tokenizer.agree(home.path, parts.data.source, manifest)
        return cls(parts, state, int(manifest["step"]), {}, home.path, home.state)

    def predict(self, batch: Mapping[str, Any], name: str | Any = "predict") -> dict[str, np.ndarray]:
        """What the objective predicts for a host batch, as numpy arrays; `valid` is added where it is missing."""
        batch = {k: np.asarray(v) for k, v in batch.items()}
        batch.setdefault("valid", np.ones(len(next(iter(batch.values()))), np.float32))
        function = jax.jit(self.parts.program.predictor(name))
        return jax.device_get(function(self.state, batch))

    def evaluate(self, names: Sequence[str] | None = None) -> dict[str, float]:
        """Run the config's evaluators; {"evaluator/number": value}."""
        loop = Loop(self.parts.program, self.parts.data, self.step, self.parts.evaluators)
        for name in names or ():
            if name not in self.parts.evaluators:
                raise ConfigError(f"there is no evaluator {name!r}; {did_you_mean(name, self.parts.evaluators)}")
        return loop.evaluate(self.state, self.step, list(names or self.parts.evaluators))

    def nets(self) -> dict[str, Any]:
        """The nets with their weights, in evaluation mode, to call."""
        return self.parts.program.nets(self.state)


def load_config(home: RunFolder) -> ConfigDict:
    """The config of a run folder; modules that lay beside its config file can be imported again.

    Raises:
      CheckpointError: there is no run in the folder.
    """
    if not home.exists:
        raise CheckpointError(f"{home.path} holds no run: it has no config.json")
    if home.environment.is_file():
        for place in json.loads(home.environment.read_text()).get("path", []):
            if place not in sys.path and Path(place).is_dir():
                sys.path.append(place)
    config = configfile.load(home.config)
    return complete(config)


def fit(
    config: str | ConfigDict,
    workdir: str | Path | None = None,
    overrides: Sequence[str] = (),
    hooks: Sequence[Hook] = (),
    frozen: Mapping[str, Tree] = NOTHING,
    merge: Mapping[str, Any] = NOTHING,
    load: Any = None,
    progress: bool | None = None,
    began: float | None = None,
) -> Run:
    """Train what a config describes; a folder that holds this run already is resumed.

    Args:
      config: a ConfigDict, or the path of a config file (":variant" may follow).
      workdir: the run folder; None writes nothing to disk.
      overrides: as on the command line, "--config.a.b=value".
      hooks: called as (step, state, metrics) after every step.
      frozen: {net: weights} that never move (teachers, bases under adapters).
      merge: {net: (frozen, own) -> weights}; where an adapter comes in.
      load: params -> params, applied to fresh weights.
      progress: draw progress; None asks config.log.
      began: `time.perf_counter()` when the command began, for the time to the first step.

    Raises:
      UserError: one line about what is wrong in the config, the data or the folder.
    """
    began = time.perf_counter() if began is None else began
    config, changed = prepare(config, overrides)
    home = RunFolder(workdir, writes=jax.process_index() == 0) if workdir is not None else None
    if home and home.writes:
        home.prepare()
    parts = assemble(config, frozen, merge, load)
    log, nan, policy = (build(config[key], f"config.{key}") for key in ("log", "nan", "checkpoint"))
    early_stop = build(config.early_stop, "config.early_stop") if config.early_stop is not None else None
    if early_stop and early_stop.restore:  # the checkpoint to come back to is the one to keep
        policy = dataclasses.replace(policy, best=early_stop.metric, mode=early_stop.mode)
    parts.program.metric_names  # noqa: B018 - a step that cannot be traced fails before anything is written
    writers: list[Any] = []
    checkpoints = None
    if home:
        if home.exists:
            home.agree(config)
            run_tokenizer.agree(home.path, parts.data.source)
        elif home.writes:
            home.begin(config, changed, environment())
        checkpoints = Checkpoints(home.checkpoints, policy)
        if home.writes:
            writers.append(JsonLines(home.metrics))
            writers += [TensorBoard(home.tensorboard)] if log.tensorboard else []
            run_tokenizer.keep(home.path, parts.data.source)
    if (log.progress if progress is None else progress) and jax.process_index() == 0:
        writers.append(Progress(config.steps))
    peak = peak_flops(config.dtype)
    facts = {
        "config": config_hash(config),
        "data_fingerprint": parts.data.fingerprint,
        **run_tokenizer.facts(parts.data.source),
        "mesh": dict(config.mesh),
        "sharding": config.sharding if isinstance(config.sharding, str) else "custom",
        "code": git_sha() if home else None,
    }
    loop = Loop(
        program=parts.program,
        data=parts.data,
        steps=config.steps,
        evaluators=parts.evaluators,
        writers=writers,
        folder=home,
        checkpoints=checkpoints,
        log=log,
        nan=nan,
        early_stop=early_stop,
        facts=facts,
        costs={"flops_per_step": flops_per_step(parts.program), "peak_flops": peak and peak * jax.device_count()},
        hooks=hooks,
        began=began,
    )
    outcome = loop.run()
    return Run(parts, outcome.state, outcome.step, outcome.numbers, home.path if home else None, outcome.word)
