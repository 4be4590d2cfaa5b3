"""What steps report: fetched a little late, so that the devices never wait for the host, and how fast they go."""

import dataclasses
import time
from collections.abc import Mapping

import jax
import numpy as np

from fmjax.training.program import CompiledStep


@dataclasses.dataclass
class Measured:
    """The metrics of one step, on the host."""

    step: int
    time: float
    digest: str
    numbers: dict[str, float]
    finite: bool


class Meter:
    """Holds dispatched steps until their metrics are fetched; its clock runs only while steps are.

    Args:
      rows: examples a step.
      length: tokens an example stands for, 0 when it holds none.
      costs: "flops_per_step" and "peak_flops" (of all devices), where they are known.
    """

    def __init__(self, rows: int, length: int, costs: Mapping[str, float | None]) -> None:
        self.rows, self.length, self.costs = rows, length, dict(costs)
        self._pending: list[tuple[int, float, list[str], jax.Array]] = []
        self._busy, self._counted, self._mark = 0.0, 0, time.perf_counter()

    def resume(self) -> None:
        """Start the clock: steps follow."""
        self._mark = time.perf_counter()

    def pause(self) -> None:
        """Stop it: something else follows."""
        self._busy += time.perf_counter() - self._mark

    def add(self, step: int, packed: jax.Array, digests: list[str], first: bool) -> None:
        """Take in what was dispatched up to `step`, a digest a step; returns when at most two steps are in flight."""
        self._pending.append((step, time.time(), digests, packed))
        if len(digests) > 1:  # the next call is a moment's work beside so many steps
            jax.block_until_ready(packed)
            self._counted += len(digests)
        elif len(self._pending) > 1 and not first:
            jax.block_until_ready(self._pending[-2][3])
            self._counted += 1

    def drop(self) -> None:
        """Forget what was not fetched."""
        self._pending.clear()

    def drain(self, compiled: CompiledStep, keep: int) -> tuple[list[Measured], dict[str, float]]:
        """Fetch all but the last `keep` calls; and the speed since the last time, {} where nothing was timed."""
        ready, self._pending = self._pending[: len(self._pending) - keep], self._pending[len(self._pending) - keep :]
        if not ready:
            return [], {}
        seconds, self._busy, counted, self._counted = self._busy, 0.0, self._counted, 0
        out = []
        for (last, when, digests, _), packed in zip(ready, jax.device_get([r[3] for r in ready]), strict=True):
            for step, digest, row in zip(
                range(last - len(digests) + 1, last + 1), digests, packed.reshape(-1, 2 * len(compiled.names))
            ):
                out.append(Measured(step, when, digest, *judged(compiled.unpack(row))))
        return out, self._speed(seconds / counted) if counted else {}

    def _speed(self, seconds: float) -> dict[str, float]:
        out = {"step_seconds": seconds, "examples_per_second": self.rows / seconds}
        if self.length:
            out["tokens_per_second"] = self.rows * self.length / seconds
        flops, peak = self.costs.get("flops_per_step"), self.costs.get("peak_flops")
        if flops and peak:
            out["mfu"] = flops / seconds / peak
        return out


def tokens_of(example: Mapping[str, np.ndarray]) -> int:
    """Tokens that a row of a batch of texts stands for: those it predicts from, and those of a decoder."""
    tokens, targets = np.shape(example.get("tokens", 0)), np.shape(example.get("targets", 0))
    if len(tokens) != 2:
        return 0
    decoded = targets[1] if "target_segment_ids" in example else 0
    return tokens[1] + decoded - (0 if "targets" in example else 1)


def judged(metrics: Mapping[str, float]) -> tuple[dict[str, float], bool]:
    """(the numbers of a step, whether all that it computed was finite): a step says both in its metrics."""
    verdicts = {name for name in metrics if name.rpartition("/")[2] == "nonfinite"}
    return {k: v for k, v in metrics.items() if k not in verdicts}, not any(metrics[name] for name in verdicts)
