"""Questions: every answer is found again in the text from its tokens, in every window that holds it."""

import gzip
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
from fmjax.data import pipeline, tokenizers
from fmjax.data.questions import Passages, Questions, covering

BYTE = tokenizers.with_specials(tokenizers.byte(), ("cls", "sep"))
CLS, SEP = 257, 258
TEXT = "Ada Lovelace wrote about the Analytical Engine in 1843. Naïve café?"
OTHER = "Bob saw Rome."


def item(id_, question, *answers, impossible=False, text=TEXT):
    found = [{"text": a, "answer_start": text.index(a)} for a in answers]
    return {"id": id_, "question": question, "answers": found, "is_impossible": impossible}


ARTICLES = [
    {"title": "Ada", "paragraphs": [{"context": TEXT, "qas": [
        item("1", "who?", "Ada Lovelace", "Ada"), item("2", "when?", "1843"), item("3", "why?", impossible=True),
    ]}]},
    {"title": "Bob", "paragraphs": [{"context": OTHER, "qas": [item("4", "where?", "Rome", text=OTHER)]},
                                    {"context": "Nothing.", "qas": [item("5", "what?", impossible=True)]}]},
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))


def write(path, articles=ARTICLES):
    data = json.dumps({"version": "2", "data": articles}).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "a.json.gz")


def over(path, tokenizer=BYTE, **settings):
    return Questions(path, tokenizer, **{"length": 48, "stride": 16, "longest": 8, **settings})


def test_a_row_is_a_question_and_a_window(path):
    row = over(path)[0]
    room = 48 - 3 - 4
    window = TEXT.encode()[:room]
    assert row["tokens"].tolist() == [CLS, *b"who?", SEP, *window, SEP]
    np.testing.assert_array_equal(row["token_types"], np.arange(48) > 5)
    np.testing.assert_array_equal(
        row["weights"] > 0, (np.arange(48) == 0) | ((np.arange(48) > 5) & (np.arange(48) < 47))
    )
    assert row["span"].tolist() == [6, 6 + len("Ada Lovelace") - 1]
    assert sorted(row) == ["segment_ids", "span", "token_types", "tokens", "weights"]


