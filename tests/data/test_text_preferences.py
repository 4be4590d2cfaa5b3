"""Preferences: both answers after the same question, each with its own weights; labelled sets asked as questions."""

import json

import numpy as np
import pytest

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError, DataError
from fmjax.data import pipeline, tokenizers
from fmjax.data.asked import Asked
from fmjax.data.chat import Chats, written
from fmjax.data.preferences import Preferences

BYTE = tokenizers.byte()
LINES = [
    {"prompt": "2 + 2?", "chosen": "4", "rejected": "5, I think"},
    {"prompt": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": "Bye"}], "chosen": "See you", "rejected": "no"},
]  # fmt: skip
REVIEWS = Asked("Is this review positive? {sentence}", ("negative", "positive"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_both_answers_follow_the_question_and_only_they_count(tmp_path):
    source = Preferences(write(tmp_path / "a.jsonl", LINES), BYTE, "plain", length=60)
    rows = source.rows(np.array([1, 0]))
    for row, line in zip((1, 0), LINES, strict=True):
        prompt = line["prompt"] if isinstance(line["prompt"], list) else [{"role": "user", "content": line["prompt"]}]
        before, _ = written(prompt, BYTE, "plain", ask=True)
        for side, tokens, weights in (("chosen", "tokens", "weights"), ("rejected", "rejected", "rejected_weights")):
            wanted = [*before, *line[side].encode(), BYTE.eos, *b"\n"]
            assert rows[tokens][row].tolist() == wanted + [0] * (61 - len(wanted))
            counted = np.flatnonzero(np.append(0, rows[weights][row]))
            np.testing.assert_array_equal(counted, np.arange(len(before), len(wanted) - 1))


def test_a_labelled_line_becomes_a_chat_and_a_preference(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"sentence": "a joy", "label": 1}, {"sentence": "dull {x}", "label": 0}])
    both = Preferences(path, BYTE, "plain", length=80, asked=REVIEWS)
    assert both.decode(both[0]["tokens"][:60]).startswith("User: Is this review positive? a joy\nAssistant: positive")
    assert "dull {x}\nAssistant: positive" in both.decode(both[1]["rejected"][:70])
    chats = Chats(path, BYTE, "plain", length=80, asked=REVIEWS)
    np.testing.assert_array_equal(chats[1]["tokens"], both[1]["tokens"])
    np.testing.assert_array_equal(chats[1]["weights"], both[1]["weights"])
    with pytest.raises(DataError, match=r"line 1 has no 'sentense', which the question names; did you mean 'sentence'"):
        Chats(path, BYTE, asked=Asked("{sentense}", ("a", "b")))
    with pytest.raises(DataError, match=r"line 1: 'label' is 2, and the 2 answers"):
        Chats(write(tmp_path / "b.jsonl", [{"sentence": "x", "label": 2}]), BYTE, asked=REVIEWS)
    with pytest.raises(ConfigError, match="two or more different answers"):
        Asked("{x}", ("same", "same"))


def test_a_pair_that_is_too_long_is_named_dropped_or_cut_with_both_answers_left(tmp_path):
    lines = [*LINES[:1], {"prompt": "x" * 30, "chosen": "a", "rejected": "b" * 30}, {**LINES[0], "prompt": "y" * 70}]
    path = write(tmp_path / "a.jsonl", lines)
    with pytest.raises(DataError, match="2 of 3 preferences are too long, the first is number 1"):
        Preferences(path, BYTE, "plain", length=60)
    dropped = Preferences(path, BYTE, "plain", length=60, long="drop")
    cut = Preferences(path, BYTE, "plain", length=60, long="truncate")
    assert (len(dropped), dropped.long) == (1, {"truncated": 0, "dropped": 2})
    assert (len(cut), cut.long) == (2, {"truncated": 1, "dropped": 1})
    assert cut.rows(np.arange(2))["rejected_weights"].sum(1).all()
    with pytest.raises(DataError, match="every preference"):
        Preferences(path, BYTE, "plain", length=4, long="truncate")


def test_they_are_a_config_and_a_pipeline(tmp_path):
    path = write(tmp_path / "a.jsonl", LINES)
    node = call(Preferences, paths=path, tokenizer=call(tokenizers.byte), length=150)
    batch = pipeline.one_pass(build(node), 3).batch(0)
    assert batch["valid"].tolist() == [1, 1, 0]
    asked = call(Asked, question="{prompt}", answers=("a", "b"))
    chats = build(call(Chats, paths=write(tmp_path / "b.jsonl", [{"prompt": "x", "label": 0}]), tokenizer=call(
        tokenizers.byte), asked=asked))  # fmt: skip
    assert len(chats) == 1


@pytest.mark.parametrize(("line", "said"), [
    ({"prompt": "a", "chosen": "b"}, "line 1 has no 'rejected'"),
    ({"prompt": 3, "chosen": "b", "rejected": "c"}, "'prompt' is a text or a list of messages"),
    ({"prompt": "a", "chosen": "", "rejected": "c"}, "'chosen' has no text"),
    ({"prompt": [], "chosen": "b", "rejected": "c"}, "answers a question that is not there"),
])  # fmt: skip
def test_a_line_that_is_no_preference_is_named(tmp_path, line, said):
    with pytest.raises(DataError, match=said):
        Preferences(write(tmp_path / "a.jsonl", [line]), BYTE)
