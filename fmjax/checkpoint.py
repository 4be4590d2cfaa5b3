"""Look into the checkpoints of a run: `python -m fmjax.checkpoint list | inspect | verify RUN [--step N]`."""

import argparse
import datetime
import json
import math
import os
import sys
from pathlib import Path

from fmjax.core.errors import CheckpointError, exits
from fmjax.training import checkpoint_folder as folders
from fmjax.training import checkpoint_scores

SHOWN = 20  # lines of damage a checkpoint


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0, or 2 when `verify` finds damage."""
    parser = argparse.ArgumentParser(prog="python -m fmjax.checkpoint", description=__doc__)
    parser.add_argument("what", choices=["list", "inspect", "verify"])
    parser.add_argument("folder", type=Path, help="a run folder, its checkpoints folder, or one checkpoint")
    parser.add_argument("--step", type=int, help="only this step (inspect shows the latest without it)")
    args = parser.parse_args(argv)
    folder, step = find(args.folder, args.step)
    if args.what == "verify":
        return verify(folder, step)
    if args.what == "list":
        return show_all(folder, step)
    return inspect(folder / str(folders.steps(folder)[-1] if step is None else step))


def find(folder: Path, step: int | None = None) -> tuple[Path, int | None]:
    """(the folder that holds checkpoints, the step meant) from whatever a person names.

    Raises:
      CheckpointError: there is none.
    """
    if (folder / folders.MANIFEST).is_file() and folder.name.isdigit():
        folder, step = folder.parent, int(folder.name) if step is None else step
    elif (folder / "checkpoints").is_dir():
        folder = folder / "checkpoints"
    steps = folders.steps(folder)
    if not steps:
        raise CheckpointError(f"there is no checkpoint in {folder}: name a run folder or its checkpoints folder")
    if step is not None and step not in steps:
        raise CheckpointError(f"{folder} has no step {step}; there is {', '.join(map(str, steps))}")
    return folder, step


def show_all(folder: Path, step: int | None = None) -> int:
    """A line a checkpoint: step, when, leaves, bytes, and the value that picks the best."""
    values = {}
    if (scores := folder / folders.SCORES).is_file():
        try:
            _, values = checkpoint_scores.read(scores)
        except ValueError as error:
            print(f"{scores} is {error}", file=sys.stderr)
    rows = [("step", "saved", "leaves", "bytes", "value")]
    for k in folders.steps(folder) if step is None else [step]:
        value = f"{values[k]:.6g}" if k in values else ""
        try:
            manifest = folders.read_manifest(folder / str(k))
            rows.append((str(k), _when(manifest), str(len(manifest["leaves"])), _bytes(manifest), value))
        except CheckpointError:
            rows.append((str(k), "damaged", "", "", value))
    _table(rows)
    for name in folders.frozen(folder):
        print(f"frozen {name}")
    return 0


def inspect(path: Path) -> int:
    """The facts of one checkpoint, then a line a leaf."""
    manifest = folders.read_manifest(path)
    leaves = manifest.pop("leaves")
    for name, value in manifest.items():
        shown = _when(manifest) if name == "saved_at" else value if isinstance(value, str) else json.dumps(value)
        print(f"{name}: {shown}")
    print()
    rows = [("address", "dtype", "shape", "digest")]
    rows += [(n, x["dtype"], "x".join(map(str, x["shape"])) or "-", x["digest"]) for n, x in leaves.items()]
    _table(rows)
    numbers = sum(math.prod(leaf["shape"]) for leaf in leaves.values())
    print(f"\n{len(leaves)} leaves, {numbers:,} numbers, {_bytes(manifest)}")
    return 0


def verify(folder: Path, step: int | None = None) -> int:
    """Every file against its hash, every leaf against its digest, on this CPU; 2 when anything differs."""
    from fmjax.training.checkpoint_verify import damage

    if "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = "cpu"
    frozen = [] if step is not None else [f"frozen/{name}" for name in folders.frozen(folder)]
    bad = 0
    for name in [*map(str, folders.steps(folder) if step is None else [step]), *frozen]:
        found = damage(folder.absolute() / name)
        bad += bool(found)
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        print(f"{name}: {'damaged' if found else 'ok'}", *found[:SHOWN], *more, sep="\n  ", flush=True)
    if step is None and (scores := folder / folders.SCORES).is_file():
        try:
            checkpoint_scores.read(scores)
        except ValueError as error:
            bad += 1
            print(f"{folders.SCORES}: {error}")
    return 2 if bad else 0


def _when(manifest: dict) -> str:
    return datetime.datetime.fromtimestamp(manifest["saved_at"]).astimezone().isoformat(" ", "seconds")


def _bytes(manifest: dict) -> str:
    size = manifest["bytes"]
    power = min(max(len(str(size)) - 1, 0) // 3, 4)
    return f"{size / 1000**power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    exits(main)()
