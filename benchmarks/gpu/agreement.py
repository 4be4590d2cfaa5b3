"""Whether bfloat16 learns as float32 does: `python benchmarks/gpu/agreement.py [NAME ...]`, loss curves on one device.

The same weights and batches, seed by seed, 200 steps of AdamW in each precision (weights and losses stay in float32),
on made data with something to learn: text in which some tokens often follow a token, images that their classes share.
The difference of a step's two losses is told as a part of what float32 learned, its first loss less its last: the row
agreement_NAME is the largest over the steps, of every seed; the mean is in its note. Curves agree where the mean is
below 2 %. On a GPU float32's products are TF32, as JAX does them unless it is told otherwise. Not run on a GPU yet.
"""

import dataclasses
import statistics
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))
import step_cases
import step_ours
import turns

from fmjax import results
from fmjax.core.errors import ConfigError, exits

CASES = {"decoder": "gpt_10m", "vision": "convnet"}  # of benchmarks/step_cases.py
BATCHES = 50  # different ones, taken in turn
TOLERANCE = 0.02  # of what was learned, on average over the steps
HALF = "bfloat16"


def batches(case: step_cases.Case, count: int, seed: int = 0) -> list[step_cases.Batch]:
    """Different batches, all from one source."""
    rng, valid = np.random.default_rng(seed), np.ones(case.rows, np.float32)
    if case.batch == "images":
        shape = (case.length, case.length, case.channels)
        shared, found = rng.standard_normal((10, *shape), np.float32), []
        for _ in range(count):
            label = rng.integers(0, 10, case.rows).astype(np.int32)
            noise = rng.standard_normal((case.rows, *shape), np.float32)
            found.append({"image": 0.5 * shared[label] + noise, "label": label, "valid": valid})
        return found
    following = rng.integers(0, case.vocab, (case.vocab, 4))  # what may come after each token
    return [{"tokens": text(rng, following, case.rows, case.length + 1), "valid": valid} for _ in range(count)]


def text(rng: np.random.Generator, following: np.ndarray, rows: int, length: int) -> np.ndarray:
    """Tokens (rows, length), each one of those that may follow the one before it."""
    tokens = np.zeros((rows, length), np.int32)
    tokens[:, 0] = rng.integers(0, len(following), rows)
    for i in range(1, length):
        tokens[:, i] = following[tokens[:, i - 1], rng.integers(0, following.shape[1], rows)]
    return tokens


def curve(case: step_cases.Case, given: list[step_cases.Batch], dtype: str | None, seed: int) -> np.ndarray:
    """The loss of every step."""
    program = dataclasses.replace(step_ours.program(case, given[0], dtype=dtype), seed=seed)
    return np.array(step_ours.step(case, program, given)())


def differences(full: np.ndarray, half: np.ndarray) -> np.ndarray:
    """How far two curves are apart at every step, as a part of what the first one learned.

    Raises:
      ConfigError: it learned nothing that could be compared.
    """
    learned = full[0] - full[-1]
    if not learned > 0:
        raise ConfigError(f"the loss in float32 went from {full[0]:.3f} to {full[-1]:.3f}: take more steps")
    return np.abs(full - half) / learned


def measure(name: str, steps: int, seeds: int, smoke: bool, write: bool) -> None:
    """One network; its row.

    Raises:
      ConfigError: the curves do not agree.
    """
    rows = 32 if smoke else None  # enough for a loss that falls
    case = step_cases.changed(CASES[name], smoke, steps=steps, resident=False, rate=1e-3, rows=rows)
    given, found = batches(case, min(steps, BATCHES)), []
    for seed in range(seeds):
        full, half = (curve(case, given, dtype, seed) for dtype in (None, HALF))
        found.append(differences(full, half))
        print(
            f"{name}, seed {seed}: float32 from {full[0]:.3f} to {full[-1]:.3f}, {HALF} to {half[-1]:.3f}; apart by at "
            f"most {found[-1].max():.2%} of what was learned, {found[-1].mean():.2%} on average",
            flush=True,
        )
    mean = statistics.fmean(float(one.mean()) for one in found)
    if write:
        results.write_row(
            f"agreement_{name}" + "_gpu" * (jax.default_backend() == "gpu"),
            task=f"largest difference of losses in float32 and {HALF} over {steps} steps, {case.words}",
            metric="part of what was learned",
            command=f"python benchmarks/gpu/agreement.py {name}",
            values=[float(one.max()) for one in found],
            seeds=list(range(seeds)),
            target=f"mean <= {TOLERANCE}",
            note=f"mean over the steps {mean:.2%}; the last losses differ by "
            f"{statistics.fmean(float(one[-1]) for one in found):.2%}",
        )
    if not mean <= TOLERANCE:
        raise ConfigError(f"the curves are {mean:.2%} apart on average, of {TOLERANCE:.0%} allowed")


def main(argv: list[str] | None = None) -> int:
    """Compare the curves and write the rows."""
    more = {
        "--steps": {"type": int, "default": 200, "help": "of each run"},
        "--smoke": {"action": "store_true", "help": "small networks, and no rows"},
    }
    args = turns.arguments(argv, main.__doc__, CASES, 3, "seeds", more=more)
    return turns.each(
        args.names or CASES,
        lambda name: measure(name, args.steps, args.repeats, args.smoke, not args.print and not args.smoke),
    )


if __name__ == "__main__":
    sys.exit(exits(main)())
