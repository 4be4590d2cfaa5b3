"""A search space: for each key of a config the range that its value is drawn from, and how it is searched.

    Study(config=..., metric="test/accuracy", choose="validation/accuracy", seeds=(0,),
          space={"optimizer.rate.peak": log(1e-4, 1e-1), "optimizer.decay": uniform(0.0, 0.3),
                 "model.features": choice((64,), (128, 128))})

`python -m fmjax.search --study=FILE` draws from it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol

from fmjax.core.errors import ConfigError

SAMPLERS, PRUNERS = ("tpe", "random"), ("median", "hyperband")


class Range(Protocol):
    """What a value is drawn from; `str` of it is how it is written down."""

    def ends(self) -> tuple[Any, ...]:
        """Values that stand for all of it: both ends, or every choice."""

    def draw(self, trial: Any, key: str) -> Any:
        """The value of a key in a trial of Optuna's, which draws it or knows it."""


@dataclasses.dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`, both included; see `uniform`, `log` and `integer`."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        kinds = (int,) if self.whole else (int, float)
        if any(type(end) not in kinds or not math.isfinite(end) for end in (self.low, self.high)):
            raise ConfigError(f"{self} wants two {'whole' if self.whole else 'finite'} numbers")
        if self.low >= self.high:
            raise ConfigError(f"{self} is empty: the first number must be below the second")
        if self.log and self.low <= 0:
            raise ConfigError(f"{self} has no logarithm: start above 0")
        if not self.whole:
            object.__setattr__(self, "low", float(self.low))
            object.__setattr__(self, "high", float(self.high))

    def ends(self) -> tuple[float, ...]:
        return (self.low, self.high)

    def draw(self, trial: Any, key: str) -> float:
        suggest = trial.suggest_int if self.whole else trial.suggest_float
        return suggest(key, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        name = "integer" if self.whole else "log" if self.log else "uniform"
        return f"{name}({self.low!r}, {self.high!r}{', log=True' if self.whole and self.log else ''})"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values, in no order; see `choice`."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.words) < 2:
            raise ConfigError(f"{self} leaves nothing to choose: give two values or more")
        if twice := [word for i, word in enumerate(self.words) if word in self.words[:i]]:
            raise ConfigError(f"{self} has {twice[0]} twice")

    @property
    def words(self) -> list[str]:
        """The values as the command line takes them; a store has these."""
        from fmjax.study import written

        return [written(value) for value in self.values]

    def ends(self) -> tuple[Any, ...]:
        return self.values

    def draw(self, trial: Any, key: str) -> Any:
        return self.values[self.words.index(trial.suggest_categorical(key, self.words))]

    def __str__(self) -> str:
        return f"choice({', '.join(self.words)})"


def uniform(low: float, high: float) -> Between:
    """Every number between two, alike.

    Raises:
      ConfigError: the range is empty, here and in the others.
    """
    return Between(low, high)


def log(low: float, high: float) -> Between:
    """Every number between two, alike on a logarithmic scale: rates and decays."""
    return Between(low, high, log=True)


def integer(low: int, high: int, log: bool = False) -> Between:
    """Every whole number from `low` to `high`; alike on a logarithmic scale with `log`."""
    return Between(low, high, log, whole=True)


def choice(*values: Any) -> Choice:
    """One of these scalars, tuples or public callables."""
    return Choice(values)


@dataclasses.dataclass(frozen=True)
class Search:
    """How a space is searched.

    Attributes:
      sampler: "tpe", which learns from the trials that ended, or "random".
      prune: "median" ends a trial whose best evaluation so far is worse than the median of the others at that point;
        "hyperband" lets a part of the trials go on at each power of three evaluations; None ends none.
      startup: trials before the sampler learns, and before the median prunes.
      seed: of the sampler: trial k depends on it, on k and on what ended before.
    """

    sampler: str = "tpe"
    prune: str | None = None
    startup: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ConfigError(f"a search's sampler is {' or '.join(SAMPLERS)}, not {self.sampler!r}")
        if self.prune is not None and self.prune not in PRUNERS:
            raise ConfigError(f"a search's prune is None, {' or '.join(PRUNERS)}, not {self.prune!r}")
        if self.startup < 1 or self.seed < 0:
            raise ConfigError(f"a search wants a startup of 1 or more and no negative seed, not {self}")


def checked(space: Mapping[str, Range]) -> dict[str, Range]:
    """The space by bare keys.

    Raises:
      ConfigError: what stands there is no range, or the seed is in it.
    """
    made = {key.removeprefix("config."): values for key, values in space.items()}
    if "seed" in made:
        raise ConfigError("the space holds the seed: seeds are the study's own")
    for key, values in made.items():
        if not isinstance(values, (Between, Choice)):
            raise ConfigError(
                f"space, {key}: {values!r} is no range: write log(low, high), uniform(low, high), "
                "integer(low, high) or choice(value, ...)"
            )
    return made


def ends(space: Mapping[str, Range]) -> dict[str, dict[str, Any]]:
    """Changes that try every end of every range, the other keys at their first: {name: {key: value}}."""
    first = {key: values.ends()[0] for key, values in space.items()}
    made = {"the first of all": first}
    for key, values in space.items():
        for value in values.ends()[1:]:
            made[f"{key}={value}" if not callable(value) else f"{key}={value.__name__}"] = {**first, key: value}
    return made
