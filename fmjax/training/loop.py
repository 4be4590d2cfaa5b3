"""The loop: feed, step, report, evaluate, save; stop when told to. It knows no model."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from fmjax.core.errors import CheckpointError, UserError
from fmjax.core.trees import count, nbytes
from fmjax.training import saved
from fmjax.training.checkpoint import Checkpoints
from fmjax.training.evaluation import Evaluations, numbers_of
from fmjax.training.feed import Feed, feed_of
from fmjax.training.folder import RunFolder
from fmjax.training.interrupts import Interrupts
from fmjax.training.meter import Meter, tokens_of
from fmjax.training.policies import EarlyStop, Judge, Log, Nan, Patience, SpikeWatch
from fmjax.training.program import Program
from fmjax.training.records import read_records
from fmjax.training.state import State


class Writer(Protocol):
    """Where records go; see training/writers.py."""

    def write(self, record: Mapping[str, Any]) -> None: ...
    def truncate_after(self, step: int) -> Any: ...
    def close(self) -> None: ...


DEFAULT_LOG, DEFAULT_NAN = Log(), Nan()
Hook = Callable[[int, State, dict[str, float]], None]  # (step, state, last metrics), after a step


class NotFinite(UserError):
    """A loss or gradient that is not finite ended the run."""


@dataclasses.dataclass
class Outcome:
    """How a run ended: its state, the step, the last numbers, and the word in the folder."""

    state: State
    step: int
    numbers: dict[str, float]
    word: str


class _Stop(Exception):
    """A signal came, or the judge said so: go and save."""

    def __init__(self, state: State, step: int, word: str = "interrupted") -> None:
        super().__init__(step)
        self.state, self.step, self.word = state, step, word


class Loop:
    """One run of a program over its data.

    Args:
      program: the compiled parts.
      data: training batches (endless).
      steps: steps of the whole run.
      evaluators: {name: evaluator}; one with `every` n runs each n steps, all run at the end.
      folder, checkpoints: where the run lives; None keeps everything in memory.
      facts: what the manifest of a checkpoint says besides (config hash, data fingerprint, ...).
      costs: "flops_per_step" and "peak_flops" (of all devices), where they are known.
      hooks: called after every step.
      judge: shown every evaluation while training; ends the run as "pruned" when it is over.
    """

    def __init__(
        self,
        program: Program,
        data: Any,
        steps: int,
        evaluators: Mapping[str, Any],
        writers: Sequence[Writer] = (),
        folder: RunFolder | None = None,
        checkpoints: Checkpoints | None = None,
        log: Log = DEFAULT_LOG,
        nan: Nan = DEFAULT_NAN,
        early_stop: EarlyStop | None = None,
        facts: Mapping[str, Any] | None = None,
        costs: Mapping[str, float | None] | None = None,
        hooks: Sequence[Hook] = (),
        began: float | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.program, self.data, self.steps = program, data, steps
        self.writers, self.folder, self.checkpoints = list(writers), folder, checkpoints
        self.log, self.nan, self.hooks = log, nan, hooks
        self.early_stop, self.facts, self.costs = early_stop, dict(facts or {}), dict(costs or {})
        varies = bool(getattr(data, "buckets", None))
        if varies or program.objective.changes():  # how many FLOPs a step has depends on the batch or on the stage
            self.costs.pop("flops_per_step", None)
        self.evaluations = Evaluations(program, evaluators, folder)
        self.meter = Meter(data.batch_size, 0 if varies else tokens_of(program.example), self.costs)
        self.patience = Patience(early_stop) if early_stop else None
        self.judge = judge
        self.spikes = SpikeWatch(nan.spike)
        self.began = time.perf_counter() if began is None else began
        self.last: dict[str, float] = {}
        self.offset = 0  # the batch of step s is batch s + offset: a rollback passes over some
        self.skips_in_a_row = self.rollbacks = 0
        self._saved: tuple[int, int] | None = None
        self._frozen: str | None = None  # the digest under which frozen weights lie
        self._asked = Interrupts()

    # ---- the run -----------------------------------------------------------------------------------
    def run(self) -> Outcome:
        """Train to the end, or until a signal; everything worth keeping is on disk when it returns."""
        was = self.folder.state if self.folder else "new"
        ended = ("interrupted", "finished", "pruned")
        failed = was if was in ended else "failed"  # what could not go on is what it was
        try:
            state, step = self._start()
            feed = feed_of(self.program, self.data, min(self.log.every, self.steps))
            with Interrupts() as self._asked:
                self._mark("running")
                failed = "failed"
                try:
                    with contextlib.closing(feed):
                        state, step = self._train(state, step, feed)
                    state, step = self._finish(state, step)
                    word = "finished"
                except _Stop as stop:
                    word, state, step = stop.word, stop.state, stop.step
                    self._save(step, state, wait=True)
                    self._event(word, step, **({"signal": self._asked.name} if word == "interrupted" else {}))
                self._close()
                self._mark(word)
        except BaseException:
            with contextlib.suppress(CheckpointError):  # a full disk, say: the first error is the one to read
                self._close()
            with contextlib.suppress(CheckpointError):
                self._mark(failed)
            raise
        return Outcome(state, step, self.evaluations.numbers, word)

    def _start(self) -> tuple[State, int]:
        if self.checkpoints is None or self.checkpoints.latest() is None:
            state = self.program.begin()
            if self.folder and read_records(self.folder.metrics):  # it died before its first checkpoint
                for writer in self.writers:
                    writer.truncate_after(0)
            if self.nan.action == "rollback":
                self._save(0, state)  # there must be something to go back to
            return state, 0
        state, manifest = self.restore()
        was, now = manifest.get("data_fingerprint"), self.facts.get("data_fingerprint")
        if was != now:
            raise CheckpointError(
                f"the training data changed since this run was saved ({was} is now {now}): put it back"
            )
        step = int(manifest["step"])
        self.offset = int(manifest.get("data_offset", 0))
        self._saved = (step, self.offset)
        for writer in self.writers:
            writer.truncate_after(step)
        self._recall(step)
        self._event("resumed", step)
        return state, step

    def restore(self, step: int | None = None) -> tuple[State, dict[str, Any]]:
        state, manifest = saved.restore(self.checkpoints, self.program.abstract, step)
        for warning in manifest.get("warnings", []):
            self._event("damaged", int(manifest["step"]), warning=warning)
        return state, manifest

    def _recall(self, step: int) -> None:
        """Know again what a run that was never interrupted would know at `step`, from the records up to it: the
        evaluations, for patience, for the judge and for which of them are still owed, and the losses that a spike
        stands out from."""
        self.evaluations.forget()
        self.patience = Patience(self.early_stop) if self.early_stop else None
        self.spikes = SpikeWatch(self.nan.spike)
        for record in read_records(self.folder.metrics) if self.folder else ():
            if record["step"] > step:
                continue
            if record["kind"] == "train" and "loss" in record:
                self.spikes.recent.append(record["loss"])
            if record["kind"] == "eval":
                numbers = self.evaluations.recall(record)
                if self.patience and self.early_stop.metric in numbers:
                    self.patience.see(numbers)
                if self.judge is not None and self.evaluations.at(record["step"]):
                    self.judge.see(record["step"], numbers)

    def _train(self, state: State, step: int, feed: Feed) -> tuple[State, int]:
        first = True
        self.meter.resume()
        if step and self.evaluations.at(step):
            self._visit(state, step)  # an interrupted run owes the evaluations of its last step
        while step < self.steps and not self._over(step):
            if self.judge is not None and self.judge.over:
                raise _Stop(state, step, "pruned")
            steps = 1 if first or self.hooks else self._room(step, feed.most)
            state, packed, digests = feed.advance(state, step, step + self.offset, steps)
            step += len(digests)
            self.meter.add(step, packed, digests, first)
            if first:
                self._report_start(step - 1, packed, feed)
                self.meter.resume()
                first = False
            boundary = self._boundary(step) or step == self.steps
            asked = self._is_asked(boundary or step % self.log.every == 0)
            boundary = boundary or asked
            if boundary or step % self.log.every == 0:
                if self.checkpoints:
                    self.checkpoints.check()
                self.meter.pause()
                bad = self._drain(feed, keep=0 if boundary or steps > 1 else 1)
                self.meter.resume()
                if bad is not None:
                    feed.close()
                    state, step = self._recover(bad)
                    continue
            for hook in self.hooks:
                hook(step, state, self.last)
            if asked:
                raise _Stop(state, step)
            if self._boundary(step):
                self._visit(state, step)
                self.meter.resume()
        return state, step

    def _room(self, step: int, most: int) -> int:
        """How many steps may be taken before there is something else to do."""
        last = min(step + most, self.steps)
        ends = (s for s in range(step + 1, last) if s % self.log.every == 0 or self._boundary(s))
        return next(ends, last) - step

    def _is_asked(self, agreed: bool) -> bool:
        """Whether a signal came; with several processes, to any of them, and asked only where all of them ask."""
        if jax.process_count() == 1:
            return bool(self._asked.name)
        return agreed and bool(multihost_utils.process_allgather(np.int32(bool(self._asked.name))).any())

    def _over(self, step: int) -> bool:
        if not (self.patience and self.patience.over):
            return False
        self._event("stopped early", step, metric=self.early_stop.metric, best=self.patience.best)
        return True

    def _boundary(self, step: int) -> bool:
        return bool(self.evaluations.at(step)) or (
            self.checkpoints is not None and step % self.checkpoints.policy.every == 0
        )

    def _visit(self, state: State, step: int) -> None:
        """Evaluate and save where it is time."""
        improved, due = False, self.evaluations.due(step)
        if due:
            numbers = self.evaluate(state, step, due)
            improved = self._take(numbers)
            if self.judge is not None:
                self.judge.see(step, numbers)
        if self.checkpoints is None:
            return
        # The value goes first: a kill between the two leaves a value without a checkpoint, which counts for nothing.
        if self.early_stop:
            better = improved and self.early_stop.restore
            if better:
                self.checkpoints.mark_best(step, self.evaluations.numbers[self.early_stop.metric])
        else:
            best = self.checkpoints.policy.best
            watched = best is not None and best.partition("/")[0] in due
            better = watched and self.checkpoints.mark_best(step, self.evaluations.number(best, "checkpoint.best"))
        if step % self.checkpoints.policy.every == 0 or better:
            self._save(step, state)

    def _take(self, numbers: dict[str, float]) -> bool:
        if self.patience is None or not any(k.startswith(self.early_stop.metric.split("/")[0] + "/") for k in numbers):
            return False
        self.evaluations.number(self.early_stop.metric, "early_stop.metric")
        return self.patience.see(numbers)

    def _finish(self, state: State, step: int) -> tuple[State, int]:
        self._save(step, state, wait=True)
        if self.early_stop and self.early_stop.restore:
            state, step = self._best(state, step)
        if owed := self.evaluations.owed(step):
            self.evaluate(state, step, owed)
        self._event("finished", step, seconds=round(time.perf_counter() - self.began, 3))
        return state, step

    def _best(self, state: State, step: int) -> tuple[State, int]:
        """The state of the best evaluation, where it is not the last one."""
        if self.checkpoints is None or self.checkpoints.best() in (None, step):
            return state, step
        state, manifest = self.restore(self.checkpoints.best())
        step = int(manifest["step"])
        self._event("restored best", step, metric=self.early_stop.metric, value=self.patience.best)
        for record in read_records(self.folder.metrics):  # its numbers are to be the last ones
            if (record["kind"], record["step"]) == ("eval", step):
                self.evaluations.recall(record)
        return state, step

    # ---- metrics -----------------------------------------------------------------------------------
    def _report_start(self, step: int, packed: jax.Array, feed: Feed) -> None:
        jax.block_until_ready(packed)
        self._write(
            {
                "kind": "start",
                "step": step,
                "time": time.time(),
                "compile_seconds": round(feed.compiled.seconds, 3),
                "first_step_seconds": round(time.perf_counter() - self.began, 3),
                "parameters": count(self.program.abstract.params),
                "frozen_parameters": count(self.program.abstract.frozen),
                "optimizer_bytes": nbytes(self.program.abstract.opt_state),
                "flops_per_step": self.costs.get("flops_per_step"),
                "batch_size": self.data.batch_size,
            }
        )

    def _drain(self, feed: Feed, keep: int) -> int | None:
        """Fetch and write what is pending but the last `keep` calls; the first step that went wrong, if any."""
        measured, speed = self.meter.drain(feed.compiled, keep)
        bad = None
        for seen in measured:
            record = {"kind": "train", "step": seen.step, "time": seen.time, **seen.numbers}
            self._write({**record, **(speed if seen is measured[-1] else {}), "batch": seen.digest})
            self.last = {**seen.numbers, **speed}
            if not seen.finite and self.nan.action == "skip":
                self._skipped(seen.step)
            elif not seen.finite or self.spikes.jumped(seen.numbers.get("loss", 0.0)):
                bad = seen.step
                break
            else:
                self.skips_in_a_row = 0
        if self.folder and measured:
            self.folder.heartbeat()
        return bad

    def evaluate(self, state: State, step: int, names: Sequence[str]) -> dict[str, float]:
        """Run the evaluators of these names; write their numbers and artifacts."""

        def stop() -> None:
            if self._asked.name and jax.process_count() == 1:
                raise _Stop(state, step)

        record = self.evaluations.run(state, step, names, stop)
        self._write(record)
        return numbers_of(record)

    # ---- trouble -----------------------------------------------------------------------------------
    def _skipped(self, step: int) -> None:
        self.skips_in_a_row += 1
        self._event("skipped", step)
        if self.skips_in_a_row >= self.nan.limit:
            raise NotFinite(
                f"{self.nan.limit} steps in a row up to step {step} were not finite and were skipped: "
                "lower the rate, or clip; the weights are those before them"
            )

    def _recover(self, bad: int) -> tuple[State, int]:
        """After a bad step: stop, or go back to the last checkpoint and pass over the batches up to the bad one."""
        self.meter.drop()
        if self.checkpoints:
            self.checkpoints.wait()
        kept = self.checkpoints.latest() if self.checkpoints else None
        seen = ", ".join(f"{k} {v:.4g}" for k, v in self.last.items() if k in ("loss", "grad_norm", "rate"))
        if self.nan.action != "rollback":
            hint = "set --config.nan.action=skip or rollback, lower the rate, or clip"
            where = f"the last good checkpoint is step {kept}" if kept is not None else "no checkpoint was written yet"
            raise NotFinite(f"the loss or gradient is not finite at step {bad} ({seen}); {where}; {hint}")
        if kept is None:
            raise NotFinite(f"the loss went wrong at step {bad} ({seen}) and there is no checkpoint to go back to")
        self.rollbacks += 1
        if self.rollbacks > self.nan.limit:
            raise NotFinite(
                f"{self.nan.limit} rollbacks did not help: the loss went wrong again at step {bad} ({seen})"
            )
        state, manifest = self.restore()
        kept = int(manifest["step"])
        self.offset += bad - kept
        for writer in self.writers:
            writer.truncate_after(kept)
        self._recall(kept)
        self._event("rollback", bad, to=kept, data_offset=self.offset)
        return state, kept

    def _save(self, step: int, state: State, wait: bool = False) -> None:
        if self.checkpoints is None:
            return
        if self._saved == (step, self.offset):  # restored from it, or saved already: it is not written again
            if wait:
                self.checkpoints.wait()
            return
        manifest = {**self.facts, "step": step, "data_offset": self.offset, "seed": self.program.seed}
        if state.frozen:
            self._frozen = self._frozen or self.checkpoints.save_frozen(state.frozen)
            manifest["frozen"] = self._frozen
        self.checkpoints.save(step, state.replace(frozen={}), manifest, wait=wait)
        self._saved = (step, self.offset)
        self._event("saved", step)

    # ---- words -------------------------------------------------------------------------------------
    def _write(self, record: Mapping[str, Any]) -> None:
        for writer in self.writers:
            writer.write(record)

    def _event(self, event: str, step: int, **more: Any) -> None:
        self._write({"kind": "event", "step": step, "time": time.time(), "event": event, **more})

    def _mark(self, word: str) -> None:
        if self.folder:
            self.folder.mark(word)

    def _close(self) -> None:
        with contextlib.ExitStack() as all_of_them:
            if self.checkpoints:
                all_of_them.callback(self.checkpoints.close)
            for writer in self.writers:
                all_of_them.callback(writer.close)
