"""What a run folder says, read without jax, without the run's own code, and whatever state the run was left in."""

import dataclasses
import functools
import json
import math
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fmjax.core.errors import DataError
from fmjax.training.progress import duration
from fmjax.training.records import NO_METRIC, parse_lines, scan_records

STATES = ("running", "interrupted", "finished", "pruned", "failed")
LOST_AFTER = 60.0  # seconds without a heartbeat
_MARKS = ("config.json", "metrics.jsonl", "state")
LOWER = ("loss", "nll", "perplexity", "error", "ece", "bits", "brier", "divergence", "wer", "cer", "fid", "seconds")
PREFERRED = ("accuracy", "bits_per_byte", "loss")


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run, by its folder. A file that is missing or damaged reads as empty, and `problems` says so."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "SavedRun":
        """The run in this folder.

        Raises:
          DataError: there is no such folder, or it holds no run.
        """
        path = Path(path)
        if not path.is_dir():
            raise DataError(f"there is no run folder {path}")
        if not is_run(path):
            raise DataError(f"{path} is no run folder: it has none of {', '.join(_MARKS)}")
        return cls(path)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @functools.cached_property
    def problems(self) -> list[str]:
        """What is missing or damaged, found so far: one sentence each."""
        return []

    @functools.cached_property
    def records(self) -> list[dict[str, Any]]:
        """Every readable record."""
        if not (self.path / "metrics.jsonl").is_file():
            self.problems.append("metrics.jsonl is missing")
        records, damaged = scan_records(self.path / "metrics.jsonl")
        if damaged:
            lines = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
            self.problems.append(f"metrics.jsonl: {len(damaged)} damaged lines left out (line {lines})")
        return records

    def kind(self, kind: str) -> list[dict[str, Any]]:
        """The records of one kind: train, eval, event or start."""
        return [r for r in self.records if r.get("kind") == kind]

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config as plain data, sequences as tuples."""
        return _tuples(self._json("config.json").get("config", {}))

    @functools.cached_property
    def overrides(self) -> dict[str, Any]:
        return self._json("overrides.json")

    @functools.cached_property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json")

    @property
    def steps(self) -> int | None:
        """How many steps the run is to take."""
        steps = self.config.get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def command(self) -> str:
        """The command line that started the run, as typed, where the environment has it."""
        words = self.environment.get("command")
        words = [str(w) for w in words] if isinstance(words, list) else str(words or "").split()
        if words and words[0] in ("train.py", "crossval.py"):
            words = ["python", "-m", f"fmjax.{words[0].removesuffix('.py')}", *words[1:]]
        return shlex.join(words)

    @functools.cached_property
    def state(self) -> str:
        """The word in the file `state`, or "unknown"."""
        try:
            word = (self.path / "state").read_text(errors="replace").strip()
        except OSError:
            word = ""
        return word if word in STATES else "unknown"

    def silence(self, now: float | None = None) -> float:
        """Seconds since the last heartbeat (since the state was written, where there is none)."""
        try:
            beat = float((self.path / "heartbeat").read_text())
        except (OSError, ValueError):
            beat = max((_modified(self.path / name) for name in ("heartbeat", "state")), default=0.0)
        return max((time.time() if now is None else now) - beat, 0.0) if math.isfinite(beat) else math.inf

    def status(self, now: float | None = None) -> str:
        """The state, or "lost (no heartbeat for ...)" for a run that says it is running and is not."""
        if self.state == "running" and self.silence(now) > LOST_AFTER:
            return f"lost (no heartbeat for {duration(self.silence(now))})"
        return self.state

    def age(self, now: float | None = None) -> float:
        """Seconds since the run last changed anything."""
        last = max(_modified(self.path / name) for name in ("state", "metrics.jsonl", "config.json", "heartbeat"))
        return max((time.time() if now is None else now) - last, 0.0)

    def wall_seconds(self) -> float:
        """Time the run was at work, by its records: the way to each first step counts, a pause before it does not."""
        total, last = 0.0, None
        for record in self.records:
            now, first = record.get("time"), record.get("first_step_seconds")
            if record.get("kind") == "start" and isinstance(first, (int, float)) and math.isfinite(first):
                total += first
            if not isinstance(now, (int, float)) or not math.isfinite(now):
                continue
            resumed = record.get("event") == "resumed" or (record.get("kind") == "start" and record.get("step", 0))
            if last is not None and not resumed:
                total += max(now - last, 0.0)
            last = now
        return total

    def series(self, kind: str) -> dict[str, tuple[list[int], list[float]]]:
        """{metric: (steps, values)} of the train or eval records, in the order of their first appearance."""
        found: dict[str, tuple[list[int], list[float]]] = {}
        for record in self.kind(kind):
            step = record.get("step", 0)
            for name, value in record.items():
                if type(value) in (float, int) and name not in NO_METRIC:
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(step)
                    values.append(
                        float(value) if abs(value) < 1e308 or value != value else math.copysign(math.inf, value)
                    )
        return found

    def glance(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """(last train record, eval records), without parsing every line of a long run."""
        last, evals = b"", []
        try:
            with open(self.path / "metrics.jsonl", "rb") as file:
                for line in file:
                    if b'"eval"' in line and line.endswith(b"\n"):
                        evals.append(line)
                    elif b'"train"' in line and line.endswith(b"\n"):
                        last = line
        except OSError:
            pass
        records, _ = parse_lines([*evals, last])
        train = next((r for r in reversed(records) if r.get("kind") == "train"), {})
        return train, [r for r in records if r.get("kind") == "eval"]

    def artifacts(self) -> dict[str, tuple[int, dict[str, Any]]]:
        """{evaluator: (step, arrays)}: the latest that each evaluator left."""
        found: dict[str, tuple[int, dict[str, Any]]] = {}
        for folder in _by_step(self.path / "artifacts"):
            for file in sorted(folder.glob("*.json")):
                data = self._json(str(file.relative_to(self.path)))
                if data:
                    found[file.stem] = (int(folder.name), data)
        return found

    def samples(self) -> list[tuple[int, str]]:
        """[(step, text)] of the samples, earliest first."""
        files = _by_step(self.path / "samples", ".txt")
        return [(int(f.stem), f.read_text(encoding="utf-8", errors="replace")) for f in files]

    def _json(self, name: str) -> dict[str, Any]:
        try:
            data = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            self.problems.append(f"{name} is missing")
            return {}
        except (OSError, ValueError, RecursionError) as error:
            self.problems.append(f"{name} is damaged: {error}")
            return {}
        if not isinstance(data, dict):
            self.problems.append(f"{name} is damaged: it holds no object")
            return {}
        return data


def is_run(path: Path) -> bool:
    """Whether a folder holds a run: a config alone may be anything's."""
    return (path / "metrics.jsonl").is_file() or ((path / "config.json").is_file() and (path / "state").is_file())


