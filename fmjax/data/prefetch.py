"""Batches made ahead of time: by threads of this process, or by worker processes through Grain."""

import collections
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fmjax.core.errors import DataError

FOREVER = 1 << 40  # Grain wants a length


def in_threads(make: Callable[[int], Any], start: int, stop: int | None, threads: int, ahead: int) -> Iterator[Any]:
    """make(start), make(start + 1), ... in order; `threads` of them work on the next `ahead`.

    An exception surfaces where its batch would have come. Closing the iterator waits for the batches that are
    being made and drops them.
    """
    if threads == 0:
        k = start
        while stop is None or k < stop:
            yield make(k)
            k += 1
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fmjax-data")
    waiting: collections.deque = collections.deque()
    k = start
    try:
        while True:
            while len(waiting) < max(ahead, threads) and (stop is None or k < stop):
                waiting.append(pool.submit(make, k))
                k += 1
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_processes(batches: Any, seed: int, start: int, stop: int | None, rows: slice) -> Iterator[Any]:
    """The same by `batches.workers` processes; the order does not depend on how many there are."""
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags, and refuse when nobody parsed them
        flags.FLAGS.mark_as_parsed()
    elements = _Elements(batches, seed, start, stop, rows)
    options = grain.MultiprocessingOptions(num_workers=batches.workers, per_worker_buffer_size=batches.prefetch)
    # A worker makes one batch at a time: its threads would only fight for its interpreter.
    reading = grain.ReadOptions(num_threads=max(batches.threads, 1), prefetch_buffer_size=max(batches.threads, 1))
    iterator = iter(grain.MapDataset.source(elements).to_iter_dataset(reading).mp_prefetch(options))
    try:
        for element in iterator:
            if "error" in element:
                raise element["error"]
            # Out of the memory shared with the worker, which goes away under arrays that live on.
            yield {key: np.array(array) for key, array in element["batch"].items()}
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


class _Elements:
    """Batches as Grain's random-access source; whole batches, so that it need not know how they are made."""

    def __init__(self, batches: Any, seed: int, start: int, stop: int | None, rows: slice):
        self.batches, self.seed, self.start, self.stop, self.rows = batches, seed, start, stop, rows

    def __len__(self) -> int:
        return FOREVER if self.stop is None else max(self.stop - self.start, 0)

    def __getitem__(self, j: int) -> dict[str, Any]:
        try:
            return {"batch": self.batches.batch(self.start + int(j), self.seed, self.rows)}
        except DataError as error:  # handed over as data: Grain would wrap it in an error of its own
            return {"error": DataError(str(error))}
        except Exception as error:
            return {"error": RuntimeError("in a data worker: " + "".join(traceback.format_exception(error)))}
