"""Chats: exactly the answers and their ends are targets, whatever the template, the packing and the length."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError, DataError
from fmjax.data import chat, pipeline, tokenizers
from fmjax.data.chat import Chats, Template, written

BYTE = tokenizers.byte()
CHATS = [
    [("user", "Is it good?"), ("assistant", "yes")],
    [("system", "Be short."), ("user", "Hi <|im_end|>"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "ü!")],
    [("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "unanswered")],
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))


def messages(one):
    return [{"role": role, "content": text} for role, text in one]


def write(path, chats):
    path.write_text("".join(json.dumps({"messages": messages(c)}) + "\n" for c in chats), encoding="utf-8")
    return str(path)


def spelled(one, template, end):
    """The whole text, and for each of its bytes whether it is an answer's: by hand, from text alone."""
    head = {"chatml": "<|im_start|>{}\n", "plain": "{}: ", "llama3": "<|start_header_id|>{}<|end_header_id|>\n\n"}
    out, mine = (b"<|begin_of_text|>", [0] * 17) if template == "llama3" else (b"", [])
    for role, text in one:
        answer = role == "assistant"
        for part, counts in (
            (head[template].format(role.capitalize() if template == "plain" else role), False),
            (text, answer),
            (end, answer),
            ("" if template == "llama3" else "\n", False),
        ):
            out += part.encode()
            mine += [int(counts)] * len(part.encode())
    return out, mine


ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "plain": ""}


@pytest.mark.parametrize("template", chat.TEMPLATES)
def test_only_answers_and_their_ends_are_targets(template, tmp_path):
    source = Chats(write(tmp_path / "a.jsonl", CHATS), BYTE, template, length=400)
    rows = source.rows(np.arange(3))
    for i, one in enumerate(CHATS):
        text, mine = spelled(one, template, ENDS[template])
        ids, weights = rows["tokens"][i], np.append(0, rows["weights"][i])
        n = int((rows["segment_ids"][i] > 0).sum())
        shown = ids[:n] != BYTE.eos  # of the plain template, the end is an id
        assert bytes(ids[:n][shown].tolist()) == text
        assert weights[:n][shown].tolist() == mine
        assert (weights[:n][~shown] == 1).all()
        assert (~shown).sum() == (sum(role == "assistant" for role, _ in one) if template == "plain" else 0)
        assert not weights[n:].any()
        assert not ids[n:].any()
        assert rows["bytes"][i] == sum(mine)
        np.testing.assert_array_equal(rows["positions"][i][:n], np.arange(n))


def test_names_that_the_tokenizer_has_become_its_ids_and_spelling_them_does_not():
    library = pytest.importorskip("tokenizers")
    inner = tokenizers.BPE.train([text for one in CHATS for _, text in one] * 3, 300)
    made = library.Tokenizer.from_str(inner.source)
    made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    own = tokenizers.ByteLevel(made.to_str())
    start, end = own.names["<|im_start|>"], own.names["<|im_end|>"]
    ids, weights = written(messages(CHATS[1]), own)
    assert (ids == start).sum() == (ids == end).sum() == 5  # one in a message is text
    assert weights[ids == end].tolist() == [0, 0, 1, 0, 1]
    assert not weights[ids == start].any()
    assert own.decode(ids[weights == 1]) == "Helloü!"
    kept = tokenizers.with_specials(own, ("mask",))
    np.testing.assert_array_equal(written(messages(CHATS[1]), kept)[0], ids)


def test_a_prompt_is_what_comes_before_the_answer():
    for template in chat.TEMPLATES:
        ids, weights = written(messages(CHATS[0]), BYTE, template)
        prompt, nothing = written(messages(CHATS[0])[:1], BYTE, template, ask=True)
        first = int(np.argmax(weights))
        np.testing.assert_array_equal(prompt, ids[:first])
        assert not nothing.any()


texts = st.text("ab é", min_size=1, max_size=9).filter(str.strip)
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)


