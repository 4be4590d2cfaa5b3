"""Rows of the tasks beside those that `transformers` makes, where it is installed."""

import json

import numpy as np
import pytest

from fmjax.data import tokenizers
from fmjax.data.labelled import LabelledTexts
from fmjax.data.questions import Questions
from fmjax.data.tagged import TaggedWords

library = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
TEXT = "Ada Lovelace, born in 1815, wrote about the Analytical Engine of Charles Babbage; naïve cafés followed. " * 6
WORDPIECE = tokenizers.Subwords.train_wordpiece([TEXT] * 2, 120)


@pytest.fixture(scope="module")
def theirs():
    made = library.Tokenizer.from_str(WORDPIECE.source)
    cls, sep = (WORDPIECE.special_id(name) for name in ("cls", "sep"))
    made.post_processor = library.processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=10_000, **names)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))


def same(rows, theirs, types=True):
    np.testing.assert_array_equal(rows["tokens"], theirs["input_ids"])
    np.testing.assert_array_equal(rows["segment_ids"], theirs["attention_mask"])
    if types:
        np.testing.assert_array_equal(rows["token_types"], theirs["token_type_ids"])


SETTINGS = {"padding": "max_length", "return_tensors": "np", "return_token_type_ids": True}


@pytest.mark.parametrize("length", [24, 40, 200])
def test_pairs_are_cut_and_framed_alike(tmp_path, theirs, length):
    pairs = [("who wrote?", "Ada"), (TEXT[:60], TEXT[:150]), (TEXT[:150], "Charles"), (TEXT[:99], TEXT[:99])]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in pairs))
    ours = LabelledTexts(str(path), WORDPIECE, "a", "b", None, length=length, long="truncate")
    made = theirs(*map(list, zip(*pairs)), max_length=length, truncation="longest_first", **SETTINGS)
    same(ours.rows(np.arange(4)), made)


def test_windows_are_alike(tmp_path, theirs):
    item = {"id": "1", "question": "who wrote?", "answers": [{"text": "Ada Lovelace", "answer_start": 0}]}
    data = {"data": [{"title": "Ada", "paragraphs": [{"context": TEXT, "qas": [item]}]}]}
    (tmp_path / "a.json").write_text(json.dumps(data))
    ours = Questions(str(tmp_path / "a.json"), WORDPIECE, length=64, stride=20, longest=20)
    overlap = 64 - 3 - len(theirs.tokenize(item["question"])) - 20  # what transformers calls the stride
    made = theirs(item["question"], TEXT, truncation="only_second", max_length=64, stride=overlap,
                  return_overflowing_tokens=True, **SETTINGS)  # fmt: skip
    assert len(ours) > 2
    same(ours.rows(np.arange(len(ours))), made)


def test_words_are_alike(tmp_path, theirs):
    words = [TEXT.split()[:9], ["@ada", "l'été", "OK"]]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"tokens": w, "tags": ["O"] * len(w)}) + "\n" for w in words))
    ours = TaggedWords(str(path), WORDPIECE, length=64).rows(np.arange(2))
    made = theirs(words, is_split_into_words=True, max_length=64, truncation=True, **SETTINGS)
    same(ours, made, types=False)
    for row, own in enumerate(ours["weights"]):
        firsts = [made.word_ids(row).index(i) for i in range(len(words[row]))]
        assert np.flatnonzero(own).tolist() == firsts
