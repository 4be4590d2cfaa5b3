"""The evaluators of a run: when each is due, what they said, what is still owed."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.core.types import Batch
from fmjax.training.folder import RunFolder
from fmjax.training.program import Program
from fmjax.training.state import State


class Evaluations:
    """Runs evaluators and remembers their numbers.

    Args:
      evaluators: {name: evaluator}; one with `every` n is due each n steps, all are at the end.
      folder: where samples and artifacts go; None keeps none.

    Attributes:
      numbers: {"evaluator/number": value}, the last of each.
    """

    def __init__(self, program: Program, evaluators: Mapping[str, Any], folder: RunFolder | None = None) -> None:
        self.program, self.evaluators, self.folder = program, evaluators, folder
        self.numbers: dict[str, float] = {}
        self._done: set[tuple[str, int]] = set()

    def at(self, step: int) -> list[str]:
        """The evaluators that are due at a step."""
        return [name for name, e in self.evaluators.items() if e.every and step % e.every == 0]

    def due(self, step: int) -> list[str]:
        """Those of them that did not run yet."""
        return [name for name in self.at(step) if (name, step) not in self._done]

    def owed(self, step: int) -> list[str]:
        """Those that did not run at the step that turned out to be the last."""
        return [name for name in self.evaluators if (name, step) not in self._done]

    def number(self, name: str, key: str) -> float:
        """A number by name.

        Raises:
          ConfigError: there is none of this name; `key` says which setting asked.
        """
        if name not in self.numbers:
            raise ConfigError(f"--config.{key}: there is no {name!r} among {', '.join(self.numbers)}")
        return self.numbers[name]

    def run(
        self, state: State, step: int, names: Sequence[str], stop: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """The record of the evaluators of these names; `stop` is called before each batch, and may raise."""
        numbers: dict[str, float] = {}

        def feed(batches: Any) -> Iterator[Batch]:
            for batch in self.program.feed(batches):
                stop()
                yield batch

        for name in names:
            evaluator = self.evaluators[name]
            report = evaluator.evaluate(self.program.predictor(evaluator.predict), state, feed)
            numbers |= {f"{name}/{k}": v for k, v in report.numbers.items()}
            texts = report.artifacts.pop("samples", None)
            if self.folder and texts:
                self.folder.write_text(f"samples/{step}.txt", "\n\n".join(texts) + "\n")
            if self.folder and report.artifacts:
                self.folder.write_json(self.folder.path / "artifacts" / str(step) / f"{name}.json", report.artifacts)
        self.numbers |= numbers
        self._done |= {(name, step) for name in names}
        return {"kind": "eval", "step": step, "time": time.time(), **numbers}

    def forget(self) -> None:
        """As if nothing had run."""
        self.numbers, self._done = {}, set()

    def recall(self, record: Mapping[str, Any]) -> dict[str, float]:
        """Know an evaluation again from its record; its numbers."""
        numbers = numbers_of(record)
        self.numbers |= numbers
        self._done |= {(name.partition("/")[0], record["step"]) for name in numbers}
        return numbers


def numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """{"evaluator/number": value} of what a record says."""
    return {k: v for k, v in record.items() if k not in ("kind", "step", "time")}


def evaluate(
    program: Any, evaluators: Mapping[str, Any], state: Any, step: int, names: Sequence[str] | None = None
) -> dict[str, float]:
    """Run these evaluators, or all, by themselves; {"evaluator/number": value}.

    Args:
      program: has `predictor` and `feed` as a Program has them.

    Raises:
      ConfigError: no such evaluator.
    """
    for name in names or ():
        if name not in evaluators:
            raise ConfigError(f"there is no evaluator {name!r}; {did_you_mean(name, evaluators)}")
    return numbers_of(Evaluations(program, evaluators).run(state, step, list(names or evaluators)))
