"""Subwords: exact where that is claimed, honest where not; special ids for every tokenizer."""

import io
import json
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError, DataError
from fmjax.data import shards, tokenizers
from fmjax.data.cache import digest
from fmjax.data.corpora import TextFiles
from fmjax.data.shards import Shards
from fmjax.data.text import Windows

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n",
    "Don't stop: naïve cafés in 1984 were quick to serve foxes!\n\n  Indented.\n",
    "def f(x):\n    return x + 12345\n",
] * 4
UNIGRAM = tokenizers.Unigram.train(TEXTS, 330)
WORDPIECE = tokenizers.Subwords.train_wordpiece(TEXTS, 120)
text = st.text(st.characters(exclude_categories=["Cs"]))
words = st.lists(st.sampled_from(["The", "quick ", " cafés", "\n\n", "1984", "!", "'", " "])).map("".join)


def trained_sentencepiece(**changes):
    library, out = pytest.importorskip("sentencepiece"), io.BytesIO()
    settings = {"vocab_size": 315, "byte_fallback": True, "normalization_rule_name": "identity", "minloglevel": 2}
    exact = {"add_dummy_prefix": False, "remove_extra_whitespaces": False}
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=out, **{**settings, **exact, **changes}
    )
    return tokenizers.SentencePiece(out.getvalue())


@pytest.fixture(scope="module")
def exact_sentencepiece():
    return trained_sentencepiece()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))


class Documents(list):
    """A corpus for tests."""

    @property
    def fingerprint(self):
        return digest(list(self))


def comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.widths[ids].sum() == len(text.encode())
    assert not set(tokenizer.special.values()) & set(ids.tolist())


@given(text)
@example("\0\U0001f600<|endoftext|>\ufeff\r\n e\u0301 \u212b")
def test_a_byte_level_unigram_gives_any_text_back(text):
    comes_back(UNIGRAM, text)


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
@example(text="<s></s><unk><0x41>  a")
def test_an_exact_sentencepiece_gives_any_text_back(exact_sentencepiece, text):
    comes_back(exact_sentencepiece, text)


def test_a_sentencepiece_that_changes_text_does_not_claim_bytes():
    made = trained_sentencepiece(add_dummy_prefix=True)
    assert made.widths is None
    assert made.decode(made.encode("quick fox")) == "quick fox"


@given(words)
def test_a_wordpiece_loses_case_accents_and_spaces_and_nothing_else(text):
    ids = WORDPIECE.encode(text)
    back = WORDPIECE.decode(ids)
    if WORDPIECE.special_id("unk") in ids:  # "quickquick" has letters in places where they were never seen
        return
    assert "".join(back.split()) == "".join(text.lower().replace("é", "e").split())
    np.testing.assert_array_equal(WORDPIECE.encode(back), ids)


def test_wordpiece_keeps_case_and_accents_when_asked():
    kept = tokenizers.Subwords.train_wordpiece(TEXTS, 120, lowercase=False, strip_accents=False)
    assert kept.decode(kept.encode("The café")) == "The café"


def test_a_wordpiece_cut_in_chunks_is_the_same():
    many = "The quick fox\n" * 20
    pieces = list(WORDPIECE._chunks(many, 30))
    assert len(pieces) > 5
    np.testing.assert_array_equal(np.concatenate([WORDPIECE.encode(p) for p in pieces]), WORDPIECE.encode(many))


def test_a_tokenizer_that_changes_text_reports_no_bytes(tmp_path):
    assert WORDPIECE.widths is None
    assert WORDPIECE.pieces is None
    rows = Windows(Documents(TEXTS), WORDPIECE, 8).rows(np.arange(2))
    assert sorted(rows) == ["tokens", "weights"]
    index = shards.write(tmp_path / "s", {"train": TEXTS}, WORDPIECE, "key")
    assert index["splits"]["train"]["bytes"] == len("".join(TEXTS).encode())  # the original text's
    assert "bytes" not in Shards(str(tmp_path / "s"), 8)[0]


