"""Seconds a training step beside PyTorch: `python benchmarks/steps.py [NAME ...]`, in turns, from the same weights.

Forward, backward and AdamW, float32, without dropout: by fmjax's step, as a run takes it, by PyTorch, and by PyTorch
with `torch.compile`, in one process with the same number of threads. The networks on the other side are those of
transformers, and nn.LSTM, nn.Linear, nn.Conv2d (channels last). The row is fmjax's seconds; its baseline is the faster
of the peers. All sides say the losses of every step, which must agree. A network of 10M weights or more also has the
row `ceiling_NAME`: the share of the machine's matrix products, 2048 x 2048 x 2048 in float32, the best of the two
libraries measured in the same run. Needs the extra `oracle`.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import step_torch
import turns
from step_cases import CASES, Case, batches

from fmjax import results
from fmjax.core.errors import ConfigError, exits, extra

TOLERANCE = 1e-2  # of a loss, at every step; parts differ in the order of sums
PRODUCT = 2048


def measure(name: str, repeats: int, compiled: bool, write: bool) -> None:
    """One step, in turns; its rows."""
    case = CASES[name]
    torch = extra("torch", "oracle")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    ways, program = sides(case, compiled)
    found = turns.take(ways, repeats)
    same = turns.compare_losses(name, {way: turns.flat(x) for way, x in found.said.items()}, TOLERANCE)
    found = found.per(case.steps)
    note = f"{turns.told(found)} ({case.steps} steps a call); {same}"
    print(f"{name}: {note}", flush=True)
    shared = {"command": f"python benchmarks/steps.py {name}", "repeats": repeats}
    if write:
        results.write_row(
            f"step_{name}",
            task=f"training step of {case.words}, float32, AdamW",
            metric="seconds",
            values=found.seconds[turns.OURS],
            baseline=turns.baseline(found, *step_torch.packages(case)),
            note=note,
            **shared,
        )
    if not case.large:
        return
    shares, note = ceiling(program, found.seconds[turns.OURS])
    print(f"{name}: {statistics.median(shares):.1%} of the ceiling; {note}", flush=True)
    if write:
        results.write_row(
            f"ceiling_{name}",
            task=f"training step of {case.words}, float32: share of the machine's matrix products",
            metric="share",
            values=shares,
            note=note,
            **shared,
        )


def sides(case: Case, compiled: bool = True) -> tuple[dict[str, Any], Any]:
    """({way: what takes its steps}, fmjax's program), all from the same weights."""
    import step_ours

    given, program = batches(case), same_weights(case)
    ways = {turns.OURS: step_ours.step(case, program, given)}
    ways["PyTorch"] = step_torch.step(case, step_torch.network(case), given)
    if compiled:
        ways["torch.compile"] = step_torch.step(case, step_torch.network(case), given, compiled=True)
    return ways, program


def same_weights(case: Case) -> Any:
    """The program that begins with the weights of PyTorch's network."""
    import step_ours

    from fmjax import pretrained

    with tempfile.TemporaryDirectory() as folder:
        tensors = step_torch.save(case, step_torch.network(case), Path(folder))
        initial = step_ours.Tensors(case.network, tensors) if tensors else pretrained.weights(path=folder)
        program = step_ours.program(case, batches(case, 1)[0], initial)
        _ = program.given  # read before the folder goes
    return program


def ceiling(program: Any, seconds: list[float]) -> tuple[list[float], str]:
    """(share of the machine's matrix products at each step, a note)."""
    from fmjax.assembly import flops_per_step
    from fmjax.plan import matmul_rate

    rates = {turns.OURS: matmul_rate("float32", PRODUCT, 1.0), "PyTorch": torch_matmul_rate()}
    flops = flops_per_step(program)
    if flops is None:
        raise ConfigError("the network does not tell its FLOPs")
    told = turns.words({way: rate / 1e9 for way, rate in rates.items()}, "GFLOP/s")
    note = f"{flops / 1e9:,.1f} GFLOP a step; products of {PRODUCT} x {PRODUCT}: {told}; the larger is the ceiling"
    return [flops / s / max(rates.values()) for s in seconds], note


def torch_matmul_rate(seconds: float = 1.0) -> float:
    """Measured FLOP/s of PyTorch's square products: the best of several."""
    torch = extra("torch", "oracle")
    x, best, end = torch.ones(PRODUCT, PRODUCT), float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, turns.timed(lambda: x @ x)[0])
    return 2 * PRODUCT**3 / best


def main(argv: list[str] | None = None) -> int:
    """Time the sides and write the rows."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--repeats", type=int, default=7, help="turns (default: 7)")
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out, which takes minutes to compile")
    parser.add_argument("--print", action="store_true", help="write no rows")
    args = parser.parse_args(argv)
    if odd := [name for name in args.names if name not in CASES]:
        raise ConfigError(f"there is no {odd[0]!r}; there is {', '.join(CASES)}")
    for name in args.names or CASES:
        measure(name, args.repeats, not args.eager, not args.print)
    return 0


if __name__ == "__main__":
    sys.exit(exits(main)())
