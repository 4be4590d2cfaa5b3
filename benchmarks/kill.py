"""Kill test: the small quickstart, killed at a random moment and resumed, ends in the same bits as one left alone.

Run:      python benchmarks/kill.py --runs=20
Takes:    about half a minute a run on two CPU cores.
Writes:   the rows kill_quickstart and terminate_quickstart of experiments/results.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fmjax.core.errors import DataError, exits
from fmjax.training.records import read_records

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM}
SETTINGS = ["--config=configs/quickstart.py:small", "--config.checkpoint.every=10", "--config.log.every=5"]


def start(workdir: Path) -> subprocess.Popen:
    """Begin or resume the run of a folder in a process of its own."""
    command = [sys.executable, "-m", "fmjax.train", *SETTINGS, f"--workdir={workdir}", "--quiet"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(run: subprocess.Popen, wanted: int = 0) -> None:
    """Wait for a process.

    Raises:
      DataError: it exits otherwise than wanted.
    """
    _, said = run.communicate()
    if run.returncode != wanted:
        raise DataError(f"a run exited with {run.returncode}, not {wanted}: {said[-2000:]}")


def result(workdir: Path) -> tuple:
    """What must not differ: the digest of the last checkpoint, and every step's loss and batch, each once."""
    last = max((p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    manifest = json.loads((last / "manifest.json").read_text())
    records = read_records(workdir / "metrics.jsonl")
    course = [(r["step"], r["loss"], r["grad_norm"], r["batch"]) for r in records if r["kind"] == "train"]
    numbers = {k: v for r in records if r["kind"] == "eval" for k, v in r.items() if k != "time"}
    return manifest["step"], manifest["digest"], course, numbers


def trains(workdir: Path) -> bool:
    """Whether the first step is done."""
    return any(r["kind"] == "start" for r in read_records(workdir / "metrics.jsonl"))


def straight(workdir: Path) -> float:
    """The run left alone; the seconds from its first step to its end."""
    run = start(workdir)
    while not trains(workdir) and run.poll() is None:
        time.sleep(0.005)
    began = time.perf_counter()
    finish(run)
    return time.perf_counter() - began


def interrupt(workdir: Path, number: int, delay: float) -> tuple[int, float] | None:
    """Send a signal `delay` seconds after the first step; (exit code, seconds to the end), None if it came too late."""
    run = start(workdir)
    while not trains(workdir) and run.poll() is None:
        time.sleep(0.005)
    time.sleep(delay)
    if run.poll() is not None:
        finish(run)
        return None
    began = time.perf_counter()
    run.send_signal(number)
    _, said = run.communicate()
    if run.returncode == -signal.SIGTERM and (workdir / "state").read_text() == "finished\n":
        return None  # it was on its way out
    if run.returncode not in (0, -signal.SIGKILL):
        raise DataError(f"an interrupted run exited with {run.returncode}: {said[-2000:]}")
    return run.returncode, time.perf_counter() - began


def trial(base: Path, name: str, number: int, seconds: float, rng: random.Random) -> tuple[Path, int, float]:
    """A run interrupted at a random moment and resumed: its folder, how it exited, and how long that took."""
    for attempt in range(20):
        workdir = base / f"{name}-{attempt}"
        done = interrupt(workdir, number, rng.uniform(0, seconds))
        if done is not None:
            finish(start(workdir))
            return workdir, *done
    raise DataError("the run always ended before the signal")


def main(argv: list[str] | None = None) -> int:
    """Kill and terminate runs, compare, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--signal", choices=[*SIGNALS, "both"], default="both")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--folder", type=Path, help="where the rows go (default: experiments/results)")
    args = parser.parse_args(argv)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="fmjax-kill-") as base:
        seconds = straight(Path(base) / "straight")
        wanted = result(Path(base) / "straight")
        print(f"left alone: {seconds:.1f} s after the first step")
        for word, number in SIGNALS.items():
            if args.signal not in (word, "both"):
                continue
            same, codes, times = [], [], []
            for i in range(args.runs):
                workdir, code, took = trial(Path(base), f"{word}-{i}", number, seconds, rng)
                same.append(float(result(workdir) == wanted))
                codes.append(code)
                times.append(took)
                print(
                    f"{word} {i}: exit {code} after {took:.1f} s, {'the same' if same[-1] else 'DIFFERENT'}", flush=True
                )
            _row(word, same, codes, times, args)
    return 0


def _row(word: str, same: list[float], codes: list[int], times: list[float], args: argparse.Namespace) -> None:
    from fmjax.core.configfile import read
    from fmjax.results import write_row

    os.chdir(ROOT)
    how = "SIGKILL" if word == "kill" else f"SIGTERM, exit codes {sorted(set(codes))}, at most {max(times):.1f} s"
    write_row(
        f"{word}_quickstart",
        task="quickstart (small), stopped at a random moment and resumed",
        metric="runs with bit-identical weights",
        command=f"python benchmarks/kill.py --runs={args.runs} --signal={word}",
        values=same,
        repeats=len(same),
        config=read("configs/quickstart.py:small"),
        target=1.0,
        folder=args.folder and args.folder.absolute(),
        note=how,
    )


if __name__ == "__main__":
    exits(main)()
