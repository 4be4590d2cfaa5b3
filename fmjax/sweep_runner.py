"""The runs of a study: which are left, one after the other or several at a time, and what each ended with."""

import json
import shlex
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fmjax import sweep_results
from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, UserError
from fmjax.provenance import code_version, in_words, same_code
from fmjax.study import Study, Trial, read, slug, trial_hash
from fmjax.training.checkpoint_lock import Lock
from fmjax.training.policies import Judge


def commands(study: Study, spec: str, workdir: str | None, flags: Sequence[str]) -> list[str]:
    """The command of every run, to be given to whatever starts processes."""
    study.configs(flags)
    base = ["python", "-m", "fmjax.sweep", f"--study={spec}", f"--workdir={workdir or 'DIR'}"]
    return [
        f"{shlex.join([*base, f'--index={i}', *flags])}  # {trial.change}, seed {trial.seed}"
        for i, trial in enumerate(study.trials())
    ]


class Plan:
    """The runs of a study in a folder, checked before the first of them.

    Args:
      spec: the study's file, with its variant.
      workdir: where run folders are.
      results: the file of results; None for results.jsonl in the workdir.
      flags: "--config.a.b=value" of the command line, for every run.
      mix: let results of other code stand beside these.

    Raises:
      ConfigError: what `Study.configs` refuses; runs of another config or of other code in the folder.
    """

    def __init__(
        self,
        study: Study,
        spec: str,
        workdir: str | Path,
        results: str | Path | None = None,
        flags: Sequence[str] = (),
        mix: bool = False,
    ) -> None:
        self.study, self.spec, self.workdir, self.flags, self.mix = study, spec, Path(workdir), list(flags), mix
        self.results = Path(results) if results else self.workdir / "results.jsonl"
        configs = self._configs()
        self.hashes = {name: trial_hash(config) for name, config in configs.items()}
        self.code = code_version(configs.values())
        self.trials = self._trials()
        self._check()

    @classmethod
    def again(cls, spec: str, workdir: str, results: str, flags: Sequence[str], mix: bool) -> "Plan":
        """The same plan in another process, from `told`."""
        return cls(read(spec), spec, workdir, results, flags, mix)

    @property
    def told(self) -> tuple[str, str, str, list[str], bool]:
        """What another process makes this plan again from."""
        return self.spec, str(self.workdir), str(self.results), self.flags, self.mix

    def _trials(self) -> Any:
        """The runs that are known before the first one, by number."""
        return self.study.trials()

    def _configs(self) -> dict[str, Any]:
        """{change: its complete config}, of everything that can be known before the first run."""
        return self.study.configs(self.flags)

    def _check(self) -> None:
        done = sweep_results.read(self.results)
        began = self.workdir / "study.json"
        before = json.loads(began.read_text()) if began.is_file() else {"hashes": {}, "code": self.code}
        if not self.mix:
            sweep_results.one_code(done.values(), self.code)
            if not same_code(before["code"], self.code):
                raise ConfigError(
                    f"{self.workdir} was begun with {in_words(before['code'])}, this is {in_words(self.code)}: take "
                    "another --workdir, go back to that code, or say --mix"
                )
        for name, now in self.hashes.items():
            ended = {line["config"] for (change, _), line in done.items() if change == name}
            if (self.workdir / slug(name)).is_dir() and name in before["hashes"]:
                ended.add(before["hashes"][name])
            if ended - {now}:
                raise ConfigError(
                    f"change {name!r} was run with another config in {self.workdir}: take another --workdir, or "
                    "another name for the change"
                )

    def _begin(self, shared: bool) -> Lock:
        """Hold the folder and write down what runs in it."""
        lock = self._hold(shared)
        self._note()
        return lock

    def _hold(self, shared: bool) -> Lock:
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write {self.workdir} ({error.strerror}): take another --workdir") from None
        return Lock(self.workdir / "lock", shared)

    def _note(self, **more: Any) -> None:
        facts = {"study": self.spec, "flags": self.flags, "code": self.code, "hashes": self.hashes, **more}
        sweep_results.write_whole(self.workdir / "study.json", json.dumps(facts, indent=1) + "\n")

    def left(self, retry: bool = False) -> list[int]:
        """The numbers of the runs that have not ended; with `retry`, of those that failed too."""
        done = sweep_results.read(self.results)
        over = {key for key, line in done.items() if line["status"] == "finished" or not retry}
        return [i for i, trial in enumerate(self.trials) if (trial.change, trial.seed) not in over]

    # ---- running -----------------------------------------------------------------------------------
    def run_one(self, index: int, retry: bool = False) -> int:
        """Run number `index`, beside others of the same study in other processes; the exit code."""
        if not 0 <= index < len(self.trials):
            raise ConfigError(f"--index={index}: the study has runs 0 to {len(self.trials) - 1}")
        lock = self._begin(shared=True)
        try:
            if index not in self.left(retry):
                print(f"{self.name(index)}: ended before; see {self.results}")
                return 0
            line = self.trial(index)
            return self.take(index, line) if line else interrupted()
        finally:
            lock.release()

    def run_all(self, processes: int = 1, retry: bool = False) -> int:
        """Run all that are left; 0, or 1 where some failed or the sweep was interrupted."""
        lock = self._begin(shared=False)
        try:
            left = self.left(retry)
            print(f"{len(self.trials)} runs, {len(self.trials) - len(left)} ended before", flush=True)
            if processes > 1 and len(left) > 1:
                from fmjax.sweep_workers import run_in_processes

                whole = run_in_processes(self, left, min(processes, len(left)))
            else:
                whole = all(self._one_after_the_other(left))
            return self.summary() if whole else interrupted()
        finally:
            lock.release()

    def _one_after_the_other(self, left: Iterable[int]):
        for index in left:
            line = self.trial(index)
            if line is not None:
                self.take(index, line)
            yield line is not None

    def run_populations(self, most: int, retry: bool = False) -> int:
        """Run all that are left, those that differ in seed and continuous numbers in one program."""
        from fmjax.sweep_population import run_populations

        lock = self._begin(shared=False)
        try:
            left = self.left(retry)
            print(f"{len(self.trials)} runs, {len(self.trials) - len(left)} ended before", flush=True)
            return self.summary() if run_populations(self, left, most) else interrupted()
        finally:
            lock.release()

    def trial(self, index: int) -> dict[str, Any] | None:
        """Run one in this process; its line, or None when it was interrupted.

        Raises:
          CheckpointError: another process is at it.
        """
        from fmjax.run import fit

        trial, began = self.trials[index], time.perf_counter()
        folder = self.workdir / trial.folder
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder / "trial.lock")
        try:
            flags = [*trial.flags, *self.flags]
            run = fit(self.study.config, folder, flags, progress=False, judge=self.judge(index))
        except UserError as error:
            return self.line(index, "failed", error=" ".join(str(error).split()), since=began)
        except Exception as error:
            traceback.print_exc()
            said = (str(error).strip().splitlines() or [""])[0]
            return self.line(index, "failed", error=f"{type(error).__name__}: {said}", since=began)
        finally:
            lock.release()
        return self.line(index, run.word, run.numbers, since=began) if run.word != "interrupted" else None

    def judge(self, index: int) -> Judge | None:
        """What may end a run early: nothing, in a sweep."""
        return None

    # ---- results -----------------------------------------------------------------------------------
    def line(
        self,
        index: int,
        status: str,
        numbers: Any = None,
        error: str | None = None,
        since: float | None = None,
        seconds: float = 0.0,
        how: str = "solo",
    ) -> dict[str, Any]:
        """The line of a run that ended; a number the study asks for that is not finite is a failure."""
        trial = self.trials[index]
        for metric in filter(None, (self.study.metric, self.study.choose)):
            value = (numbers or {}).get(metric, 0.0)
            if status == "finished" and not abs(value) < float("inf"):
                status, error = "failed", f"{metric} is {value}"
        return sweep_results.line_of(
            trial,
            status,
            config=self.hashes[trial.change],
            code=self.code,
            numbers=numbers or {},
            error=error,
            seconds=seconds if since is None else time.perf_counter() - since,
            batches=sweep_results.batches_digest(self.workdir / trial.folder / "metrics.jsonl"),
            how=how,
        )

    def take(self, index: int, line: dict[str, Any]) -> int:
        """Append a line and say so; 1 where it failed.

        Raises:
          ConfigError: the run gave no such number as the study asks for; its line stays.
        """
        sweep_results.append(self.results, line)
        said = f"{index + 1}/{len(self.trials)} {self.name(index)}"
        if line["status"] == "failed":
            print(f"{said}: FAILED: {line['error']}", flush=True)
            return 1
        self.asked_for(line)
        print(
            f"{said}: {self.study.metric} {line['numbers'][self.study.metric]:.5g} in {line['seconds']:.1f} s",
            flush=True,
        )
        return 0

    def asked_for(self, line: dict[str, Any]) -> None:
        """Refuse a line of a run that finished without the study's numbers.

        Raises:
          ConfigError: names the number.
        """
        for metric in filter(None, (self.study.metric, self.study.choose)):
            if metric not in line["numbers"]:
                raise ConfigError(
                    f"the runs give no {metric!r}; {did_you_mean(metric, line['numbers'])}; what ran stays, mend the "
                    "study and go on"
                )

    def name(self, index: int) -> str:
        """A run in words."""
        trial: Trial = self.trials[index]
        return f"{trial.change}, seed {trial.seed}"

    def summary(self) -> int:
        """Say how the study stands; 1 where runs failed."""
        done = sweep_results.read(self.results)
        lines = [done.get((trial.change, trial.seed)) for trial in self.trials]
        failed = [line for line in lines if line and line["status"] == "failed"]
        print(f"{len(self.trials)} runs: {len([x for x in lines if x]) - len(failed)} finished, {len(failed)} failed")
        for line in failed:
            print(f"  {line['change']}, seed {line['seed']} failed: {line['error']}")
        print(f"{self.results}; --report writes the table and the figure")
        return 1 if failed else 0


def interrupted() -> int:
    """Say how to go on; the exit code."""
    print("interrupted: give the same command again to go on", file=sys.stderr)
    return 1
