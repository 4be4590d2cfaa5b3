"""Cross-validate: `python -m fmjax.crossval --config=FILE --folds=5 --workdir=DIR [--config.a.b=value ...]`.

Every fold trains on the other folds of the training source and is evaluated on the one left out; each is an ordinary
run in DIR/fold_K, so the command can be stopped and given again. Early stopping is off: it would peek at the fold.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from fmjax.core.errors import ConfigError, exits


def main(argv: list[str] | None = None) -> int:
    """Read the flags, train every fold, print and save mean and spread."""
    parser = argparse.ArgumentParser(prog="python -m fmjax.crossval", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="a config file, with ':variant' where it has several")
    parser.add_argument("--workdir", required=True, help="the folder of the folds' runs")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--evaluator", help="whose metrics to use (default: the config's first)")
    args, overrides = parser.parse_known_args(argv)

    from fmjax.start import start

    start()
    import statistics

    from fmjax.assembly import prepare
    from fmjax.run import fit

    found: dict[str, list[float]] = {}
    for fold in range(args.folds):
        config, _ = prepare(args.config, overrides)
        run = fit(fold_config(config, fold, args.folds, args.evaluator), Path(args.workdir) / f"fold_{fold}")
        if run.word != "finished":
            print(f"interrupted in fold {fold}: give the same command again to go on")
            return 0
        for name, value in run.numbers.items():
            if name.startswith("held_out/"):
                found.setdefault(name.removeprefix("held_out/"), []).append(value)
    spread = {k: statistics.stdev(v) for k, v in found.items()}
    rows = {k: {"values": v, "mean": statistics.fmean(v), "spread": spread[k]} for k, v in found.items()}
    (Path(args.workdir) / "crossval.json").write_text(
        json.dumps({"folds": args.folds, "numbers": rows}, indent=1) + "\n"
    )
    for name, row in rows.items():
        each = ", ".join(f"{v:.4g}" for v in row["values"])
        print(f"{name}: {row['mean']:.5g} +- {row['spread']:.2g} over {args.folds} folds ({each})")
    return 0


def fold_config(config: Any, fold: int, folds: int, evaluator: str | None = None) -> Any:
    """The config of one fold: trained on the others, with the one evaluator "held_out" over the one left out.

    Raises:
      ConfigError: fewer than two folds, or no evaluator to take the metrics from.
    """
    from fmjax.core.config import call, did_you_mean
    from fmjax.data.splits import Fold

    if folds < 2:
        raise ConfigError(f"--folds={folds}: cross-validation needs two or more")
    if not config.evals:
        raise ConfigError("the config has no evaluator whose metrics the held-out fold could use")
    name = evaluator or next(iter(config.evals))
    if name not in config.evals:
        raise ConfigError(f"--evaluator={name}: there is none; {did_you_mean(name, config.evals)}")
    source = config.data.source
    held_out = config.evals[name]
    with config.ignore_type(), config.unlocked():
        held_out.data.source = call(Fold, source=source, fold=fold, folds=folds, held_out=True)
        held_out.every = 0
        config.data.source = call(Fold, source=source, fold=fold, folds=folds)
        config.early_stop = None
        config.evals = {"held_out": held_out}
    return config


if __name__ == "__main__":
    exits(main)()
