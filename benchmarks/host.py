"""How much of a step is the host's: `python benchmarks/host.py [NAME ...]`, by `python -m fmjax.bench` on configs.

The share of a step's time, taken as a run takes it (batches made, put on the device and digested, metrics fetched),
that the compiled step, given its batch again and again, does not need. On a CPU, host and device are the same cores;
a share below 0 is noise. Writes the rows host_share_NAME. Needs, under $FMJAX_DATA, the data that the config names.
"""

import json
import statistics
import subprocess
import sys

import turns

from fmjax import results
from fmjax.core.errors import ConfigError, exits

# name: (config, steps that are timed)
CASES = {
    "quickstart": ("configs/quickstart.py", 30),
    "gpt_char": ("configs/language/gpt_shakespeare_char.py", 200),
    "convnet": ("configs/vision/convnet_cifar10.py", 30),
}


def bench(config: str, steps: int) -> dict[str, float]:
    """What `fmjax.bench` says of a config.

    Raises:
      ConfigError: it fails.
    """
    command = [sys.executable, "-m", "fmjax.bench", f"--config={config}", f"--steps={steps}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"fmjax.bench on {config} exited with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, repeats: int, steps: int | None, write: bool) -> None:
    """One config, a process a time; the row."""
    config, usual = CASES[name]
    found = [bench(config, steps or usual) for _ in range(repeats)]
    shares = [numbers["host_share"] for numbers in found]
    step = statistics.median(numbers["step_p50_seconds"] for numbers in found)
    note = f"step {turns.words({'median': 1e3 * step}, 'ms')}, {steps or usual} steps a time"
    print(f"{name}: {statistics.median(shares):.2%} of a step; {note}", flush=True)
    if write:
        results.write_row(
            f"host_share_{name}",
            task=f"share of a training step that is the host's, {config}",
            metric="share of a step",
            command=f"python benchmarks/host.py {name}",
            values=shares,
            repeats=repeats,
            note=note,
        )


def main(argv: list[str] | None = None) -> int:
    """Bench the configs and write the rows."""
    more = {"--steps": {"type": int, "help": "steps that are timed"}}
    args = turns.arguments(argv, main.__doc__, CASES, 3, "times that each is benched", more=more)
    return turns.each(args.names or CASES, lambda name: measure(name, args.repeats, args.steps, not args.print))


if __name__ == "__main__":
    sys.exit(exits(main)())
