"""One save at a time: copied at once, then written, hashed and published in the background."""

import math
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fmjax.core.types import Tree
from fmjax.training import checkpoint_arrays as arrays_io
from fmjax.training import checkpoint_folder as folders
from fmjax.training import digest


class Saver:
    """Writes trees as checkpoints; all processes of a run call it in the same order.

    Attributes:
      primary: whether this process makes the folders and writes what is not an array.
    """

    def __init__(self, primary: bool):
        self.primary = primary
        self._orbax: Any = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, path: Path, tree: Tree, facts: dict[str, Any], then: Callable[[], None] = lambda: None) -> None:
        """Begin to save `tree` at `path`; returns when it is copied, so that it may be donated.

        Args:
          path: the folder that appears when all of it is written.
          tree: arrays, typed keys and numbers.
          facts: what the manifest says besides.
          then: called by the primary process in the background, when `path` is there.
        """
        partial = path.with_name(path.name + folders.PARTIAL)
        try:
            if self.primary:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            arrays, leaves = arrays_io.encode(tree)
            digests = digest.start(arrays)
            self._write(partial, arrays)
        except BaseException:
            self._abandon(partial)
            raise

        def finish() -> None:
            try:
                if self._orbax is not None:
                    self._orbax.wait_until_finished()
                for name, value in digests().items():
                    leaves[name]["digest"] = value
                if self.primary:
                    _describe(partial, leaves, facts)
                    folders.publish(path)
                    then()
            except BaseException as error:
                self._error = error
                self._abandon(partial)

        del arrays, tree  # the thread must not keep them alive
        self._thread = threading.Thread(target=finish, name="checkpoint")
        self._thread.start()

    def busy(self) -> bool:
        """Whether a save is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Block until nothing is being written; raises what went wrong, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Let Orbax go; after `wait`."""
        if self._orbax is not None:
            self._orbax.close()
            self._orbax = None

    def _write(self, partial: Path, arrays: dict[str, Any]) -> None:
        ocp = arrays_io.orbax()
        arrays = {name: x for name, x in arrays.items() if x.size}  # Orbax refuses empty ones; the manifest has them
        if arrays:
            # Compressing weights takes most of the time of a save and of a restore, and spares a tenth of the bytes.
            handler = ocp.PyTreeCheckpointHandler(use_compression=False)
            self._orbax = self._orbax or ocp.AsyncCheckpointer(handler)
            self._orbax.save(partial / arrays_io.ARRAYS, args=ocp.args.PyTreeSave(arrays))

    def _abandon(self, partial: Path) -> None:
        self._orbax = None  # the next save begins anew
        if self.primary:
            shutil.rmtree(partial, ignore_errors=True)  # gives a full disk its space back


def _describe(partial: Path, leaves: dict[str, dict], facts: dict[str, Any]) -> None:
    """Write the manifest, and the hashes of all files."""
    size = sum(math.prod(shape.shape) * shape.dtype.itemsize for shape in map(arrays_io.stored, leaves.values()))
    made = {"bytes": size, "digest": digest.combine(leaves), "saved_at": time.time()}
    folders.write(partial / folders.MANIFEST, folders.manifest_text({**facts, **made}, leaves))
    folders.write(partial / folders.SUMS, folders.sums(partial))
