"""One writer a folder: a lock that the system releases when its holder dies."""

import os
import socket
import weakref
from pathlib import Path

from fmjax.core.errors import CheckpointError

_held: weakref.WeakSet = weakref.WeakSet()


class Lock:
    """Hold `path` until `release`, or until the process ends in any way.

    Args:
      path: a file in the folder to hold; it is made.
      shared: hold it beside others that share it; only one that does not share is refused, and refuses.
      wait: until it is free, rather than refuse.

    Raises:
      CheckpointError: another process, or another object of this one, holds it.
    """

    def __init__(self, path: Path, shared: bool = False, wait: bool = False):
        import fcntl

        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            holder = os.pread(self._file, 200, 0).decode("utf-8", "replace").strip() or "another process"
            self.release()
            if not isinstance(error, BlockingIOError):
                raise
            raise CheckpointError(
                f"{path.parent} is being written by {holder}: stop that run, or give this one another folder"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        _held.add(self)

    def release(self) -> None:
        _held.discard(self)
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _forget() -> None:
    # A forked child shares the lock, and would go on holding it after its parent's death.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget)
