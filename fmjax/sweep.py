"""Sweep: `python -m fmjax.sweep --study=FILE[:variant] --workdir=DIR [--config.a.b=value ...]`.

Runs every change of a study with every seed, each an ordinary run in a folder of its own; the same command again goes
on where it stopped. What a run ended with, or the error it ended in, becomes a line of results.jsonl.

  --processes=N   so many runs at a time, each in a process
  --index=I       run number I alone: a task of a SLURM array, a turn of a Colab loop
  --population    runs that differ in seed and continuous numbers become one program (see docs/ablation.md)
  --print         print the commands and run nothing
  --report        write table.md, table.csv and figure.png beside results.jsonl, and run nothing
"""

import argparse
from pathlib import Path

from fmjax.core.errors import ConfigError, exits


def main(argv: list[str] | None = None) -> int:
    """Read the flags; run, print or report the study."""
    parser = argparse.ArgumentParser(
        prog="python -m fmjax.sweep",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--study", required=True, help="a file with get_study(), with ':variant' where it has several")
    parser.add_argument("--workdir", help="the folder of the runs")
    parser.add_argument("--results", help="the file of results (default: results.jsonl in the workdir)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--processes", type=int, default=1, metavar="N")
    how.add_argument("--index", type=int, metavar="I", help="from 0")
    how.add_argument("--population", type=int, nargs="?", const=32, metavar="MOST", help="at most so many a program")
    how.add_argument("--print", action="store_true")
    how.add_argument("--report", action="store_true")
    parser.add_argument("--retry", action="store_true", help="run those again that failed")
    parser.add_argument("--mix", action="store_true", help="let runs of other code stand beside those of this code")
    args, flags = parser.parse_known_args(argv)
    if any(flag.startswith("--config.seed") for flag in flags):
        raise ConfigError("--config.seed: seeds are the study's own; write them into its file")
    if not args.workdir and not (args.print or (args.report and args.results)):
        raise ConfigError("give --workdir=DIR, the folder of the runs")
    if args.processes < 1:
        raise ConfigError(f"--processes={args.processes}: give 1 or more")

    from fmjax import study as studies

    study = studies.read(args.study)
    if study.space:
        raise ConfigError(f"{args.study} has a space to search: python -m fmjax.search --study={args.study} ...")
    if args.report:
        from fmjax import study_report

        results = Path(args.results or Path(args.workdir) / "results.jsonl")
        print(study_report.write(study, results, results.parent, args.mix))
        return 0

    from fmjax.start import start

    start()
    from fmjax import sweep_runner

    if args.print:
        for line in sweep_runner.commands(study, args.study, args.workdir, flags):
            print(line)
        return 0
    plan = sweep_runner.Plan(study, args.study, Path(args.workdir), args.results, flags, args.mix)
    if args.index is not None:
        return plan.run_one(args.index, args.retry)
    if args.population:
        return plan.run_populations(args.population, args.retry)
    return plan.run_all(args.processes, args.retry)


if __name__ == "__main__":
    exits(main)()
