"""Parts of a source: a range, a fold, a hold-out; planned by index, so that nothing is read or copied."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import digest
from fmjax.data.order import permute
from fmjax.data.source import Source

TABLE = 1 << 20  # permutations of fewer examples are kept: a look-up instead of 0.3 ms for every batch


class View:
    """Some examples of another source: example i is its example `index(i)`. Subclasses give `index` and `settings`."""

    def __init__(self, source: Source, count: int, settings: tuple):
        self.source, self.count = source, count
        self.fingerprint = digest(type(self).__name__, source.fingerprint, settings)
        self.classes: Sequence[str] | None = getattr(source, "classes", None)
        if count <= 0:
            raise DataError(f"{self} has no examples")
        self.rows = self._rows if getattr(source, "rows", None) is not None else None
        if hasattr(source, "decode"):
            self.decode = source.decode
        if getattr(source, "lengths", None) is not None:
            self.lengths, self.along = source.lengths[self.index(np.arange(count))], source.along
        unreadable = getattr(source, "unreadable", None) or {}
        ours = self.index(np.arange(count)).tolist() if unreadable else []
        self.unreadable = {i: unreadable[theirs] for i, theirs in enumerate(ours) if theirs in unreadable}

    def index(self, i: np.ndarray) -> np.ndarray:
        """Which examples of the source ours are."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Any:
        if not 0 <= i < self.count:
            raise IndexError(i)
        return self.source[int(self.index(np.array([i]))[0])]

    def _rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return self.source.rows(self.index(np.asarray(indices)))


class Subset(View):
    """Examples start to stop of a source; None is its end, a negative number counts from there."""

    def __init__(self, source: Source, start: int = 0, stop: int | None = None):
        self.start, self.stop, _ = slice(start, stop).indices(len(source))
        self.source = source
        super().__init__(source, self.stop - self.start, (self.start, self.stop))

    def __repr__(self) -> str:
        return f"{self.source}[{self.start}:{self.stop}]"

    def index(self, i: np.ndarray) -> np.ndarray:
        return self.start + i


class Fold(View):
    """One fold of a k-fold cross-validation: the held-out part, or all the others.

    The examples are permuted by `seed` and cut into `folds` parts whose sizes differ by at most one.
    """

    def __init__(self, source: Source, fold: int, folds: int = 5, held_out: bool = False, seed: int = 0):
        if folds < 2 or not 0 <= fold < folds:
            raise ConfigError(f"fold {fold} of {folds}: wanted 2 folds or more, and a fold from 0 to folds - 1")
        n = len(source)
        self.source, self.fold, self.folds, self.held_out, self.seed = source, fold, folds, held_out, seed
        self.start, self.stop = fold * n // folds, (fold + 1) * n // folds
        size = self.stop - self.start
        super().__init__(source, size if held_out else n - size, (fold, folds, held_out, seed))

    def __repr__(self) -> str:
        part = "held out" if self.held_out else "without it"
        return f"{self.source} fold {self.fold} of {self.folds}, {part}"

    def index(self, i: np.ndarray) -> np.ndarray:
        rank = self.start + i if self.held_out else np.where(i < self.start, i, i + self.stop - self.start)
        return _permuted(rank, len(self.source), self.seed)


class Split(View):
    """The "train" or the "validation" part of a source that has no split of its own.

    The examples are permuted by `seed`; the first `fraction` of them (rounded) is held out for validation.
    """

    def __init__(self, source: Source, part: str = "train", fraction: float = 0.1, seed: int = 0):
        if part not in ("train", "validation") or not 0 < fraction < 1:
            raise ConfigError(
                f"Split(part={part!r}, fraction={fraction}): wanted train or validation, and 0 < fraction < 1"
            )
        n = len(source)
        self.source, self.part, self.fraction, self.seed = source, part, fraction, seed
        self.held = round(n * fraction)
        super().__init__(source, self.held if part == "validation" else n - self.held, (part, self.held, seed))

    def __repr__(self) -> str:
        return f"{self.part} part of {self.source}"

    def index(self, i: np.ndarray) -> np.ndarray:
        return _permuted(i if self.part == "validation" else i + self.held, len(self.source), self.seed)


def _permuted(ranks: np.ndarray, n: int, seed: int) -> np.ndarray:
    return _table(n, seed)[ranks] if n <= TABLE else permute(ranks, n, seed)


@functools.lru_cache(maxsize=8)
def _table(n: int, seed: int) -> np.ndarray:
    return permute(np.arange(n), n, seed).astype(np.int32)
