"""Several runs of a study at a time: worker processes that take one run after the other, and may die alone."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from typing import Any


def run_in_processes(plan: Any, left: Iterable[int], processes: int) -> bool:
    """Run what is left of a plan, asked for when a worker is free; False when it was interrupted.

    A worker that dies (out of memory, say) costs the run it was at, which is recorded as failed with the signal or
    exit code; another worker takes its place. An interrupt is passed on: the runs save, and go on when asked again.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share an accelerator's memory
    waiting, workers, busy, whole = iter(left), [], {}, True

    def give(worker: _Worker | None) -> None:
        """The next run to a worker, or to a new one."""
        index = next(waiting, None)
        if index is not None:
            if worker is None:
                worker = _Worker(plan)
                workers.append(worker)
            busy[worker.give(index)] = worker

    old = signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        for _ in range(processes):
            give(None)
        while busy:
            for ready in wait(list(busy)):
                worker = busy.pop(ready)
                line, alive = worker.take()
                if line is not None:
                    plan.take(worker.index, line)
                whole = whole and line is not None
                if whole:
                    give(worker if alive else None)
        return whole
    except KeyboardInterrupt:
        return False
    finally:
        signal.signal(signal.SIGTERM, old)
        for worker in workers:
            worker.close(stop=bool(busy))


class _Worker:
    """A process that runs what it is given, and answers with the lines."""

    def __init__(self, plan: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, type(plan).again, plan.told))
        self.process.start()
        theirs.close()
        self.plan, self.index = plan, -1

    def give(self, index: int) -> Connection:
        self.index = index
        self.connection.send(index)
        return self.connection

    def take(self) -> tuple[dict[str, Any] | None, bool]:
        """(the line, whether the worker lives on); no line when the run was interrupted."""
        try:
            return self.connection.recv(), True
        except EOFError:
            self.process.join()
        code = self.process.exitcode
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        hint = "; out of memory?" if code == -signal.SIGKILL else ""
        return self.plan.line(self.index, "failed", error=f"its process died of {how}{hint}"), False

    def close(self, stop: bool) -> None:
        self.connection.close()  # an idle worker ends at this
        if stop and self.process.is_alive():
            self.process.terminate()
        self.process.join()


def _serve(connection: Connection, again: Callable[..., Any], told: tuple[Any, ...]) -> None:
    """The life of a worker."""
    os.setsid()  # Ctrl-C reaches the parent alone, which passes it on once: a second signal would cut the save short
    from fmjax.start import start

    start()
    plan = again(*told)
    sys.stdout = sys.stderr  # what a run prints is no report of the sweep
    while True:
        try:
            index = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        line = plan.trial(index)
        try:
            connection.send(line)
        except BrokenPipeError:  # the parent was killed: whoever goes on finds the run folder
            return


def _as_interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
