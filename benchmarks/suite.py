"""Every claim about speed, measured again: `python benchmarks/suite.py [TOOL ...]` runs the tools below, one by one.

Each writes its rows; then benchmarks/RESULTS.md and the README's table are written anew. A tool that fails does not
stop the others: the command says so at the end and exits with 1. Let nothing else run on the machine. Needs the extra
`oracle` and the data of $FMJAX_DATA; takes more than an hour on two CPU cores. What is measured on a GPU is run by
benchmarks/gpu/run.py.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from fmjax.core.errors import ConfigError, exits

HERE = Path(__file__).resolve().parent
# tool: what it measures
TOOLS = {
    "startup": "imports, and the command to its first step",
    "steps": "training steps beside PyTorch",
    "vision_steps": "ResNet-18 and ViT-S beside timm",
    "evaluation": "the loss of a set, beside PyTorch",
    "decode": "writing tokens beside transformers",
    "inputs": "input pipelines and tokenizing",
    "augmentation": "augmentation beside Pillow",
    "checkpoints": "saving and restoring beside torch.save",
    "memory": "memory of the steps",
    "host": "the host's share of a step",
}


def command(tool: str, repeats: int | None) -> list[str]:
    """What runs a tool."""
    more = [] if repeats is None else [f"--repeats={repeats}"]
    return [sys.executable, str(HERE / f"{tool}.py"), *more]


def run(tools: list[str], repeats: int | None) -> list[str]:
    """Run them in order; the names of those that failed."""
    failed = []
    for tool in tools:
        began = time.perf_counter()
        print(f"{tool}: {TOOLS[tool]}", flush=True)
        code = subprocess.run(command(tool, repeats), cwd=HERE.parent).returncode
        print(f"{tool}: exit {code} after {time.perf_counter() - began:.0f} s", flush=True)
        if code:
            failed.append(tool)
    return failed


def main(argv: list[str] | None = None) -> int:
    """Run the tools, then write the tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=f"of {', '.join(TOOLS)} (default: all)")
    parser.add_argument("--repeats", type=int, help="turns of each (default: what each tool has)")
    args = parser.parse_args(argv)
    if odd := [tool for tool in args.tools if tool not in TOOLS]:
        raise ConfigError(f"there is no {odd[0]!r}; there is {', '.join(TOOLS)}")
    failed = run(args.tools or list(TOOLS), args.repeats)
    for writer in ([str(HERE / "speed_table.py")], ["-m", "fmjax.results"]):
        subprocess.run([sys.executable, *writer], cwd=HERE.parent, check=True)
    if failed:
        print(f"failed: {', '.join(failed)}; their rows are the old ones", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(exits(main)())
