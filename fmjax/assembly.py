"""From a config to what it names: completed, overridden, built, and tried for one batch of everything."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from fmjax import adaptation, run_tokenizer
from fmjax.core import configfile
from fmjax.core.config import build, call, did_you_mean, parse
from fmjax.core.durations import resolve
from fmjax.core.errors import ConfigError, DataError, UserError
from fmjax.sharding.mesh import make_mesh
from fmjax.training.checkpoint import Policy
from fmjax.training.policies import Log, Nan
from fmjax.training.program import Accumulation, Program
from fmjax.training.state import NOTHING

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
        "sam": placeholder(float),
        "dtype": "float32",
        "checkpoint": call(Policy),
        "nan": call(Nan),
        "log": call(Log),
        "early_stop": placeholder(object),
        "init": placeholder(object),
        "adapt": placeholder(object),
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
        elif key in ("ema", "clip", "sam") and isinstance(config[key], int):
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
    adapter: Any = None

    @property
    def modules(self) -> dict[str, Any]:
        return dict(self.program.modules)


def assemble(
    config: ConfigDict,
    frozen: Mapping[str, Any] = NOTHING,
    merge: Mapping[str, Any] = NOTHING,
    load: Any = None,
    folder: Path | None = None,
) -> Parts:
    """Build what the config names, resolving its durations in place; pull and check one batch of everything.

    `folder` is that of the run, where it was begun before.

    Raises:
      UserError: anything that could fail later and can be seen now.
    """
    mesh = make_mesh(dict(config.mesh))
    data = build(config.data, "config.data")
    if not getattr(data, "endless", False):
        raise ConfigError("--config.data: training needs data without end: use pipeline.stream")
    resolve(config, data.examples, data.batch_size)
    modules = {k: _in_dtype(m, config.dtype) for k, m in one_or_several(config, "model", "models").items()}
    run_tokenizer.fits(data.source, modules)
    optimizers = one_or_several(config, "optimizer", "optimizers")
    program = Program(
        modules=modules,
        objective=build(config.objective, "config.objective"),
        optimizers=optimizers,
        mesh=mesh,
        example=whole_batch(data, config.seed),
        seed=config.seed,
        sharding=build(config.sharding) if not isinstance(config.sharding, str) else config.sharding,
        accumulation=build(config.accumulation, "config.accumulation"),
        clip=config.clip,
        sam=config.sam,
        ema=config.ema,
        skip_nonfinite=config.nan.action == "skip",
        frozen=frozen,
        merge=merge,
        load=load,
    )
    if config.init is not None:
        program.initial = build(config.init, "config.init")
        for start in getattr(program.initial, "starts", (program.initial,)):
            if not getattr(start, "any_tokenizer", True):
                run_tokenizer.spoken(data.source, start)
    adapter = None
    if config.adapt is not None:
        adapter = adaptation.divide(program, build(config.adapt, "config.adapt"), folder)
    program.check(program.example)
    evaluators = {name: build(node, f"config.evals.{name}") for name, node in config.evals.items()}
    for name, evaluator in evaluators.items():
        run_tokenizer.same(data.source, getattr(evaluator.data, "source", None), name)
        _try(name, evaluator, program)
    _watch(config, evaluators)
    return Parts(config, data, evaluators, program, adapter)


def whole_batch(data: Any, seed: int) -> dict[str, Any]:
    """Batch 0 in the length of the source, where batches are cut to buckets."""
    return data.batch(0, seed=seed, whole=True) if getattr(data, "buckets", None) else data.batch(0, seed=seed)


def one_or_several(config: ConfigDict, one: str, several: str) -> dict[str, Any]:
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
    inner = {
        k: _in_dtype(v, dtype) for k, v in vars(module).items() if isinstance(v, nn.Module) and k not in ("parent",)
    }
    if not hasattr(module, "dtype") and not inner:
        raise ConfigError(f"--config.dtype={dtype}: {type(module).__name__} computes in float32 only")
    return module.clone(**inner, **({"dtype": dtype} if hasattr(module, "dtype") else {}))


def flops_per_step(program: Program) -> float | None:
    """FLOPs of a training step: three times the forward pass of every net that can tell, once that of a teacher or a
    reference; None where a part of one is frozen, since how far the backward pass goes then depends on which."""
    silent = program.modules.keys() - program.abstract.params.keys()
    if program.split is not None or silent - {"teacher", "reference"}:
        return None
    shapes = {k: tuple(v.shape) for k, v in program.example.items()}
    known = [(1.0 if n in silent else 3.0) * m.flops(shapes) for n, m in program.modules.items() if hasattr(m, "flops")]
    return sum(known) if known else None
