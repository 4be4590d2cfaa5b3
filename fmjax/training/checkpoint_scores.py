"""Which saved step is the best so far, remembered in a file beside the checkpoints."""

import json
import logging
import math
from collections.abc import Collection
from pathlib import Path

from fmjax.training import checkpoint_folder as folders

log = logging.getLogger(__name__)


class Scores:
    """{step: value} of one metric.

    Attributes:
      path: the file.
      name: what the values are; those of another metric in the file are set aside.
      mode: "max" or "min"; None reads whatever metric the file holds.
    """

    def __init__(self, path: Path, name: str | None = None, mode: str | None = None):
        self.path, self.name, self.mode = path, name, mode or "max"
        self.values: dict[int, float] = {}
        if not path.is_file():
            return
        try:
            there, values = read(path)
            if mode is not None and there != (name, mode):
                raise ValueError(f"it holds the {there[1]} of {there[0]}, not the {mode} of {name}")
            (self.name, self.mode), self.values = there, values
        except ValueError as error:
            log.warning("%s is set aside (%s): the best so far is counted anew", path, error)

    def best(self, among: Collection[int]) -> int | None:
        """The best of these steps; the earliest of equals, None when none has a value."""
        known = sorted(self.values.keys() & set(among))
        sign = 1 if self.mode == "max" else -1
        return max(known, key=lambda step: sign * self.values[step]) if known else None

    def beats(self, step: int, value: float, among: Collection[int]) -> bool:
        """Whether `value` at `step` is better than at every other of these steps; only a finite one can be."""
        best = self.best(set(among) - {step})
        if best is None or not math.isfinite(value):
            return math.isfinite(value)
        return value > self.values[best] if self.mode == "max" else value < self.values[best]

    def note(self, step: int, value: float) -> None:
        self.values.pop(step, None)
        if math.isfinite(value):
            self.values[step] = float(value)

    def write(self) -> None:
        values = {str(step): self.values[step] for step in sorted(self.values)}
        data = {"name": self.name, "mode": self.mode, "values": values}
        data["sha256"] = folders.digest_of(json.dumps(data).encode())
        folders.write(self.path, json.dumps(data, indent=1) + "\n")


def read(path: Path) -> tuple[tuple[str | None, str], dict[int, float]]:
    """((name, mode), {step: value}) of a file.

    Raises:
      ValueError: it is damaged.
    """
    try:
        data = json.loads(path.read_bytes())
        noted = data.pop("sha256")
        values = {int(step): float(value) for step, value in data["values"].items()}
        metric = (data["name"], data["mode"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("damaged") from None
    if noted != folders.digest_of(json.dumps(data).encode()):
        raise ValueError("damaged")
    return metric, values
