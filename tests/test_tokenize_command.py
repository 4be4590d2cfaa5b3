"""python -m fmjax.tokenize: shards from text, once, and one line for what is wrong."""

import json
import subprocess
import sys

import numpy as np
import pytest

from fmjax import tokenize
from fmjax.core.errors import ConfigError, DataError, UserError
from fmjax.data import shards
from fmjax.data.shards import Shards


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02}.txt").write_text(f"document {i} has some words in it\n" * (i + 1))
    return folder


def run(*args):
    return tokenize.main([str(a) for a in args])


def whole(folder, split="train"):
    source = Shards(str(folder), 64, split=split)
    rows = source.rows(np.arange(len(source)))
    tokens = [rows["tokens"][0, 0], *rows["tokens"][:, 1:][rows["weights"] > 0]]
    return source.decode(tokens)


def test_text_becomes_shards_once(texts, tmp_path, capsys):
    out = tmp_path / "out"
    args = (f"--input={texts}", "--tokenizer=byte", f"--out={out}")
    assert run(*args) == 0
    said = capsys.readouterr().out
    assert "20 documents" in said
    assert "bytes/token" in said
    assert "MB/s" in said
    assert whole(out) == "".join(p.read_text() for p in sorted(texts.iterdir()))
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert run(*args) == 0
    assert "up to date" in capsys.readouterr().out
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before
    assert run("--verify", f"--out={out}") == 0
    assert "every hash agrees" in capsys.readouterr().out


def test_other_text_or_settings_need_leave_to_overwrite(texts, tmp_path):
    out = tmp_path / "out"
    run(f"--input={texts}", f"--out={out}")
    with pytest.raises(DataError, match="--overwrite"):
        run(f"--input={texts}", f"--out={out}", "--tokenizer=characters")
    (texts / "00.txt").write_text("changed")
    with pytest.raises(DataError, match="--overwrite"):
        run(f"--input={texts}", f"--out={out}")
    assert run(f"--input={texts}", f"--out={out}", "--overwrite") == 0
    assert whole(out).startswith("changed")


@pytest.mark.parametrize("by", ["documents", "tail"])
def test_a_held_out_split_shares_no_text_and_loses_none(texts, tmp_path, by):
    out = tmp_path / "out"
    run(f"--input={texts}", f"--out={out}", "--valid_fraction=0.3", f"--valid_by={by}")
    train, held, text = whole(out), whole(out, "validation"), "".join(p.read_text() for p in sorted(texts.iterdir()))
    assert len(train) + len(held) == len(text)
    if by == "tail":
        assert train + held == text
    else:
        firsts = [set(part.splitlines()) for part in (train, held)]
        assert firsts[0].isdisjoint(firsts[1])


def test_bpe_is_trained_on_the_training_text_and_workers_change_nothing(texts, tmp_path):
    common = (f"--input={texts}", "--tokenizer=bpe:300", "--valid_fraction=0.3", "--shard_tokens=100")
    run(*common, f"--out={tmp_path / 'one'}")
    run(*common, f"--out={tmp_path / 'two'}", "--workers=1")
    assert shards.read_index(tmp_path / "one") == shards.read_index(tmp_path / "two")
    assert shards.verify(tmp_path / "two") > 0
    saved = tmp_path / "three"
    run(f"--input={texts}", f"--tokenizer={tmp_path / 'one'}", f"--out={saved}")
    assert shards.read_index(saved)["tokenizer"] == shards.read_index(tmp_path / "one")["tokenizer"]


