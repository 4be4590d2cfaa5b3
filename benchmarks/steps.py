"""Seconds a training step beside PyTorch: `python benchmarks/steps.py [NAME ...]`, in turns, from the same weights.

Forward, backward and AdamW, float32, without dropout: by fmjax's step, as a run takes it, by PyTorch, and by PyTorch
with `torch.compile`, in one process with the same number of threads. The networks on the other side are those of
transformers (with its fused attention), and nn.LSTM, nn.Linear, nn.Conv2d (channels last). The row is fmjax's seconds;
its baseline is the faster of the peers. All sides say the losses of every step, which must agree. A network of 10M
weights or more also has the row `ceiling_NAME`: the share of the machine's square matrix products in the same
precision, the best of the two libraries measured in the same run. Needs the extra `oracle`.

`--device=gpu --precision=bfloat16` does the same on one GPU, with cases of a size for it (PyTorch under autocast), and
writes rows of other names. That has not been run on a GPU yet.
"""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Place:
    """Where steps are taken, and in which precision.

    Attributes:
      device: cpu or gpu.
      precision: float32, or bfloat16 with weights in float32.
    """

    device: str = "cpu"
    precision: str = "float32"

    @property
    def half(self) -> bool:
        return self.precision == "bfloat16"

    @property
    def tolerance(self) -> float:
        """Of a loss, at every step: the sides add in another order, and round elsewhere."""
        return 5e-2 if self.half else 1e-2

    @property
    def product(self) -> int:
        """Rows and columns of the matrices whose product is the ceiling."""
        return 2048 if self.device == "cpu" else 8192

    def row(self, name: str) -> str:
        """The name of a row here."""
        return "_".join([name, *[self.precision] * self.half, *["gpu"] * (self.device == "gpu")])

    def command(self, name: str) -> str:
        """What measures it."""
        flags = [f"--device={self.device}"] if self.device != "cpu" else []
        flags += [f"--precision={self.precision}"] if self.half else []
        return " ".join(["python benchmarks/steps.py", name, *flags])

    def check(self) -> None:
        """Both libraries must compute there.

        Raises:
          ConfigError: one does not.
        """
        import jax

        torch = extra("torch", "oracle")
        wants = self.device == "gpu"
        if (jax.default_backend() != "cpu") != wants or (wants and not torch.cuda.is_available()):
            raise ConfigError(
                f"--device={self.device}, but jax computes on {jax.default_backend()} and torch "
                f"{'sees' if torch.cuda.is_available() else 'sees no'} GPU; JAX_PLATFORMS=cpu keeps jax off one"
            )


CPU = Place()


def measure(name: str, repeats: int, compiled: bool, write: bool, place: Place = CPU) -> None:
    """One step, in turns; its rows."""
    case = CASES[name]
    place.check()
    extra("torch", "oracle").set_num_threads(len(os.sched_getaffinity(0)))
    ways, program = sides(case, compiled, place)
    found = turns.take(ways, repeats)
    same = turns.compare_losses(name, {way: turns.flat(x) for way, x in found.said.items()}, place.tolerance)
    found = found.per(case.steps)
    note = f"{turns.told(found)} ({case.steps} steps a call); {same}"
    print(f"{name}: {note}", flush=True)
    shared = {"command": place.command(name), "repeats": repeats}
    if write:
        results.write_row(
            place.row(f"step_{name}"),
            task=f"training step of {case.words}, {place.precision}, AdamW",
            metric="seconds",
            values=found.seconds[turns.OURS],
            baseline=turns.baseline(found, *step_torch.packages(case)),
            note=note,
            **shared,
        )
    if not case.large:
        return
    shares, note = ceiling(case, program, found.seconds[turns.OURS], place)
    print(f"{name}: {statistics.median(shares):.1%} of the ceiling; {note}", flush=True)
    if write:
        results.write_row(
            place.row(f"ceiling_{name}"),
            task=f"training step of {case.words}, {place.precision}: share of the machine's matrix products",
            metric="share",
            values=shares,
            note=note,
            **shared,
        )


def sides(case: Case, compiled: bool = True, place: Place = CPU) -> tuple[dict[str, Any], Any]:
    """({way: what takes its steps}, fmjax's program), all from the same weights."""
    import step_ours

    given, program = batches(case), same_weights(case, place)
    device = "cuda" if place.device == "gpu" else "cpu"
    ways = {turns.OURS: step_ours.step(case, program, given)}
    for way, by_compiler in {"PyTorch": False, "torch.compile": True}.items():
        if compiled or not by_compiler:
            network = step_torch.network(case, device)
            ways[way] = step_torch.step(case, network, given, compiled=by_compiler, device=device, half=place.half)
    return ways, program


def same_weights(case: Case, place: Place = CPU) -> Any:
    """The program that begins with the weights of PyTorch's network."""
    import step_ours

    from fmjax import pretrained

    with tempfile.TemporaryDirectory() as folder:
        tensors = step_torch.save(case, step_torch.network(case), Path(folder))
        initial = step_ours.Tensors(case.network, tensors) if tensors else pretrained.weights(path=folder)
        dtype = place.precision if place.half else None
        program = step_ours.program(case, batches(case, 1)[0], initial, dtype)
        _ = program.given  # read before the folder goes
    return program


def ceiling(case: Case, program: Any, seconds: list[float], place: Place = CPU) -> tuple[list[float], str]:
    """(share of the machine's matrix products at each step, a note); attention is counted in full."""
    import step_ours

    from fmjax.plan import matmul_rate
    from fmjax.sharding.devices import peak_flops

    size, flops, peak = place.product, step_ours.flops(case, program), peak_flops(place.precision)
    rates = {turns.OURS: matmul_rate(place.precision, size, 1.0), "PyTorch": torch_matmul_rate(place)}
    told = turns.words({way: rate / 1e9 for way, rate in rates.items()}, "GFLOP/s")
    note = f"{flops / 1e9:,.1f} GFLOP a step; products of {size} x {size}: {told}; the larger is the ceiling"
    if peak:
        used = flops / statistics.median(seconds) / peak
        half = used * step_ours.flops(case, program, causal=True) / flops
        note += f"; model FLOPs utilisation, of the data sheet's peak: {used:.1%}, {half:.1%} with causal attention"
    return [flops / s / max(rates.values()) for s in seconds], note


def torch_matmul_rate(place: Place = CPU, seconds: float = 1.0) -> float:
    """Measured FLOP/s of PyTorch's square products: the best of several."""
    torch = extra("torch", "oracle")
    on_gpu = place.device == "gpu"
    x = torch.ones(place.product, place.product, dtype=getattr(torch, place.precision))
    x, wait = x.to("cuda" if on_gpu else "cpu"), torch.cuda.synchronize if on_gpu else lambda: None
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, turns.timed(lambda: (x @ x, wait()))[0])
    return 2 * place.product**3 / best


def main(argv: list[str] | None = None) -> int:
    """Time the sides and write the rows."""
    more = {
        **turns.EAGER,
        "--device": {"choices": ("cpu", "gpu"), "default": "cpu"},
        "--precision": {"choices": ("float32", "bfloat16"), "default": "float32"},
    }
    args = turns.arguments(argv, main.__doc__, CASES, without="all of the device", more=more)
    place = Place(args.device, args.precision)
    if args.device == "gpu":
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the other library needs memory too
    names = args.names or [name for name, case in CASES.items() if case.gpu == (args.device == "gpu")]
    return turns.each(names, lambda name: measure(name, args.repeats, not args.eager, not args.print, place))


if __name__ == "__main__":
    sys.exit(exits(main)())
