"""Memory of a training step beside PyTorch: `python benchmarks/memory.py [NAME ...]`, each side in its own processes.

The steps are those of benchmarks/steps.py, and of the two networks of vision_steps.py under AdamW, with fresh weights.
A process imports its library, makes weights and optimizer, takes a few steps, and says the most memory it ever had, its
library and, on fmjax's side, the compiler included. PyTorch is eager, whose processes are the smaller ones. Writes the
rows memory_NAME, in MiB. Needs the extra `oracle`.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable

import step_cases
import step_torch
import turns
from step_cases import Case

from fmjax import results
from fmjax.bench import own_peak
from fmjax.core.errors import ConfigError, exits, extra

STEPS = 3
CASES = step_cases.CASES | {
    "resnet18": Case("ResNet-18, batch 8 of 224 x 224", "resnet18", {}, "images", 8, 224, channels=3),
    "vit_s16": Case("ViT-S/16, batch 4 of 224 x 224", "vit_small_patch16_224", {}, "images", 4, 224, channels=3),
}


def fmjax_steps(name: str) -> None:
    """Take a few steps here."""
    import step_ours

    case = CASES[name]
    given = step_cases.batches(case)
    call = step_ours.step(case, step_ours.program(case, given[0]), given)
    for _ in range(STEPS):
        call()


def torch_steps(name: str) -> None:
    """Take a few steps by PyTorch."""
    extra("torch", "oracle").set_num_threads(len(os.sched_getaffinity(0)))
    case = CASES[name]
    call = step_torch.step(case, step_torch.network(case), step_cases.batches(case))
    for _ in range(STEPS):
        call()


SIDES: dict[str, Callable[[str], None]] = {turns.OURS: fmjax_steps, "PyTorch": torch_steps}


def peak(name: str, side: str) -> float:
    """MiB of a process that takes the steps of one side.

    Raises:
      ConfigError: it fails.
    """
    command = [sys.executable, __file__, name, f"--side={side}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"{name}: the process of {side} exited with {done.returncode}: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def measure(name: str, repeats: int, write: bool) -> None:
    """Both sides in turns; the row."""
    case = CASES[name]
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side, values in found.items():
            values.append(peak(name, side))
    medians = {side: statistics.median(x) for side, x in found.items()}
    note = f"medians: {turns.words(medians, 'MiB')}; {STEPS * case.steps} steps a process"
    print(f"{name}: {note}", flush=True)
    if write:
        results.write_row(
            f"memory_{name}",
            task=f"peak memory of a process that trains: {case.words}, float32, AdamW",
            metric="MiB",
            command=f"python benchmarks/memory.py {name}",
            values=found[turns.OURS],
            repeats=repeats,
            baseline={
                "name": f"PyTorch: {turns.versions(*step_torch.packages(case))}",
                "value": medians["PyTorch"],
                "values": found["PyTorch"],
            },
            note=note,
        )


def main(argv: list[str] | None = None) -> int:
    """Measure both sides and write the rows."""
    more = {"--side": {"choices": list(SIDES), "help": "be the process of one side"}}
    args = turns.arguments(argv, main.__doc__, CASES, 3, "processes of each side", "those for a CPU", more)
    if args.side:
        for name in args.names:
            SIDES[args.side](name)
        print(own_peak() / 2**20)
        return 0
    return turns.each(
        args.names or [name for name, case in CASES.items() if not case.gpu],
        lambda name: measure(name, args.repeats, not args.print),
    )


if __name__ == "__main__":
    sys.exit(exits(main)())
