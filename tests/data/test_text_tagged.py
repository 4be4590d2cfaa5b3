"""Tagged words: each has its tag on its first subword, whatever the tokenizer; sentences come back whole."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError, DataError
from fmjax.data import pipeline, tagged, tokenizers
from fmjax.data.tagged import Sentences, TaggedWords, bio

BYTE = tokenizers.with_specials(tokenizers.byte(), ("cls", "sep"))
CLS, SEP = 257, 258
NAMES = bio("loc", "per")
ROWS = [
    {"tokens": ["Ada", "saw", "New", "York", "."], "tags": ["B-per", "O", "B-loc", "I-loc", "O"]},
    {"tokens": ["ok"], "tags": ["O"]},
    {"tokens": ["\u200d", "in", "Rome"], "tags": ["O", "O", "B-loc"]},
]
TEXTS = [" ".join(row["tokens"]) for row in ROWS] * 3
WORDPIECE = tokenizers.Subwords.train_wordpiece(TEXTS, 60, lowercase=False)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "a.jsonl", ROWS)


def over(path, tokenizer=BYTE, **settings):
    return TaggedWords(path, tokenizer, **{"length": 32, **settings})


def test_the_first_subword_carries_the_tag(path):
    source = over(path)
    row = source[0]
    text = "Ada saw New York."[:16] + " ."
    assert row["tokens"][: len(text) + 2].tolist() == [CLS, *text.encode(), SEP]
    assert row["segment_ids"].sum() == len(text) + 2
    at = np.flatnonzero(row["weights"])
    assert at.tolist() == [1, 4, 8, 12, 17]  # each word after the first begins with its space
    assert [source.names[i] for i in row["targets"][at]] == ROWS[0]["tags"]
    assert source.names == ("O", "B-loc", "I-loc", "B-per")
    assert sorted(row) == ["segment_ids", "targets", "tokens", "weights"]


def test_a_word_of_which_nothing_is_left_is_unknown_or_lost(path):
    made = over(path, WORDPIECE)[2]
    assert made["tokens"][1] == WORDPIECE.special_id("unk")
    assert (made["weights"].sum(), over(path, WORDPIECE).lost) == (3, 0)
    library = json.loads(WORDPIECE.source)
    source = tokenizers.Subwords(json.dumps(library))
    source.special = {k: v for k, v in source.special.items() if k != "unk"}
    source.fingerprint = "another"
    lost = over(path, source)
    assert lost.lost == 1
    (true, guess) = lost.assembled(np.full((len(lost), 32), 1))[2]
    assert (true, guess) == (["O", "O", "B-loc"], ["O", "B-loc", "B-loc"])


words = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=7)
sentences = st.lists(st.lists(st.tuples(words, st.sampled_from(NAMES)), min_size=1, max_size=8), min_size=1, max_size=5)


@given(sentences, st.integers(3, 24), st.sampled_from(tagged.LONG), st.sampled_from([BYTE, WORDPIECE]))
def test_every_word_is_asked_once_and_sentences_come_back_whole(tmp_path_factory, given_, length, long, tokenizer):
    rows = [{"tokens": [w for w, _ in s], "tags": [t for _, t in s]} for s in given_]
    path = write(tmp_path_factory.mktemp("tagged") / "a.jsonl", rows)
    if long == "fail":
        whole = over(path, tokenizer, length=1000)
        length = max(length, int(whole.rows(np.arange(len(whole)))["segment_ids"].sum(1).max()))
    source = over(path, tokenizer, length=length, long=long, names=NAMES)
    made = source.rows(np.arange(len(source)))
    np.testing.assert_array_equal(made["weights"] > 0, (made["weights"] * made["segment_ids"]) > 0)
    assert (made["tokens"][:, 0] == tokenizer.special_id("cls")).all()
    assert ((made["tokens"] == tokenizer.special_id("sep")) & (made["segment_ids"] > 0)).any(1).all()
    asked = int(made["weights"].sum())
    total = sum(map(len, given_))
    assert asked == total - source.lost
    assert source.lost == 0 or long == "truncate"
    assert (source.long["split"] > 0) <= (len(source) > len(given_))
    right = source.assembled(made["targets"])
    assert len(right) == len(given_)
    for (true, guess), row in zip(right, rows, strict=True):
        assert true == row["tags"]
        assert all(g in (t, "O") for t, g in zip(true, guess, strict=True))
        assert source.lost or guess == true


def test_a_sentence_is_split_between_words_and_only_whole_ones_are_counted(path):
    source = over(path, length=12)
    rows = source.rows(np.arange(len(source)))
    texts = [source.decode(t[s > 0]) for t, s in zip(rows["tokens"], rows["segment_ids"])]
    assert texts == ["Ada saw", " New York", " .", "ok", "\u200d in", " Rome"]
    assert source.long == {"split": 2, "truncated": 0}
    assert len(source.assembled(rows["targets"][:2])) == 0
    assert [true for true, _ in source.assembled(rows["targets"])] == [row["tags"] for row in ROWS]
    cut = over(path, length=12, long="truncate")
    assert cut.lost > 0
    assert cut.assembled(cut.rows(np.arange(3))["targets"])[0][1][-1] == "O"


def test_tagged_words_are_a_config_a_pipeline_and_survive_pickling(path):
    source = build(call(TaggedWords, paths=path, tokenizer=call(tokenizers.byte), length=32))
    assert pickle.loads(pickle.dumps(source)).fingerprint == source.fingerprint
    batch = pipeline.one_pass(source, 2).batch(1)
    assert batch["valid"].tolist() == [1, 0]
    assert batch["weights"][1].sum() == 0
    others = [over(path), over(path, length=33), over(path, long="fail"), over(path, names=NAMES)]
    assert len({one.fingerprint for one in [*others, source]}) == 5
    assert next(iter(Sentences(path))) == "Ada saw New York ."


@pytest.mark.parametrize(("settings", "says"), [
    (dict(names=bio("loc")), r"sentence 0 of .* has the tag 'B-per', which is none of names; there is O, B-loc"),
    (dict(names=("O", "S-loc")), r"names has the tag 'S-loc', and BIO tags are 'O', 'B-type' and 'I-type'"),
    (dict(length=12, long="fail"), r"sentence 0 of .* has 18 tokens, and 10 fit into length=12"),
    (dict(long="spilt"), "did you mean 'split'"),
    (dict(tokens="words"), "line 1 is no JSON object with a field 'words'"),
    (dict(length=2), "no room for text"),
])  # fmt: skip
def test_what_cannot_be_used_is_one_line(path, settings, says):
    with pytest.raises((ConfigError, DataError), match=says):
        over(path, **settings)


@pytest.mark.parametrize(("row", "says"), [
    (dict(tokens=["a"], tags=["U-x"]), r"line 1: 'tags' has the tag 'U-x', and BIO tags"),
    (dict(tokens=["a"], tags=[3]), r"has the tag 3"),
    (dict(tokens=["a", "b"], tags=["O"]), "line 1 has 2 words and 1 tags"),
    (dict(tokens=[], tags=[]), "line 1 has 0 words"),
    (dict(tokens="a b", tags=["O"]), "line 1: 'tokens' is no list but str"),
    (dict(tokens=[1], tags=["O"]), "line 1: 'tokens' is no text but int"),
])  # fmt: skip
def test_bad_sentences_are_one_line(tmp_path, row, says):
    with pytest.raises(DataError, match=says):
        over(write(tmp_path / "b.jsonl", [row]))


def test_predictions_of_other_rows_are_refused(path):
    with pytest.raises(DataError, match=r"predictions \(4, 32\) are not of the 3 rows of 32"):
        over(path).assembled(np.zeros((4, 32), int))


@pytest.mark.skipif("FMJAX_DATA" not in os.environ, reason="FMJAX_DATA names no folder of real data")
def test_wnut17_is_read():
    path = Path(os.environ["FMJAX_DATA"]) / "nlp" / "wnut17_test.jsonl.gz"
    source = over(str(path), length=64)
    assert (source.sentences, len(source.tags), source.lost) == (1287, 23394, 0)
    assert len(source.names) == 13
