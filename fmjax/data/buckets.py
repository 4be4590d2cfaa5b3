"""Rows of about one length in a batch, cut to it: what would be padding is not computed."""

from collections.abc import Mapping

import numpy as np

from fmjax.core.errors import ConfigError
from fmjax.data.order import permute
from fmjax.data.source import Source

POOL = 64  # batches among which rows are sorted by length


class Buckets:
    """Lengths to which batches are cut: each to the first that holds its longest row.

    A shuffled stream is sorted by bucket within pools of POOL batches (or an epoch, where that is shorter), whose
    batches come in random order: a pool has the rows that it would have without, so that what an epoch visits is as
    before but for the pools at its ends. The rows of a batch are alike in length, which is a little less random.

    Args:
      lengths: ascending; the last holds every row.
      source: has `lengths`, the tokens in each row, and `along`, the keys whose second axis they lie on.
      batch_size: rows of a batch.

    Raises:
      ConfigError: lengths that do not ascend or do not hold every row, or a source without any.
    """

    def __init__(self, lengths: tuple[int, ...], source: Source, batch_size: int):
        used = getattr(source, "lengths", None)
        if used is None:
            raise ConfigError(f"buckets={lengths}: {source} does not know the lengths of its rows")
        if list(lengths) != sorted(set(lengths)) or lengths[0] < 1:
            raise ConfigError(f"buckets={lengths}: wanted lengths that ascend, such as (16, 32, 64)")
        if used.max() > lengths[-1]:
            raise ConfigError(f"buckets={lengths}: the longest row has {used.max()} tokens; the last must hold it")
        self.lengths, self.along = np.asarray(lengths), tuple(source.along)
        self._of = np.searchsorted(self.lengths, used).astype(np.int16)  # the bucket of each example
        self.batch_size, self.pool = batch_size, min(POOL, max(1, len(source) // batch_size))

    def around(self, k: int) -> tuple[int, int]:
        """The positions of the plain stream, first and past the last, whose rows the pool of batch k shares out."""
        size = self.pool * self.batch_size
        return k // self.pool * size, (k // self.pool + 1) * size

    def pick(self, pooled: np.ndarray, k: int, seed: int) -> np.ndarray:
        """The examples of batch k out of those of its pool."""
        place = int(permute(np.array([k % self.pool]), self.pool, seed, k // self.pool)[0])
        ordered = pooled[np.argsort(self._of[pooled], kind="stable")]
        return ordered[place * self.batch_size :][: self.batch_size]

    def cut(self, arrays: Mapping[str, np.ndarray], indices: np.ndarray) -> dict[str, np.ndarray]:
        """The rows without the columns that no example of the global batch `indices` uses."""
        length = self.lengths[self._of[indices].max()]
        return {k: np.ascontiguousarray(x[:, :length]) if k in self.along else x for k, x in arrays.items()}
