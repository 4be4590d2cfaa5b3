"""Tokenizers: what is encoded comes back, byte for byte, and travels with a run."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError, DataError
from fmjax.data import tokenizers
from fmjax.data.corpora import TextFiles

TEXTS = [
    "def f(x):\n    return x + 12345\n\n\n",
    "naïve café \U0001f600\0 tail  \n\t x",
    "it's what they've said.\r\n",
] * 3
TRAINED = tokenizers.BPE.train(TEXTS, 300)
LETTERS = tokenizers.Characters("abc déf\n\U0001f600")
ALL = [tokenizers.Bytes(), LETTERS, TRAINED]
text = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("tokenizer", [ALL[0], ALL[2]], ids=["byte", "bpe"])
@given(text)
@example("\0\U0001f600<|endoftext|>\ufeff\r\n e\u0301 \u212b")
@example("")
def test_any_text_comes_back_exactly_and_costs_its_bytes(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == tokenizer.dtype
    assert tokenizer.decode(ids) == text
    assert tokenizer.widths[ids].sum() == len(text.encode())
    assert tokenizer.eos not in ids
    np.testing.assert_array_equal(tokenizer.encode(text.encode()), ids)


@given(st.text("abc déf\n\U0001f600"))
def test_characters_in_the_alphabet_come_back_one_id_each(text):
    ids = LETTERS.encode(text)
    assert len(ids) == len(text)
    assert LETTERS.decode(ids) == text
    assert LETTERS.widths[ids].sum() == len(text.encode())


@given(st.binary())
def test_bytes_that_are_no_text_come_back_too(raw):
    byte = tokenizers.byte()
    ids = byte.encode(raw)
    np.testing.assert_array_equal(ids, list(raw))
    assert byte.decode_bytes(ids) == raw


@given(st.lists(text, max_size=5), st.integers(1, 20))
def test_encoding_in_chunks_changes_nothing(texts, size):
    for words in ["\n".join(texts), "\n\n".join(texts), " \n".join(texts) + "\r\nend"]:
        chunks = list(TRAINED._chunks(words, size))
        assert "".join(chunks) == words
        ids = [i for chunk in chunks for i in TRAINED._library.encode(chunk, add_special_tokens=False).ids]
        assert ids == TRAINED._library.encode(words, add_special_tokens=False).ids


def test_long_documents_are_cut_at_line_ends_only():
    chunks = list(TRAINED._chunks("word\n" * 50 + "    indented\n\nword", 20))
    assert len(chunks) > 5
    assert all(chunk.endswith("\n") for chunk in chunks[:-1])
    many = TRAINED.encode_many(["word\n" * 50_000, "", "a"])  # more than one chunk
    assert [TRAINED.decode(ids) for ids in many] == ["word\n" * 50_000, "", "a"]


def test_character_ids_are_in_the_order_of_code_points():
    made = tokenizers.Characters("cabba")
    assert made.vocab == 3
    assert made.encode("cab").tolist() == [2, 0, 1]


def test_a_character_outside_the_alphabet_is_named_with_its_place():
    with pytest.raises(DataError, match=r"no 'X' \(character 2"):
        LETTERS.encode("abX")
    with pytest.raises(ConfigError, match="at least one"):
        tokenizers.Characters("")


@pytest.mark.parametrize("tokenizer", ALL, ids=lambda t: t.kind)
def test_text_that_cannot_be_written_down_is_refused(tokenizer):
    with pytest.raises(DataError):
        tokenizer.encode("a\ud800")
    if tokenizer.kind != "byte":
        with pytest.raises(DataError, match="not valid UTF-8 at byte 1"):
            tokenizer.encode(b"a\xff")


@pytest.mark.parametrize("tokenizer", ALL, ids=lambda t: t.kind)
def test_special_ids_stand_for_no_text_and_strange_ids_are_refused(tokenizer):
    assert tokenizer.widths.shape == (tokenizer.vocab,)
    if tokenizer.eos is not None:
        assert tokenizer.decode([tokenizer.eos]) == ""
        assert tokenizer.widths[tokenizer.eos] == 0
    for wrong in (tokenizer.vocab, -1):
        with pytest.raises(DataError, match=f"token {wrong} is outside"):
            tokenizer.decode([wrong])
    assert tokenizer.decode([]) == ""


def test_half_a_character_decodes_to_a_replacement():
    assert tokenizers.byte().decode([0xC3]) == "\ufffd"


@pytest.mark.parametrize("tokenizer", ALL, ids=lambda t: t.kind)
def test_a_saved_tokenizer_is_the_same_one(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    for again in (tokenizers.load(str(tmp_path)), pickle.loads(pickle.dumps(tokenizer))):
        assert again.fingerprint == tokenizer.fingerprint
        assert (again.vocab, again.eos) == (tokenizer.vocab, tokenizer.eos)
        np.testing.assert_array_equal(again.encode("abc déf"), tokenizer.encode("abc déf"))


def test_different_tokenizers_have_different_fingerprints():
    others = [tokenizers.Characters("ab"), tokenizers.Characters("abc"), tokenizers.BPE.train(TEXTS, 301)]
    assert len({t.fingerprint for t in [*ALL, *others]}) == 6


def test_a_tokenizer_folder_that_is_damaged_or_not_there_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no tokenizer in"):
        tokenizers.load(str(tmp_path))
    LETTERS.save(tmp_path)
    file = tmp_path / tokenizers.FILE
    good = json.loads(file.read_text())
    for bad, message in [
        ({**good, "alphabet": "xyz"}, "fingerprint"),
        ({**good, "format": 99}, "upgrade"),
        ({**good, "kind": "magic"}, "magic"),
        ([], "no saved tokenizer"),
    ]:
        file.write_text(json.dumps(bad))
        with pytest.raises((DataError, ConfigError), match=message):
            tokenizers.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        tokenizers.bpe(str(tmp_path / "tokenizer.json"))


def test_bpe_training_repeats_and_shortens_text():
    again = tokenizers.BPE.train(TEXTS, 300)
    assert again.fingerprint == TRAINED.fingerprint
    assert TRAINED.vocab == 300
    assert len(TRAINED.encode(TEXTS[0])) < len(TEXTS[0])
    with pytest.raises(ConfigError, match="at least 257"):
        tokenizers.BPE.train(TEXTS, 256)


def test_trained_bpe_is_learnt_once_and_then_read(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("some words and some more words\n" * 20)
    config = call(tokenizers.trained_bpe, corpus=call(TextFiles, paths=str(tmp_path / "a.txt")), vocab=270)
    first = build(config)
    monkeypatch.setattr(tokenizers.BPE, "train", None)
    assert build(config).fingerprint == first.fingerprint
    config.vocab = 271
    with pytest.raises(TypeError):
        build(config)


def test_characters_takes_its_alphabet_from_a_corpus():
    assert tokenizers.characters(["abc", "cd"]).vocab == 4


def hugging_face(tmp_path, **changes):
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(TRAINED.source), **changes}))
    return str(file)


def test_a_tokenizer_that_changes_text_is_refused_unless_allowed(tmp_path):
    path = hugging_face(tmp_path, normalizer={"type": "NFC"})
    with pytest.raises(ConfigError, match="exact=False"):
        tokenizers.bpe(path)
    assert tokenizers.bpe(path, exact=False).decode(tokenizers.bpe(path, exact=False).encode("e\u0301")) == "é"
    spaced = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    with pytest.raises(ConfigError, match="exact=False"):
        tokenizers.bpe(hugging_face(tmp_path, pre_tokenizer=spaced))


def test_gpt2_style_words_are_read_and_never_cut(tmp_path):
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    made = tokenizers.bpe(hugging_face(tmp_path, pre_tokenizer=plain))
    assert len(list(made._chunks("word\n" * 50, 20))) == 1
    assert made.decode(made.encode("a\n\nb  c")) == "a\n\nb  c"


def test_a_vocabulary_that_is_not_of_bytes_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"hello": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"byte-level.*tokenizers\.hugging_face"):
        tokenizers.bpe(str(tmp_path / "tokenizer.json"))
    assert tokenizers.load(str(tmp_path)).encode("hello").tolist() == [0]


def test_eos_can_be_named_and_must_exist(tmp_path):
    path = hugging_face(tmp_path)
    assert tokenizers.bpe(path, eos="<|endoftext|>").eos == tokenizers.bpe(path).eos == TRAINED.eos
    with pytest.raises(ConfigError, match=r"no special token '<end>'; it has <\|endoftext\|>"):
        tokenizers.bpe(path, eos="<end>")
