"""Durations: "5epochs", "10%", "20000examples", "300steps" become numbers of steps before anything is built."""

from typing import Any

from ml_collections import ConfigDict

from fmjax.core.config import DURATION, hints, load_callable, members, walk
from fmjax.core.errors import ConfigError


def steps_of(duration: str | int, examples: int, batch_size: int, total: int | None = None) -> int:
    """How many steps a duration lasts, at least 1 (0 for a duration of 0).

    Args:
      duration: a number of steps, or a string such as "5epochs".
      examples: rows of one epoch.
      batch_size: rows of one step.
      total: steps of the run, for percents.

    Raises:
      ConfigError: not a duration, or a percentage of itself.
    """
    if isinstance(duration, int):
        return duration
    found = DURATION.fullmatch(duration.strip())
    if not found:
        raise ConfigError(f"{duration!r} is no duration: write 300, 5epochs, 10% or 20000examples")
    number, unit = float(found[1]), found[2]
    if unit == "%" and total is None:
        raise ConfigError(f"--config.steps={duration} is a percentage of itself: give it in steps, epochs or examples")
    # A product, then one quotient: halves of a step are exact, so that 1epochs is as many steps as its examples.
    made = {"%": (number * (total or 0), 100), "e": (number * examples, batch_size), "x": (number, batch_size)}
    key = "%" if unit == "%" else "x" if unit == "examples" else unit[0]
    above, below = made.get(key, (number, 1))
    return max(1, round(above / below)) if number else 0


def resolve(config: ConfigDict, examples: int, batch_size: int) -> None:
    """Replace, in place, every duration of `config` by its number of steps."""
    total = steps_of(config.steps, examples, batch_size)
    if total < 1:
        raise ConfigError(f"--config.steps must be at least 1, not {total}")
    with config.ignore_type():
        config.steps = total
    for _, holder, key, value in walk(config):
        if isinstance(value, str) and DURATION.fullmatch(value) and _counts(holder, key):
            with holder.ignore_type():
                holder[key] = steps_of(value, examples, batch_size, total)


def _counts(holder: Any, key: Any) -> bool:
    """Whether the callable wants an integer here; a string that only looks like a duration stays."""
    if not isinstance(holder, ConfigDict) or "call" not in holder:
        return False
    return int in members(hints(load_callable(holder["call"])).get(key))
