"""The trials of a search: drawn, run, and written down twice, in results.jsonl and in the store that draws the next.

A result is written first and told to the store after; a trial that the store has not ended is gone on with, or told of
when its result is there. So a kill at any moment loses no trial and counts none twice.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from fmjax import sweep_results
from fmjax.assembly import prepare
from fmjax.core.errors import ConfigError
from fmjax.search_results import Found, Line, count, found
from fmjax.search_store import Store, trial_name
from fmjax.study import Trial, trial_hash
from fmjax.sweep_runner import Plan, interrupted
from fmjax.training.policies import Judge

Lines = Mapping[tuple[str, int], Line]


class Searcher(Plan):
    """The runs of a search in a folder, checked before the first of them; run i is seed i mod S of trial i div S.

    Raises:
      ConfigError: as of a `Plan`, and a study that has no space, or that prunes by numbers that come too late.
    """

    def _trials(self) -> dict[int, Trial]:
        return {}

    def _configs(self) -> dict[str, Any]:
        """{end of a range: its complete config}."""
        if not self.study.space:
            raise ConfigError(f"{self.spec} has no space to search: python -m fmjax.sweep runs a study of changes")
        made = super()._configs()
        evaluator = self.study.objective.partition("/")[0]
        if self.study.search.prune and not all(config.evals[evaluator].get("every") for config in made.values()):
            raise ConfigError(
                f"pruning wants {self.study.objective} while training: set --config.evals.{evaluator}.every"
            )
        return made

    @functools.cached_property
    def store(self) -> Store:
        return Store(self.workdir, self.study.space, self.study.search, self.study.minimizes)

    @property
    def facts(self) -> dict[str, str]:
        """What may not change while a search goes on, in words."""
        study = self.study
        base, _ = prepare(study.config, [*Trial("", 0, dict(study.overrides)).flags, *self.flags])
        space = {f"space of {key}": str(values) for key, values in study.space.items()}
        search = {key: str(value) for key, value in dataclasses.asdict(study.search).items()}
        goal = f"{'less' if study.minimizes else 'more'} {study.objective}"
        return {"goal": goal, **space, **search, "seeds": str(study.seeds), "config": trial_hash(base)}

    # ---- running -----------------------------------------------------------------------------------
    def search(self, most: int, processes: int = 1) -> int:
        """Go on until there are `most` trials; 0, or 1 where none finished or the search was interrupted.

        Raises:
          ConfigError: another search was begun here, or results are of trials that the store does not know.
        """
        lock = self._hold(shared=True)
        try:
            facts = self.facts
            self.store.agree(facts)
            self._known()
            self._note(space={key: str(values) for key, values in self.study.space.items()}, facts=facts)
            ended = sum(trial.state.is_finished() for trial in self.store.trials())
            print(f"{most} trials, {ended} ended before", flush=True)
            left = self._left(most)
            if processes > 1:
                from fmjax.sweep_workers import run_in_processes

                whole = run_in_processes(self, left, processes)
            else:
                whole = all(self._one_after_the_other(left))
            return self.summary() if whole else interrupted()
        finally:
            self.close()
            lock.release()

    def close(self) -> None:
        """Let go of the store, where it was opened."""
        if "store" in vars(self):
            self.store.close()
            del self.store

    def _known(self) -> None:
        names = {trial_name(trial.number) for trial in self.store.trials()}
        strange = sorted({change for change, _ in sweep_results.read(self.results)} - names)
        if strange:
            raise ConfigError(
                f"{self.results} has {strange[0]}, which {self.store.path} does not know: put the store back, or take "
                "another --workdir"
            )

    def _left(self, most: int) -> Iterator[int]:
        """The runs to take, one when it is asked for: its trial may be drawn from what ended until then."""
        several = len(self.study.seeds)

        def ended(trial: Any) -> bool:
            return trial.state.is_finished() and self._ended(trial.number, lines) is not None

        while True:
            lines = sweep_results.read(self.results)
            number = self.store.claim(most, ended)
            if number is None:
                return
            self._know(number)
            for index in range(number * several, (number + 1) * several):
                if self._settle(number):
                    break
                if (self.trials[index].change, self.trials[index].seed) not in lines:
                    yield index

    def _know(self, number: int) -> None:
        """The runs of a trial."""
        change, seeds = self.store.change(number), self.study.seeds
        for i, seed in enumerate(seeds):
            overrides = {**self.study.overrides, **change, "seed": seed}
            trial = self.trials[number * len(seeds) + i] = Trial(trial_name(number), seed, overrides)
        config, _ = prepare(self.study.config, [*trial.flags, *self.flags])
        self.hashes[trial.change] = trial_hash(config)

    def trial(self, index: int) -> dict[str, Any] | None:
        """Run one in this process, which need not be the one that claimed it."""
        if index not in self.trials:
            self._know(index // len(self.study.seeds))
        return super().trial(index)

    def judge(self, index: int) -> Judge | None:
        return self.store.judge(index // len(self.study.seeds), self.study.objective)

    # ---- results -----------------------------------------------------------------------------------
    def _ended(self, number: int, lines: Lines) -> Found | None:
        """A trial that ended, by its lines."""
        name = trial_name(number)
        own = [line for (change, _), line in lines.items() if change == name]
        trial = Found(self.study, name, own) if own else None
        return trial if trial and trial.status != "running" else None

    def _settle(self, number: int) -> bool:
        """Tell the store how a trial ended, where it did."""
        trial = self._ended(number, sweep_results.read(self.results))
        if trial is None:
            return False
        if trial.status == "finished":
            for line in trial.lines:
                self.asked_for(line)
        self.store.tell(number, trial.status, trial.value)
        return True

    def take(self, index: int, line: dict[str, Any]) -> int:
        """Append a line, say so, and tell the store; 1 where the run failed.

        Raises:
          ConfigError: the run gave no such number as the study asks for; its line stays.
        """
        sweep_results.append(self.results, line)
        trial = self.trials[index]
        drawn = ", ".join(f"{key}={short(trial.overrides[key])}" for key in self.study.space)
        said = line["error"] and f"FAILED: {line['error']}"
        if line["status"] != "failed":
            if line["status"] == "finished":
                self.asked_for(line)
            value = line["numbers"].get(self.study.objective)
            said = f"{self.study.objective} {value:.5g}" if value is not None else ""
            said = f"{said}{' (pruned)' * (line['status'] == 'pruned')} in {line['seconds']:.1f} s"
        print(f"{self.name(index)}: {said}; {drawn}", flush=True)
        self._settle(index // len(self.study.seeds))
        return int(line["status"] == "failed")

    def summary(self) -> int:
        """Say how the search stands; 1 where no trial finished."""
        trials = found(self.study, sweep_results.read(self.results))
        counts = count(trials)
        counts["running"] = len(self.store.trials()) - sum(n for word, n in counts.items() if word != "running")
        print(", ".join(f"{n} {word}" for word, n in counts.items() if n) or "no trials")
        for trial in trials:
            if trial.status == "failed":
                print(f"  {trial.name} failed: {trial.error}")
        best = trials[0] if counts["finished"] else None
        if best is None:
            print("no trial finished: there is no best one")
            return 1
        print(f"best: {best.name} with {self.study.objective} {best.value:.5g}; --report lists all of them")
        return 0


def short(value: Any) -> str:
    """A drawn value for people to read."""
    from fmjax.study import written

    return f"{value:.4g}" if isinstance(value, float) else written(value).rpartition(":")[2]