@pytest.mark.parametrize("stride", [1, 7, 16, 30])
def test_windows_cover_the_text_and_say_which_hold_the_answer(path, stride):
    source = over(path, stride=stride)
    rows = source.rows(np.arange(len(source)))
    for number, question in enumerate(source.questions):
        mine = np.flatnonzero(source.question == number)
        own = rows["weights"][mine] > 0
        own[:, 0] = False
        texts = [source.decode(rows["tokens"][row][inside]) for row, inside in zip(mine, own, strict=True)]
        text = source.contexts[question.context]
        assert text.encode().startswith(texts[0].encode()[:20])
        assert text.endswith(texts[-1][-5:])
        assert len(mine) == 1 + max(-(-(len(text.encode()) - own[0].sum()) // stride), 0)
        said = [source.answer(row, *rows["span"][row]) for row in mine]
        wanted = question.answers[0][0] if question.answers else ""
        for text_, answer in zip(texts, said, strict=True):
            assert answer == (wanted if wanted in text_ else "")
        assert wanted in said


def test_parts_hold_out_articles_and_files_leave_others_out(tmp_path, path):
    whole = over(path)
    train, held = over(path, part="train", held_out=0.5), over(path, part="validation", held_out=0.5)
    titles = [{q.title for q in source.questions} for source in (train, held)]
    assert sorted(map(len, titles)) == [1, 1]
    assert set.union(*titles) == {"Ada", "Bob"}
    assert [q.id for q in over(path, answerable=True).questions] == ["1", "2", "4"]
    assert len(over(path, answerable=True).contexts) == 2
    other = write(tmp_path / "b.json", ARTICLES[:1])
    assert {q.title for q in over(path, without=other).questions} == {"Bob"}
    assert len(over((path, other)).questions) == 8
    assert list(Passages(path, answerable=True))[:2] == [TEXT, OTHER]
    with pytest.raises(DataError, match=r"no question is left .* 2 titles left out"):
        over(path, without=path)
    assert len({one.fingerprint for one in (whole, train, held, over(path, stride=8), over(path, longest=7))}) == 5


@pytest.mark.parametrize("make", [
    lambda: BYTE,
    lambda: tokenizers.Subwords.train_wordpiece([TEXT, OTHER] * 3, 60),
    lambda: tokenizers.with_specials(tokenizers.BPE.train([TEXT, OTHER] * 3, 300), ("cls", "sep")),
], ids=["bytes", "wordpiece", "bpe"])  # fmt: skip
def test_every_answer_comes_back_from_its_tokens(path, make):
    source = over(path, make(), length=120, stride=64)
    rows = source.rows(np.arange(len(source)))
    assert len(source) == 5
    assert [source.answer(i, *span) for i, span in enumerate(rows["span"])] == ["Ada Lovelace", "1843", "", "Rome", ""]
    assert source.unmarked == 0


@given(st.integers(0, 66), st.integers(1, 66))
def test_covering_tokens_hold_the_span(start, size):
    _, offsets = BYTE.encode_with_offsets(TEXT)
    stop = min(start + size, len(TEXT))
    first, last = covering(offsets, start, stop)
    assert (offsets[first, 0], offsets[last, 1]) == (start, stop)


def test_questions_are_a_config_a_pipeline_and_survive_pickling(path):
    source = build(call(Questions, paths=path, tokenizer=BYTE, length=48, stride=16, longest=8))
    assert pickle.loads(pickle.dumps(source)).fingerprint == source.fingerprint == over(path).fingerprint
    batch = pipeline.one_pass(source, 8).batch(len(source) // 8)
    assert batch["valid"].sum() == len(source) % 8
    assert batch["span"].shape == (8, 2)


@pytest.mark.parametrize(("settings", "says"), [
    (dict(tokenizer=tokenizers.byte()), r"byte tokenizer has no cls token: wrap it"),
    (dict(stride=40), r"windows of 37 tokens, and stride=40 would leave some out"),
    (dict(stride=0), "1 or more, not 0 and 8"),
    (dict(part="valid"), "did you mean 'validation'"),
    (dict(without="nowhere.json"), "there is no file nowhere.json"),
])  # fmt: skip
def test_what_cannot_be_used_is_one_line(path, settings, says):
    with pytest.raises((ConfigError, DataError), match=says):
        over(path, **settings)


def test_bad_files_are_one_line(tmp_path):
    wrong = item("9", "who?", "Ada")
    wrong["answers"][0]["answer_start"] = 4
    articles = [{"title": "Ada", "paragraphs": [{"context": TEXT, "qas": [wrong]}]}]
    with pytest.raises(DataError, match=r"question 9 of the article 'Ada': the text has 'Lov' at character 4, and not"):
        over(write(tmp_path / "a.json", articles))
    with pytest.raises(DataError, match="the article 'x' is not in SQuAD's form"):
        over(write(tmp_path / "b.json", [{"title": "x", "paragraphs": [{"qas": []}]}]))
    (tmp_path / "c.json").write_text("[1]")
    with pytest.raises(DataError, match=r"c.json is not in SQuAD's form"):
        over(str(tmp_path / "c.json"))
    (tmp_path / "d.json.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"cannot read .*d.json.gz"):
        over(str(tmp_path / "d.json.gz"))


@pytest.mark.skipif("FMJAX_DATA" not in os.environ, reason="FMJAX_DATA names no folder of real data")
def test_squad_is_read_and_shares_no_article_with_its_test():
    folder = Path(os.environ["FMJAX_DATA"]) / "nlp"
    train, test = (str(folder / f"{name}.json.gz") for name in ("squad2_devpart", "xquad_en"))
    source = over(test, BYTE, length=2048, stride=1024, without=train)
    assert len({q.title for q in source.questions}) == 32
    spans = source.rows(np.arange(200))["span"]
    assert all(source.answer(i, *span) == source.questions[source.question[i]].answers[0][0].strip()
               for i, span in enumerate(spans) if span.any())  # fmt: skip
    assert len(Passages(train).questions) == 6078
