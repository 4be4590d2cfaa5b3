"""Train: `python -m fmjax.train --config=FILE[:variant] [--workdir=DIR] [--config.a.b=value ...]`.

The same --workdir again resumes the run; --workdir alone resumes it from the config it keeps.
"""

import argparse
import time

from fmjax.core.errors import UserError, exits


def main(argv: list[str] | None = None) -> int:
    """Read the flags, train, say where the run is."""
    began = time.perf_counter()
    parser = argparse.ArgumentParser(prog="python -m fmjax.train", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", help="a config file, with ':variant' where it has several")
    parser.add_argument("--workdir", help="the run folder (default: runs/<config>-<time>)")
    parser.add_argument(
        "--distributed", action="store_true", help="one of several processes: jax.distributed.initialize()"
    )
    parser.add_argument("--quiet", action="store_true", help="draw no progress")
    args, overrides = parser.parse_known_args(argv)

    from fmjax.start import start

    start(distributed=args.distributed)
    import jax

    from fmjax import report
    from fmjax.core.configfile import read
    from fmjax.run import fit, load_config
    from fmjax.training.folder import RunFolder

    if args.config:
        config = read(args.config)
    elif args.workdir:
        config = load_config(RunFolder(args.workdir, writes=False))
    else:
        raise UserError("give --config=FILE to begin a run, or --workdir=RUN to resume one")
    workdir = args.workdir or f"runs/{_name(args.config)}-{time.strftime('%Y%m%d-%H%M%S')}"
    run = fit(config, workdir, overrides, progress=False if args.quiet else None, began=began)
    if jax.process_index() == 0:
        print(f"{run.word} at step {run.step}: {workdir}")
        for name, value in run.numbers.items():
            print(f"  {name} {value:.5g}")
        print(f"  report {report.write([workdir])}")
    return 0


def _name(spec: str) -> str:
    from pathlib import Path

    return Path(spec.partition(":")[0]).stem


if __name__ == "__main__":
    exits(main)()
