"""Baselines: equal to what is worked out by hand."""

import gzip
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.errors import DataError
from fmjax.data.baselines import bigram_bits_per_byte, gzip_bits_per_byte


def test_a_bigram_worked_out_by_hand():
    # After a: b twice, c once. k = 1: p(b|a) = 3/259, p(c|a) = 2/259; after b: a twice, p(a|b) = 3/258.
    bits = -(math.log2(3 / 259) + math.log2(3 / 258) + math.log2(2 / 259)) / 3
    assert bigram_bits_per_byte(b"ababac", b"abac", k=1.0) == pytest.approx(bits)


@given(st.binary(min_size=2, max_size=40), st.binary(min_size=2, max_size=40), st.floats(1e-3, 10))
def test_a_bigram_is_what_a_loop_says(train, heldout, k):
    total = 0.0
    for a, b in itertools.pairwise(heldout):
        both = sum(pair == (a, b) for pair in itertools.pairwise(train))
        total -= math.log2((both + k) / (train[:-1].count(a) + 256 * k))
    assert bigram_bits_per_byte(train, heldout, k) == pytest.approx(total / (len(heldout) - 1))


def test_k_is_chosen_on_the_training_text_alone():
    regular, noisy = b"ab" * 200, np.random.default_rng(0).bytes(400)
    assert bigram_bits_per_byte(regular, b"abab") == bigram_bits_per_byte(regular, b"abab", k=0.001)
    assert bigram_bits_per_byte(noisy, b"abab") == bigram_bits_per_byte(noisy, b"abab", k=1.0)


def test_repetition_costs_nearly_nothing_and_nothing_seen_costs_eight_bits():
    assert bigram_bits_per_byte(b"ab" * 5000, b"ab" * 100) < 0.01
    assert bigram_bits_per_byte(b"ab" * 5000, b"xy" * 100) == pytest.approx(8)


def test_gzip_counts_the_bits_of_the_file():
    text = b"to be or not to be " * 40
    assert gzip_bits_per_byte(text) == 8 * len(gzip.compress(text, 9, mtime=0)) / len(text)
    assert gzip_bits_per_byte(text, level=0) > 8


def test_too_little_text_is_refused():
    with pytest.raises(DataError, match="too little"):
        bigram_bits_per_byte(b"abc" * 10, b"a")
    with pytest.raises(DataError, match="too little"):
        bigram_bits_per_byte(b"abc", b"abc")
    with pytest.raises(DataError, match="no text"):
        gzip_bits_per_byte(b"")