@pytest.mark.parametrize("train", [
    lambda texts: tokenizers.Unigram.train(texts, 330), lambda texts: tokenizers.Subwords.train_wordpiece(texts, 120),
])  # fmt: skip
def test_training_repeats(train):
    assert train(TEXTS).fingerprint == train(iter_again(TEXTS)).fingerprint


def iter_again(texts):
    return Documents(texts)


def test_vocabularies_too_small_are_refused():
    with pytest.raises(ConfigError, match="at least 257"):
        tokenizers.Unigram.train(TEXTS, 256)
    with pytest.raises(ConfigError, match=r"WordPiece of \d+ letters needs a vocabulary of"):
        tokenizers.Subwords.train_wordpiece(TEXTS, 10)


@pytest.mark.parametrize("name", ["trained_unigram", "trained_wordpiece"])
def test_a_trained_tokenizer_is_learnt_once_and_then_read(name, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("".join(TEXTS))
    config = call(getattr(tokenizers, name), corpus=call(TextFiles, paths=str(tmp_path / "a.txt")), vocab=340)
    first = build(config)
    monkeypatch.setattr(tokenizers.Unigram, "train", None)
    monkeypatch.setattr(tokenizers.Subwords, "train_wordpiece", None)
    assert build(config).fingerprint == first.fingerprint


def specials(tokenizer):
    return tokenizers.with_specials(tokenizer, ("mask", "pad", "cls", "sep"), sentinels=5)


@pytest.mark.parametrize("make", [
    lambda: UNIGRAM, lambda: WORDPIECE, trained_sentencepiece, lambda: specials(tokenizers.byte()),
    lambda: specials(WORDPIECE), lambda: specials(specials(UNIGRAM)),
])  # fmt: skip
def test_a_saved_tokenizer_is_the_same_one(make, tmp_path):
    tokenizer = make()
    tokenizer.save(tmp_path)
    for again in (tokenizers.load(str(tmp_path)), pickle.loads(pickle.dumps(tokenizer))):
        assert again.fingerprint == tokenizer.fingerprint
        assert (again.vocab, again.eos, again.special) == (tokenizer.vocab, tokenizer.eos, tokenizer.special)
        assert again.sentinels == tokenizer.sentinels
        np.testing.assert_array_equal(again.encode("the café"), tokenizer.encode("the café"))


@pytest.mark.parametrize("tokenizer", [tokenizers.byte(), tokenizers.Characters("abc "), UNIGRAM, WORDPIECE],
                         ids=lambda t: t.kind)  # fmt: skip
def test_special_ids_are_added_at_the_end_and_change_no_other(tokenizer):
    made = specials(tokenizer)
    new = set(made.special.values()) - set(tokenizer.special.values()) | set(made.sentinels)
    assert new == set(range(tokenizer.vocab, made.vocab))
    assert made.special.items() >= tokenizer.special.items()
    assert len(made.sentinels) == 5
    np.testing.assert_array_equal(made.encode("cab a"), tokenizer.encode("cab a"))
    assert made.decode([*new, *made.encode("cab a"), *new]) == tokenizer.decode(tokenizer.encode("cab a"))
    assert made.eos == tokenizer.eos
    if made.widths is not None:
        assert made.widths[sorted(new)].sum() == 0
    assert made.fingerprint != tokenizer.fingerprint


def test_special_ids_are_asked_for_by_name_and_a_missing_one_says_what_to_do():
    byte = tokenizers.byte()
    made = specials(byte)
    assert build(call(tokenizers.special_id, tokenizer=made, name="mask")) == 257 == made.special_id("mask")
    assert tokenizers.sentinels(made) == (261, 262, 263, 264, 265)
    assert WORDPIECE.special_id("mask") == 4
    assert WORDPIECE.eos == WORDPIECE.special_id("sep")
    with pytest.raises(ConfigError, match=r"byte tokenizer has no mask token: .*with_specials"):
        byte.special_id("mask")
    with pytest.raises(ConfigError, match="did you mean 'mask'"):
        byte.special_id("mark")
    with pytest.raises(ConfigError, match="did you mean 'mask'"):
        tokenizers.with_specials(byte, ("mark",))
    with pytest.raises(ConfigError, match="no sentinels"):
        tokenizers.sentinels(byte)
    assert tokenizers.with_specials(tokenizers.Characters("ab"), ("eos",)).eos == 2


def test_special_ids_are_shown_to_people():
    made = specials(tokenizers.byte())
    ids = [*made.encode("the "), made.sentinels[0], *made.encode(" sat "), made.special_id("mask"), made.eos]
    assert made.show(ids) == "the <extra_id_0> sat <mask><eos>"


def test_any_tokenizer_json_is_read(tmp_path):
    """A T5-like one: Metaspace, a Unigram over characters, sentinels counted down from the end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁the", -1.0),
        ("▁", -2.0),
        *[(c, -3.0) for c in "abcdef"],
    ]
    made = Tokenizer(models.Unigram(pieces, unk_id=2))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>", "<extra_id_1>", "<extra_id_0>"])
    made.save(str(tmp_path / "tokenizer.json"))
    read = tokenizers.load(str(tmp_path))
    assert read.kind == "subwords"
    assert read.widths is None
    assert read.decode(read.encode("the bad cafe")) == "the bad cafe"
    assert read.eos == 1 == read.special_id("sep")
    assert [read.special_id(n) for n in ("pad", "unk")] == [0, 2]
    assert read.sentinels == (12, 11)
    assert tokenizers.with_specials(read, ("mask",), sentinels=2).sentinels == (12, 11)
    assert tokenizers.with_specials(read, ("mask",), sentinels=3).vocab == read.vocab + 4
    assert tokenizers.load(str(tmp_path / "tokenizer.json")).fingerprint == read.fingerprint


def test_a_bert_tokenizer_json_from_elsewhere_is_read(tmp_path):
    (tmp_path / "tokenizer.json").write_text(WORDPIECE.source)
    read = build(call(tokenizers.hugging_face, path=str(tmp_path / "tokenizer.json")))
    assert read.fingerprint == WORDPIECE.fingerprint
    assert json.loads(read.source)["model"]["type"] == "WordPiece"


def test_a_sentencepiece_file_is_read_by_its_name_and_a_bad_one_is_one_line(tmp_path, exact_sentencepiece):
    (tmp_path / "tokenizer.model").write_bytes(exact_sentencepiece.model)
    for path in (tmp_path, tmp_path / "tokenizer.model"):
        assert tokenizers.load(str(path)).fingerprint == exact_sentencepiece.fingerprint
    assert exact_sentencepiece.eos == 2
    for raw in (b"", b"nothing of the kind"):
        (tmp_path / "tokenizer.model").write_bytes(raw)
        with pytest.raises(DataError, match=r"tokenizer\.model: not a SentencePiece model"):
            tokenizers.sentencepiece(str(tmp_path / "tokenizer.model"))


@pytest.mark.parametrize(
    "tokenizer", [WORDPIECE, UNIGRAM, specials(WORDPIECE)], ids=["wordpiece", "unigram", "specials"]
)
def test_strange_ids_and_text_that_cannot_be_written_down_are_refused(tokenizer):
    with pytest.raises(DataError, match="is outside"):
        tokenizer.decode([tokenizer.vocab])
    with pytest.raises(DataError, match="surrogate"):
        tokenizer.encode("a\ud800")
    with pytest.raises(DataError, match="not valid UTF-8 at byte 1"):
        tokenizer.encode(b"a\xff")
    assert tokenizer.decode([tokenizer.eos]) == ""
