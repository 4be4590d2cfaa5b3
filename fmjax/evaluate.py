"""Evaluate: `python -m fmjax.evaluate --workdir=RUN [--step=N] [--only=NAME ...] [--config.a.b=value]`."""

import argparse
import json

from fmjax.core.errors import exits


def main(argv: list[str] | None = None) -> int:
    """Read the flags, run the evaluators of a run's config on its weights, print the numbers."""
    parser = argparse.ArgumentParser(prog="python -m fmjax.evaluate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="the run folder")
    parser.add_argument("--step", type=int, help="the checkpoint (default: the latest, or the best of an early stop)")
    parser.add_argument("--adapter", metavar="RUN", help="of an adapted run: take what another one trained on its base")
    parser.add_argument("--ensemble", metavar="RUN,...", help="more runs: the mean of all their probabilities")
    parser.add_argument("--only", action="append", metavar="NAME", help="an evaluator; may be given again")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args, overrides = parser.parse_known_args(argv)

    from fmjax.start import start

    start()
    from fmjax.run import Run

    run = Run.load(args.workdir, args.step, overrides)
    if args.adapter:
        run = run.swapped(args.adapter)
    others = [folder for folder in (args.ensemble or "").split(",") if folder]
    if others:
        from fmjax.ensemble import Ensemble

        numbers = Ensemble([run, *map(Run.load, others)]).evaluate(args.only)
    else:
        numbers = run.evaluate(args.only)
    if args.json:
        print(json.dumps({"step": run.step, **numbers}))
        return 0
    more = (f" with {args.adapter}" if args.adapter else "") + "".join(f" and {folder}" for folder in others)
    print(f"{args.workdir} at step {run.step}{more}")
    for name, value in numbers.items():
        print(f"  {name} {value:.6g}")
    return 0


if __name__ == "__main__":
    exits(main)()
