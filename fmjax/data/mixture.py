"""A weighted mixture of sources, planned by index: random access, and proportions that hold at every prefix."""

import math
from fractions import Fraction
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import digest
from fmjax.data.source import Source

PERIOD = 1 << 16  # the longest table; proportions are exact to 1 / PERIOD at worst


class Mixture:
    """Examples of several sources in given proportions.

    A table of one period says whose turn it is: at each slot the member that is furthest behind its share. So
    every prefix holds each member's share to within less than one example per member, and weights such as
    (0.7, 0.3) are met exactly every 10 examples. Each member gives its examples in its own order, from the start
    again when it is exhausted.

    Args:
      sources: the members; all with the same keys and row shapes.
      weights: positive, one each; they need not add up to 1.
      length: examples in all; None goes on until every member has been seen whole.

    Raises:
      ConfigError: weights that do not fit. DataError: members with different keys or shapes.
    """

    def __init__(self, sources: tuple, weights: tuple[float, ...], length: int | None = None):
        if len(sources) != len(weights) or not sources or not all(math.isfinite(w) and w > 0 for w in weights):
            raise ConfigError(f"{len(sources)} sources want as many positive weights, not {tuple(weights)}")
        if length is not None and length < 1:
            raise ConfigError(f"the length of a mixture is 1 or more, not {length}")
        self.sources: tuple[Source, ...] = tuple(sources)
        _check_alike(self.sources)
        self.counts = _counts(weights)
        self.member = _turns(self.counts)
        self.rank = np.zeros(len(self.member), np.int64)  # how often the member had its turn before, in this period
        for m, count in enumerate(self.counts):
            self.rank[self.member == m] = np.arange(count)
        self.length = length if length is not None else max(map(self._reach, range(len(self.sources))))
        self.weights = tuple(float(count / len(self.member)) for count in self.counts)
        self.fingerprint = digest("mixture", [s.fingerprint for s in self.sources], self.counts.tolist(), self.length)
        named = {getattr(source, "classes", None) for source in self.sources}
        self.classes = named.pop() if len(named) == 1 else None
        self.rows = self._rows if all(getattr(s, "rows", None) is not None for s in self.sources) else None
        if all(hasattr(source, "decode") for source in self.sources):
            self.decode = self.sources[0].decode

    def __repr__(self) -> str:
        return "Mixture(" + ", ".join(f"{w:.4g} {s}" for w, s in zip(self.weights, self.sources)) + ")"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Any:
        if not 0 <= i < self.length:
            raise IndexError(i)
        member, index = self.plan(np.array([i]))
        return self.sources[int(member[0])][int(index[0])]

    def plan(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(which member, which of its examples) for each index."""
        period, slot = np.divmod(indices, len(self.member))
        member = self.member[slot]
        sizes = np.array([len(source) for source in self.sources])
        return member, (period * self.counts[member] + self.rank[slot]) % sizes[member]

    def _rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        member, index = self.plan(np.asarray(indices))
        out: dict[str, np.ndarray] = {}
        for m in np.unique(member):
            here = np.flatnonzero(member == m)
            for key, array in self.sources[int(m)].rows(index[here]).items():
                if key not in out:
                    out[key] = np.empty((len(member), *array.shape[1:]), array.dtype)
                if np.result_type(out[key], array) != out[key].dtype:  # a longer string, say
                    out[key] = out[key].astype(np.result_type(out[key], array))
                out[key][here] = array
        return out

    def _reach(self, m: int) -> int:
        """Length at which member m has been seen whole."""
        periods, rest = divmod(len(self.sources[m]) - 1, int(self.counts[m]))
        return periods * len(self.member) + int(np.flatnonzero(self.member == m)[rest]) + 1


def _counts(weights: tuple[float, ...]) -> np.ndarray:
    """Turns of each member in a period, the shortest that meets the weights."""
    total = math.fsum(weights)
    shares = [Fraction(w / total).limit_denominator(10_000) for w in weights]
    period = math.lcm(*(share.denominator for share in shares))
    if sum(shares) == 1 and all(shares) and period <= PERIOD:
        return np.array([int(share * period) for share in shares], np.int64)
    if min(weights) / total < 1 / PERIOD:
        raise ConfigError(f"a weight of {min(weights):g} in {total:g} is below the smallest share, 1 in {PERIOD}")
    counts = [round(w / total * PERIOD) for w in weights]
    counts[int(np.argmax(counts))] += PERIOD - sum(counts)
    return np.array(counts, np.int64)


def _turns(counts: np.ndarray) -> np.ndarray:
    """Whose turn each slot of the period is: among members still due, the one whose next deadline comes first.

    Member m's t-th turn is due by slot ceil((t + 1) P / count) - 1 and may not come before floor(t P / count):
    "earliest deadline first" meets all of these (Steiner and Yeomans, 1993), and with them every prefix has each
    member within one example of its share.
    """
    shares = counts.tolist()
    period = sum(shares)
    given = [0] * len(shares)
    turns = []
    for slot in range(period):
        # Released once its share of the first slot + 1 turns exceeds what it got; due when its next turn is complete.
        released = [m for m, count in enumerate(shares) if given[m] * period < (slot + 1) * count]
        m = min(released, key=lambda m: -(-(given[m] + 1) * period // shares[m]))
        given[m] += 1
        turns.append(m)
    return np.array(turns, np.int32)


def _check_alike(sources: tuple[Source, ...]) -> None:
    def shapes(source: Source) -> dict[str, tuple]:
        return {key: np.shape(value) for key, value in source[0].items()}

    first = shapes(sources[0])
    for source in sources[1:]:
        if shapes(source) != first:
            raise DataError(f"a mixture wants members of one kind: {sources[0]} has {first}, {source} {shapes(source)}")
