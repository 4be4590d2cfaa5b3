"""Show a config: `python -m fmjax.config --config=FILE[:variant] [--diff=OTHER] [--config.a.b=value ...]`."""

import argparse

from fmjax.core.errors import exits


def main(argv: list[str] | None = None) -> int:
    """Print every field of the complete config, and how it differs from its defaults or from another one."""
    parser = argparse.ArgumentParser(prog="python -m fmjax.config", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="a config file (:variant), or a run's config.json")
    parser.add_argument("--diff", help="another config to compare with")
    args, overrides = parser.parse_known_args(argv)

    from fmjax.assembly import prepare
    from fmjax.core.config import walk
    from fmjax.core.configfile import defaults, differences

    config, changed = prepare(args.config, overrides)
    if args.diff:
        other, _ = prepare(args.diff)
        for path, (mine, theirs) in differences(config, other).items():
            print(f"{path}: {mine!r}  |  {theirs!r}")
        return 0
    usual = defaults(config)
    for path, _, _, value in walk(config):
        notes = []
        if path.removeprefix("config.") in changed:
            notes.append("overridden")
        if path in usual and usual[path] != value:
            notes.append(f"default {usual[path]!r}")
        print(f"--{path}={value!r}" + (f"    # {', '.join(notes)}" if notes else ""))
    return 0


if __name__ == "__main__":
    exits(main)()
