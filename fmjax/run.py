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

from fmjax import adaptation, run_tokenizer
from fmjax.assembly import Parts, assemble, complete, flops_per_step, prepare
from fmjax.core import configfile
from fmjax.core.config import build, parse
from fmjax.core.errors import CheckpointError
from fmjax.core.fingerprint import config_hash
from fmjax.core.types import Tree
from fmjax.interop import matching
from fmjax.sharding.devices import peak_flops
from fmjax.training.checkpoint import Checkpoints
from fmjax.training.checkpoint_folder import steps as steps_on_disk
from fmjax.training.digest import of as digest_of
from fmjax.training.evaluation import evaluate
from fmjax.training.folder import RunFolder, environment, git_sha
from fmjax.training.loop import Hook, Loop
from fmjax.training.policies import Judge
from fmjax.training.state import NOTHING, State
from fmjax.training.writers import JsonLines, Progress, TensorBoard


class Run:
    """A trained (or resumed) run: its numbers, and its weights to predict with."""

    def __init__(
        self,
        parts: Parts,
        state: State,
        step: int,
        numbers: dict[str, float],
        folder: Path | None,
        word: str,
        error: str | None = None,
    ):
        self.parts, self.state, self.step, self.numbers, self.folder, self.word = (
            parts,
            state,
            step,
            numbers,
            folder,
            word,
        )
        self.error = error  # what a member of a population failed with; a run alone raises it

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
        parts = assemble(config, folder=home.path)
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
        return evaluate(self.parts.program, self.parts.evaluators, self.state, self.step, names)

    def swapped(self, folder: str | Path, step: int | None = None) -> "Run":
        """This run with what another one trained on the same base; nothing is compiled again.

        Raises:
          CheckpointError: no adapted run, one on another base, or one that adapts other weights.
        """
        return Run(self.parts, adaptation.swapped(self, Path(folder), step), self.step, {}, self.folder, self.word)

    def nets(self) -> dict[str, Any]:
        """The nets with their weights, in evaluation mode, to call."""
        return self.parts.program.nets(self.state)


def manifest_facts(parts: Parts, saved: bool = True) -> dict[str, Any]:
    """What the manifest of each of a run's checkpoints says besides its step; `saved` whether there will be any."""
    config = parts.config
    return {
        "config": config_hash(config),
        "data_fingerprint": parts.data.fingerprint,
        **run_tokenizer.facts(parts.data.source),
        "mesh": dict(config.mesh),
        "sharding": config.sharding if isinstance(config.sharding, str) else "custom",
        "code": git_sha() if saved else None,
    }


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
    judge: Judge | None = None,
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
      judge: ends the run, as "pruned", by the numbers of its evaluations.

    Raises:
      UserError: one line about what is wrong in the config, the data or the folder.
    """
    began = time.perf_counter() if began is None else began
    config, changed = prepare(config, overrides)
    home = RunFolder(workdir, writes=jax.process_index() == 0) if workdir is not None else None
    if home and home.writes:
        home.prepare()
    parts = assemble(config, frozen, merge, load, home.path if home else None)
    log, nan, policy = (build(config[key], f"config.{key}") for key in ("log", "nan", "checkpoint"))
    early_stop = build(config.early_stop, "config.early_stop") if config.early_stop is not None else None
    if early_stop and early_stop.restore:  # the checkpoint to come back to is the one to keep
        policy = dataclasses.replace(policy, best=early_stop.metric, mode=early_stop.mode)
    parts.program.metric_names  # noqa: B018 - a step that cannot be traced fails before anything is written
    fresh = home is None or not steps_on_disk(home.checkpoints)
    began_from = (
        {
            "path": config.init.get("path", config.init.call),
            "digest": digest_of(parts.program.given),
            "nets": dict(parts.program.told),
        }
        if fresh and config.init
        else None
    )
    adapted = adaptation.record(parts.program, parts.adapter) if parts.adapter else None
    writers: list[Any] = []
    checkpoints = None
    if home:
        if home.exists:
            home.agree(config)
            run_tokenizer.agree(home.path, parts.data.source)
        elif home.writes:
            if adapted:
                home.write_json(home.path / adaptation.FILE, adapted)
            home.begin(config, changed, environment())
            if began_from:
                home.write_json(home.path / "init.json", began_from)
        checkpoints = Checkpoints(home.checkpoints, policy)
        if home.writes:
            writers.append(JsonLines(home.metrics))
            writers += [TensorBoard(home.tensorboard)] if log.tensorboard else []
            run_tokenizer.keep(home.path, parts.data.source)
    if (log.progress if progress is None else progress) and jax.process_index() == 0:
        writers.append(Progress(config.steps))
        for net, facts in parts.program.told.items() if began_from else ():
            for line in matching.lines(net, facts):
                writers[-1].say(line)
    peak = peak_flops(config.dtype)
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
        facts=manifest_facts(parts, home is not None),
        costs={"flops_per_step": flops_per_step(parts.program), "peak_flops": peak and peak * jax.device_count()},
        hooks=hooks,
        began=began,
        judge=judge,
    )
    outcome = loop.run()
    return Run(parts, outcome.state, outcome.step, outcome.numbers, home.path if home else None, outcome.word)
