"""A shuffle nobody has to hold in memory: the i-th element of a random permutation, computed when asked for."""

import functools

import numpy as np

ROUNDS = 8
BLOCK = 4096  # ranks permuted in one go: small batches would pay numpy's overhead per round otherwise


def permute(ranks: np.ndarray, n: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    """Where a random permutation of `range(n)` sends `ranks`; which one is keyed by (seed, epoch).

    An unbalanced Feistel network over the smallest power of two that holds n, whose outputs past n are
    encrypted again until they fall inside (cycle walking): a bijection for every n, in O(len(ranks)) memory.
    Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (2002).

    Args:
      ranks: (K,) integers in [0, n).
      n: size of the set.
      seed: non-negative.
      epoch: non-negative.

    Returns:
      (K,) int64 in [0, n).
    """
    bits = max((n - 1).bit_length(), 1)
    keys = _keys(seed, epoch)
    out = _encrypt(np.asarray(ranks, np.uint64), bits, keys)
    outside = np.flatnonzero(out >= n)
    while outside.size:
        again = _encrypt(out[outside], bits, keys)
        out[outside] = again
        outside = outside[again >= n]
    return out.astype(np.int64)


def window(start: int, stop: int, n: int, seed: int = 0) -> np.ndarray:
    """Indices at positions [start, stop) of the endless stream that shuffles `range(n)` anew every epoch."""
    pieces = []
    while start < stop:
        epoch, rank = divmod(start, n)
        block, offset = divmod(rank, BLOCK)
        piece = _block(n, seed, epoch, block)[offset : offset + stop - start]
        pieces.append(piece)
        start += len(piece)
    return pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, np.empty(0, np.int64)])


@functools.lru_cache(maxsize=64)
def _block(n: int, seed: int, epoch: int, block: int) -> np.ndarray:
    indices = permute(np.arange(block * BLOCK, min((block + 1) * BLOCK, n)), n, seed, epoch)
    indices.flags.writeable = False  # shared by everyone who asks
    return indices


@functools.lru_cache(maxsize=256)
def _keys(seed: int, epoch: int) -> np.ndarray:
    return np.random.SeedSequence((seed, epoch)).generate_state(ROUNDS, np.uint64)


def _encrypt(x: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    low = np.uint64(bits // 2)
    low_mask, high_mask = np.uint64((1 << (bits // 2)) - 1), np.uint64((1 << (bits - bits // 2)) - 1)
    left, right = x >> low, x & low_mask
    for i, key in enumerate(keys):
        if i % 2:
            right = right ^ (_mix(left + key) & low_mask)
        else:
            left = left ^ (_mix(right + key) & high_mask)
    return (left << low) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of MurmurHash3: every input bit moves every output bit."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))
