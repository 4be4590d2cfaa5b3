"""Seconds a training step beside PyTorch: `python benchmarks/steps.py [NAME ...]`, in turns, from the same weights.

Forward, backward and AdamW, float32, without dropout: by fmjax's step, as a run takes it, by PyTorch, and by PyTorch
with `torch.compile`, in one process with the same number of threads. The networks on the other side are those of
transformers (with its fused attention), and nn.LSTM, nn.Linear, nn.Conv2d (channels last). The row is fmjax's seconds;
its baseline is the faster of the peers. All sides say the losses of every step, which must agree. A network of 10M
weights or more also has the row `ceiling_NAME`: the share of the machine's square matrix products in the same
precision, the best of the two libraries measured in the same run. Needs the extra `oracle`.

`--device=gpu --precision=bfloat16` does the same on one GPU, with cases of a size for it (PyTorch under autocast), each
side in processes of its own that take turns (benchmarks/apart.py), beside `torch.compile`. The rows have other names:
`step_NAME_bfloat16_gpu` says throughput, model FLOPs utilisation, memory and compilation in its note, and
`mfu_NAME_bfloat16_gpu` is the utilisation of the data sheet's peak with causal attention. That has not been run on a
GPU yet. `--smoke` tries any case on any machine in seconds, and writes nothing.
"""

import dataclasses
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apart
import step_torch
import turns
from step_cases import CASES, Case, batches, changed

from fmjax import results
from fmjax.core.errors import ConfigError, exits, extra


@dataclasses.dataclass(frozen=True)
class Place:
    """Where steps are taken, and in which precision.

    Attributes:
      device: cpu or gpu.
      precision: float32, or bfloat16 with weights in float32.
      changes: fields of the case that are not as usual.
    """

    device: str = "cpu"
    precision: str = "float32"
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

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
        changed = [f"{field}_{value}".lower() for field, value in self.changes.items()]
        return "_".join([name, *changed, *[self.precision] * self.half, *["gpu"] * (self.device == "gpu")])

    def command(self, name: str) -> str:
        """What measures it."""
        flags = [f"--device={self.device}"] if self.device != "cpu" else []
        flags += [f"--precision={self.precision}"] if self.half else []
        flags += [f"--{field}" if value is True else f"--{field}={value}" for field, value in self.changes.items()]
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
CHECKED = 12  # steps whose losses must agree on a GPU; later ones are told, for bfloat16 learns by heart in its own way


def measure(name: str, repeats: int, compiled: bool, write: bool, place: Place = CPU, smoke: bool = False) -> None:
    """One step, in turns; its rows."""
    case = changed(name, smoke, **place.changes)
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
    if not case.large or smoke:
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

    with tempfile.TemporaryDirectory() as folder:
        step_torch.keep(case, step_torch.network(case), Path(folder))
        dtype = place.precision if place.half else None
        program = step_ours.program(case, batches(case, 1)[0], step_ours.initial(case, Path(folder)), dtype)
        _ = program.given, program.given_mutable  # read before the folder goes
    return program


def ceiling(case: Case, program: Any, seconds: list[float], place: Place = CPU) -> tuple[list[float], str]:
    """(share of the machine's matrix products at each step, a note); attention is counted in full."""
    import step_ours

    from fmjax.plan import matmul_rate

    size, flops = place.product, step_ours.flops(case, program)
    rates = {turns.OURS: matmul_rate(place.precision, size, 1.0)}
    rates["PyTorch"] = step_torch.matmul_rate("cpu", place.precision, size)
    told = turns.words({way: rate / 1e9 for way, rate in rates.items()}, "GFLOP/s")
    note = f"{flops / 1e9:,.1f} GFLOP a step; products of {size} x {size}: {told}; the larger is the ceiling"
    return [flops / s / max(rates.values()) for s in seconds], note


