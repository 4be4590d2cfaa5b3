"""Masking and pairs of texts: who is hidden, by what, and that it depends on (seed, index) alone."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.errors import ConfigError, DataError
from fmjax.data import tokenizers
from fmjax.data.corruption import MaskTokens, begins_word, ordinary, text_of
from fmjax.data.pipeline import one_pass, stream
from fmjax.data.sentence_pairs import SentencePairs
from fmjax.data.source import InMemory
from fmjax.data.windows import TokenWindows

BYTE = tokenizers.byte()
MASK, CLS, SEP, VOCAB = 257, 258, 259, 260
TEXT = np.frombuffer(b"the (old) cat sat on the mat, didn't it? " * 30, np.uint8).astype(np.uint16)
masked = MaskTokens(BYTE, MASK, vocab=VOCAB)


def windows(stream=TEXT, length=40, documents=None, stride=None):
    documents = np.array([0, len(stream)] if documents is None else documents)
    return TokenWindows("text", np.split(stream, [len(stream) // 3]), documents, BYTE, length, stride, 0, "0")


def rng(seed=0):
    return np.random.Generator(np.random.Philox(key=seed))


def test_a_row_of_windows_is_read_so_that_every_token_but_the_first_is_in_one_row():
    source = windows(length=37)
    texts = [text_of(source[i]) for i in range(len(source))]
    assert {len(t.tokens) for t in texts} == {37}
    np.testing.assert_array_equal(np.concatenate([t.tokens[t.segment_ids > 0] for t in texts]), TEXT[1:])
    packed = {"tokens": TEXT[:5], "segment_ids": np.array([1, 1, 2, 2, 0]), "weights": np.array([1, 0, 1, 1, 0.0])}
    np.testing.assert_array_equal(text_of(packed).segment_ids, packed["segment_ids"])
    assert len(text_of({"tokens": TEXT[:5]}).tokens) == 5


@given(st.integers(0, 99), st.integers(2, 60), st.sampled_from([0.15, 0.4]), st.booleans())
def test_the_share_of_tokens_is_hidden_and_the_rest_is_as_it_was(seed, length, rate, eos):
    example = {"tokens": np.r_[TEXT[: length - 1], [256 if eos else 65]].astype(np.int32)}
    out = dataclasses.replace(masked, rate=rate)(example, rng(seed))
    hidden = out["weights"] > 0
    assert hidden.sum() == max(1, round(rate * (length - eos)))
    np.testing.assert_array_equal(out["targets"], example["tokens"])
    np.testing.assert_array_equal(out["tokens"][~hidden], example["tokens"][~hidden])
    assert set(np.unique(out["tokens"][hidden])) <= {*range(256), MASK}
    assert not (eos and hidden[-1])


def test_of_the_hidden_eighty_percent_are_masks_ten_stay_and_ten_are_any_text():
    example = {"tokens": np.full(40_000, 65, np.int32)}
    out = dataclasses.replace(masked, rate=0.9)(example, rng())
    tokens = out["tokens"][out["weights"] > 0]
    assert (tokens == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (tokens == 65).mean() == pytest.approx(0.1 + 0.1 / 256, abs=0.02)
    others = tokens[(tokens != MASK) & (tokens != 65)]
    assert set(others) == set(range(256)) - {65}
    whole = dataclasses.replace(masked, keep=0.0, swap=0.0)(example, rng())
    assert ((whole["tokens"] == MASK) == (whole["weights"] > 0)).all()


@given(st.integers(0, 999))
def test_whole_words_are_hidden_whole(seed):
    example = {"tokens": TEXT[:60].astype(np.int32)}
    out = dataclasses.replace(masked, whole_words=True)(example, rng(seed))
    begins = begins_word(BYTE)[example["tokens"]]
    words = np.cumsum(begins | (np.arange(60) == 0))
    hidden = out["weights"] > 0
    assert 0 < hidden.sum() <= round(0.15 * 60)
    for word in np.unique(words):
        assert len(np.unique(hidden[words == word])) == 1, "half a word is hidden"


def test_words_end_where_documents_do_and_padding_is_never_hidden():
    tokens = np.frombuffer(b"abcdefgh", np.uint8).astype(np.int32)
    example = {"tokens": tokens, "segment_ids": np.array([1, 1, 1, 2, 2, 2, 0, 0])}
    seen = {
        tuple(np.flatnonzero(dataclasses.replace(masked, rate=0.5, whole_words=True)(example, rng(s))["weights"]))
        for s in range(20)
    }
    assert seen == {(0, 1, 2), (3, 4, 5)}
    nothing = masked({"tokens": tokens, "segment_ids": np.zeros(8, int)}, rng())
    assert nothing["weights"].sum() == 0


def test_where_words_begin_is_read_off_the_decoder():
    begins = begins_word(BYTE)
    assert [chr(i) for i in range(97, 123) if begins[i]] == []
    assert begins[[32, 40, 46, 39, 10, 256]].all()
    assert not begins[0x80:0x100].any()

    class Pieces:  # WordPiece: no bytes, and a decoder that puts spaces between words
        vocab, widths, special, sentinels = 5, None, {"mask": 4}, ()
        names = ("walk", "##ing", ",", "the", "[MASK]")

        def decode(self, ids):
            words = [self.names[i] for i in ids]
            return words[0] + "".join(w[2:] if w.startswith("##") else " " + w for w in words[1:])

    np.testing.assert_array_equal(begins_word(Pieces()), [True, False, True, True, True])
    np.testing.assert_array_equal(ordinary(Pieces()), [True, True, True, True, False])
    assert MaskTokens(Pieces(), 4).mask == 4


def test_a_corruption_is_a_function_of_seed_and_index():
    source = windows()
    a = stream(source, 4, (masked,), shuffle=False, threads=0)
    b = stream(windows(), 8, (dataclasses.replace(masked),), shuffle=False, threads=2)
    assert a.fingerprint == stream(windows(), 4, (dataclasses.replace(masked),), shuffle=False).fingerprint
    assert a.fingerprint != stream(source, 4, (dataclasses.replace(masked, rate=0.2),), shuffle=False).fingerprint
    two, one = [a.batch(k, seed=3) for k in (2, 3)], b.batch(1, seed=3)
    for key in one:
        np.testing.assert_array_equal(np.concatenate([two[0][key], two[1][key]]), one[key])
    assert (a.batch(0, seed=3)["tokens"] != a.batch(0, seed=4)["tokens"]).any()
    assert "bytes" not in one


@pytest.mark.parametrize(("settings", "message"), [
    ({"mask": 260}, "mask=260 is outside the vocabulary of 260"),
    ({"mask": 65}, "mask=65 is an id of ordinary text"),
    ({"rate": 0.0}, "between 0 and 1, not 0.0"),
    ({"keep": 0.6, "swap": 0.5}, "together at most 1, not 0.6 and 0.5"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(masked, **settings)


def test_rows_that_hold_no_text_are_refused():
    with pytest.raises(DataError, match="reads 'tokens', and the row holds image"):
        masked({"image": 0}, rng())
    with pytest.raises(DataError, match="a row of 5 tokens has 2 weights"):
        masked({"tokens": np.arange(5), "weights": np.ones(2)}, rng())
    with pytest.raises(DataError, match="example 0 of x: a corruption reads 'tokens'"):
        stream(InMemory("x", {"label": np.arange(4)}), 2, (masked,), shuffle=False, threads=0).batch(0)


# ---- pairs ------------------------------------------------------------------------------------------

DOCUMENTS = np.array([0, 1, 30, 60, 61, 300, 310])
STREAM = np.arange(310, dtype=np.uint16) % 97
STREAM[DOCUMENTS[1:] - 1] = 256


def test_the_second_text_follows_the_first_or_is_anothers():
    source = SentencePairs(windows(STREAM, 20, DOCUMENTS), CLS, SEP)
    spans = {bytes(STREAM[a : b - 1].astype("<u2")) for a, b in itertools.pairwise(DOCUMENTS)}
    labels, covered = [], 0
    for row in (source[i] for i in range(len(source))):
        tokens, label = row["tokens"], row["label"]
        size = int(row["segment_ids"].sum())
        a, b = np.flatnonzero(tokens[:size] == SEP)
        assert tokens[0] == CLS
        assert b == size - 1
        np.testing.assert_array_equal(row["token_types"], (np.arange(20) > a) & (np.arange(20) < size))
        np.testing.assert_array_equal(tokens[size:], 0)
        first, second = (x.astype("<u2").tobytes() for x in (tokens[1:a], tokens[a + 1 : b]))
        assert len(first) > 0 < len(second)
        homes = [{s for s in spans if part in s} for part in (first, second)]
        assert all(homes)
        if label == 0:
            assert any(first + second in s for s in spans)
            covered += b - 2
        labels.append(label)
    assert 0.2 < np.mean(labels) < 0.8
    assert covered > 0


def test_pairs_are_made_of_all_the_text_and_keyed_by_seed_and_index():
    one, other = (SentencePairs(windows(STREAM, 20, DOCUMENTS), CLS, SEP, seed) for seed in (0, 1))
    assert len(one) == sum(-(-(n - 1) // 17) for n in (28, 29, 238, 9) if n > 1)
    assert one.fingerprint != other.fingerprint
    assert any((one[i]["tokens"] != other[i]["tokens"]).any() for i in range(len(one)))
    batches = one_pass(one, 4, (masked,), threads=0)
    first, again = batches.batch(0, seed=1), batches.batch(0, seed=1)
    np.testing.assert_array_equal(first["tokens"], again["tokens"])
    assert {"token_types", "label", "segment_ids", "weights", "targets", "valid", "tokens"} == first.keys()
    hidden = first["weights"] > 0
    assert not np.isin(first["targets"][hidden], (CLS, SEP, 256)).any()
    assert (first["segment_ids"][hidden] == 1).all()


def test_pairs_that_cannot_be_made_are_refused():
    with pytest.raises(DataError, match="two documents of at least two tokens"):
        SentencePairs(windows(), CLS, SEP)
    with pytest.raises(ConfigError, match="length 5 or more"):
        SentencePairs(windows(STREAM, 4, DOCUMENTS), CLS, SEP)
    with pytest.raises(IndexError):
        SentencePairs(windows(STREAM, 20, DOCUMENTS), CLS, SEP)[-1]
