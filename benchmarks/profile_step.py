"""What a training step spends its time on: `python benchmarks/profile_step.py NAME [--top=N]` prints the costliest ops.

Takes steps of a case of benchmarks/steps.py or vision_steps.py (these need the extra `oracle`) under JAX's profiler, on
the device that jax has, and adds up the time of every operation of the compiled step: those of one kind, with the same
result and from the same place of the network, are one line, whichever block they belong to. Time is an operation's own,
without that of operations inside it, and summed over threads and streams, so that the sum can exceed the step's seconds
where they overlap. Writes no rows.
"""

import gzip
import json
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import step_cases
import step_ours
import turns
import vision_steps
from step_cases import CASES

from fmjax.core.errors import ConfigError, exits

OTHERS = "other operations"


class Kind(NamedTuple):
    """Operations that are told together.

    Attributes:
      op: name in the compiled program, without its number.
      result: dtype and shape.
      place: where in the traced program it comes from, blocks without their numbers.
    """

    op: str
    result: str = ""
    place: str = ""


class Cost(NamedTuple):
    """What operations of one kind take of a step."""

    milliseconds: float
    count: float


def kinds(text: str) -> dict[str, Kind]:
    """{operation: its kind} of a compiled program's text."""
    found = {}
    for line in text.splitlines():
        if known := re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (\([^)]*\)|\S+)", line):
            op, result = known.groups()
            place = re.search(r'op_name="([^"]*)"', line)
            found[op] = Kind(bare(op), re.sub(r"\{[^}]*\}", "", result), general(place[1]) if place else "")
    return found


def bare(op: str) -> str:
    """The name of an operation without its number: "fusion" of "fusion.12.clone"."""
    return re.sub(r"(\.(\d+|clone))+$", "", op)


def general(place: str) -> str:
    """A place in the traced program without the names of methods, and without the number of the block."""
    parts = [part for part in place.removeprefix("jit(packed)/").split("/") if not re.fullmatch(r"\w+\.\w+", part)]
    return re.sub(r"_\d+\b", "_*", "/".join(parts))


def own_times(events: Iterable[Mapping[str, Any]]) -> dict[str, Cost]:
    """{operation: milliseconds of its own in all, times it ran} of a trace's events."""
    threads, streams = defaultdict(list), set()
    for event in events:
        place, told = (event.get("pid"), event.get("tid")), event.get("args", {})
        if event.get("ph") == "X" and "hlo_op" in told:
            threads[place].append((event["ts"], -event["dur"], told["hlo_op"]))
        elif event.get("name") == "thread_name" and told.get("name", "").startswith("Stream"):
            streams.add(place)
    if streams:  # of a GPU; the trace tells what ran there a second time, by operation
        threads = {place: ran for place, ran in threads.items() if place in streams}
    spent: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for events_of_one in threads.values():
        open_ones: list[tuple[float, str]] = []  # (end, operation) of those that hold the next one
        for start, negative, op in sorted(events_of_one):
            while open_ones and open_ones[-1][0] <= start:
                open_ones.pop()
            if open_ones:
                spent[open_ones[-1][1]] += negative / 1e3
            spent[op] -= negative / 1e3
            count[op] += 1
            open_ones.append((start - negative, op))
    return {op: Cost(spent[op], count[op]) for op in spent}


def grouped(times: Mapping[str, Cost], known: Mapping[str, Kind], steps: int) -> dict[Kind, Cost]:
    """What each kind takes of a step, the costliest first."""
    found: dict[Kind, Cost] = {}
    for op, cost in times.items():
        kind = known.get(op, Kind(bare(op)))
        before = found.get(kind, Cost(0.0, 0.0))
        found[kind] = Cost(before.milliseconds + cost.milliseconds / steps, before.count + cost.count / steps)
    return dict(sorted(found.items(), key=lambda item: -item[1].milliseconds))


def table(found: Mapping[Kind, Cost], top: int) -> list[str]:
    """A line for each of the costliest kinds, and one for the rest."""
    total = sum(cost.milliseconds for cost in found.values())
    first, rest = list(found.items())[:top], list(found.items())[top:]
    if rest:
        costs = [cost for _, cost in rest]
        first.append((Kind(OTHERS), Cost(sum(c.milliseconds for c in costs), sum(c.count for c in costs))))
    return [
        f"{cost.milliseconds:9.3f} ms {cost.milliseconds / total:6.1%} {cost.count:5.0f} x  "
        + "  ".join(filter(None, kind))
        for kind, cost in first
    ]


def profile(name: str, steps: int, dtype: str | None = None) -> tuple[float, dict[Kind, Cost]]:
    """(seconds of a step under the profiler, what each kind of operation takes of it).

    Raises:
      ConfigError: the profiler saw no operations.
    """
    program, batch = _program(name, dtype)
    step, state, on_device = program.compile(), program.begin(), program.put(batch)
    for _ in range(2):
        state, told = step(state, on_device)
    jax.block_until_ready(told)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            began = time.perf_counter()
            for _ in range(steps):
                state, told = step(state, on_device)
                jax.block_until_ready(told)
            seconds = (time.perf_counter() - began) / steps
        events = [e for path in Path(folder).rglob("*.trace.json.gz") for e in _events(path)]
    if not (times := own_times(events)):
        raise ConfigError("the profiler saw no operations; on a GPU, try XLA_FLAGS=--xla_gpu_enable_command_buffer=")
    return seconds, grouped(times, kinds(step.executable.as_text()), steps)


def _program(name: str, dtype: str | None) -> tuple[Any, Any]:
    if name in CASES:
        (batch,) = step_cases.batches(CASES[name], 1)
        return step_ours.program(CASES[name], batch, dtype=dtype), batch
    if dtype:
        raise ConfigError(f"{name} is float32 only: leave --precision out, or profile vit_b16 or resnet50")
    with tempfile.TemporaryDirectory() as folder:
        _, images, labels = vision_steps.prepared(name, folder)
        return vision_steps.our_program(folder, images, labels)


def _events(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)["traceEvents"]


def main(argv: list[str] | None = None) -> int:
    """Profile the named cases."""
    more = {
        "--top": {"type": int, "default": 20, "help": "kinds of operations that are told"},
        "--precision": {"choices": ("float32", "bfloat16"), "default": "float32"},
    }
    names = [*CASES, *vision_steps.CASES]
    args = turns.arguments(argv, main.__doc__, names, 4, "steps", "gpt_10m", more)
    dtype = args.precision if args.precision != "float32" else None

    def show(name: str) -> None:
        seconds, found = profile(name, args.repeats, dtype)
        total = sum(cost.milliseconds for cost in found.values())
        print(f"{name}: {1e3 * seconds:.3f} ms a step under the profiler, {total:.3f} ms in its operations")
        print("\n".join(table(found, args.top)), flush=True)

    return turns.each(args.names or ["gpt_10m"], show)


if __name__ == "__main__":
    sys.exit(exits(main)())
