"""Eight seeds of the MNIST network as one program, beside eight commands: `python benchmarks/population.py`.

Whole commands are timed, start-up and compilation included, with an empty cache of compiled programs for each of the
two sides; the cache fills as it would. Each member is compared with its solo run: the weights after the last step. At
full length the differences of rounding have grown; with --steps=100 they are those that a test bounds by 1e-5.
Writes the row population_mnist, unless --steps is given.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fmjax.core.errors import exits
from fmjax.study import Study

CONFIG, SEEDS = "configs/vision/mlp_mnist.py", 8


def get_study() -> Study:
    """The config as it is, with eight seeds."""
    return Study(config=CONFIG, metric="test/accuracy", changes={}, seeds=range(SEEDS))


def main(argv: list[str] | None = None) -> int:
    """Time both ways, compare the members, write the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", help="instead of the config's 15 epochs")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args(argv)
    flags = [f"--config.steps={args.steps}"] if args.steps else []
    ratios, found = [], []
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            alone = 0.0
            for seed in range(SEEDS):
                run = ["fmjax.train", f"--config={CONFIG}", f"--workdir={folder}/{seed}", f"--config.seed={seed}"]
                alone += _seconds([*run, "--quiet", *flags], folder / "cache_alone")
            sweep = ["fmjax.sweep", "--study=benchmarks/population.py", f"--workdir={folder}/all", "--population"]
            together = _seconds([*sweep, *flags], folder / "cache_together")
            apart = max(_difference(folder / str(seed), folder / f"all/base/seed_{seed}") for seed in range(SEEDS))
            ratios.append(together / alone)
            found.append((alone, together, apart))
            print(f"{SEEDS} commands {alone:.1f} s, one population {together:.1f} s, largest difference {apart:.2g}")
    if args.steps:
        return 0

    from fmjax import results
    from fmjax.assembly import prepare

    alone, together, apart = sorted(found)[len(found) // 2]
    results.write_row(
        "population_mnist",
        task="8 seeds of the MNIST network (784-128-10, 15 epochs) as one population",
        metric="whole-command time over that of 8 commands",
        command="python benchmarks/population.py",
        values=ratios,
        repeats=len(ratios),
        config=prepare(CONFIG)[0],
        target="<= 1/3",
        note=f"{together:.0f} s beside {alone:.0f} s; largest difference of a weight at the end {apart:.1g}",
    )
    return 0


def _seconds(module: list[str], cache: Path) -> float:
    began = time.perf_counter()
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    subprocess.run([sys.executable, "-m", *module], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - began


def _difference(one: Path, other: Path) -> float:
    """The largest difference between the weights of two runs."""
    import jax
    import numpy as np

    from fmjax.run import Run

    a, b = (Run.load(path).state.params for path in (one, other))
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(np.asarray(x) - np.asarray(y)).max()), a, b)))


if __name__ == "__main__":
    exits(main)()