def measure_apart(name: str, repeats: int, rounds: int, compiled: bool, write: bool, place: Place, smoke: bool) -> None:
    """One step on a GPU, each side with the device for itself; its rows."""
    job = apart.Job(
        name, turns.OURS, "", repeats, place.device, place.precision, 256 if smoke else place.product, smoke,
        dict(place.changes),
    )  # fmt: skip
    found, told = apart.take(job, rounds, apart.COMPILED if compiled else apart.EAGER)
    losses = {way: turns.flat(said) for way, said in found.said.items()}
    count = len(losses[turns.OURS])
    same = f"losses from {losses[turns.OURS][0]:.3f} to {losses[turns.OURS][-1]:.3f}, " + ", ".join(
        f"of {n} steps within {turns.compare(name, {way: x[:n] for way, x in losses.items()}, math.inf):.0e}"
        for n in sorted({min(CHECKED, count), count})
    )
    found, case = found.per(job.case.steps), job.case
    used, note = usage(case, found, told)
    note = f"{note}; {turns.told(found)} ({case.steps} steps a call, {rounds} processes of each side); {same}"
    print(f"{name}: {note}", flush=True)  # before they are compared: time on a GPU is dear
    turns.compare(name, {way: x[:CHECKED] for way, x in losses.items()}, place.tolerance)
    if not write or smoke or place.device == "cpu":  # rows of a CPU are measured in one process
        return
    import jax  # noqa: F401  it tells the row which device this is

    ours, base = found.seconds[turns.OURS], turns.baseline(found, *step_torch.packages(case))
    shared = {"command": place.command(name), "repeats": len(ours), "note": note}
    task = f"training step of {case.words}, {place.precision}, AdamW"
    results.write_row(
        place.row(f"step_{name}"), task=task, metric="seconds", values=ours, baseline=base, **shared
    )  # fmt: skip
    if used[turns.OURS]:
        task = f"{task}: model FLOPs utilisation, causal attention"
        results.write_row(place.row(f"mfu_{name}"), task=task, metric="share", values=used[turns.OURS], **shared)


def usage(case: Case, found: turns.Turns, told: Mapping[str, apart.Told]) -> tuple[dict[str, list[float]], str]:
    """({way: model FLOPs utilisation of every step, causal}, the words of a note); empty lists without a known peak."""
    facts, medians = told[turns.OURS].facts, found.medians
    units, unit = (case.tokens, "tokens/s") if case.tokens else (case.rows, "images/s")
    words = [turns.words({way: units / s for way, s in medians.items()}, unit)]
    peak, used = facts["peak_flops"], {way: [] for way in medians}
    if peak:
        used = {way: [facts["causal"] / s / peak for s in seconds] for way, seconds in found.seconds.items()}
        whole, half = (turns.words({w: 100 * facts[k] / s / peak for w, s in medians.items()}, "%")
                       for k in ("flops", "causal"))  # fmt: skip
        attention = " (full attention counted)" if facts["flops"] != facts["causal"] else ""
        words.append(f"model FLOPs utilisation of {peak / 1e12:,.0f} TFLOP/s: {whole}{attention}, {half} (causal)")
    rates = {way: one.rate / 1e12 for way, one in told.items()}
    best = facts["flops"] / medians[turns.OURS] / 1e12 / max(rates.values())
    words.append(f"{facts['flops'] / 1e12:,.3f} TFLOP a step, {best:.1%} of the best square matrix product "
                 f"({turns.words(rates, 'TFLOP/s')})")  # fmt: skip
    if all(one.peak is not None for one in told.values()):
        words.append(f"peak memory {turns.words({way: one.peak / 2**30 for way, one in told.items()}, 'GiB')}")
    words.append(f"compilation and start {turns.words({way: found.first[way] - medians[way] for way in told})}")
    again = "with" if case.checkpointing else "without"
    words.append(f"fmjax with attention={case.attention!r}, remat={case.remat!r}, the peer {again} recomputing")
    return used, "; ".join(words)


def main(argv: list[str] | None = None) -> int:
    """Time the sides and write the rows."""
    more = {
        **turns.EAGER,
        "--device": {"choices": ("cpu", "gpu"), "default": "cpu"},
        "--precision": {"choices": ("float32", "bfloat16"), "default": "float32"},
        "--rounds": {"type": int, "default": 2, "help": "processes of each side, where each has the device for itself"},
        "--smoke": {"action": "store_true", "help": "try the cases at a small size, and write no rows"},
        "--apart": {"action": "store_true", "help": "give each side processes of its own on a CPU too; no rows"},
        "--rows": {"type": int, "help": "of a batch"},
        "--remat": {"choices": ("none", "full", "dots", "dots_no_batch"), "help": "what fmjax computes again"},
        "--checkpointing": {"action": "store_true", "default": None, "help": "let the peer compute blocks again"},
        "--attention": {"help": "fmjax's backend, see fmjax/nn/attention.py"},
    }
    args = turns.arguments(argv, main.__doc__, CASES, without="all of the device", more=more)
    changes = {field: getattr(args, field) for field in ("rows", "remat", "checkpointing", "attention")}
    place = Place(args.device, args.precision, {k: v for k, v in changes.items() if v is not None})
    on_gpu, write = args.device == "gpu", not args.print and not args.smoke
    if on_gpu:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # this process only asks which device it is
    names = args.names or [name for name, case in CASES.items() if case.gpu == on_gpu]

    def one(name: str) -> None:
        if on_gpu or args.apart:
            return measure_apart(name, args.repeats, args.rounds, not args.eager, write, place, args.smoke)
        return measure(name, args.repeats, not args.eager, write, place, args.smoke)

    return turns.each(names, one)


if __name__ == "__main__":
    sys.exit(exits(main)())
