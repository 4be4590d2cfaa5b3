"""Progress: how far a run is, for whoever watches it, and numbers as people read them."""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from fmjax.training.records import NO_METRIC, numbers

_BLOCKS, _TRACK = " ▏▎▍▌▋▊▉█", "·"
_SPEEDS = {"examples_per_second": "examples/s", "tokens_per_second": "tokens/s"}


class Progress:
    """Say on the terminal how far a run is: one line redrawn, or plain lines when the stream is no terminal.

    Args:
      total: steps of the whole run.
      stream: where to; standard error when not given.
      seconds: how often at most to redraw; by default 0.1 on a terminal. A plain line comes every 30, and at every
        tenth of the run.
      clock: seconds, for the redrawing.
    """

    def __init__(
        self,
        total: int,
        stream: TextIO | None = None,
        seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.stream, self.clock = total, stream or sys.stderr, clock
        self.live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.seconds = seconds if seconds is not None else (0.1 if self.live else 30.0)
        self._encoding = getattr(self.stream, "encoding", None) or "utf-8"
        plain = _encodable(_BLOCKS + _TRACK, self._encoding) != _BLOCKS + _TRACK
        self._blocks, self._track = (" #", ".") if plain else (_BLOCKS, _TRACK)
        self._deaf = False
        self._last: Mapping[str, Any] = {}
        self._speeds: dict[str, Any] = {}
        self._shown = -1
        self._began: tuple[float, int] | None = None
        self._due, self._mark = -math.inf, 0

    def write(self, record: Mapping[str, Any]) -> None:
        """Take note of a train record, and redraw when it is time; say every other record at once."""
        if record.get("kind") != "train":
            text = _sentence(record)
            if text:
                self.say(text)
            return
        now, step = self.clock(), record.get("step", 0)
        self._last = record
        for key in _SPEEDS:  # measured now and then, and shown until the next time
            if key in record:
                self._speeds[key] = record[key]
        if self._began is None:
            self._began = (record.get("time", now), step)
        if now >= self._due or step >= self._mark:
            self._draw(now)

    def say(self, text: str) -> None:
        """Print a line of its own, above the bar."""
        if self.live:
            self._put(f"\r\x1b[K{_printable(text)}\n")
            if self._last:
                self._draw(self.clock())
        else:
            self._put(_printable(text) + "\n")

    def truncate_after(self, step: int) -> None:
        """Measure the time left afresh: the steps after `step` are done again."""
        self._last, self._began, self._mark, self._due, self._shown = {}, None, 0, -math.inf, -1

    def close(self) -> None:
        """Show the last record, and leave the line."""
        if self._last and (self.live or self._shown != self._last.get("step")):
            self._draw(self.clock())
        if self.live and self._last:
            self._put("\n")
        self._last = {}

    def _draw(self, now: float) -> None:
        record, step = self._last, int(self._last.get("step", 0))
        share = min(step / self.total, 1.0) if self.total > 0 else 1.0
        tenth = max(self.total / 10, 1)
        self._due = now + self.seconds
        self._mark = self.total if self.live else (math.floor(step / tenth) + 1) * tenth
        if step >= self.total:
            self._mark = math.inf
        self._shown = step
        parts = [f"loss {amount(record['loss'])}"] if "loss" in record else []
        parts += [f"ETA {duration(self._left(record.get('time', now), step))}"] if step < self.total else []
        parts += [f"{compact(self._speeds[key])} {unit}" for key, unit in _SPEEDS.items() if key in self._speeds]
        parts += [f"rate {float(record['rate']):.2e}"] if "rate" in record else []
        if not self.live:
            self._put(_printable("  ".join([f"step {step}/{self.total} ({share:.0%})", *parts])) + "\n")
            return
        width = shutil.get_terminal_size().columns - 1
        while parts and len(head := f"{share:4.0%}  {step}/{self.total}  {'  '.join(parts)}") + 12 > width:
            parts.pop()
        head = f"{share:4.0%}  {step}/{self.total}  {'  '.join(parts)}"
        bar = self._bar(share, max(min(width - len(head) - 3, 40), 0))
        self._put("\r" + _printable(head[:4] + " " + bar + head[4:])[:width] + "\x1b[K")

    def _left(self, now: float, step: int) -> float:
        """Seconds to the end at the pace so far, by the records' own times: they come in bursts."""
        then, first = self._began or (now, step)
        return (self.total - step) * (now - then) / (step - first) if step > first else math.nan

    def _bar(self, share: float, width: int) -> str:
        cells = len(self._blocks) - 1
        full, part = divmod(round(share * width * cells), cells)
        return (self._blocks[-1] * full + (self._blocks[part] if part else "")).ljust(width, self._track)

    def _put(self, text: str) -> None:
        if self._deaf:
            return
        try:
            self.stream.write(_encodable(text, self._encoding))
            self.stream.flush()
        except (OSError, ValueError):  # a closed terminal or pipe: nobody listens any more, and the run goes on
            self._deaf = True


def amount(value: Any) -> str:
    """A loss or a metric for people: 4 decimals, or an exponent where those would hide it."""
    value = float(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5 or not math.isfinite(value):
        return f"{value:.4f}"
    return f"{value:.3e}"


def compact(value: Any) -> str:
    """A count for people, in three digits: 12.3k, 4.56M."""
    value = float(value)
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time for people: 0:42, 12:05, 3:04:05, 2d 03:04; "?" when unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, s = divmod(round(max(seconds, 0)), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02d}:{m:02d}"
    return f"{h}:{m:02d}:{s:02d}" if h else f"{m}:{s:02d}"


def _sentence(record: Mapping[str, Any]) -> str:
    """A record that is no train record as one line for people; "" for one not worth a line."""
    kind, step = record.get("kind"), record.get("step", 0)
    if kind == "eval":
        groups: dict[str, list[str]] = {}
        found = numbers(record)
        for key, value in found.items():
            if key.endswith("_se") and key[:-3] in found:
                continue  # said behind its number
            evaluator, _, metric = key.rpartition("/")
            error = f" ± {amount(found[f'{key}_se'])}" if f"{key}_se" in found else ""
            groups.setdefault(evaluator, []).append(f"{metric} {amount(value)}{error}")
        return f"eval  step {step}  " + "  ".join(
            f"{k}: {', '.join(v)}" if k else ", ".join(v) for k, v in groups.items()
        )
    if kind == "start":
        words = [f"from step {step}"]
        if "first_step_seconds" in record:
            words.append(f"first step after {float(record['first_step_seconds']):.1f} s")
        if "compile_seconds" in record:
            words.append(f"compiled in {float(record['compile_seconds']):.1f} s")
        words += [f"{compact(record['parameters'])} parameters"] if "parameters" in record else []
        if record.get("frozen_parameters"):
            words.append(f"{compact(record['frozen_parameters'])} frozen")
            words.append(f"{compact(record['optimizer_bytes'])}B of optimizer")
        words += [f"{compact(record['flops_per_step'])}FLOP a step"] if record.get("flops_per_step") else []
        return "start " + ", ".join(words)
    if kind != "event" or record.get("event") == "saved":
        return ""
    rest = [f"{k} {v}" for k, v in record.items() if k not in NO_METRIC and k != "event"]
    return f"{record.get('event')} at step {step}" + (": " + ", ".join(rest) if rest else "")


def _printable(text: str) -> str:
    """Without control characters: a metric's name cannot move the cursor."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _encodable(text: str, encoding: str) -> str:
    """With "?" for what the stream's encoding does not have."""
    return text.encode(encoding, "replace").decode(encoding)
