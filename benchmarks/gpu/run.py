"""The short list for a GPU that is lent by the minute: `python benchmarks/gpu/run.py [NAME ...] [--budget=SECONDS]`.

Runs the tools of NOTES.md in its order, each in a process of its own that is ended at its limit, until the budget is
spent; what is left is named at the end, to be given as NAMEs to the next call. A tool that fails does not stop the
others. Where $OUT is set, all that was printed (OUT/log.txt) and the rows of a GPU that were written (OUT/rows.json)
are put there after every tool. `python benchmarks/gpu/run.py --unpack=rows.json` writes such rows where rows are kept.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from fmjax import results
from fmjax.core.errors import ConfigError, DataError, exits

ROOT = Path(__file__).resolve().parents[2]
ON_GPU = ("--device=gpu", "--precision=bfloat16")
VERSIONS = (
    "import jax, importlib.metadata as m; print(jax.devices(), jax.devices()[0].memory_stats()); "
    "print(*sorted(f'{d.name} {d.version}' for d in m.distributions() if d.name in "
    "'jax jaxlib flax optax numpy torch transformers timm triton ml_collections grain'.split()), sep=', ')"
)


class Tool(NamedTuple):
    """One process.

    Attributes:
      arguments: of Python.
      limit: seconds after which it is ended: guesses, before any of it ran on a GPU.
    """

    arguments: tuple[str, ...]
    limit: int


def _step(name: str, limit: int) -> Tool:
    return Tool(("benchmarks/steps.py", name, *ON_GPU), limit)


# In order: what decides most comes first.
PLAN = {
    "versions": Tool(("-c", VERSIONS), 40),
    "verify": Tool(("benchmarks/gpu/attention.py", "--verify", "512_64", "2048_128"), 60),
    "ceilings": Tool(("benchmarks/gpu/ceilings.py", "llama_05b_2048", "--repeats=10"), 90),
    "llama_05b_2048": _step("llama_05b_2048", 180),
    "profile": Tool(("benchmarks/profile_step.py", "llama_05b_2048", "--precision=bfloat16", "--top=25"), 90),
    "llama_15b_2048": _step("llama_15b_2048", 240),
    "attention": Tool(("benchmarks/gpu/attention.py", "--repeats=5"), 180),
    "cifar": Tool(("benchmarks/gpu/cifar.py",), 120),
    "bert_base_64": _step("bert_base_64", 150),
    "vit_b16": _step("vit_b16", 150),
    "resnet50": _step("resnet50", 150),
    "decode": Tool(("benchmarks/decode.py", *ON_GPU), 180),
    "llama_05b_8192": _step("llama_05b_8192", 180),
    "llama_15b_8192": _step("llama_15b_8192", 240),
    "gpt_124m_2048": _step("gpt_124m_2048", 150),
    "chunked_loss": Tool(
        ("benchmarks/chunked_loss.py", "--batch=16", "--length=2048", "--width=1536", "--chunk=4096",
         "--precision=bfloat16", "--repeats=7"), 60,
    ),
    "agreement": Tool(("benchmarks/gpu/agreement.py",), 120),
}  # fmt: skip


def run(names: list[str], budget: float, out: Path | None, plan: dict[str, Tool] = PLAN) -> dict[str, str]:
    """{name: "done", how it failed, or "left"}, tool after tool until the budget is spent."""
    end, told = time.monotonic() + budget, dict.fromkeys(names, "left")
    began_at = time.time()
    for name in names:
        left = end - time.monotonic()
        if left < 20:
            break
        told[name], text = one(name, plan[name], min(left, plan[name].limit))
        print(text, flush=True)
        if out:
            with open(out / "log.txt", "a", encoding="utf-8") as log:
                log.write(text + "\n")
            (out / "rows.json").write_text(json.dumps(fresh_rows(began_at), indent=1), encoding="utf-8")
    return told


def one(name: str, tool: Tool, limit: float) -> tuple[str, str]:
    """(how it went, all it printed)."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-u", *tool.arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        text, _ = process.communicate(timeout=limit)
        how = "done" if process.returncode == 0 else f"exit {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # and what it started
        text, how = process.communicate()[0], f"ended after {limit:.0f} s"
    return how, f"== {name}: {' '.join(tool.arguments[:3])}\n{text}== {name}: {how}, {time.monotonic() - began:.0f} s"


def fresh_rows(since: float, folder: Path | None = None) -> list[dict]:
    """The rows of a GPU that were written since a time."""
    paths = sorted((folder or results.results_folder()).glob("*_gpu.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.stat().st_mtime >= since - 1]


def unpack(path: Path, folder: Path | None = None) -> int:
    """Write rows that were brought back where rows are kept; how many.

    Raises:
      DataError: one is no row.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row in rows:
        if problems := results.check_row(row, row.get("name", "")):
            raise DataError(f"{path}: row {row.get('name')!r}: {problems[0]}")
    for row in rows:
        place = (folder or results.results_folder()) / f"{row['name']}.json"
        place.write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(rows)


def main(argv: list[str] | None = None) -> int:
    """Run the list, or unpack what it wrote."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PLAN)} (default: all, in this order)")
    parser.add_argument("--budget", type=float, default=560, help="seconds for all of them (default: 560)")
    parser.add_argument("--unpack", type=Path, help="a rows.json, to write its rows where rows are kept")
    args = parser.parse_args(argv)
    if args.unpack:
        print(f"{unpack(args.unpack)} rows; now run python benchmarks/speed_table.py")
        return 0
    if odd := [name for name in args.names if name not in PLAN]:
        raise ConfigError(f"there is no {odd[0]!r}; there is {', '.join(PLAN)}")
    out = Path(os.environ["OUT"]) if os.environ.get("OUT") else None
    told = run(args.names or list(PLAN), args.budget, out)
    print("; ".join(f"{name}: {how}" for name, how in told.items()))
    if left := [name for name, how in told.items() if how == "left"]:
        print(f"left: {' '.join(left)}")
    return int(any(how not in ("done", "left") for how in told.values()))


if __name__ == "__main__":
    sys.exit(exits(main)())
