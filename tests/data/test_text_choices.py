"""Choices: each answer after its question, split where lm-eval splits them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError, DataError
from fmjax.data import pipeline, tokenizers
from fmjax.data.asked import Asked
from fmjax.data.choices import Choices, split_encoded

BYTE = tokenizers.byte()
LINES = [
    {"question": "The sky is", "choices": ["blue", "à b", "very green"], "answer": 1},
    {"question": "Two and two: ", "choices": ["five", "four"], "answer": 0},
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_each_answer_stands_after_its_question_and_only_it_counts(tmp_path):
    source = Choices(write(tmp_path / "a.jsonl", LINES), BYTE, length=24)
    rows = source.rows(np.array([1, 0]))
    assert rows["choices"].shape == (2, 3, 25)
    for row, line in zip((1, 0), LINES, strict=True):
        for i in range(3):
            tokens, weights = rows["choices"][row, i], np.append(0, rows["choice_weights"][row, i])
            if i >= len(line["choices"]):
                assert not tokens.any()
                assert not weights.any()
                assert rows["choice_bytes"][row, i] == rows["choice_characters"][row, i] == 0
                continue
            choice, before = line["choices"][i], len(line["question"].rstrip().encode())
            text = (line["question"] + " " + choice).encode()
            assert tokens.tolist() == [*text, *[0] * (25 - len(text))]
            np.testing.assert_array_equal(np.flatnonzero(weights), np.arange(before, len(text)))
            assert rows["choice_characters"][row, i] == len(choice)
            assert rows["choice_bytes"][row, i] == len(choice.encode())
        np.testing.assert_array_equal(rows["tokens"][row], rows["choices"][row, line["answer"]])
        np.testing.assert_array_equal(rows["weights"][row], rows["choice_weights"][row, line["answer"]])
    assert rows["label"].tolist() == [0, 1]


def test_of_a_long_question_the_beginning_is_cut_and_a_long_answer_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", LINES)
    source = Choices(path, BYTE, length=12)
    text = b"The sky is very green"[-13:]
    assert source[0]["choices"][2].tolist() == list(text)
    assert source[0]["choice_weights"][2].tolist() == [0] + [1] * 11
    assert source.long["truncated"] == 5
    with pytest.raises(DataError, match=r"question 0 in .* has an answer of 11 tokens"):
        Choices(path, BYTE, length=10)


def test_with_a_template_answers_are_those_of_a_chat(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"sentence": "a joy", "label": 1}])
    asked = Asked("Good? {sentence}", ("no", "yes"))
    row = Choices(path, BYTE, 64, template="plain", asked=asked)[0]
    assert BYTE.decode(row["tokens"][row["tokens"] > 0]) == "User: Good? a joy\nAssistant: yes"
    assert row["weights"].sum() == 3
    assert row["label"] == 1


@given(st.text("a b", max_size=9), st.text("a b", min_size=1, max_size=9))
def test_spaces_at_the_end_of_the_context_belong_to_what_continues_it(context, continuation):
    before, after = split_encoded(BYTE, context, continuation)
    if not context.rstrip():
        assert before.tolist() == [BYTE.eos]
        assert BYTE.decode(after) == context + continuation
    else:
        assert BYTE.decode(before) + BYTE.decode(after) == context + continuation
        assert BYTE.decode(before) == context.rstrip()


def test_an_empty_context_needs_an_eos():
    with pytest.raises(ConfigError, match="the characters tokenizer has none"):
        split_encoded(tokenizers.Characters("ab"), "", "a")


def test_they_are_a_config_and_a_pipeline(tmp_path):
    source = build(call(Choices, paths=write(tmp_path / "a.jsonl", LINES), tokenizer=call(tokenizers.byte), length=24))
    batch = pipeline.one_pass(source, 4).batch(0)
    assert batch["valid"].tolist() == [1, 1, 0, 0]
    assert batch["choices"].dtype == np.int32


@pytest.mark.parametrize(("line", "said"), [
    ({"question": "a", "choices": ["b"], "answer": 0}, "is a list of two texts or more"),
    ({"question": "a", "choices": ["b", "c"], "answer": 2}, "'answer' is 2, and the 2 answers"),
    ({"question": "a", "choices": ["b", "c"], "answer": "b"}, "'answer' is 'b'"),
    ({"question": "a", "choices": ["b", ""], "answer": 0}, "answer 1 has no text"),
    ({"question": 1, "choices": ["b", "c"], "answer": 0}, "'question' is no text but int"),
    ({"queston": "a"}, "line 1 has no 'question'; did you mean 'queston'"),
])  # fmt: skip
def test_a_line_that_is_no_question_is_named(tmp_path, line, said):
    with pytest.raises(DataError, match=said):
        Choices(write(tmp_path / "a.jsonl", [line]), BYTE)
