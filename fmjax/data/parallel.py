"""Work on groups of documents, in this process or in others: in order either way, and little held in memory."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fmjax.core.errors import DataError

GROUP = 1 << 22  # characters that are worked on at a time


def groups(texts: Iterable[str], size: int = GROUP) -> Iterator[list[str]]:
    """Documents in lists of about `size` characters."""
    group, held = [], 0
    for text in texts:
        group.append(text)
        held += len(text)
        if held >= size:
            yield group
            group, held = [], 0
    if group:
        yield group


def alongside(texts: Iterable[str], verdicts: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Documents with what an earlier pass found out about each.

    Raises:
      DataError: they are not as many as they were then.
    """
    count = 0
    for count, text in enumerate(texts, 1):
        if count > len(verdicts):
            break
        yield text, verdicts[count - 1]
    if count != len(verdicts):
        raise DataError(f"{texts!r} changed while it was read: it had {len(verdicts)} documents")


def mapped(function: Callable[[Any], Any], items: Iterable[Any], workers: int = 0) -> Iterator[Any]:
    """`function` of each item, in order; by `workers` processes, which get the function once, or here when 0.

    Raises:
      DataError: a worker died; or whatever the function raises.
    """
    if not workers:
        yield from map(function, items)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    spawn = multiprocessing.get_context("spawn")  # the tokenizers library does not survive a fork
    with ProcessPoolExecutor(workers, spawn, _start, (function,)) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(_work, item))
                if len(waiting) > 2 * workers:  # no more than this is held in memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise DataError("a worker died, for lack of memory perhaps: use fewer --workers") from None


_function: Callable[[Any], Any] | None = None  # of a worker process


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _function = function


def _work(item: Any) -> Any:
    assert _function is not None
    return _function(item)
