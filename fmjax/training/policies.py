"""What a run does about time, trouble and success: logging, values that are not finite, stopping early."""

import collections
import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Protocol

from fmjax.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Log:
    """How often metrics are fetched from the devices, and where they go.

    Attributes:
      every: steps between fetches; every step has its record, written within this many steps.
      tensorboard: also write TensorBoard events.
      progress: also draw a progress line.
    """

    every: int = 20
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"--config.log.every must be at least 1, not {self.every}")


@dataclasses.dataclass(frozen=True)
class Nan:
    """What happens when a loss or gradient is not finite, or the loss jumps.

    Attributes:
      action: "stop" ends the run with the last good checkpoint kept; "skip" leaves the weights as they were (decided
        inside the step); "rollback" restores the last checkpoint and passes over the batches seen since.
      spike: a loss above this many times the median of the last 50 also counts, under "rollback"; 0 is off.
      limit: so many skips in a row, or rollbacks in a run, end it.
    """

    action: str = "stop"
    spike: float = 0.0
    limit: int = 10

    def __post_init__(self) -> None:
        if self.action not in ("stop", "skip", "rollback"):
            raise ConfigError(f"--config.nan.action is stop, skip or rollback, not {self.action!r}")
        if self.spike and self.action != "rollback":
            raise ConfigError("--config.nan.spike needs --config.nan.action=rollback")
        if self.limit < 1 or self.spike < 0:
            raise ConfigError(f"--config.nan wants a limit of 1 or more and no negative spike, not {self}")


class SpikeWatch:
    """Remembers recent losses, and says when one jumps."""

    def __init__(self, times: float) -> None:
        self.times = times
        self.recent: collections.deque = collections.deque(maxlen=50)

    def jumped(self, loss: float) -> bool:
        """Whether `loss` is a spike; if not, it is remembered."""
        if not self.times:
            return False
        if len(self.recent) >= 10 and loss > self.times * statistics.median(self.recent):
            return True
        self.recent.append(loss)
        return False


@dataclasses.dataclass(frozen=True)
class EarlyStop:
    """Stop when a number of an evaluation has not improved for `patience` evaluations.

    Attributes:
      metric: "evaluator/number".
      mode: whether more ("max") or less ("min") is better.
      patience: evaluations without improvement that end the run.
      delta: an improvement smaller than this is none.
      restore: finish with the best weights rather than the last.
    """

    metric: str = "validation/loss"
    mode: str = "min"
    patience: int = 5
    delta: float = 0.0
    restore: bool = True

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ConfigError(f"--config.early_stop.mode is min or max, not {self.mode!r}")
        if self.patience < 1 or self.delta < 0:
            raise ConfigError(f"--config.early_stop wants a patience of 1 or more and no negative delta, not {self}")


class Patience:
    """Follows the number of an `EarlyStop`; rebuilt from the records of a resumed run."""

    def __init__(self, rule: EarlyStop) -> None:
        self.rule, self.waited = rule, 0
        self.best = math.inf if rule.mode == "min" else -math.inf

    def see(self, numbers: dict[str, float]) -> bool:
        """Take in one evaluation; True when this is the best so far.

        Raises:
          ConfigError: a full evaluation that has no such number.
        """
        value = numbers[self.rule.metric]
        gain = self.best - value if self.rule.mode == "min" else value - self.best
        if gain > self.rule.delta:
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        return False

    @property
    def over(self) -> bool:
        return self.waited >= self.rule.patience


class Judge(Protocol):
    """Says whether a run goes on, from the numbers of its evaluations.

    A resumed run shows it the evaluations before its checkpoint again, in their order. Where several processes train
    together each has a judge, and all must decide alike.

    Attributes:
      over: whether the run is to end now.
    """

    over: bool

    def see(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take in what was evaluated after a step, {"evaluator/number": value}."""
