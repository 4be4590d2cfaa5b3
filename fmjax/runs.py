"""Runs: list the run folders there are, compare some, and go on with one.

python -m fmjax.runs list [FOLDER]
python -m fmjax.runs compare RUN RUN...
python -m fmjax.runs resume RUN [--config.key=value ...]
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmjax.core.configfile import differences
from fmjax.core.errors import CheckpointError, DataError, exits
from fmjax.core.fingerprint import config_hash
from fmjax.runfolder import SavedRun, best, find, is_about, labels, lower_is_better, watched
from fmjax.training.progress import amount, duration

WIDEST = 48  # characters of a cell


def listing(folder: Path) -> list[list[str]]:
    """A row a run: name, state, step, last loss, best eval, age, config; the header first."""
    rows = [["run", "state", "step", "loss", "best eval", "age", "config"]]
    for run in find(folder):
        train, evals = run.glance()
        step = max([r.get("step", 0) for r in (train, *evals)], default=0)
        name = "." if run.path == folder else str(run.path.relative_to(folder))
        loss = amount(train["loss"]) if isinstance(train.get("loss"), (int, float)) else "-"
        steps = "?" if run.steps is None else run.steps
        rows.append(
            [name, run.status(), f"{step}/{steps}", loss, _best(run, evals), duration(run.age()), config_name(run)]
        )
    return rows


def config_name(run: SavedRun) -> str:
    """The config file of the command that started a run, else the hash of its config."""
    named = re.search(r"--config[= ](\S+)", run.command)
    if named:
        return named[1]
    return config_hash(run.config)[:8] if run.config else "(missing)"


def comparison(runs: Sequence[SavedRun]) -> tuple[list[list[str]], list[list[str]]]:
    """(config differences, final numbers), a column a run; the headers first."""
    names = labels(list(runs))
    changed: dict[str, list[Any]] = {}
    for i, run in enumerate(runs[1:], 1):
        for path, (first, other) in differences(runs[0].config, run.config).items():
            changed.setdefault(path, [first] * len(runs))[i] = other
    configs = [["config", *names]]
    configs += [[path, *(_short(v) for v in values)] for path, values in sorted(changed.items())]
    finals = [_finals(run) for run in runs]
    keys = dict.fromkeys(key for final in finals for key in final)
    return configs, [["final", *names], *([key, *(final.get(key, "-") for final in finals)] for key in keys)]


def resume(path: Path, rest: list[str]) -> int | None:
    """Go on with a run, by the train command and nothing but its folder.

    Whether another process is at it, the lock on its checkpoints knows: a heartbeat outlives a kill by a minute.

    Raises:
      CheckpointError: the folder has no config.
    """
    SavedRun.open(path)
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path} has no config.json: it cannot be resumed")
    from fmjax import train

    return train.main([f"--workdir={path}", *rest])


def main(argv: list[str] | None = None) -> int | None:
    """List, compare or resume run folders."""
    parser = argparse.ArgumentParser(prog="python -m fmjax.runs", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("list", help="a table of the runs in a folder and below it")
    one.add_argument("folder", nargs="?", type=Path, default=Path())
    two = commands.add_parser("compare", help="how configs differ, and the final numbers side by side")
    two.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    three = commands.add_parser("resume", help="go on with a run from its folder alone")
    three.add_argument("run", type=Path, metavar="RUN")
    args, rest = parser.parse_known_args(argv)
    if args.command == "resume":
        return resume(args.run, rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.command == "list":
        if not args.folder.is_dir():
            raise DataError(f"there is no folder {args.folder}")
        rows = listing(args.folder)
        print(align(rows) if len(rows) > 1 else f"no runs in {args.folder}")
        return 0
    if len(args.runs) < 2:
        parser.error("compare needs at least two runs")
    runs = [SavedRun.open(path) for path in args.runs]
    configs, finals = comparison(runs)
    print(align(configs) if len(configs) > 1 else "the configs are equal")
    print("\n" + align(finals))
    for label, run in zip(labels(runs), runs, strict=True):
        for problem in run.problems:
            print(f"\n{label}: {problem}")
    return 0


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns of text, the header underlined."""
    rows = [["".join(c if c.isprintable() else "?" for c in cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _finals(run: SavedRun) -> dict[str, str]:
    train, evals = run.glance()
    steps = "?" if run.steps is None else run.steps
    step = max([r.get("step", 0) for r in (train, *evals)], default=0)
    final = {"state": run.status(), "step": f"{step}/{steps}", "wall time": duration(run.wall_seconds())}
    if isinstance(train.get("loss"), (int, float)):
        final["train loss"] = amount(train["loss"])
    series = run.series("eval")
    for name, (at, values) in series.items():
        if is_about(name, series):
            continue
        top = best(at, values, lower_is_better(name, run))
        final[name] = amount(values[-1]) + (f" (best {amount(top[1])} at {top[0]})" if top and top[0] != at[-1] else "")
    return final


def _best(run: SavedRun, evals: list[dict[str, Any]]) -> str:
    numbers = [{k: v for k, v in r.items() if type(v) in (int, float)} for r in evals]
    name = watched(run, list(dict.fromkeys(k for r in numbers for k in r if k not in ("step", "time"))))
    found = [(r.get("step", 0), r[name]) for r in numbers if name in r]
    lower = bool(name) and lower_is_better(name, run)
    top = best([s for s, _ in found], [v for _, v in found], lower) if name else None
    return f"{name} {amount(top[1])} at {top[0]}" if top else "-"


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) and value != "(absent)" else str(value)
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."


if __name__ == "__main__":
    exits(main)()
