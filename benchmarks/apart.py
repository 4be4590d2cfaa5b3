"""Sides that have the device for themselves: processes of one library that take turns, for benchmarks/steps.py.

Two libraries in one process share a GPU's memory, and neither gives back what it holds, so that a batch could be half
as large. Here a process makes its network, takes its steps and ends, then one of the other side does the same, and so
on for some rounds; compilation is kept on the disk between rounds. PyTorch's process comes first and writes its fresh
weights, which all others begin with.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import step_cases
import step_torch
import turns

from fmjax.core.errors import ConfigError, exits, extra

COMPILED, EAGER = "torch.compile", "PyTorch"


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process does.

    Attributes:
      name: of a case.
      side: fmjax, torch.compile or PyTorch.
      folder: of the weights that all begin with.
      repeats: calls that are timed, after one that is not.
      device: cpu or gpu.
      precision: float32 or bfloat16.
      product: rows and columns of the matrices whose product is the ceiling.
      smoke: whether the case is tried at a small size; `changes`: its fields that are not as usual.
    """

    name: str
    side: str
    folder: str
    repeats: int
    device: str = "gpu"
    precision: str = "bfloat16"
    product: int = 8192
    smoke: bool = False
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def case(self) -> step_cases.Case:
        return step_cases.changed(self.name, self.smoke, **self.changes)


@dataclasses.dataclass
class Told:
    """What one process says.

    Attributes:
      first: seconds of the first call; `seconds`: of the others.
      losses: of every step of every call, the first included.
      peak: bytes of the device's memory that were in use at most; None where the device does not tell.
      rate: FLOP/s of its library's square matrix products.
      facts: what only fmjax's side knows: FLOPs of a step, the device's published peak.
    """

    first: float
    seconds: list[float]
    losses: list[list[float]]
    peak: int | None
    rate: float
    facts: dict[str, Any]


def called(call: Callable[[], list[float]], repeats: int) -> list[Any]:
    """[seconds of the first call, of the others, the losses of all]."""
    return [of_ways[""] for of_ways in turns.take({"": call}, repeats)]


def ours(job: Job) -> Told:
    """Take fmjax's steps."""
    import jax
    import step_ours

    from fmjax.plan import matmul_rate
    from fmjax.sharding.devices import peak_flops

    if (jax.default_backend() == "cpu") != (job.device == "cpu"):
        raise ConfigError(f"--device={job.device}, but jax computes on {jax.default_backend()}")
    case, dtype = job.case, job.precision if job.precision != "float32" else None
    given = step_cases.batches(case)
    program = step_ours.program(case, given[0], step_ours.initial(case, Path(job.folder)), dtype)
    told = called(step_ours.step(case, program, given), job.repeats)
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    flops = {"flops": step_ours.flops(case, program), "causal": step_ours.flops(case, program, causal=True)}
    facts = {**flops, "peak_flops": peak_flops(job.precision), "device": jax.local_devices()[0].device_kind}
    return Told(*told, peak, matmul_rate(job.precision, job.product, 1.0), facts)


def theirs(job: Job) -> Told:
    """Take PyTorch's steps, and leave the fresh weights in the folder if it has none."""
    torch = extra("torch", "oracle")
    on_gpu, case = job.device == "gpu", job.case
    if on_gpu and not torch.cuda.is_available():
        raise ConfigError("--device=gpu, but torch sees no GPU")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high")  # as jax's default on a GPU
    torch.backends.cudnn.benchmark = True
    device = "cuda" if on_gpu else "cpu"
    network, folder = step_torch.network(case, device), Path(job.folder)
    if not any(folder.iterdir()):
        step_torch.keep(case, network, folder)
    step = step_torch.step(
        case, network, step_cases.batches(case), compiled=job.side == COMPILED, device=device,
        half=job.precision == "bfloat16",
    )  # fmt: skip
    told = called(step, job.repeats)
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    return Told(*told, peak, step_torch.matmul_rate(device, job.precision, job.product), {})


def take(job: Job, rounds: int, peer: str = COMPILED) -> tuple[turns.Turns, dict[str, Told]]:
    """Processes of both sides, in turns; ({way: seconds of its calls}, {way: what its first process said})."""
    found: dict[str, list[Told]] = {turns.OURS: [], peer: []}
    with tempfile.TemporaryDirectory() as folder:
        (weights := Path(folder) / "weights").mkdir()
        for turn in range(rounds):
            for side in (turns.OURS, peer) if turn % 2 else (peer, turns.OURS):
                found[side].append(start(dataclasses.replace(job, side=side, folder=str(weights)), Path(folder)))
    return together(found), {side: told[0] for side, told in found.items()}


def together(found: Mapping[str, Sequence[Told]]) -> turns.Turns:
    """All rounds as turns."""
    return turns.Turns(
        first={side: told[0].first for side, told in found.items()},
        seconds={side: [s for one in told for s in one.seconds] for side, told in found.items()},
        said={side: [losses for one in told for losses in one.losses] for side, told in found.items()},
    )


def start(job: Job, cache: Path) -> Told:
    """Do a job in a process of its own.

    Args:
      cache: where compiled programs are kept for the next one.

    Raises:
      ConfigError: it fails.
    """
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache / "jax")}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "inductor")
    environment.pop("XLA_PYTHON_CLIENT_PREALLOCATE", None)  # of the process that started this one
    environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    command = [sys.executable, __file__, json.dumps(dataclasses.asdict(job))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        where = f"{job.name}: the process of {job.side} exited with {done.returncode}"
        raise ConfigError(f"{where}: {done.stderr[-2000:]}")
    return Told(**json.loads(done.stdout.splitlines()[-1]))


def main(argv: list[str] | None = None) -> int:
    """Do the job that is given as JSON, and print what there is to tell."""
    (given,) = sys.argv[1:] if argv is None else argv
    job = Job(**json.loads(given))
    print(json.dumps(dataclasses.asdict((ours if job.side == turns.OURS else theirs)(job))))
    return 0


if __name__ == "__main__":
    sys.exit(exits(main)())
