"""Batches: batch k is a pure function of (fingerprint, seed, k), whoever asks, from wherever."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.data import order
from fmjax.data.buckets import Buckets
from fmjax.data.cache import digest
from fmjax.data.images import Unreadable
from fmjax.data.prefetch import in_processes, in_threads
from fmjax.data.source import CORRUPT, Mismatch, Source, canonical, identity

log = logging.getLogger(__name__)
ORDER = 1  # version of the shuffle and of the transforms' keys: a part of every fingerprint
GIVE_UP = 1000  # corrupt examples in a row that "skip" steps over

Arrays = dict[str, np.ndarray]


def stream(
    source: Source,
    batch_size: int,
    transforms: tuple = (),
    shuffle: bool = True,
    workers: int = 0,
    threads: int | None = None,
    prefetch: int = 2,
    corrupt: str = "fail",
    repeats: int = 1,
    resident: bool = False,
    buckets: tuple[int, ...] = (),
) -> "Batches":
    """Endless batches; each epoch visits every example once, in an order keyed by (seed, epoch).

    Args:
      source: where the examples are.
      batch_size: rows of the global batch.
      transforms: callables (example, rng) -> example, run in order.
      shuffle: False keeps the order of the source, epoch after epoch.
      workers: processes that make batches ahead of time (through Grain); they start in seconds.
      threads: threads that do, when there are no workers; 0 makes each batch when it is asked for, None
        chooses 0 for sources in memory without transforms and 2 otherwise.
      prefetch: batches that threads, or each worker, make ahead.
      corrupt: "fail" stops at an example that cannot be read and names it, "skip" takes the next one instead.
      repeats: how often an example comes in a row, to be augmented differently each time (arXiv:1901.09335). A pass
        has as many rows as without, and so holds one example in `repeats`; the shuffle goes on where it ended.
      resident: keep all examples in the memory of every device, and let many steps be one program that takes its rows
        there: as many as `config.log.every` and the next evaluation allow. For small sets in memory; same batches.
      buckets: lengths such as (16, 32, 64): rows of about one length come together, and each batch is cut to the first
        that holds it (buckets.py). For texts with padding; the step is compiled for each length that occurs.
    """
    return Batches(
        source, batch_size, transforms, True, shuffle, None, workers, threads, prefetch, corrupt, repeats, resident,
        buckets,
    )  # fmt: skip


def one_pass(
    source: Source,
    batch_size: int,
    transforms: tuple = (),
    limit: int | None = None,
    workers: int = 0,
    threads: int | None = None,
    prefetch: int = 2,
    corrupt: str = "fail",
    buckets: tuple[int, ...] = (),
) -> "Batches":
    """Every example once, in the order of the source; `valid` is 0 in the rows that pad the last batch.

    Args:
      limit: at most so many examples, the first ones.
      buckets: lengths to which batches are cut; the order stays. The other arguments are those of `stream`.
    """
    return Batches(
        source, batch_size, transforms, False, False, limit, workers, threads, prefetch, corrupt, buckets=buckets
    )


class Batches:
    """Batches by number; made by `stream` and `one_pass`.

    Attributes:
      source, batch_size, endless: as given.
      examples: examples of one pass.
      fingerprint: of the source and of everything else that changes rows.
      skipped: indices of corrupt examples that this process replaced.
      resident: whether the examples are to lie on the devices.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        transforms: tuple = (),
        endless: bool = True,
        shuffle: bool = True,
        limit: int | None = None,
        workers: int = 0,
        threads: int | None = None,
        prefetch: int = 2,
        corrupt: str = "fail",
        repeats: int = 1,
        resident: bool = False,
        buckets: tuple[int, ...] = (),
    ):
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, wanted 1 or more")
        if limit is not None and limit < 1:
            raise ConfigError(f"limit is {limit}, wanted 1 or more examples")
        if corrupt not in ("fail", "skip"):
            raise ConfigError(f"corrupt is {corrupt!r}, wanted 'fail' or 'skip'")
        if workers < 0 or prefetch < 1 or (threads is not None and threads < 0):
            raise ConfigError("workers and threads are 0 or more, prefetch is 1 or more")
        if repeats != int(repeats) or repeats < 1:
            raise ConfigError(f"repeats is {repeats}, wanted a whole number, 1 or more")
        if len(source) == 0:
            raise DataError(f"{source} has no examples")
        self.source, self.batch_size, self.transforms = source, batch_size, tuple(transforms)
        self.endless, self.shuffle, self.corrupt = endless, shuffle, corrupt
        self.examples = min(len(source), limit or len(source))
        self.workers, self.prefetch, self.repeats = workers, prefetch, repeats
        self._take = getattr(source, "rows", None)
        if corrupt == "fail":
            for index, reason in (getattr(source, "unreadable", None) or {}).items():
                if index < self.examples:
                    raise DataError(
                        f"example {index} of {source} cannot be read: {reason}; corrupt='skip' steps over it"
                    )
        if resident and (self._take is None or transforms or workers):
            raise ConfigError(f"resident wants a source in memory, without transforms or workers, not {source}")
        if buckets and (resident or transforms or repeats > 1):
            raise ConfigError("buckets go with neither resident nor transforms nor repeats")
        self.resident, self.buckets = resident, Buckets(tuple(buckets), source, batch_size) if buckets else None
        light = self._take is not None and not self.transforms
        self.threads = (0 if light else 2) if threads is None else threads
        settings = (ORDER, batch_size, endless, shuffle, self.examples, corrupt, *[repeats] * (repeats > 1))
        settings += (("buckets", *map(int, buckets)),) if buckets else ()
        self.fingerprint = digest(source.fingerprint, settings, identity(self.transforms))
        self.skipped: set[int] = set()
        self._spec: dict[str, tuple[tuple[int, ...], np.dtype]] | None = None

    def __len__(self) -> int:
        """Batches of one pass: all that hold an example, or for endless ones all that are full (at least 1)."""
        whole, rest = divmod(self.examples, self.batch_size)
        return max(whole, 1) if self.endless else whole + bool(rest)

    def __repr__(self) -> str:
        kind = "stream" if self.endless else "one_pass"
        return f"{kind}({self.source}, batch_size={self.batch_size})"

    def batch(self, k: int, seed: int = 0, rows: slice = slice(None), whole: bool = False) -> Arrays:
        """Global batch k, or this host's rows of it; nothing else is read. `whole` does not cut it to a bucket.

        Raises:
          DataError: an example that cannot be read, or that is unlike the others; it is named.
        """
        if k < 0 or seed < 0 or (not self.endless and k >= len(self)):
            raise IndexError(f"there is no batch {k} (seed {seed}) in {self}")
        indices = self.plan(k, seed)
        arrays = self._planned(k, seed, rows, indices)
        return self.buckets.cut(arrays, indices) if self.buckets and not whole else arrays

    def _planned(self, k: int, seed: int, rows: slice, indices: np.ndarray) -> Arrays:
        """This host's rows of global batch k, whose examples are `indices`."""
        start, wanted = k * self.batch_size, range(self.batch_size)[rows]
        kept = wanted if len(indices) == self.batch_size else [r for r in wanted if r < len(indices)]
        indices = indices[rows] if kept is wanted else indices[np.array(kept, np.int64)]
        if not len(indices):
            return {key: np.zeros((len(wanted), *shape[1:]), dtype) for key, (shape, dtype) in self.spec().items()}
        if self.transforms or self._take is None:
            arrays = self._stack(indices, [start + r for r in kept], seed)
        else:
            arrays = self._rows(indices)
        valid = np.ones(len(indices), np.float32)
        arrays["valid"] = valid * arrays["valid"] if "valid" in arrays else valid
        return _pad(arrays, kept, wanted) if len(indices) < len(wanted) else arrays

    def plan(self, k: int, seed: int = 0) -> np.ndarray:
        """The examples of global batch k, by their places in the source: fewer than its rows where a pass ends."""
        start = k * self.batch_size
        stop = start + self.batch_size if self.endless else min(start + self.batch_size, self.examples)
        first, last = start // self.repeats, -(-stop // self.repeats)
        if self.shuffle and self.buckets:
            pooled = order.window(*self.buckets.around(k), self.examples, seed)
            indices = self.buckets.pick(pooled, k, seed)
        elif self.shuffle:
            indices = order.window(first, last, self.examples, seed)
        else:
            indices = np.arange(first, last) % self.examples
        if self.repeats > 1:
            indices = np.repeat(indices, self.repeats)[start - first * self.repeats :][: stop - start]
        return indices

    def held(self) -> Arrays:
        """All examples, stacked, with the words of a batch; for sources in memory."""
        arrays = self._rows(np.arange(self.examples))
        return {"valid": np.ones(self.examples, np.float32), **arrays}

    def iterate(
        self, seed: int = 0, start: int = 0, stop: int | None = None, rows: slice = slice(None)
    ) -> Iterator[Arrays]:
        """Batches start, start + 1, ... in order, made ahead; endless, or up to `stop` or the end of the pass."""
        if not self.endless:
            stop = len(self) if stop is None else min(stop, len(self))
        if self.workers:
            return in_processes(self, seed, start, stop, rows)
        return in_threads(lambda k: self.batch(k, seed, rows), start, stop, self.threads, self.prefetch)

    def spec(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """{key: (shape, dtype)} of a global batch."""
        if self._spec is None:
            row = self.batch(0, rows=slice(0, 1), whole=True)
            self._spec = {key: ((self.batch_size, *array.shape[1:]), array.dtype) for key, array in row.items()}
        return dict(self._spec)

    def _rows(self, indices: np.ndarray) -> Arrays:
        try:
            return dict(self._take(indices))
        except Mismatch:
            raise
        except CORRUPT:  # find out which
            return _stack([self._read(int(i)) for i in indices], indices, self.source)
        except Exception as error:
            error.add_note(f"in {self.source}")
            raise

    def _stack(self, indices: np.ndarray, positions: list[int], seed: int) -> Arrays:
        if self._take is not None:
            arrays = self._rows(indices)
            examples = [{key: array[j] for key, array in arrays.items()} for j in range(len(indices))]
        else:
            examples = [self._read(int(i)) for i in indices]
        for j, (index, position) in enumerate(zip(indices, positions, strict=True)):
            examples[j] = self._transformed(examples[j], int(index), position, seed)
        return _stack(examples, indices, self.source)

    def _transformed(self, example: dict[str, Any], index: int, position: int, seed: int) -> dict[str, Any]:
        """Example `index` after the transforms, or the next one that they can read."""
        for step in range(min(GIVE_UP, len(self.source))):
            here = (index + step) % len(self.source)
            example = self._read(here) if step else example
            # Keyed by the position in the endless stream: other random numbers in every epoch, the same on any host.
            rng = np.random.Generator(np.random.Philox(key=np.array([seed, position], np.uint64)))
            for transform in self.transforms:
                try:
                    example = transform(example, rng)
                except Unreadable as error:
                    self._skip(here, error)
                    break
                except DataError as error:
                    raise DataError(f"example {here} of {self.source}: {error}") from error
                except Exception as error:
                    error.add_note(f"in {transform!r} of example {here} of {self.source}")
                    raise
            else:
                return example
        raise DataError(f"{self.source}: {step + 1} examples in a row from {index} cannot be read")

    def _read(self, index: int) -> dict[str, Any]:
        """Example `index`, or the next one that can be read."""
        for step in range(min(GIVE_UP, len(self.source))):
            here = (index + step) % len(self.source)
            try:
                if self._take is not None:
                    return {key: array[0] for key, array in self._take(np.array([here])).items()}
                return dict(self.source[here])
            except Mismatch as error:
                raise Mismatch(f"example {here} of {self.source}: {error}") from error
            except CORRUPT as error:
                self._skip(here, error)
            except Exception as error:
                error.add_note(f"in example {here} of {self.source}")
                raise
        raise DataError(f"{self.source}: {step + 1} examples in a row from {index} cannot be read")

    def _skip(self, index: int, error: Exception) -> None:
        """Step over an example by policy, saying so once.

        Raises:
          DataError: the policy is another.
        """
        reason = " ".join(f"{error}".split()) or type(error).__name__
        if self.corrupt == "fail":
            raise DataError(f"example {index} of {self.source} cannot be read: {reason}") from error
        if index not in self.skipped:
            self.skipped.add(index)
            log.warning("example %d of %s is skipped (%d so far): %s", index, self.source, len(self.skipped), reason)


def _stack(examples: list[dict[str, Any]], indices: np.ndarray, source: Source) -> Arrays:
    first = {key: np.asarray(value) for key, value in examples[0].items()}
    for index, example in zip(indices, examples, strict=True):
        if example.keys() != first.keys():
            raise DataError(f"example {index} of {source} has keys {sorted(example)}, others {sorted(first)}")
        for key, value in example.items():
            if np.shape(value) != first[key].shape:
                raise Mismatch(
                    f"example {index} of {source}: {key} has shape {np.shape(value)}, example {indices[0]} has "
                    f"{first[key].shape}: resize, crop or pad in a transform"
                )
    return {key: canonical(np.stack([np.asarray(e[key]) for e in examples])) for key in first}


def _pad(arrays: Arrays, kept: list[int], wanted: range) -> Arrays:
    """Zeros in the rows past the end of the pass, `valid` included."""
    here = np.isin(np.asarray(wanted), kept)
    out = {}
    for key, array in arrays.items():
        out[key] = np.zeros((len(wanted), *array.shape[1:]), array.dtype)
        out[key][here] = array
    return out
