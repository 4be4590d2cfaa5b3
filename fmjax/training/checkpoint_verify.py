"""What is damaged in a checkpoint: every file against its hash, every leaf against its digest."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fmjax.core.errors import CheckpointError
from fmjax.training import checkpoint_folder as folders

AT_ONCE = 1 << 27  # numbers in memory at a time


def damage(path: Path) -> list[str]:
    """One line for everything in the checkpoint `path` that is not what was saved; needs no model and no device."""
    files = folders.damaged_files(path)
    found = [f"file {name} is not the one that was saved" for name in files or ()]
    if files is None:
        found.append(f"file {folders.SUMS} is missing")
    try:
        leaves = folders.read_manifest(path)["leaves"]
    except CheckpointError as error:
        return [*found, str(error)]
    # Where files are damaged some leaf cannot be read, and Orbax says so for all that are read with it.
    wrong = [name for group in _groups(leaves, 1 if found else AT_ONCE) for name in differing(path, leaves, group)]
    return found + [f"leaf {name} is not the one that was saved" for name in wrong]


def differing(path: Path, leaves: dict[str, Any], names: list[str]) -> list[str]:
    """Those of `names` that cannot be read or have another digest."""
    from fmjax.training import checkpoint_arrays as arrays_io  # jax

    try:
        return arrays_io.differing(leaves, arrays_io.load(path, leaves, dict.fromkeys(names)))
    except Exception:  # whatever Orbax says: halve until it is clear which leaves are meant
        if len(names) == 1:
            return names
        half = len(names) // 2
        return differing(path, leaves, names[:half]) + differing(path, leaves, names[half:])


def _groups(leaves: dict[str, Any], at_once: int) -> Iterator[list[str]]:
    group, size = [], 0
    for name, leaf in leaves.items():
        group, size = [*group, name], size + math.prod(leaf["shape"])
        if size >= at_once:
            yield group
            group, size = [], 0
    if group:
        yield group
