"""Bench: `python -m fmjax.bench --config=FILE[:variant] [--steps=30] [--config.a.b=value ...]` times training steps.

The steps are those of a run, data and metrics included; nothing is written but what is printed: a line to read, and
the same as JSON.
"""

import argparse
import json
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fmjax.core.errors import ConfigError, exits


def main(argv: list[str] | None = None) -> int:
    """Read the flags, take steps, print."""
    began = time.perf_counter()
    parser = argparse.ArgumentParser(prog="python -m fmjax.bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="a config file, with ':variant' where it has several")
    parser.add_argument("--steps", type=int, default=30, help="steps that are timed, after a few that are not")
    args, overrides = parser.parse_known_args(argv)
    if args.steps < 2:
        raise ConfigError(f"--steps={args.steps}: at least 2 steps make a time")

    from fmjax.start import start

    start()
    from fmjax.assembly import assemble, prepare

    config, _ = prepare(args.config, overrides)
    numbers = measure(assemble(config), args.steps, began)
    print(line(numbers))
    print(json.dumps(numbers))
    return 0


def measure(parts: Any, steps: int, began: float | None = None, warm: int = 3) -> dict[str, Any]:
    """Take `warm` steps and then `steps` that are timed.

    Returns:
      "step_p50_seconds", "step_p95_seconds" (from result to result, as the loop runs; of resident data the mean of
      each call), "examples_per_second", "tokens_per_second", "compile_seconds", "first_step_seconds" (since `began`),
      "host_share" (of a step's time, what is not the compiled step alone; None for resident data),
      "flops_per_step", "mfu" (of the device's published peak, where known), "of_matmul_rate" (of a square matrix
      product in the same dtype, measured now), "peak_memory_bytes" (of the device, or of this process on a CPU).
    """
    import jax

    from fmjax.assembly import flops_per_step
    from fmjax.plan import matmul_rate
    from fmjax.sharding.devices import peak_flops
    from fmjax.training.feed import feed_of
    from fmjax.training.meter import tokens_of

    program, data, dtype = parts.program, parts.data, parts.config.dtype
    if getattr(data, "buckets", None):
        raise ConfigError("batches of several lengths take several times: measure one length, --config.data.buckets=()")
    began = time.perf_counter() if began is None else began
    state = program.begin()
    feed = feed_of(program, data, min(parts.config.log.every, steps))
    step, intervals, pending, resident = 0, [], None, getattr(data, "resident", False)
    while step < warm + steps:
        want = 1 if step < warm else warm + steps - step
        state, packed, digests = feed.advance(state, step, step, want)
        if step == 0:
            jax.block_until_ready(packed)
            first = time.perf_counter() - began
        step += len(digests)
        if step <= warm:
            jax.block_until_ready(packed)
            mark = time.perf_counter()
            continue
        done = packed if resident else pending  # as the loop waits: for the step before, or for the whole call
        pending = packed
        if done is None:
            continue
        jax.block_until_ready(done)
        now = time.perf_counter()
        intervals += [(now - mark) / len(digests)] * len(digests)
        mark = now
    jax.block_until_ready(packed)
    seconds = statistics.mean(intervals)
    share = None if resident else _host_share(program, feed, state, step, seconds)
    feed.close()
    flops, tokens = flops_per_step(program), tokens_of(program.example)
    if program.objective.changes():
        flops = None
    peak, devices = peak_flops(dtype), jax.device_count()
    rate = flops / seconds / devices if flops else None
    return {
        "step_p50_seconds": statistics.median(intervals),
        "step_p95_seconds": sorted(intervals)[int(0.95 * (len(intervals) - 1))],
        "examples_per_second": data.batch_size / seconds,
        "tokens_per_second": data.batch_size * tokens / seconds if tokens else None,
        "compile_seconds": feed.compiled.seconds,
        "first_step_seconds": first,
        "host_share": share,
        "flops_per_step": flops,
        "mfu": rate / peak if rate and peak else None,
        "of_matmul_rate": rate / matmul_rate(dtype, 2048, 1.0) if rate else None,
        "peak_memory_bytes": _peak_memory(),
        "steps": len(intervals),
        "devices": devices,
        "device": jax.devices()[0].device_kind,
    }


def _host_share(program: Any, feed: Any, state: Any, step: int, seconds: float, rounds: int = 7) -> float:
    """The part of a step's time that the compiled step, given its batch again and again, does not need.

    Both ways take turns of half a second, so that a machine that slows down slows down both; the median over turns.
    """
    batch, held, steps = program.put(program.example), {"state": state, "step": step}, max(2, int(0.5 / seconds))

    def alone() -> Any:
        held["state"], packed = feed.compiled(held["state"], batch)
        return packed

    def whole() -> Any:
        held["state"], packed, digests = feed.advance(held["state"], held["step"], held["step"], 1)
        held["step"] += len(digests)
        return packed

    pairs = [(_seconds_each(alone, steps), _seconds_each(whole, steps)) for _ in range(rounds)]
    return statistics.median(1 - least / all_of_it for least, all_of_it in pairs)


def _seconds_each(take: Callable[[], Any], steps: int) -> float:
    """Seconds a step, waiting for the one before, as the loop does."""
    import jax

    began, pending = time.perf_counter(), []
    for _ in range(steps):
        pending.append(take())
        if len(pending) > 1:
            jax.block_until_ready(pending.pop(0))
    jax.block_until_ready(pending)
    return (time.perf_counter() - began) / steps


def _peak_memory() -> int:
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use") or own_peak()


def own_peak() -> int:
    """Bytes of memory that this process had at most."""
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` remembers the process that started this one
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def line(numbers: dict[str, Any]) -> str:
    """The numbers in words."""
    words = [
        f"step {1e3 * numbers['step_p50_seconds']:.3g} ms (p95 {1e3 * numbers['step_p95_seconds']:.3g})",
        f"{numbers['examples_per_second']:,.0f} examples/s",
    ]
    if numbers["tokens_per_second"]:
        words.append(f"{numbers['tokens_per_second']:,.0f} tokens/s")
    if numbers["mfu"]:
        words.append(f"MFU {numbers['mfu']:.1%}")
    if numbers["of_matmul_rate"]:
        words.append(f"{numbers['of_matmul_rate']:.1%} of the matrix-product rate")
    if numbers["host_share"] is not None:
        words.append(f"host {max(0.0, numbers['host_share']):.1%}")
    words.append(f"compile {numbers['compile_seconds']:.1f} s, first step after {numbers['first_step_seconds']:.1f} s")
    words.append(f"memory {numbers['peak_memory_bytes'] / 2**20:,.0f} MiB")
    return ", ".join(words)


if __name__ == "__main__":
    exits(main)()
