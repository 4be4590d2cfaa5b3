"""Search: `python -m fmjax.search --study=FILE[:variant] --workdir=DIR --trials=N [--config.a.b=value ...]`.

Draws trials from the space of a study until there are N, each an ordinary run in a folder of its own; the same command
again goes on where it stopped, and with a larger N goes further. What a trial ended with becomes a line of
results.jsonl; search.db is the store of Optuna that draws the next. Needs the extra `search`.

  --processes=N   so many trials at a time, each in a process; several commands may share a folder, too
  --report        write table.md and table.csv beside results.jsonl, and run nothing
"""

import argparse
from pathlib import Path

from fmjax.core.errors import ConfigError, exits


def main(argv: list[str] | None = None) -> int:
    """Read the flags; search or report."""
    parser = argparse.ArgumentParser(
        prog="python -m fmjax.search",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--study", required=True, help="a file with get_study(), with ':variant' where it has several")
    parser.add_argument("--workdir", required=True, help="the folder of the runs and of the store")
    parser.add_argument("--results", help="the file of results (default: results.jsonl in the workdir)")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--trials", type=int, metavar="N", help="of the whole search, those that ended before included")
    how.add_argument("--report", action="store_true")
    parser.add_argument("--processes", type=int, default=1, metavar="N")
    parser.add_argument("--mix", action="store_true", help="let trials of other code stand beside those of this code")
    args, flags = parser.parse_known_args(argv)
    if any(flag.startswith("--config.seed") for flag in flags):
        raise ConfigError("--config.seed: seeds are the study's own; write them into its file")
    for name, number in (("trials", args.trials), ("processes", args.processes)):
        if number is not None and number < 1:
            raise ConfigError(f"--{name}={number}: give 1 or more")

    from fmjax import study as studies

    study = studies.read(args.study)
    if args.report:
        from fmjax import search_report

        print(search_report.write(study, Path(args.workdir), args.results and Path(args.results), args.mix))
        return 0

    from fmjax.start import start

    start()
    from fmjax.search_runner import Searcher

    plan = Searcher(study, args.study, Path(args.workdir), args.results, flags, args.mix)
    return plan.search(args.trials, args.processes)


if __name__ == "__main__":
    exits(main)()
