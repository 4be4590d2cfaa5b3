"""What a checkpoint costs: `python benchmarks/checkpoints.py` saves and restores a run's state, beside torch.save.

The state is that of `gpt_10m` of benchmarks/step_cases.py under AdamW: weights and two moments. fmjax saves in the
background: training stalls until the state is copied, and goes on while digests are taken and files are written;
it restores with every digest compared. The other side is torch.save and torch.load of the same model and optimizer
under PyTorch, for which training waits. In turns in one process, on the disk of the folder of temporary files; what is
read was written just before, and comes from the memory of the system. Needs the extra `oracle`.

Writes the rows checkpoint_stall, checkpoint_save, checkpoint_restore (seconds a GB) and checkpoint_stall_share (the
stall as a share of one training step of this model).
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import step_cases
import step_torch
import turns

from fmjax import results
from fmjax.core.errors import exits, extra

NAME = "gpt_10m"
COMMAND = "python benchmarks/checkpoints.py"
TASKS = {
    "stall": "a checkpoint is begun: seconds that training waits",
    "save": "a checkpoint is written, digests included, from its beginning to the end on disk",
    "restore": "a checkpoint is read into the state that training goes on from, digests compared",
}


def ours(folder: Path, case: step_cases.Case) -> tuple[dict[str, Callable[[], float]], Callable[[], Any], int]:
    """({what: seconds that it took}, a training step, bytes of the state)."""
    import jax
    import step_ours

    from fmjax.core.trees import nbytes
    from fmjax.training.checkpoint import Checkpoints, Policy

    given = step_cases.batches(case, 1)
    program = step_ours.program(case, given[0])
    take, held = program.compile(), {"state": program.begin(), "step": 0}
    checkpoints, batch = Checkpoints(folder, Policy(keep=1)), program.put(given[0])

    def step() -> None:
        held["state"], packed = take(held["state"], batch)
        jax.block_until_ready(packed)

    def stall() -> float:
        step()
        held["step"] += 1
        began = time.perf_counter()
        checkpoints.save(held["step"], held["state"], {})
        held["began"] = began
        return time.perf_counter() - began

    def save() -> float:
        checkpoints.wait()
        return time.perf_counter() - held["began"]

    def restore() -> float:
        began = time.perf_counter()
        held["state"], _ = checkpoints.restore(program.abstract)
        jax.block_until_ready(jax.tree.leaves(held["state"].params))
        return time.perf_counter() - began

    return {"stall": stall, "save": save, "restore": restore}, step, nbytes(program.abstract.replace(rng=()))


def theirs(folder: Path, case: step_cases.Case) -> tuple[dict[str, Callable[[], float]], int]:
    """({what: seconds that it took}, bytes of the state), by torch.save and torch.load."""
    torch = extra("torch", "oracle")
    model, file = step_torch.network(case), folder / "state.pt"
    optimizer = torch.optim.AdamW(model.parameters(), lr=case.rate, fused=True)
    given = step_cases.batches(case, 1)
    step_torch.step(case, model, given, optimizer=optimizer)()
    tensors = [*model.parameters(), *(x for moments in optimizer.state.values() for x in moments.values())]
    held: dict[str, float] = {}

    def save() -> float:
        began = time.perf_counter()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        held["save"] = time.perf_counter() - began
        return held["save"]

    def restore() -> float:
        began = time.perf_counter()
        found = torch.load(file, weights_only=True)
        model.load_state_dict(found["model"])
        optimizer.load_state_dict(found["optimizer"])
        return time.perf_counter() - began

    return {"stall": save, "save": lambda: held["save"], "restore": restore}, sum(x.nbytes for x in tensors)


def measure(repeats: int, write: bool) -> None:
    """Save and restore in turns; the rows."""
    torch = extra("torch", "oracle")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    case = step_cases.CASES[NAME]
    with tempfile.TemporaryDirectory(prefix="fmjax-checkpoints-") as folder:
        mine, step, size = ours(Path(folder) / "fmjax", case)
        peer, peer_size = theirs(Path(folder), case)
        seconds: dict[str, dict[str, list[float]]] = {what: {turns.OURS: [], "torch": []} for what in TASKS}
        steps: list[float] = []
        for turn in range(repeats + 1):
            for way, calls in ((turns.OURS, mine), ("torch", peer)):
                taken = {what: calls[what]() for what in TASKS}
                if turn:  # the first warms up
                    for what, s in taken.items():
                        seconds[what][way].append(s)
            if turn:
                steps.append(turns.timed(step)[0])
            else:
                step()
    for what, task in TASKS.items():
        found = turns.Turns({}, seconds[what], {})
        gigabytes = {turns.OURS: size / 1e9, "torch": peer_size / 1e9}
        found = found._replace(seconds={way: [s / gigabytes[way] for s in x] for way, x in found.seconds.items()})
        note = (
            f"medians, seconds a GB: {turns.words(found.medians, '')}; {turns.ratio_words(found)}; state of "
            f"{size / 1e6:,.0f} MB (torch {peer_size / 1e6:,.0f})"
        )
        print(f"{what}: {note}", flush=True)
        if write:
            results.write_row(
                f"checkpoint_{what}", task=task, metric="seconds a GB", command=COMMAND,
                values=found.seconds[turns.OURS], repeats=repeats,
                baseline=turns.baseline(found, "torch"), note=note,
            )  # fmt: skip
    shares = [s / statistics.median(steps) for s in seconds["stall"][turns.OURS]]
    note = f"median step {statistics.median(steps):.3f} s, {case.words}"
    print(f"stall: {statistics.median(shares):.2%} of a step; {note}", flush=True)
    if write:
        results.write_row(
            "checkpoint_stall_share", task="a checkpoint is begun: the stall as a share of one training step",
            metric="share of a step", command=COMMAND, values=shares, repeats=repeats, note=note,
        )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Time both sides and write the rows."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="turns (default: 7)")
    parser.add_argument("--print", action="store_true", help="write no rows")
    args = parser.parse_args(argv)
    measure(args.repeats, not args.print)
    return 0


if __name__ == "__main__":
    sys.exit(exits(main)())