def test_a_single_document_is_not_split_by_documents(tmp_path):
    (tmp_path / "a.txt").write_text("just one\n" * 50)
    with pytest.raises(DataError, match="--valid_by=tail"):
        run(f"--input={tmp_path / 'a.txt'}", f"--out={tmp_path / 'out'}", "--valid_fraction=0.1")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "name files or folders with --input"),
        (("--input=nowhere",), "no text file or folder nowhere"),
        (("--input={texts}", "--tokenizer=bpe:many"), "bpe:8192"),
        (("--input={texts}", "--tokenizer=bpe:3"), "at least 257"),
        (("--input={texts}", "--valid_fraction=1.5"), "at least 0 and below 1"),
        (("--input={texts}", "--workers=-2"), "--workers"),
        (("--input={texts}", "--min_chars=9"), "--min_chars: this is for cleaning, add --clean"),
        (("--input={texts}", "--keep_repetitive"), "--keep_repetitive: this is for cleaning"),
        (("--input={texts}", "--clean", "--min_chars=99999"), r"leaves nothing of the 20 documents .*20 too short"),
        (("--input={texts}", "--dedupe=near", "--near=2"), "near is an overlap"),
        (("--input={texts}", "--near=0.5"), "add --dedupe=near"),
        (("--input={texts}", "--specials=mark"), "did you mean 'mask'"),
        (("--input={texts}", "--tokenizer=unigram:3"), "at least 257"),
        (("--input={texts}", "--tokenizer=wordpiece:3"), "letters needs a vocabulary"),
        (("--verify",), "there are no shards"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(texts, tmp_path, args, message):
    with pytest.raises(UserError, match=message) as caught:
        run(*(a.format(texts=texts) for a in args), f"--out={tmp_path / 'out'}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_never_replaced(texts, tmp_path):
    with pytest.raises(DataError, match="something else"):
        run(f"--input={texts}", f"--out={texts}", "--overwrite")
    assert len(list(texts.iterdir())) == 20


def test_splits_of_fraction_zero_are_the_text_itself():
    assert list(tokenize._splits(["x"], 0.0, "documents")) == ["train"]
    with pytest.raises(ConfigError):
        tokenize._splits(["x"], 1.0, "tail")


def test_help_is_quick_and_errors_exit_with_two(tmp_path):
    code = (
        "import sys; sys.argv=['x','--help']\nfrom fmjax import tokenize\ntry: tokenize.main()\nexcept SystemExit: pass"
    )
    heavy = subprocess.run(
        [sys.executable, "-c", f"{code}\nassert not {{'jax', 'numpy'}} & set(sys.modules)"], capture_output=True
    )
    assert heavy.returncode == 0, heavy.stderr
    assert b"--valid_fraction" in heavy.stdout
    failed = subprocess.run(
        [sys.executable, "-m", "fmjax.tokenize", "--input=nowhere", f"--out={tmp_path / 'out'}"],
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 2
    assert failed.stderr == "error: there is no text file or folder nowhere\n"


def test_a_full_disk_is_one_line_and_leaves_nothing(texts, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))"
    command = f"{limit}\nfrom fmjax import tokenize\ntokenize.exits(tokenize.main)()"
    args = [f"--input={texts}", f"--out={tmp_path / 'out'}"]
    failed = subprocess.run([sys.executable, "-c", command, *args], capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith(f"error: cannot write shards to {tmp_path / 'out'}")
    assert failed.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["texts"]


def test_cleaning_and_duplicates_are_done_before_the_split_and_reported(tmp_path, capsys):
    lines = [f"document number {i} is about the {i}th of many things\r\n" for i in range(30)]
    lines += [lines[0], "spam " * 50, "x"]
    text = "".join(json.dumps({"text": line}) + "\n" for line in lines)
    (tmp_path / "a.jsonl").write_text(text)
    out = tmp_path / "out"
    args = (f"--input={tmp_path / 'a.jsonl'}", "--clean", "--min_chars=5", "--dedupe=near", f"--out={out}")
    args += ("--valid_fraction=0.2",)
    assert run(*args) == 0
    said = capsys.readouterr().out
    assert "filtered     2 of 33 documents (1 repeated words, 1 too short)" in said
    assert "duplicates   1 of 31 documents (1 exact)" in said
    kept = whole(out) + whole(out, "validation")
    assert sorted(kept.splitlines()) == sorted(line.strip() for line in lines[:30])
    assert run(*args) == 0
    assert "up to date" in capsys.readouterr().out
    with pytest.raises(DataError, match="--overwrite"):
        run(*args, "--near=0.5")


@pytest.mark.parametrize("kind", ["unigram:300", "wordpiece:60"])
def test_other_tokenizers_and_special_ids_travel_with_the_shards(texts, tmp_path, kind):
    out = tmp_path / "out"
    run(f"--input={texts}", f"--tokenizer={kind}", "--specials=mask,pad", "--sentinels=3", f"--out={out}")
    made = Shards(str(out), 8).tokenizer
    assert made.vocab == shards.read_index(out)["vocab"]
    assert made.special_id("mask") < made.vocab
    assert made.sentinels == tuple(range(made.vocab - 3, made.vocab))
    assert "document 3 has" in " ".join(made.decode(Shards(str(out), 999, stride=None)[0]["tokens"]).split())


def test_bad_text_is_one_line_with_file_and_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good \xff bad")
    with pytest.raises(DataError, match=r"a\.txt is not valid UTF-8 at byte 5"):
        run(f"--input={tmp_path / 'a.txt'}", f"--out={tmp_path / 'out'}")
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(DataError, match="there is no text in"):
        run(f"--input={tmp_path / 'a.txt'}", f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_a_document_larger_than_a_shard_is_cut_and_read_whole(tmp_path):
    text = "a document that is longer than any shard\n" * 30
    (tmp_path / "a.txt").write_text(text)
    run(f"--input={tmp_path / 'a.txt'}", "--shard_tokens=100", f"--out={tmp_path / 'out'}")
    assert whole(tmp_path / "out") == text
