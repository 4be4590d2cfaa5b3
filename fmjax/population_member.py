"""A member of a population: its run folder, its records, its checkpoints, and how it ended."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmjax import run_tokenizer
from fmjax.core.config import build
from fmjax.core.errors import CheckpointError
from fmjax.core.trees import count
from fmjax.population_program import Stacked
from fmjax.run import Run, manifest_facts
from fmjax.training import saved
from fmjax.training.checkpoint import Checkpoints
from fmjax.training.evaluation import Evaluations
from fmjax.training.folder import RunFolder, environment
from fmjax.training.meter import judged
from fmjax.training.records import read_records
from fmjax.training.state import State
from fmjax.training.writers import JsonLines, TensorBoard


class Member:
    """Member `number` of a population. Its folder is that of the run that its config alone would make.

    Attributes:
      error: the line it failed with; such a member is no longer reported, evaluated or saved.
    """

    def __init__(self, stacked: Stacked, number: int, folder: Path | None, changed: Mapping[str, Any]) -> None:
        self.number, self.config, self.error = number, stacked.configs[number], None
        self.seed = self.config.seed
        self.parts = _own_parts(stacked, number)
        self.evaluators = self.parts.evaluators
        self.nan, self.policy = build(self.config.nan, "config.nan"), build(self.config.checkpoint, "config.checkpoint")
        self.skips, self._saved = 0, -1
        self.home = RunFolder(folder) if folder is not None else None
        self.writers: list[Any] = []
        self.checkpoints: Checkpoints | None = None
        if self.home:
            self._open(changed)
        self.evaluations = Evaluations(self.parts.program, self.evaluators, self.home)
        self.facts = manifest_facts(self.parts, self.home is not None)

    def _open(self, changed: Mapping[str, Any]) -> None:
        home = self.home
        home.prepare()
        if home.exists:
            home.agree(self.config)
            run_tokenizer.agree(home.path, self.parts.data.source)
        else:
            home.begin(self.config, dict(changed), environment())
        self.checkpoints = Checkpoints(home.checkpoints, self.policy)
        self.writers = [JsonLines(home.metrics)]
        self.writers += [TensorBoard(home.tensorboard)] if self.config.log.tensorboard else []
        run_tokenizer.keep(home.path, self.parts.data.source)
        for record in read_records(home.metrics):
            if record["kind"] == "event" and record["event"] in ("failed", "resumed"):
                self.error = record.get("error")

    def __enter__(self) -> "Member":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            self.mark("failed" if self.error else "interrupted")
        if self.checkpoints:
            self.checkpoints.close()
        for writer in self.writers:
            writer.close()

    # ---- where it begins ---------------------------------------------------------------------------
    def saved(self) -> set[int]:
        """The steps it has checkpoints of."""
        return set(self.checkpoints.steps()) if self.checkpoints else set()

    def begin_again(self) -> None:
        """Forget what was said in a course that left no checkpoint."""
        for writer in self.writers:
            writer.truncate_after(0)

    def restore(self, step: int) -> State:
        """Its state at a step; records of later ones go.

        Raises:
          CheckpointError: the data changed, or the run passed over some of it.
        """
        state, manifest = saved.restore(self.checkpoints, self.parts.program.abstract, step)
        if manifest.get("data_fingerprint") != self.facts["data_fingerprint"]:
            raise CheckpointError(f"the training data changed since {self.home.path} was saved: put it back")
        if manifest.get("data_offset", 0):
            raise CheckpointError(f"{self.home.path} passed over some of its data: go on with it alone")
        for writer in self.writers:
            writer.truncate_after(step)
        self.evaluations.forget()
        for record in read_records(self.home.metrics):
            if record["kind"] == "eval" and record["step"] <= step:
                self.evaluations.recall(record)
        self._saved = step
        self.event("resumed", step)
        return state

    # ---- what it says ------------------------------------------------------------------------------
    def started(self, step: int, compile_seconds: float, seconds: float) -> None:
        """The record of the first step; compiling is all members' together."""
        program = self.parts.program
        facts = {"compile_seconds": round(compile_seconds, 3), "first_step_seconds": round(seconds, 3)}
        sizes = {"parameters": count(program.abstract.params), "batch_size": self.parts.data.batch_size}
        self.write({"kind": "start", "step": step, "time": time.time(), **facts, **sizes})

    def report(
        self, step: int, when: float, metrics: Mapping[str, float], speed: Mapping[str, float], batch: str
    ) -> None:
        """Write what a step said; one that is not finite ends this member, or was skipped."""
        said, finite = judged(metrics)
        self.write({"kind": "train", "step": step, "time": when, **said, **speed, "batch": batch})
        if finite:
            self.skips = 0
            return
        self.skips += 1
        if self.nan.action == "skip":
            self.event("skipped", step)
            if self.skips < self.nan.limit:
                return
            self.fail(step, f"{self.nan.limit} steps in a row up to step {step} were not finite and were skipped")
            return
        seen = ", ".join(f"{k} {v:.4g}" for k, v in said.items() if k in ("loss", "grad_norm", "rate"))
        self.fail(step, f"the loss or gradient is not finite at step {step} ({seen})")

    def fail(self, step: int, error: str) -> None:
        """It is over for this member."""
        self.error = error
        self.event("failed", step, error=error)
        self.mark("failed")

    # ---- evaluations and checkpoints ---------------------------------------------------------------
    def boundary(self, step: int) -> bool:
        """Whether there is something to do after this step."""
        return bool(self.evaluations.at(step)) or (self.checkpoints is not None and step % self.policy.every == 0)

    def visit(self, state: State, step: int, interrupted: str | None = None) -> None:
        """Evaluate and save where it is time; save in any case when interrupted."""
        due, best = self.evaluations.due(step), self.policy.best
        if due:
            self.write(self.evaluations.run(state, step, due))
        if self.checkpoints:
            watched = best is not None and best.partition("/")[0] in due
            better = watched and self.checkpoints.mark_best(step, self.evaluations.number(best, "checkpoint.best"))
            if step % self.policy.every == 0 or better or interrupted:
                self.save(state, step, wait=bool(interrupted))
        if interrupted:
            self.event("interrupted", step, signal=interrupted)
        if self.home:
            self.home.heartbeat()

    def save(self, state: State, step: int, wait: bool = False) -> None:
        """Save once a step."""
        if self.checkpoints is None or self._saved == step:
            return
        manifest = {**self.facts, "step": step, "data_offset": 0, "seed": self.seed}
        if state.frozen:
            manifest["frozen"] = self.checkpoints.save_frozen(state.frozen)
        self.checkpoints.save(step, state.replace(frozen={}), manifest, wait=wait)
        self._saved = step
        self.event("saved", step)

    def end(self, state: State, step: int, word: str) -> Run:
        """The run, as it ended: saved and evaluated where it finished."""
        if self.error is None and word == "finished":
            self.visit(state, step)
            self.save(state, step)
            if owed := self.evaluations.owed(step):
                self.write(self.evaluations.run(state, step, owed))
            if self.checkpoints:
                self.checkpoints.wait()  # a run that is called finished has its last checkpoint
            self.event("finished", step)
        word = "failed" if self.error else word
        self.mark(word)
        folder = self.home.path if self.home else None
        return Run(self.parts, state, step, self.evaluations.numbers, folder, word, self.error)

    # ---- words -------------------------------------------------------------------------------------
    def write(self, record: Mapping[str, Any]) -> None:
        for writer in self.writers:
            writer.write(record)

    def event(self, event: str, step: int, **more: Any) -> None:
        self.write({"kind": "event", "step": step, "time": time.time(), "event": event, **more})

    def mark(self, word: str) -> None:
        if self.home:
            self.home.mark(word)


def _own_parts(stacked: Stacked, number: int) -> Any:
    """The parts of one member: its config and seed; what is compiled for predictions is shared where it can be."""
    program, config = stacked.program, stacked.configs[number]
    differs = any(path.split(".")[1] == "objective" for path in stacked.values)
    objective = build(config.objective, "config.objective") if differs else program.objective
    own = program.alike(seed=config.seed, objective=objective)
    if not differs:
        own.__dict__["_predictors"] = program.__dict__.setdefault("_predictors", {})
    return dataclasses.replace(stacked.parts, config=config, program=own)
