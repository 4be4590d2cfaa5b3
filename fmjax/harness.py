"""Harness: `python -m fmjax.harness --workdir=RUN --tasks=NAME --tasks_folder=DIR` runs EleutherAI's lm-eval on a run.

Tasks are those of YAML files in DIR, whose data lies beside them; nothing is fetched. experiments/harness_example shows
what such a folder looks like. It prints lm-eval's table and writes RUN/harness.json.
"""

import argparse
import contextlib
import datetime
import json
import os
from pathlib import Path
from typing import Any

from fmjax.core.config import did_you_mean
from fmjax.core.errors import UserError, exits, extra


def main(argv: list[str] | None = None) -> int:
    """Read the flags, run the tasks, print the table."""
    parser = argparse.ArgumentParser(prog="python -m fmjax.harness", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="the run folder")
    parser.add_argument("--tasks", required=True, help="names, with commas between them")
    parser.add_argument("--tasks_folder", required=True, help="where the tasks' YAML files are")
    parser.add_argument("--step", type=int, help="the checkpoint (default: the latest, or the best of an early stop)")
    parser.add_argument("--limit", type=int, help="only so many questions a task")
    parser.add_argument("--fewshot", type=int, help="examples before a question (default: what the task says)")
    parser.add_argument("--batch", type=int, default=16, help="texts scored at once")
    parser.add_argument("--max_length", type=int, help="tokens the model reads (default: as in training)")
    args = parser.parse_args(argv)
    if min(args.batch, 1 if args.limit is None else args.limit) < 1:
        raise UserError("--batch and --limit are 1 or more")

    from fmjax.start import start

    start()
    from fmjax.harness_model import Scorer, adapter
    from fmjax.run import Run

    scorer = Scorer.of(Run.load(args.workdir, args.step), args.batch, args.max_length)
    found = evaluate(adapter(scorer), args.tasks.split(","), args.tasks_folder, args.limit, args.fewshot)
    found |= {"step": scorer.run.step, "limit": args.limit, "max_length": scorer.max_length}
    path = Path(args.workdir) / "harness.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))
    print(f"written to {path}")
    return 0


def evaluate(
    model: Any, tasks: list[str], folder: str, limit: int | None = None, fewshot: int | None = None
) -> dict[str, Any]:
    """What lm-eval finds: {"tasks": {task: {metric: value, metric_stderr: error}}} and what it was found with.

    Args:
      model: an lm-eval model.
      tasks: names of tasks in the folder.
      folder: YAML files, read with themselves as the working directory, so that they name their data by relative paths.

    Raises:
      UserError: no such folder or task.
    """
    os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"})  # read when lm-eval is imported
    lm_eval = extra("lm_eval", "lm-eval")
    if not Path(folder).is_dir():
        raise UserError(f"--tasks_folder={folder}: there is no such folder")
    manager = extra("lm_eval.tasks", "lm-eval").TaskManager(include_path=str(Path(folder).resolve()),
                                                            include_defaults=False)  # fmt: skip
    for name in tasks:
        if name not in manager.all_tasks:
            raise UserError(f"there is no task {name!r} in {folder}; {did_you_mean(name, manager.all_tasks)}")
    with contextlib.chdir(folder):
        found = lm_eval.simple_evaluate(
            model=model, tasks=tasks, task_manager=manager, limit=limit, num_fewshot=fewshot, bootstrap_iters=1000,
            log_samples=False,
        )  # fmt: skip
    numbers = {
        task: {key.removesuffix(",none"): value for key, value in result.items() if isinstance(value, (int, float))}
        for task, result in found["results"].items()
    }
    return {
        "tasks": numbers,
        "versions": {str(k): v for k, v in found["versions"].items()},
        "fewshot": {str(k): v for k, v in found["n-shot"].items()},
        "lm_eval": lm_eval.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def table(found: dict[str, Any]) -> str:
    """A line for every number, with its standard error."""
    lines = [f"{'task':<24} {'version':<8} {'shots':<6} {'metric':<20} {'value':>10}   standard error"]
    for task, numbers in found["tasks"].items():
        for name, value in numbers.items():
            error = numbers.get(name.replace(",", "_stderr,") if "," in name else f"{name}_stderr")
            if "_stderr" in name or name in ("sample_len", "sample_count"):
                continue
            shown = "" if error is None else f"{error:.4f}"
            version, shots = found["versions"].get(task, ""), found["fewshot"].get(task, "")
            lines.append(f"{task:<24} {version!s:<8} {shots!s:<6} {name:<20} {value:>10.4f}   {shown}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    exits(main)()
