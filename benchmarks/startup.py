"""How long a person waits: `python benchmarks/startup.py` times imports, and the command to its first step.

Writes the rows import_seconds and first_step_seconds (warm and cold compilation cache).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fmjax import results
from fmjax.core.errors import exits


def main(argv: list[str] | None = None) -> int:
    """Time each several times, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    imports = [_seconds("import fmjax") for _ in range(args.repeats)]
    floor = [_seconds("import jax") for _ in range(args.repeats)]
    whole = [_seconds("import fmjax.run") for _ in range(args.repeats)]
    shared = {"metric": "seconds", "command": "python benchmarks/startup.py", "repeats": args.repeats}
    jax = {"name": "python -c 'import jax'", "value": sorted(floor)[len(floor) // 2]}
    results.write_row("import_seconds", task="python -c 'import fmjax'", values=imports, baseline=jax, **shared)
    results.write_row(
        "import_run_seconds", task="python -c 'import fmjax.run' (all that training needs)", values=whole,
        baseline=jax, **shared,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as cache:
        cold = [_first_step(Path(cache) / f"cold_{i}") for i in range(args.repeats)]
        _first_step(Path(cache) / "warm")
        warm = [_first_step(Path(cache) / "warm") for _ in range(args.repeats)]
    for name, values in (("cold", cold), ("warm", warm)):
        results.write_row(
            f"first_step_{name}", task=f"quickstart: command to the end of its first step, {name} compilation cache",
            values=values, note="whole process, start of Python to the first step's result", **shared,
        )  # fmt: skip
    print(f"import fmjax {imports}, fmjax.run {whole}, jax {floor}, first step cold {cold}, warm {warm}")
    return 0


def _seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def _first_step(cache: Path) -> float:
    """Seconds from starting the process to the first step's record in its run folder."""
    from fmjax.runfolder import SavedRun

    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        steps = ["--config.steps=1", "--config.optimizer.rate.warmup=0", "--config.evals.validation.data.limit=32"]
        command = [sys.executable, "-m", "fmjax.train", "--config=configs/quickstart.py", "--quiet", *steps]
        environment = {**os.environ, "FMJAX_CACHE": str(cache)}
        subprocess.run([*command, f"--workdir={folder}"], check=True, env=environment, stdout=subprocess.DEVNULL)
        return SavedRun.open(folder).kind("start")[0]["time"] - began


if __name__ == "__main__":
    exits(main)()
