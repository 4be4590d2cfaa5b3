"""Labelled texts: framed as `transformers` frames them, cut from the longer side, every label one of the classes."""

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
from fmjax.data import labelled, pipeline, tokenizers
from fmjax.data.framing import Frame, frame, shorten
from fmjax.data.labelled import LabelledTexts

BYTE = tokenizers.byte()
FRAMED = tokenizers.with_specials(BYTE, ("cls", "sep"))
CLS, SEP = 257, 258
ROWS = [
    {"a": "good film", "b": "bad", "label": 1, "name": "pos", "score": 4.5},
    {"a": "bad", "b": "a longer text", "label": 0, "name": "neg", "score": 1},
    {"a": "naïve", "b": "x", "label": 1, "name": "pos", "score": -2.5},
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))


def write(path, rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return str(path)


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "a.jsonl.gz", ROWS)


def over(path, tokenizer=FRAMED, **settings):
    return LabelledTexts(path, tokenizer, **{"text": "a", "length": 24, **settings})


def ids(text):
    return list(text.encode())


def test_one_text_is_framed_and_padded(path):
    rows = over(path).rows(np.array([2, 0]))
    for row, tokens, segments in zip((ROWS[2], ROWS[0]), rows["tokens"], rows["segment_ids"], strict=True):
        wanted = [CLS, *ids(row["a"]), SEP]
        assert tokens.tolist() == wanted + [0] * (24 - len(wanted))
        np.testing.assert_array_equal(segments, np.arange(24) < len(wanted))
    assert rows["label"].tolist() == [1, 1]
    assert sorted(rows) == ["label", "segment_ids", "tokens"]


def test_a_pair_has_types_and_one_without_cls_ends(path):
    row = over(path, pair="b")[0]
    assert row["tokens"][:15].tolist() == [CLS, *ids("good film"), SEP, *ids("bad"), SEP]
    np.testing.assert_array_equal(row["token_types"], (np.arange(24) > 10) & (np.arange(24) < 15))
    assert over(path, BYTE, pair="b")[0]["tokens"][:14].tolist() == [*ids("good film"), 256, *ids("bad"), 256]


