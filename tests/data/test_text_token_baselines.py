"""Baselines over tokens: what a slow loop over the same rows says."""

import collections
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.errors import DataError
from fmjax.data import tokenizers
from fmjax.data.baselines import bigram_bits_per_byte
from fmjax.data.corruption import MaskTokens
from fmjax.data.denoising import SpanCorruption, top_sentinels
from fmjax.data.pipeline import one_pass
from fmjax.data.token_baselines import (
    Counts,
    Table,
    masked_baselines,
    next_token_baselines,
    sequence_baselines,
)
from fmjax.data.windows import TokenWindows

BYTE = tokenizers.byte()
TRAIN = np.frombuffer(b"the cat sat on the mat and the dog sat on the log; " * 20, np.uint8).astype(np.uint16)
HELD_OUT = np.frombuffer(b"a dog sat on a mat and the cat sat on the log, then a log sat on that", np.uint8)
VOCAB = 357


def rows(tokens, *transforms, length=16, limit=None):
    tokens = tokens.astype(np.uint16)
    source = TokenWindows("x", [tokens], np.array([0, len(tokens)]), BYTE, length, None, 0, "0")
    return list(one_pass(source, 4, transforms, limit=limit, threads=0).iterate())


def most(pairs):
    """{context: most frequent outcome, of equals the smallest}."""
    counts = collections.Counter(pairs)
    return {a: min((-n, b) for (x, b), n in counts.items() if x == a)[1] for a, _ in counts}


ids = st.lists(st.integers(0, 5), min_size=21, max_size=40)


@given(ids, ids)
def test_counts_and_guesses_are_what_a_loop_says(train, heldout):
    train, heldout = np.array(train), np.array(heldout)
    pairs = list(itertools.pairwise(train.tolist()))
    guess, table = most(pairs), Table(train[:-1], train[1:], 6)
    wanted = np.arange(-1, 8)
    np.testing.assert_array_equal(table.best(wanted, 9), [guess.get(int(a), 9) for a in wanted])
    counts, bits = Counts(train[:-1], train[1:], 6), []
    p = (np.bincount(train[1:], minlength=6) + 1) / (len(train) - 1 + 6)
    for a, b in itertools.pairwise(heldout.tolist()):
        both = (pairs.count((a, b)) + 2 * p[b]) / (sum(x == a for x, _ in pairs) + 2)
        bits.append(-math.log2(both))
    np.testing.assert_allclose(counts.bits(heldout[:-1], heldout[1:], 2.0), bits)
    assert sum(2.0 ** -counts.bits(np.full(6, 3), np.arange(6), 2.0)) == pytest.approx(1)


def test_next_tokens_are_scored_once_each_whatever_the_windows():
    a, b = (next_token_baselines(TRAIN, rows(HELD_OUT, length=n), VOCAB) for n in (16, 31))
    assert a == pytest.approx(b)
    assert a["targets"] == len(HELD_OUT) - 1
    guess = most(itertools.pairwise(TRAIN.tolist()))
    right = [guess.get(x, 32) == y for x, y in itertools.pairwise(HELD_OUT.tolist())]
    assert a["bigram_accuracy"] == pytest.approx(np.mean(right))
    assert a["bigram_bits_per_byte"] == pytest.approx(a["bigram_loss"] / math.log(2))
    assert a["bigram_bits_per_byte"] < a["unigram_bits_per_byte"] < 8
    bytes_only = bigram_bits_per_byte(TRAIN.astype(np.uint8).tobytes(), HELD_OUT.tobytes())
    assert a["bigram_bits_per_byte"] == pytest.approx(bytes_only, rel=0.3)  # another smoothing of the same counts


def test_hidden_tokens_are_guessed_from_what_the_model_sees():
    batches = rows(HELD_OUT, MaskTokens(BYTE, 257, rate=0.3, vocab=VOCAB))
    got = masked_baselines(TRAIN, batches, VOCAB)
    train, right, total = TRAIN.tolist(), collections.Counter(), 0
    likely = min((-n, t) for t, n in collections.Counter(train[1:]).items())[1]
    left = most(itertools.pairwise(train))
    both = most([((a, c), b) for a, b, c in zip(train, train[1:], train[2:])])
    for batch in batches:
        for tokens, targets, weights in zip(batch["tokens"].tolist(), batch["targets"], batch["weights"]):
            for t in np.flatnonzero(weights):
                a = tokens[t - 1] if t else None
                real = t + 1 < len(tokens) and tokens[t + 1] != 0
                by_left = left.get(a, likely)
                guesses = {"unigram": likely, "left": by_left, "both": by_left}
                guesses["both"] = both.get((a, tokens[t + 1]), by_left) if real else by_left
                right.update({name: int(guess == targets[t]) for name, guess in guesses.items()})
                total += 1
    assert got["targets"] == total
    assert {k: got[f"{k}_accuracy"] * total for k in right} == pytest.approx(dict(right))


def test_targets_are_guessed_from_the_target_before_them_sentinels_included():
    spans = SpanCorruption(16, top_sentinels(VOCAB))
    train, batches = rows(TRAIN, spans), rows(HELD_OUT, spans)
    got = sequence_baselines(train, batches, VOCAB)
    pairs = [p for b in train for row, w in zip(b["targets"], b["weights"]) for p in _before(row[w > 0])]
    counts = collections.Counter(t for _, t in pairs)
    likely = min((-n, t) for t, n in counts.items())[1]
    guess = most([p for p in pairs if p[0] is not None])
    mine = [p for b in batches for row, w in zip(b["targets"], b["weights"]) for p in _before(row[w > 0])]
    assert got["targets"] == len(mine)
    assert got["bigram_accuracy"] == pytest.approx(np.mean([guess.get(a, likely) == b for a, b in mine]))
    assert got["unigram_accuracy"] == pytest.approx(np.mean([b == likely for _, b in mine]))
    assert "bigram_bits_per_byte" not in got


def _before(row):
    return list(zip([None, *row.tolist()], row.tolist()))


def test_rows_that_count_for_nothing_change_nothing():
    batches = rows(HELD_OUT)
    spoiled = [{**b, "tokens": np.where(b["valid"][:, None] > 0, b["tokens"], 300)} for b in batches]
    assert next_token_baselines(TRAIN, batches, VOCAB) == next_token_baselines(TRAIN, spoiled, VOCAB)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(DataError, match="too little text to count on: 2 tokens"):
        next_token_baselines(TRAIN[:3], [], VOCAB)
    with pytest.raises(DataError, match="too little text"):
        sequence_baselines([], [], VOCAB)
    with pytest.raises(DataError, match="no batch has a weighted target"):
        next_token_baselines(TRAIN, [], VOCAB)
    with pytest.raises(DataError, match="no batch hides a token"):
        masked_baselines(TRAIN, [], VOCAB)
    with pytest.raises(DataError, match="tokens run from 32 to 116, and vocab is 100"):
        next_token_baselines(TRAIN, [], 100)
