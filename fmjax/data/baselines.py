"""What a language model has to beat: bits per byte of a byte bigram, and of gzip."""

import gzip

import numpy as np

from fmjax.core.errors import DataError

ADDED = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def bigram_bits_per_byte(train: bytes, heldout: bytes, k: float | None = None) -> float:
    """Bits per byte of `heldout` under p(b | a) = (count(a, b) + k) / (count(a) + 256 k), counted on `train`.

    The first byte has nothing before it and is not scored, as in covering windows. Without a `k`, it is the one of
    `ADDED` that is best on the last tenth of `train` when counted on the rest: `heldout` chooses nothing.

    Raises:
      DataError: fewer than two bytes to score, or twenty to choose k on.
    """
    if len(heldout) < 2 or (k is None and len(train) < 20):
        raise DataError(f"too little text for a bigram model: {len(train)} bytes, and {len(heldout)} held out")
    if k is None:
        cut = len(train) * 9 // 10
        counts = _pairs(train[:cut])
        k = min(ADDED, key=lambda added: _bits(counts, train[cut:], added))
    return _bits(_pairs(train), heldout, k)


def gzip_bits_per_byte(heldout: bytes, level: int = 9) -> float:
    """Bits per byte that gzip needs for the whole of `heldout`, its header included."""
    if not heldout:
        raise DataError("no text to compress")
    return 8 * len(gzip.compress(heldout, level, mtime=0)) / len(heldout)


def _pairs(text: bytes) -> np.ndarray:
    """(256, 256) how often each byte follows each."""
    codes = np.frombuffer(text, np.uint8).astype(np.int64)
    return np.bincount(codes[:-1] * 256 + codes[1:], minlength=1 << 16).reshape(256, 256)


def _bits(counts: np.ndarray, heldout: bytes, k: float) -> float:
    seen = _pairs(heldout)
    chances = (counts + k) / (counts.sum(1, keepdims=True) + 256 * k)
    return float(-(seen * np.log2(chances)).sum() / seen.sum())
