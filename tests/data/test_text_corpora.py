"""Corpora: the same documents each time, every one on one side of a split, and bad files named."""

import gzip
import json
import lzma
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError, DataError
from fmjax.data import tokenizers
from fmjax.data.corpora import HeldOut, Part, PythonStdlib, Several, TextFiles, joined

needs_data = pytest.mark.skipif("FMJAX_DATA" not in os.environ, reason="FMJAX_DATA names no folder of real data")


class Documents(list):
    """A corpus for tests."""

    fingerprint = "0"


def test_the_standard_library_splits_without_overlap_or_loss():
    train, validation, whole = map(PythonStdlib, ("train", "validation", "all"))
    assert set(train.files).isdisjoint(validation.files)
    assert train.files | validation.files == whole.files
    assert 0.02 < len(joined(validation)) / len(joined(whole)) < 0.3
    assert len(joined(train)) > 4e6
    assert "json/decoder.py" in whole.files
    assert not any(name.startswith(("site-packages", "test/", "encodings/")) for name in whole.files)
    assert list(train.files) == sorted(train.files)
    assert PythonStdlib("train").fingerprint == train.fingerprint != validation.fingerprint
    assert "encodings/utf_8.py" in PythonStdlib("all", exclude=("test",)).files


def test_the_standard_library_is_a_config_with_overridable_fields():
    config = call(PythonStdlib, split="validation")
    config.held_out = 0.02
    assert 0 < len(list(build(config))) < 30


def test_a_split_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="no split 'test'; there is train, validation, all"):
        PythonStdlib("test")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        HeldOut(Documents(["a"]), held_out=1.5)


def test_plain_and_packed_files_hold_the_same_documents(tmp_path):
    texts = ["first\r\n", "zwölf\n\n", "third"]
    lines = "".join(json.dumps({"text": t}) + "\n" for t in texts).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "c.jsonl.xz").write_bytes(lzma.compress(lines))
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress("zwölf\r\n".encode()))
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.xz"):
        assert list(TextFiles(str(tmp_path / name))) == texts
    assert list(TextFiles(str(tmp_path / "d.txt.gz"))) == ["zwölf\r\n"]
    assert list(TextFiles(str(tmp_path))) == [*texts * 3, "zwölf\r\n"]
    assert list(TextFiles(str(tmp_path), pattern="*.txt*")) == ["zwölf\r\n"]


def test_folders_are_searched_in_order_without_hidden_files(tmp_path):
    for name in ("b/x.txt", "a/y.txt", ".git/z.txt", "a/.hidden.txt", "c.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert list(TextFiles(str(tmp_path), pattern="*.txt")) == ["a/y.txt", "b/x.txt"]
    assert list(TextFiles((str(tmp_path / "c.md"), str(tmp_path / "a")))) == ["c.md", "a/y.txt"]


def test_paths_name_environment_variables(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("hello")
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    assert list(TextFiles("$SOME_DATA/a.txt")) == ["hello"]
    monkeypatch.delenv("SOME_DATA")
    with pytest.raises(DataError, match="not set"):
        TextFiles("$SOME_DATA/a.txt")


def test_the_fingerprint_follows_content_and_reading_not_the_place(tmp_path):
    for name, text in {"a.txt": "one", "b.txt": "one", "c.txt": "two"}.items():
        (tmp_path / name).write_text(text)
    prints = [TextFiles(str(tmp_path / f"{n}.txt")).fingerprint for n in "abc"]
    assert prints[0] == prints[1] != prints[2]
    assert TextFiles(str(tmp_path / "a.txt"), invalid="replace").fingerprint != prints[0]


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.txt", b"good\xffbad", "a.txt is not valid UTF-8 at byte 4"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2 is not valid UTF-8 at byte 10"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is no JSON object with a field 'text'"),
        ("a.jsonl", b'{"body": "a"}\n', "line 1 is no JSON object with a field 'text'"),
        ("a.jsonl", b"[1]\n", "line 1 is no JSON object"),
        ("a.jsonl", b"[" * 100_000, "line 1 is no JSON object"),
        ("a.jsonl", b'{"text": 3}\n', "'text' is no text but int"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: 'text' is not valid UTF-8 at byte 0"),
        ("a.txt.gz", gzip.compress(b"hello" * 1000, mtime=0)[:-20], "cannot read .*a.txt.gz"),
        ("a.txt.gz", b"no gzip", "cannot read .*a.txt.gz"),
        ("a.txt.xz", lzma.compress(bytes(range(256)) * 4)[:-20], "cannot read .*a.txt.xz"),
        ("a.txt.xz", b"no xz", "cannot read .*a.txt.xz"),
        ("a.txt", b"", "there is no text in"),
    ],
)
def test_a_bad_file_is_named_with_the_place(tmp_path, name, raw, message):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=message):
        list(TextFiles(str(tmp_path)))


