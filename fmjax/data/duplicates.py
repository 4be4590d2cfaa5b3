"""Duplicates left out of a corpus: the same text again, and nearly the same text (MinHash with banding)."""

import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError
from fmjax.data.cache import cached, digest
from fmjax.data.parallel import alongside, groups, mapped

VERSION = 1  # of everything that decides which documents are duplicates
SHINGLE = 5  # words
HASHES = 128
_BLOCK = 256  # shingles that are hashed at a time: what a cache holds
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Deduplicated:
    """A corpus without its duplicates: of documents that are alike, the first stays.

    Two documents are alike when their sets of 5 consecutive words overlap by `near` (Jaccard), as 128 MinHashes
    estimate it (arXiv 2107.06499); case and spaces do not count. Documents that agree in a whole band of hashes are
    compared: of pairs that are just alike at least 94 in 100 do, of those that are more so nearly all. Which ones
    stay is found in one pass and kept on disk, so that further passes are as cheap as reading; while it is found,
    the hashes take about a KiB a document.

    Args:
      corpus: the documents.
      near: how much two documents must overlap to be duplicates; None drops only the same text again.
      seed: of the hashes.
      workers: processes that hash; 0 hashes here. It changes nothing.

    Attributes:
      documents: how many there were.
      dropped: {"exact": copies, "near": near-duplicates}.
    """

    def __init__(self, corpus: Any, near: float | None = 0.8, seed: int = 0, workers: int = 0):
        if near is not None and not 0 < near <= 1:
            raise ConfigError(f"near is an overlap above 0 and at most 1, or None for exact copies only, not {near}")
        if workers < 0 or seed < 0:
            raise ConfigError(f"workers and seed are 0 or more, not {workers} and {seed}")
        self.corpus, self.near, self.seed, self.workers = corpus, near, seed, workers

    def __repr__(self) -> str:
        return f"Deduplicated({self.corpus!r})"

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest("deduplicated", VERSION, self.corpus.fingerprint, self.near, self.seed)

    def __iter__(self) -> Iterator[str]:
        for text, verdict in alongside(self.corpus, self.verdicts):
            if not verdict:
                yield text

    @functools.cached_property
    def verdicts(self) -> np.ndarray:
        """(documents,) 0 for one that stays, 1 for an exact copy of an earlier one, 2 for a near-duplicate."""
        return cached(self.fingerprint, lambda: {"verdicts": self._judge()})["verdicts"]

    @property
    def documents(self) -> int:
        return len(self.verdicts)

    @property
    def dropped(self) -> dict[str, int]:
        return {"exact": int((self.verdicts == 1).sum()), "near": int((self.verdicts == 2).sum())}

    def _judge(self) -> np.ndarray:
        seen: set[bytes] = set()
        index = None if self.near is None else Index(self.near)
        verdicts = bytearray()
        sketch = _Sketch(self.seed, self.near is not None)
        for group in mapped(sketch, groups(self.corpus), self.workers):
            for name, signature in group:
                if name in seen:
                    verdicts.append(1)
                    continue
                seen.add(name)
                verdicts.append(2 if index is not None and signature is not None and not index.add(signature) else 0)
        return np.frombuffer(bytes(verdicts), np.uint8)


class Index:
    """Signatures by their bands, to find one that is alike without comparing all.

    Args:
      near: the fraction of hashes that agree in documents that are alike.
    """

    def __init__(self, near: float):
        self.near, self.size = near, band_size(near)
        self.signatures: list[np.ndarray] = []
        self.buckets: list[dict[bytes, list[int]]] = [{} for _ in range(HASHES // self.size)]

    def add(self, signature: np.ndarray) -> bool:
        """Take a signature in, unless one that is alike is there."""
        bands = [band.tobytes() for band in signature.reshape(-1, self.size)]
        met = sorted(set().union(*(bucket.get(band, ()) for bucket, band in zip(self.buckets, bands, strict=True))))
        for begin in range(0, len(met), 1024):
            others = np.stack([self.signatures[i] for i in met[begin : begin + 1024]])
            if ((others == signature).mean(1) >= self.near).any():
                return False
        for bucket, band in zip(self.buckets, bands, strict=True):
            bucket.setdefault(band, []).append(len(self.signatures))
        self.signatures.append(signature)
        return True


def band_size(near: float) -> int:
    """Hashes in a band: as many as leave pairs that are `near` alike a chance of 94 in 100 to agree in one."""
    return max((k for k in (1, 2, 4, 8, 16) if 1 - (1 - near**k) ** (HASHES // k) >= 0.94), default=1)


class _Sketch:
    """A group of documents to (hash of the text, MinHashes or None for a document without words) each."""

    def __init__(self, seed: int, near: bool):
        self.seed, self.near = seed, near

    def __call__(self, group: list[str]) -> list[tuple[bytes, np.ndarray | None]]:
        names: dict[str, int] = {}
        exact = [hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest() for text in group]
        return [(name, signature(text, self.seed, names) if self.near else None) for name, text in zip(exact, group)]


def signature(text: str, seed: int = 0, names: dict[str, int] | None = None) -> np.ndarray | None:
    """(128,) uint32 MinHashes of the runs of 5 words in a text (of all its words, where it has fewer); None: no words.

    Args:
      names: hashes of words that were met before.
    """
    names = {} if names is None else names
    words = text.lower().split()
    if not words:
        return None
    for word in set(words) - names.keys():
        names[word] = int.from_bytes(hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest(), "little")
    hashes = np.array([names[word] for word in words], np.uint64)
    n = min(SHINGLE, len(hashes))
    shingles = np.zeros(len(hashes) - n + 1, np.uint64)
    for k in range(n):
        shingles = _mixed(shingles + hashes[k : len(hashes) - n + 1 + k])
    shingles = np.unique(shingles)
    factors, added = _hashes(seed)
    least = np.full(HASHES, 0xFFFFFFFF, np.uint32)
    for begin in range(0, len(shingles), _BLOCK):
        hashed = shingles[begin : begin + _BLOCK, None] * factors + added
        np.minimum(least, (hashed >> np.uint64(32)).min(0).astype(np.uint32), out=least)
    return least


def _mixed(x: np.ndarray) -> np.ndarray:
    """Bits spread over all 64 (splitmix64), modulo 2^64."""
    x = x + _MIX[0]
    x = (x ^ (x >> np.uint64(30))) * _MIX[1]
    x = (x ^ (x >> np.uint64(27))) * _MIX[2]
    return x ^ (x >> np.uint64(31))


@functools.cache
def _hashes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors (odd) and addends of the multiply-shift hashes."""
    drawn = np.random.Generator(np.random.Philox(key=seed)).integers(0, 1 << 64, (2, HASHES), np.uint64)
    return drawn[0] | np.uint64(1), drawn[1]
