"""What a search knows of its trials: an SQLite store of Optuna's, shared by every process that searches.

A process that claims a trial holds a lock in the trial's folder, which the system releases when the process dies.
Whoever comes next goes on with a trial that has not ended and that nobody holds.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fmjax.core.errors import CheckpointError, ConfigError, DataError, extra
from fmjax.space import Range, Search
from fmjax.training.checkpoint_lock import Lock

STORE, NAME = "search.db", "search"  # the file, and the study's name in it
STATES = {"finished": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}  # of a line of results -> of Optuna


def trial_name(number: int) -> str:
    """A trial as the results call it."""
    return f"trial_{number:04d}"


class Store:
    """The trials of a search.

    Args:
      folder: of the search.
      space: {key: range}.
      search: how trials are drawn and pruned.
      minimize: whether less is better.

    Raises:
      DataError: the file is no store.
    """

    def __init__(self, folder: Path, space: Mapping[str, Range], search: Search, minimize: bool) -> None:
        self.optuna = extra("optuna", "search")
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        self.folder, self.path, self.space, self.search = folder, folder / STORE, space, search
        self.claims: dict[int, Lock] = {}
        with self.alone():
            try:
                self.storage = self.optuna.storages.RDBStorage(
                    f"sqlite:///{self.path}", engine_kwargs={"connect_args": {"timeout": 60}}
                )
                if NAME not in self.optuna.get_all_study_names(self.storage):
                    direction = "minimize" if minimize else "maximize"
                    self.optuna.create_study(storage=self.storage, study_name=NAME, direction=direction)
                self.study = self._load(self.optuna.pruners.NopPruner())
            except Exception as error:  # SQLAlchemy, Alembic and Optuna have each their own
                said = (str(error).strip().splitlines() or [""])[0]
                raise DataError(f"{self.path} is no store of a search: {type(error).__name__}: {said}") from None

    def _load(self, pruner: Any) -> Any:
        idle = self.optuna.samplers.RandomSampler(seed=0)  # every trial brings its own
        return self.optuna.load_study(storage=self.storage, study_name=NAME, sampler=idle, pruner=pruner)

    @contextlib.contextmanager
    def alone(self):
        """One process at a time draws and claims."""
        lock = Lock(self.folder / "search.lock", wait=True)
        try:
            yield
        finally:
            lock.release()

    def close(self) -> None:
        """Let go of the file, and of the trials that have not ended."""
        for number in list(self.claims):
            self.claims.pop(number).release()
        self.storage.remove_session()
        self.storage.engine.dispose()

    def agree(self, facts: Mapping[str, str]) -> None:
        """Refuse to go on with other facts ({what: in words}) than the search was begun with.

        Raises:
          ConfigError: names the first that differs.
        """
        with self.alone():
            before = self.study.user_attrs.get("facts")
            if before is None:
                self.study.set_user_attr("facts", dict(facts))
                return
        for key in (*facts, *before):
            was, now = before.get(key, "nothing"), facts.get(key, "nothing")
            if was != now:
                raise ConfigError(
                    f"the search in {self.folder} was begun with {key} = {was}, and now it is {now}: take another "
                    "--workdir, or put it back"
                )

    # ---- trials ------------------------------------------------------------------------------------
    def trials(self) -> list[Any]:
        """Every trial, as Optuna's FrozenTrial, by number."""
        return self.study.get_trials(deepcopy=False)

    def change(self, number: int) -> dict[str, Any]:
        """What a trial sets, {key: value}; a value that is not drawn yet is drawn."""
        self.study.sampler = self._sampler(number)
        trial = self._trial(self.study, number)
        return {key: values.draw(trial, key) for key, values in self.space.items()}

    def claim(self, most: int, ended: Callable[[Any], bool]) -> int | None:
        """The number of a trial to run: one that nobody goes on with, or a new one; None where there are `most`.

        Args:
          ended: whether a trial has ended and its results are written down.
        """
        with self.alone():
            trials = self.trials()
            for trial in trials:
                if trial.number not in self.claims and not ended(trial) and self._take(trial.number):
                    self.change(trial.number)
                    return trial.number
            if len(trials) >= most:
                return None
            number = len(trials)
            self.study.sampler = self._sampler(number)
            self.study.ask()
            self._take(number)
            self.change(number)
            return number

    def tell(self, number: int, status: str, value: float | None) -> None:
        """Write down how a claimed trial ended.

        Args:
          status: "finished", "pruned" or "failed".
          value: of the objective, where it finished.

        Raises:
          DataError: the store says that it ended otherwise.
        """
        trial = self._frozen(number)
        if not trial.state.is_finished():
            state = self.optuna.trial.TrialState[STATES[status]]
            trial = self.study.tell(number, value if status == "finished" else None, state=state)
        if trial.state.name != STATES[status] or (status == "finished" and trial.value != value):
            raise DataError(
                f"{trial_name(number)} {status} with {value} by the results and ended {trial.state.name} with "
                f"{trial.value} by {self.path}: one of them was changed; put it back, or take another --workdir"
            )
        if number in self.claims:
            self.claims.pop(number).release()

    def judge(self, number: int, objective: str) -> "PruningJudge | None":
        """What watches a trial, where the search prunes."""
        if self.search.prune is None:
            return None
        pruners = self.optuna.pruners
        hyperband = self.search.prune == "hyperband"
        pruner = pruners.HyperbandPruner() if hyperband else pruners.MedianPruner(self.search.startup)
        return PruningJudge(self._trial(self._load(pruner), number), self._frozen(number), objective)

    def _take(self, number: int) -> bool:
        """Hold a trial, unless another process holds it or a worker that outlived its own still runs it."""
        home = self.folder / trial_name(number)
        home.mkdir(parents=True, exist_ok=True)
        try:
            claim = Lock(home / "claim.lock")
        except CheckpointError:
            return False
        try:
            for path in home.glob("*/trial.lock"):
                Lock(path).release()
        except CheckpointError:
            claim.release()
            return False
        self.claims[number] = claim
        return True

    def _sampler(self, number: int) -> Any:
        """A sampler for one trial, so that a search that was stopped draws what it would have drawn."""
        seed = int(np.random.SeedSequence((self.search.seed, number)).generate_state(1)[0])
        if self.search.sampler == "random":
            return self.optuna.samplers.RandomSampler(seed=seed)
        return self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.search.startup)

    def _id(self, number: int) -> int:
        study = self.storage.get_study_id_from_name(NAME)
        return self.storage.get_trial_id_from_study_id_trial_number(study, number)

    def _trial(self, study: Any, number: int) -> Any:
        return self.optuna.trial.Trial(study, self._id(number))

    def _frozen(self, number: int) -> Any:
        return self.storage.get_trial(self._id(number))


class PruningJudge:
    """Ends a run when the pruner says so: the n-th evaluation of a trial is compared with the n-th of others.

    Args:
      trial: of Optuna, to report to and to ask.
      known: the same as the store has it now.
      objective: "evaluator/number".
    """

    def __init__(self, trial: Any, known: Any, objective: str) -> None:
        self.trial, self.objective = trial, objective
        self.ended = known.state.is_finished()
        self.over = known.state.name == "PRUNED"
        self._known = set(known.intermediate_values)
        self._steps: list[int] = []

    def see(self, step: int, numbers: Mapping[str, float]) -> None:
        if self.ended or self.objective not in numbers:
            return
        if step not in self._steps:  # a run that went back sees a step again
            self._steps.append(step)
        count = self._steps.index(step) + 1
        if count not in self._known:
            self.trial.report(numbers[self.objective], count)
            self._known.add(count)
        self.over = self.trial.should_prune()
