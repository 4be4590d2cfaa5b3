"""Evaluation beside PyTorch: `python benchmarks/evaluation.py [NAME ...]` finds the loss of a set, same weights.

The networks and batches are those of benchmarks/steps.py, float32: by fmjax's evaluator over one pass of its data, as a
run calls it, and by PyTorch in inference mode over tensors in memory, with `torch.compile` and without, in turns in one
process with the same number of threads. All must give the same loss. Needs the extra `oracle`.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import step_cases
import step_torch
import steps
import turns
from step_cases import CASES, Case

from fmjax import results
from fmjax.core.errors import exits, extra

# name of a step's case: batches of the set
SETS = {"gpt_char": 40, "gpt_10m": 4, "convnet": 20}
TOLERANCE = 1e-4  # of the mean loss


def sides(case: Case, count: int, compiled: bool = True) -> dict[str, Callable[[], float]]:
    """{way: what finds the mean loss}, all with the same weights."""
    given = step_cases.batches(case, count)
    ways = {turns.OURS: ours(case, steps.same_weights(case), given)}
    ways["PyTorch"] = step_torch.evaluate(case, step_torch.network(case), given)
    if compiled:
        ways["torch.compile"] = step_torch.evaluate(case, step_torch.network(case), given, compiled=True)
    return ways


def ours(case: Case, program: Any, given: list[step_cases.Batch]) -> Callable[[], float]:
    """What evaluates by fmjax, compiling when first called."""
    import numpy as np

    from fmjax.data import pipeline
    from fmjax.data.source import InMemory
    from fmjax.evals import evaluators, metrics

    together = {name: np.concatenate([batch[name] for batch in given]) for name in given[0]}
    data = pipeline.one_pass(InMemory("given", together), case.rows)
    evaluator, state = evaluators.average(data, {"loss": metrics.loss}), program.begin()
    return lambda: evaluator.evaluate(program.predictor("predict"), state, program.feed).numbers["loss"]


def measure(name: str, repeats: int, compiled: bool, write: bool) -> None:
    """One set, in turns; its row."""
    extra("torch", "oracle").set_num_threads(len(os.sched_getaffinity(0)))
    case, count = CASES[name], SETS[name]
    found = turns.take(sides(case, count, compiled), repeats)
    apart = turns.compare(name, found.said, TOLERANCE)
    note = f"{turns.told(found)}; losses of {found.said[turns.OURS][0]:.4f} within {apart:.0e}"
    print(f"{name}: {note}", flush=True)
    if write:
        results.write_row(
            f"evaluate_{name}",
            task=f"evaluating {count} batches, {case.words}, float32",
            metric="seconds",
            command=f"python benchmarks/evaluation.py {name}",
            values=found.seconds[turns.OURS],
            repeats=repeats,
            baseline=turns.baseline(found, *step_torch.packages(case)),
            note=note,
        )


def main(argv: list[str] | None = None) -> int:
    """Time the sides and write the rows."""
    args = turns.arguments(argv, main.__doc__, SETS, more=turns.EAGER)
    return turns.each(args.names or SETS, lambda name: measure(name, args.repeats, not args.eager, not args.print))


if __name__ == "__main__":
    sys.exit(exits(main)())
