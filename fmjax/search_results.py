"""The trials of a search as results.jsonl has them: how each ended, and which is best."""

import math
import statistics
from collections.abc import Mapping
from typing import Any

from fmjax.study import Study

ORDER = ("finished", "running", "pruned", "failed")  # of a list of trials
Line = Mapping[str, Any]


class Found:
    """A trial of the results.

    Attributes:
      lines: its lines.
      status: "finished", "pruned", "failed", or "running" where a seed has no line yet.
      value: of the objective, mean over seeds; of a pruned trial its last evaluation; None where there is none.
      metric: of the study's metric, alike.
      drawn: {key: value as the command line takes it}.
      seconds: of all seeds.
      error: what it failed with.
      flags: what draws it again.
    """

    def __init__(self, study: Study, name: str, lines: list[Line]) -> None:
        words = {line["status"] for line in lines}
        whole = {line["seed"] for line in lines} >= set(study.seeds)
        bad = next((word for word in ("failed", "pruned") if word in words), None)
        self.name, self.status = name, bad or ("finished" if whole else "running")
        self.lines = lines
        self.value, self.metric = (_mean(lines, number) for number in (study.objective, study.metric))
        self.drawn = {key: lines[0]["overrides"][key] for key in study.space}
        self.seconds = sum(line.get("seconds", 0.0) for line in lines)
        self.error = next((line["error"] for line in lines if line["status"] == "failed"), None)
        self.flags = [f"--config.{key}={value}" for key, value in self.drawn.items()]


def _mean(lines: list[Line], number: str) -> float | None:
    values = [line["numbers"].get(number) for line in lines]
    return None if None in values else statistics.fmean(values)


def found(study: Study, lines: Mapping[tuple[str, int], Line]) -> list[Found]:
    """Every trial, the best first; those that were pruned after those that finished, those that failed last."""
    names = sorted({change for change, _ in lines})
    made = [Found(study, name, [line for (change, _), line in lines.items() if change == name]) for name in names]
    sign = 1 if study.minimizes else -1
    return sorted(made, key=lambda t: (ORDER.index(t.status), math.inf if t.value is None else sign * t.value, t.name))


def count(trials: list[Found]) -> dict[str, int]:
    """{how trials ended: how many did}."""
    return {word: sum(trial.status == word for trial in trials) for word in ORDER}