def test_invalid_text_can_be_replaced(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\xffbad")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "x\xff"}\n{"text": "y\\ud800"}')
    first, second, third = TextFiles(str(tmp_path), invalid="replace")
    assert (first, second) == ("good\ufffdbad", "x\ufffd")
    third.encode()


def test_files_that_are_not_there_are_one_line(tmp_path):
    with pytest.raises(DataError, match="no text file or folder"):
        TextFiles(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"matches '\*.txt'"):
        TextFiles(str(tmp_path), pattern="*.txt")
    with pytest.raises(DataError, match="at least one"):
        TextFiles(())
    with pytest.raises(ConfigError, match="'fail' or 'replace'"):
        TextFiles(str(tmp_path), invalid="ignore")


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1), st.floats(0.01, 0.99))
def test_the_parts_of_a_corpus_join_to_all_of_it(texts, cut):
    whole, parts = "".join(texts), []
    for start, stop in ((0.0, cut), (cut, 1.0)):
        try:
            parts.append("".join(Part(Documents(texts), start, stop)))
        except DataError:
            parts.append("")
    assert "".join(parts) == whole
    assert len(parts[0]) == int(len(whole) * cut)


def test_an_empty_part_and_a_wrong_one_are_refused():
    with pytest.raises(DataError, match="is empty: the corpus has only 3"):
        list(Part(Documents(["abc"]), 0.0, 0.1))
    with pytest.raises(ConfigError, match="0 <= start < stop <= 1"):
        Part(Documents(["abc"]), 0.5, 0.5)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1), st.floats(0.01, 0.99))
def test_documents_are_held_out_whole_with_their_copies(texts, fraction):
    sides = {}
    for split in ("train", "validation", "all"):
        try:
            sides[split] = list(HeldOut(Documents(texts * 2), split, fraction))
        except DataError:
            sides[split] = []
    assert set(sides["train"]).isdisjoint(sides["validation"])
    assert sorted(sides["train"] + sides["validation"]) == sorted(sides["all"]) == sorted(texts * 2)


def test_too_few_documents_to_hold_out_says_what_to_do():
    with pytest.raises(DataError, match=r"hold out a part.*--valid_by=tail"):
        list(HeldOut(Documents(["x"]), "validation", 0.01))


def test_parts_and_splits_have_their_own_fingerprints():
    corpus = Documents(["abc"])
    made = [Part(corpus, 0.0, 0.5), Part(corpus, 0.5, 1.0), HeldOut(corpus, "train"), HeldOut(corpus, "validation")]
    assert len({c.fingerprint for c in made}) == 4


@needs_data
def test_tiny_shakespeare_is_cut_as_nanogpt_cuts_it():
    corpus = TextFiles("$FMJAX_DATA/text/tinyshakespeare.txt.gz")
    assert tokenizers.characters(corpus).vocab == 65
    assert sum(map(len, Part(corpus, stop=0.9))) == 1_003_854
    assert sum(map(len, Part(corpus, start=0.9))) == 111_540


@needs_data
def test_novels_are_documents():
    corpus = TextFiles(str(Path(os.environ["FMJAX_DATA"], "text/novels_valid.jsonl.xz")))
    assert len(list(corpus)) == 4
    assert len(joined(corpus)) == 1_995_770


def test_several_corpora_follow_one_another(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"de": "ja", "en": "yes"}\n{"de": "nein", "en": "no"}\n')
    sides = tuple(call(TextFiles, paths=str(tmp_path / "a.jsonl"), field=field) for field in ("de", "en"))
    both = build(call(Several, corpora=sides))
    assert list(both) == list(both) == ["ja", "nein", "yes", "no"]
    assert both.fingerprint != build(call(Several, corpora=sides[::-1])).fingerprint
    with pytest.raises(ConfigError, match="at least one"):
        Several(())