def find(folder: Path, depth: int = 4) -> Iterator[SavedRun]:
    """The runs in a folder and below it, by name; a run is not searched for others."""
    if is_run(folder):
        yield SavedRun(folder)
    elif depth > 0:
        try:
            inner = sorted(
                p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and not p.is_symlink()
            )
        except PermissionError:
            return
        for path in inner:
            yield from find(path, depth - 1)


def labels(runs: list[SavedRun]) -> list[str]:
    """A name for each run: as much of the end of its path as tells it from the others."""
    paths = [run.path.resolve().parts for run in runs]
    for length in range(1, max(map(len, paths), default=0) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [run.name for run in runs]


def is_about(name: str, names: Any) -> bool:
    """Whether a number is the standard error or an interval's end of another of these."""
    return any(name.endswith(end) and name.removesuffix(end) in names for end in ("_se", "_low", "_high"))


def lower_is_better(name: str, run: SavedRun | None = None) -> bool:
    """Whether less of a metric is better: as the run's config has it, else by the metric's name."""
    for section in _goals(run):
        if name in section.values() and section.get("mode") in ("min", "max"):
            return section["mode"] == "min"
    last = name.rsplit("/", 1)[-1]
    return any(word in last for word in LOWER)


def best(steps: list[int], values: list[float], lower: bool) -> tuple[int, float] | None:
    """(step, value) of the best of a metric; None when no value is finite."""
    pairs = [(value, step) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    if not pairs:
        return None
    value, step = min(pairs) if lower else max(pairs, key=lambda pair: (pair[0], -pair[1]))
    return step, value


def watched(run: SavedRun, names: Any) -> str | None:
    """The eval number that stands for a run: the one it stops or keeps by, else an accuracy, else a loss."""
    names = [n for n in names if not is_about(n, names)]
    for section in _goals(run):
        for value in section.values():
            if isinstance(value, str) and value in names:
                return value
    for word in PREFERRED:
        found = [n for n in names if n.rsplit("/", 1)[-1] == word]
        if found:
            return min(found, key=lambda n: (not n.startswith("val"), n.startswith("train")))
    return next(iter(names), None)


def _goals(run: SavedRun | None) -> list[dict[str, Any]]:
    """The parts of a config that say which metric counts, and which way."""
    sections = [run.config.get(key) for key in ("early_stop", "checkpoint")] if run else []
    return [section for section in sections if isinstance(section, dict)]


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _by_step(folder: Path, suffix: str = "") -> list[Path]:
    """What a folder holds by step: `100`, or `100.txt`."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.stem.isdecimal() and p.suffix == suffix]
    return sorted(found, key=lambda p: int(p.stem))
