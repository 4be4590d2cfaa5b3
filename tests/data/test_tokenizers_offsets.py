"""Offsets: ids are those of `encode`, and each token says which characters it is from."""

import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fmjax.core.errors import ConfigError, DataError
from fmjax.data import tokenizers
from fmjax.data.tokenizer import Tokenizer

TEXTS = ["The quick brown fox jumps over the lazy dog.", "Don't stop: naïve cafés in 1984 were quick! 😀"] * 4
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
words = st.lists(st.sampled_from(["The", "quick ", " cafés", "\n\n", "1984", "!", "'", " ", "😀", "e\u0301"])).map(
    "".join
)


def sentencepiece():
    library, out = pytest.importorskip("sentencepiece"), io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=out, vocab_size=300, byte_fallback=True, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    return tokenizers.SentencePiece(out.getvalue())


BPE = tokenizers.BPE.train(TEXTS, 300)
MAKE = {
    "bytes": tokenizers.byte,
    "characters": lambda: tokenizers.Characters("".join(TEXTS) + "\n'e\u0301"),
    "bpe": lambda: BPE,
    "wordpiece": lambda: tokenizers.Subwords.train_wordpiece(TEXTS, 120),
    "cased": lambda: tokenizers.Subwords.train_wordpiece(TEXTS, 120, lowercase=False, strip_accents=False),
    "specials": lambda: tokenizers.with_specials(tokenizers.byte(), ("cls", "sep")),
    "sentencepiece": sentencepiece,
}


@pytest.fixture(scope="module", params=MAKE)
def tokenizer(request):
    return MAKE[request.param]()


@given(text=words)
@example(text="")
def test_ids_are_the_same_and_offsets_are_in_order_and_cover_the_words(tokenizer, text):
    ids, offsets = tokenizer.encode_with_offsets(text)
    np.testing.assert_array_equal(ids, tokenizer.encode(text))
    assert (ids.dtype, offsets.shape) == (tokenizer.dtype, (len(ids), 2))
    assert (offsets[:, 0] <= offsets[:, 1]).all()
    assert (np.diff(offsets[:, 0]) >= 0).all()
    assert (offsets >= 0).all()
    assert (offsets <= len(text)).all()
    seen = {i for a, b in offsets.tolist() for i in range(a, b)}
    left_out = {c for i, c in enumerate(text) if i not in seen and not c.isspace()}
    assert left_out <= ({"\u0301"} if tokenizer.widths is None else set())


@given(text)
def test_bytes_of_an_exact_token_are_bytes_of_its_characters(text):
    ids, offsets = tokenizers.byte().encode_with_offsets(text)
    for i, (start, stop) in zip(ids.tolist(), offsets.tolist(), strict=True):
        assert stop == start + 1
        assert bytes([i]) in text[start:stop].encode()
    pieces = BPE
    ids, offsets = pieces.encode_with_offsets(text)
    for i, (start, stop) in zip(ids.tolist(), offsets.tolist(), strict=True):
        assert pieces.pieces[i] in text[start:stop].encode()


def test_wordpieces_point_at_the_original_text():
    made = MAKE["wordpiece"]()
    text = "  Cafés  in 1984!"
    ids, offsets = made.encode_with_offsets(text)
    assert made.decode(ids) == "cafes in 1984 !"
    assert "".join(text[a:b] for a, b in offsets) == "Cafésin1984!"


def test_text_and_tokenizers_that_cannot_be_used_are_one_line(tokenizer):
    with pytest.raises(DataError, match=r"surrogate|alphabet"):
        tokenizer.encode_with_offsets("a\ud800")

    class Upper(Tokenizer):
        kind = "upper"

        def encode(self, text):
            return np.array([ord(c) for c in text.upper()])

    with pytest.raises(ConfigError, match="upper tokenizer cannot say where"):
        Upper(None, None, {}, vocab=128).encode_with_offsets("a")