def library(pieces):
    """A tokenizer.json of whole words and these special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {token: i for i, token in enumerate([*pieces, "a", "b", "c"])}
    made = Tokenizer(models.WordLevel(words, unk_token=pieces[0]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(list(pieces))
    return made


@pytest.mark.parametrize(("pieces", "wanted"), [
    (("[UNK]", "[CLS]", "[SEP]"), ([1, 3, 4, 2, 5, 2], [0, 0, 0, 0, 1, 1])),
    (("<unk>", "<s>", "</s>", "<mask>"), ([1, 4, 5, 2, 2, 6, 2], [0] * 7)),
    (("<unk>", "</s>", "<pad>"), ([3, 4, 1, 5, 1], [0, 0, 0, 1, 1])),
], ids=["bert", "roberta", "t5"])  # fmt: skip
def test_pairs_are_framed_as_in_transformers(tmp_path, pieces, wanted):
    """As BertProcessing and RobertaProcessing of the `tokenizers` library, which trim the types of the second."""
    made = library(pieces)
    path = write(tmp_path / "a.jsonl", [{"a": "a b", "b": "c", "label": 0}])
    row = over(path, tokenizers.Subwords(made.to_str()), pair="b", length=8)[0]
    real = row["segment_ids"] > 0
    assert (row["tokens"][real].tolist(), row["token_types"][real].tolist()) == wanted
    from tokenizers import processors

    process = {"[CLS]": processors.BertProcessing, "<s>": processors.RobertaProcessing}.get(pieces[1])
    if process:
        made.post_processor = process((pieces[2], 2), (pieces[1], 1))
        theirs = made.encode("a b", "c")
        assert (theirs.ids, theirs.type_ids) == wanted


@given(st.integers(0, 30), st.integers(0, 30), st.integers(2, 40))
def test_the_longer_text_is_cut_first(first, second, room):
    a, b = first, second
    while a + b > room:
        a, b = (a - 1, b) if a > b or (a == b and first <= second) else (a, b - 1)
    assert tuple(int(x[0]) for x in shorten(np.array([first]), np.array([second]), room)) == (a, b)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5), st.integers(5, 20), st.sampled_from(labelled.LONG))
def test_the_policy_for_long_rows_is_kept_and_counted(tmp_path_factory, both, length, long):
    rows = [{"a": a, "b": b, "label": i} for i, (a, b) in enumerate(both)]
    path = write(tmp_path_factory.mktemp("labelled") / "a.jsonl", rows)
    fits = [len((a + b).encode()) + 3 <= length for a, b in both]
    if (long == "fail" and not all(fits)) or (long == "drop" and not any(fits)):
        with pytest.raises(DataError, match="longer than length"):
            over(path, pair="b", length=length, long=long)
        return
    source = over(path, pair="b", length=length, long=long)
    made = source.rows(np.arange(len(source)))
    assert made["label"].tolist() == [i for i, fit in enumerate(fits) if fit or long == "truncate"]
    for i, tokens, segments in zip(made["label"], made["tokens"], made["segment_ids"], strict=True):
        a, b = (ids(text) for text in both[i])
        if len(a) + len(b) + 3 > length:
            a, b = (x[: int(n[0])] for x, n in zip((a, b), shorten(np.array([len(a)]), np.array([len(b)]), length - 3)))
        assert tokens[segments > 0].tolist() == [CLS, *a, SEP, *b, SEP]
    missed = len(fits) - sum(fits)
    assert source.long == {"truncated": missed * (long == "truncate"), "dropped": missed * (long == "drop")}


def test_labels_are_numbers_or_names_and_classes_say_which(path):
    assert over(path).classes is None
    named = over(path, label="name")
    assert named.classes == ("neg", "pos")
    assert named.rows(np.arange(3))["label"].tolist() == [1, 0, 1]
    turned = over(path, label="name", classes=("pos", "other", "neg"))
    assert turned.rows(np.arange(3))["label"].tolist() == [0, 2, 0]
    assert over(path, classes=("no", "yes")).classes == ("no", "yes")
    scores = over(path, label="score", numbers=True).rows(np.arange(3))
    assert (scores["targets"].tolist(), scores["targets"].dtype) == ([4.5, 1.0, -2.5], np.float32)
    assert sorted(over(path, label=None)[0]) == ["segment_ids", "tokens"]


def test_labelled_texts_are_a_config_a_pipeline_and_survive_pickling(path):
    source = build(call(LabelledTexts, paths=path, text="a", tokenizer=call(tokenizers.byte), length=24))
    assert pickle.loads(pickle.dumps(source)).fingerprint == source.fingerprint
    batch = pipeline.one_pass(source, 2).batch(1)
    assert batch["valid"].tolist() == [1, 0]
    assert batch["segment_ids"][1].sum() == 0
    assert source.decode(source[0]["tokens"][:9]) == "good film"
    others = [
        over(path), over(path, length=25), over(path, long="drop"), over(path, label="name"), over(path, text="b"),
        over(path, label="name", classes=("pos", "neg")), over(path, pair="b"), over(path, numbers=True),
    ]  # fmt: skip
    assert len({one.fingerprint for one in [*others, source]}) == 9


@pytest.mark.parametrize(("settings", "says"), [
    (dict(length=9), r"1 of 3 rows of .* are longer than length=9, the first is row 0; the longest needs 11"),
    (dict(label="name", classes=("pos", "nag")), r"row 1 of .* has the label 'neg', which is no class; .*mean 'nag'"),
    (dict(label="score"), r"row 0 of .* has the label 4.5, which is no class \(0 or more\); numbers=True regresses"),
    (dict(classes=("only",)), r"row 0 of .* has the label 1, which is no class \(0 to 0\)"),
    (dict(label="name", numbers=True), r"row 0 of .*: 'name' is 'pos'; numbers=True needs a number"),
    (dict(label="d"), r"line 1 is no JSON object with a field 'd'"),
    (dict(text="label"), r"line 1: 'label' is no text but int"),
    (dict(long="dorp"), "did you mean 'drop'"),
    (dict(length=2), "no room for text: 2 ids stand around it"),
    (dict(classes=("a", "a")), "names differ"),
    (dict(tokenizer=tokenizers.Characters("abc")), r"characters tokenizer has nothing to end a text with: .*'sep'"),
    (dict(length=3, long="drop", label=None, pair=None), "every row of .* is longer than length=3"),
])  # fmt: skip
def test_what_cannot_be_used_is_one_line(path, settings, says):
    with pytest.raises((ConfigError, DataError), match=says):
        over(path, **settings)


def test_labels_that_are_none_are_named(tmp_path):
    for value, says in ((None, "is None, which is neither"), ("x", "is 'x', and on the first line 1.0")):
        path = write(tmp_path / "a.jsonl", [*ROWS, {**ROWS[0], "label": value}])
        with pytest.raises(DataError, match=rf"line 4: 'label' {says}"):
            over(path)
    with pytest.raises(DataError, match="there are no texts"):
        over(write(tmp_path / "b.jsonl", []))


def test_a_frame_of_wordpiece_is_berts():
    wordpiece = tokenizers.Subwords.train_wordpiece(["a b c"] * 3, 30)
    cls, sep = (wordpiece.special_id(name) for name in ("cls", "sep"))
    assert frame(wordpiece) == Frame((cls,), (sep,), (sep,), typed=True)


@pytest.mark.skipif("FMJAX_DATA" not in os.environ, reason="FMJAX_DATA names no folder of real data")
def test_sst2_is_read():
    path = Path(os.environ["FMJAX_DATA"]) / "nlp" / "sst2_validation.jsonl.gz"
    source = LabelledTexts(str(path), FRAMED, length=300, classes=("negative", "positive"))
    assert len(source) == 872
    assert source.rows(np.arange(872))["label"].sum() == 444
