"""A population: runs that differ in seed and continuous numbers, trained together by one compiled step.

    runs = fit_population("configs/vision/mlp_mnist.py", seeds=range(8), over={"optimizer.rate": (1e-3, 3e-3)})

Start-up, compilation and dispatch are paid once. Each member has the batches, keys and numbers of its solo run, equal
to it within rounding, and a run folder like any other: `Run.load`, `fit` and every command take it.
"""

import contextlib
import copy
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fmjax.assembly import assemble, complete, prepare
from fmjax.core.config import build
from fmjax.core.durations import resolve
from fmjax.core.errors import ConfigError
from fmjax.population_member import Member
from fmjax.population_program import TRACEABLE, Stacked, numbers, skeleton
from fmjax.run import Run
from fmjax.study import slug, written
from fmjax.training.interrupts import Interrupts
from fmjax.training.program import batch_digest


def fit_population(
    config: str | ConfigDict,
    seeds: Iterable[int] = (0,),
    over: Mapping[str, Iterable[float]] | None = None,
    workdir: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> list[Run]:
    """Train every combination of seeds and numbers together; folders that hold these runs already are resumed.

    A number that is 0 for some members, which leaves a term of the step out, makes a program of its own for them.

    Args:
      config: a ConfigDict, or the path of a config file (":variant" may follow).
      seeds: of the members.
      over: {key: values} of numbers of the optimizer, the objective, `clip`, `ema` or `sam`: "optimizer.rate.peak".
      workdir: a folder for the members' run folders, "<key>=<value>,.../seed_<seed>"; None writes nothing.
      overrides: as on the command line, for all.

    Returns:
      The runs, seeds fastest; one that failed has the word "failed" and its `error`, and did not stop the others. After
      a signal those that were begun, "interrupted".

    Raises:
      UserError: one line about what is wrong in the config, the data or a folder.
    """
    over = {key.removeprefix("config."): list(values) for key, values in (over or {}).items()}
    configs, folders, changed = [], [], []
    for values, seed in itertools.product(itertools.product(*over.values()), list(seeds)):
        member = dict(zip(over, values, strict=True))
        one = copy.deepcopy(config) if isinstance(config, ConfigDict) else config
        flags = [f"--config.{key}={written(value)}" for key, value in member.items()]
        one, flagged = prepare(one, [*overrides, *flags, f"--config.seed={seed}"])
        configs.append(one)
        changed.append(flagged)
        name = slug(",".join(f"{key}={written(value)}" for key, value in member.items())) if member else "."
        folders.append(Path(workdir) / name / f"seed_{seed}" if workdir is not None else None)
    if not configs:
        raise ConfigError("a population needs a seed, and a value for each number")
    for key in over:
        if f"config.{key}" not in numbers(configs[0]):
            raise ConfigError(
                f"--config.{key} cannot vary inside one program: only numbers such as 0.1 of {', '.join(TRACEABLE)} can"
            )
    alike: dict[str, list[int]] = {}
    for i, one in enumerate(configs):
        alike.setdefault(str(skeleton(one)), []).append(i)
    runs: dict[int, Run] = {}
    for own in alike.values():
        made = fit_members([configs[i] for i in own], [folders[i] for i in own], [changed[i] for i in own])
        runs |= zip(own, made, strict=True)
        if any(run.word == "interrupted" for run in made):
            break
    return [runs[i] for i in sorted(runs)]


def fit_members(
    configs: Sequence[ConfigDict],
    folders: Sequence[Path | None],
    changed: Sequence[Mapping[str, Any]] | None = None,
) -> list[Run]:
    """Train what the configs describe, which may differ in the seed and in continuous numbers alone.

    Raises:
      ConfigError: they differ in something else, or ask for what a population cannot do.
    """
    began = time.perf_counter()
    first = complete(configs[0])
    _possible(first)
    parts = assemble(first)
    for config in configs[1:]:
        resolve(complete(config), parts.data.examples, parts.data.batch_size)
        for section in ("optimizer", "optimizers", "objective"):  # its numbers are checked while they are known
            if section in config:
                build(config[section], f"config.{section}")
    if getattr(parts.data, "buckets", None):
        raise ConfigError("--config.data.buckets: a population wants batches of one shape; set it to ()")
    stacked = Stacked(parts, configs)
    with contextlib.ExitStack() as everything:
        members = [
            everything.enter_context(Member(stacked, m, folder, (changed or [{}] * len(configs))[m]))
            for m, folder in enumerate(folders)
        ]
        state, step = _start(stacked, members)
        with Interrupts() as asked:
            state, step, word = _train(stacked, members, state, step, asked, began)
        states = [stacked.member(state, member.number) for member in members]
        for member, own in zip(members, states, strict=True):
            if member.error is None and word == "finished":
                member.save(own, step)  # all are written while the first is evaluated
        return [member.end(own, step, word) for member, own in zip(members, states, strict=True)]


def _possible(config: ConfigDict) -> None:
    """Refuse what a population cannot do."""
    if jax.process_count() > 1:
        raise ConfigError("a population runs in one process")
    if config.early_stop is not None:
        raise ConfigError(
            "--config.early_stop: members of a population end together; set it to None, or run them alone"
        )
    if config.adapt is not None:
        raise ConfigError("--config.adapt: a population trains whole weights; run its members alone")
    if config.nan.action == "rollback":
        raise ConfigError("--config.nan.action=rollback: members of a population do not go back; take stop or skip")
    wide = {axis: size for axis, size in config.mesh.items() if axis != "data" and size != 1}
    if wide:
        raise ConfigError(
            f"--config.mesh.{next(iter(wide))}: a member of a population lies on one device; leave it at 1"
        )


def _start(stacked: Stacked, members: Sequence[Member]) -> tuple[Any, int]:
    """The stacked state, fresh or of the last checkpoint that all living members have."""
    living = [member for member in members if member.error is None]
    common = set.intersection(*(member.saved() for member in living)) if living else set()
    if not common:
        for member in living:
            member.begin_again()
        return stacked.begin(), 0
    step = max(common)
    states = [member.restore(step) if member.error is None else None for member in members]
    whole = next(state for state in states if state is not None)
    return stacked.stack([whole if state is None else state for state in states]), step


def _train(
    stacked: Stacked, members: Sequence[Member], state: Any, step: int, asked: Interrupts, began: float
) -> tuple[Any, int, str]:
    """Take the steps that are left; (state, step, "finished" or "interrupted")."""
    config, data, program = stacked.configs[0], stacked.parts.data, stacked.program
    steps, every = config.steps, config.log.every
    if step >= steps or all(member.error for member in members):
        return state, step, "finished"
    feeds = {seed: data.iterate(seed=seed, start=step) for seed in set(stacked.seeds)}
    compiled, pending, mark = None, [], time.perf_counter()
    for member in members:
        if member.error is None:
            member.mark("running")
    with contextlib.ExitStack() as closing:
        for feed in feeds.values():
            closing.callback(feed.close)
        while step < steps:
            batches = {seed: next(feed) for seed, feed in feeds.items()}
            for batch in batches.values():
                program.check(batch)
            placed = stacked.put(batches)
            first = compiled is None
            if first:
                compiled = stacked.compile(state, placed)
            state, packed = compiled(state, placed)
            step += 1
            pending.append((step, time.time(), {seed: batch_digest(batch) for seed, batch in batches.items()}, packed))
            if len(pending) > 1:
                jax.block_until_ready(pending[-2][3])  # at most two steps in flight
            if first:
                jax.block_until_ready(packed)
                seconds = time.perf_counter() - began
                for member in members:
                    member.started(step - 1, compiled.seconds, seconds)
            due = step == steps or any(member.boundary(step) for member in members)
            if due or asked.name or step % every == 0:
                jax.block_until_ready(packed)
                seconds = (time.perf_counter() - mark) / len(pending)
                _drain(compiled, members, pending, seconds)
                if all(member.error for member in members):
                    break
                if asked.name or step < steps:
                    for member in members:
                        if member.error is None and (asked.name or member.boundary(step)):
                            own = stacked.member(state, member.number)
                            member.visit(own, step, interrupted=asked.name)
                if asked.name:
                    return state, step, "interrupted"
                mark = time.perf_counter()
    return state, step, "finished"


def _drain(compiled: Any, members: Sequence[Member], pending: list, seconds: float) -> None:
    """Write what every member reported in the steps since the last time."""
    fetched = jax.device_get([packed for *_, packed in pending])
    for (step, when, digests, _), packed in zip(pending, fetched, strict=True):
        for member in members:
            if member.error is None:
                speed = {"step_seconds": seconds} if step == pending[-1][0] else {}
                numbers = compiled.unpack(np.asarray(packed[member.number]))
                member.report(step, when, numbers, speed, digests[member.seed])
    pending.clear()