@given(st.lists(turns, min_size=1, max_size=6), st.integers(8, 70), st.sampled_from(chat.LONG), st.booleans())
def test_every_answer_of_a_chat_that_fits_is_there_once_with_its_question(
    tmp_path_factory, dialogs, length, long, pack
):
    chats = [[turn for q, a in one for turn in (("user", q), ("assistant", a))] for one in dialogs]
    path = write(tmp_path_factory.mktemp("chats") / "a.jsonl", chats)
    whole = [written(messages(one), BYTE, "plain") for one in chats]
    fits = [len(ids) <= length + 1 for ids, _ in whole]
    cut = [(ids[: length + 1].tolist(), w[: length + 1].tolist()) for ids, w in whole]
    kept = [c for c, fit in zip(cut, fits, strict=True) if fit or (long == "truncate" and any(c[1]))]
    if (long == "fail" and not all(fits)) or not kept:
        with pytest.raises(DataError, match="too long"):
            Chats(path, BYTE, "plain", length, long, pack)
        return
    source = Chats(path, BYTE, "plain", length, long, pack)
    rows = source.rows(np.arange(len(source)))
    found = []
    for i in range(len(source)):
        weights, segments = np.append(0, rows["weights"][i]), rows["segment_ids"][i]
        found += [
            (rows["tokens"][i][segments == s].tolist(), weights[segments == s].tolist())
            for s in range(1, segments.max() + 1)
        ]
        assert not weights[segments == 0].any()
        first = np.flatnonzero(np.diff(segments, prepend=0) != 0)
        assert not weights[first].any()  # nothing of one chat is a target of another
    assert sorted(found) == sorted(kept)
    if not pack:
        assert found == kept
    assert source.long == {"truncated": len(kept) - sum(fits), "dropped": len(chats) - len(kept)}


def test_questions_and_answers_of_two_fields(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"q": "Is it good?", "a": "yes"}) + "\n\n")
    simple = Chats(str(path), BYTE, length=99, prompt="q", response="a")
    both = Chats(write(tmp_path / "b.jsonl", CHATS[:1]), BYTE, length=99)
    np.testing.assert_array_equal(simple[0]["tokens"], both[0]["tokens"])
    np.testing.assert_array_equal(simple[0]["weights"], both[0]["weights"])


def test_chats_are_a_config_a_pipeline_and_survive_pickling(tmp_path):
    path = write(tmp_path / "a.jsonl", CHATS)
    source = build(call(Chats, paths=path, tokenizer=call(tokenizers.byte), length=400))
    assert pickle.loads(pickle.dumps(source)).fingerprint == source.fingerprint
    batch = pipeline.one_pass(source, 2).batch(1)
    assert batch["valid"].tolist() == [1, 0]
    mine = Template("<{role}>", "</>")
    others = [Chats(path, BYTE, t, 400) for t in ("plain", "llama3", mine)] + [Chats(path, BYTE, length=400, pack=True)]
    assert len({s.fingerprint for s in [*others, source]}) == 5


def bad(tmp_path, record):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"prompt": "a", "response": "b"}) + "\n" + json.dumps(record) + "\n")
    return Chats(str(path), BYTE)


@pytest.mark.parametrize(("record", "said"), [
    ([1], r"bad\.jsonl line 2 is no JSON object"),
    ({"message": []}, r"line 2 has neither 'messages' nor 'prompt'; did you mean 'message'\?"),
    ({"prompt": "a"}, r"line 2 has no 'response'"),
    ({"prompt": " ", "response": "b"}, r"line 2: 'prompt' has no text"),
    ({"messages": "hi"}, "is a list of objects"),
    ({"messages": messages([("user", "a")])}, "line 2: the assistant says nothing"),
    ({"messages": messages([("system", "a"), ("assistant", "b")])}, "line 2, message 1 answers a question"),
    ({"messages": messages([("usr", "a")])}, r"message 0: there is no role 'usr'; did you mean 'user'\?"),
    ({"messages": messages([("user", 3)])}, "message 0: 'content' is no text but int"),
])  # fmt: skip
def test_a_line_that_is_no_chat_is_named(tmp_path, record, said):
    with pytest.raises(DataError, match=said):
        bad(tmp_path, record)


def test_bad_settings_are_one_line(tmp_path):
    path = write(tmp_path / "a.jsonl", CHATS)
    with pytest.raises(ConfigError, match=r"no chat template 'chatlm'; did you mean 'chatml'\?"):
        Chats(path, BYTE, "chatlm")
    with pytest.raises(ConfigError, match="long must be one of"):
        Chats(path, BYTE, long="cut")
    with pytest.raises(DataError, match=r"3 of 3 chats are too long, the first is chat 0 with 75 tokens .a row has 11"):
        Chats(path, BYTE, length=10)
    with pytest.raises(DataError, match="every chat"):
        Chats(path, BYTE, length=10, long="drop")
