"""Decode a whole data set once: every example into one row of uint8 memory, in threads."""

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fmjax.core.errors import DataError
from fmjax.data.cache import Decoded
from fmjax.data.source import CORRUPT, Mismatch, canonical

CHUNK = 256
DAMAGED = (*CORRUPT, RuntimeError)  # array_record raises RuntimeError
INDEX, REASON = "unreadable_index", "unreadable_reason"  # kept beside the words, so that the cache knows them too

Read = Callable[[Sequence[int]], list[dict[str, Any]]]


def decode_all(count: int, read: Read, name: str) -> Decoded:
    """Stack `count` examples; those that cannot be decoded stay zero and are listed for `unreadable`.

    Args:
      count: how many.
      read: indices -> their examples; called by several threads.
      name: of the source, for messages.

    Raises:
      DataError: examples of different shapes, or none that can be decoded.
    """
    arrays: dict[str, np.ndarray] = {}
    first, bad = 0, {}
    chunks = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fmjax-decode") as pool:
        window = 2 * (os.cpu_count() or 1)  # chunks in flight: decoded rows that wait to be copied cost memory
        pending = [pool.submit(_attempt, read, chunk) for chunk in chunks[:window]]
        for at in range(len(chunks)):
            examples, pending[at] = pending[at].result(), None  # free them
            if at + window < len(chunks):
                pending.append(pool.submit(_attempt, read, chunks[at + window]))
            for index, example in zip(chunks[at], examples, strict=True):
                if isinstance(example, str):
                    bad[index] = example
                    continue
                values = {key: np.asarray(value) for key, value in example.items()}
                if not arrays:
                    first = index
                    arrays = {k: np.zeros((count, *v.shape), canonical(v).dtype) for k, v in values.items()}
                for key, value in values.items():
                    if value.shape != arrays[key].shape[1:]:
                        pool.shutdown(cancel_futures=True)
                        raise Mismatch(
                            f"{name}: {key} of example {index} has shape {value.shape}, that of example {first} has "
                            f"{arrays[key].shape[1:]}: give a size to resize to"
                        )
                    arrays[key][index] = value
    if not arrays:
        raise DataError(f"{name}: none of {count} examples can be decoded; the first: {next(iter(bad.values()), '')}")
    arrays[INDEX] = np.array(sorted(bad), np.int64)
    arrays[REASON] = np.array([bad[i] for i in sorted(bad)] or [""], np.str_)
    return Decoded(arrays)


def split_unreadable(decoded: Decoded) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """(the words, {index: reason}) of what `decode_all` gave."""
    words = {key: array for key, array in decoded.items() if key not in (INDEX, REASON)}
    return words, dict(zip(decoded[INDEX].tolist(), decoded[REASON].tolist(), strict=False))


def _attempt(read: Read, chunk: range) -> list[dict[str, Any] | str]:
    """The examples of a chunk, or the reason in the place of one that cannot be decoded."""
    try:
        return read(chunk)
    except Mismatch:
        raise
    except DAMAGED:
        return list(itertools.chain.from_iterable(_attempt_one(read, index) for index in chunk))


def _attempt_one(read: Read, index: int) -> list[dict[str, Any] | str]:
    try:
        return read([index])
    except Mismatch:
        raise
    except DAMAGED as error:
        return [" ".join(str(error).split()) or type(error).__name__]
