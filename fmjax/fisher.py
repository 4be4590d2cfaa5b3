"""Fisher: `python -m fmjax.fisher --workdir=RUN [--examples=N]` writes how much each weight matters to a run's task.

RUN/fisher.npz holds the diagonal of the empirical Fisher information: the mean over training examples of the squared
gradient of an example's loss, in evaluation mode. `objectives/elastic.py` holds weights by it.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from fmjax.core.errors import ConfigError, exits

FILE = "fisher.npz"  # in the run folder


def main(argv: list[str] | None = None) -> int:
    """Read the flags, measure, write the file."""
    parser = argparse.ArgumentParser(prog="python -m fmjax.fisher", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="the run folder")
    parser.add_argument("--step", type=int, help="the checkpoint (default: the latest, or the best of an early stop)")
    parser.add_argument("--examples", type=int, help="training examples to look at (default: one pass)")
    args, overrides = parser.parse_known_args(argv)

    from fmjax.start import start

    start()
    from fmjax.run import Run

    run = Run.load(args.workdir, args.step, overrides)
    seen = save(run, args.examples)
    print(f"{Path(args.workdir) / FILE}: {seen:,} examples at step {run.step}")
    return 0


def diagonal(run: Any, examples: int | None = None) -> tuple[dict[str, Any], int]:
    """({address: mean squared gradient} of the net "model", examples seen); averages of weights where there are some.

    Raises:
      ConfigError: an adapted run, or a number of examples below 1.
    """
    import jax
    import jax.numpy as jnp

    from fmjax.core.trees import flatten

    program, data, state = run.parts.program, run.parts.data, run.state
    if "model" not in program.modules or "model" in program.merge:
        raise ConfigError("the Fisher information is of whole weights of a net 'model': merge the adapter first")
    examples = data.examples if examples is None else examples
    if examples < 1:
        raise ConfigError(f"--examples={examples}: give 1 or more")
    objective = program.objective
    player = objective.players[0].name

    @jax.jit
    def squares(state: Any, batch: Any) -> tuple[Any, Any]:
        nets = program.nets(state)
        ready, carry = objective.prepare(nets, batch, state.carry, state.step, state.rng, False)

        def slope(row: Any) -> Any:
            def lost(params: Any) -> Any:
                own = program.nets(state)
                own["model"].params = params
                one = {key: value[None] for key, value in row.items()}
                return objective.loss(player, own, one, carry, state.rng)[0].sum

            return jax.grad(lost)(nets["model"].params)

        valid = ready["valid"]
        slopes = jax.vmap(slope)(ready)
        return jax.tree.map(lambda g: jnp.einsum("b...,b->...", jnp.square(g), valid), slopes), valid.sum()

    total, seen, k = None, 0.0, 0
    while seen < examples:
        found, rows = squares(state, program.put(data.batch(k, seed=program.seed)))
        total = found if total is None else jax.tree.map(jnp.add, total, found)
        seen, k = seen + float(rows), k + 1
    return {name: x / seen for name, x in flatten(jax.device_get(total)).items()}, int(seen)


def save(run: Any, examples: int | None = None) -> int:
    """Write the diagonal into the run's folder, whole or not at all; returns the number of examples seen."""
    import numpy as np

    found, seen = diagonal(run, examples)
    target = Path(run.folder) / FILE
    with open(target.with_suffix(".partial"), "wb") as file:
        np.savez(file, **found)
    os.replace(target.with_suffix(".partial"), target)
    return seen


if __name__ == "__main__":
    exits(main)()
