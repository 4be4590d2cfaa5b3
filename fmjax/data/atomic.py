"""Folders that appear whole or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, renamed to `target` when the block ends well and removed when it does not.

    Without `replace`, a target that another process finished in the meantime is kept and ours is dropped.

    Raises:
      OSError: the place cannot be written, or is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        new = work / "new"
        new.mkdir()  # with the usual permissions, which mkdtemp's own folder has not
        yield new
        old = work / "old"
        if replace and target.exists():
            target.rename(old)
        try:
            new.rename(target)  # onto nothing or an empty folder
        except OSError:
            if old.exists():
                old.rename(target)
            if replace or not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
