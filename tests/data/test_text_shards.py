"""Shards: the same windows as in memory, whatever the cuts and workers; damage is named."""

import json
import pickle

import numpy as np
import pytest

from fmjax.core.config import build, call
from fmjax.core.errors import DataError
from fmjax.data import shards, tokenizers
from fmjax.data.cache import digest
from fmjax.data.shards import Shards
from fmjax.data.text import Windows

TEXTS = ["first document\n" * 3, "zwölf \U0001f600", "x", "the last one, somewhat longer than the others"]


class Documents(list):
    """A corpus for tests."""

    @property
    def fingerprint(self):
        return digest(list(self))


@pytest.fixture
def folder(tmp_path):
    shards.write(tmp_path / "s", {"train": TEXTS, "validation": TEXTS[:1]}, tokenizers.byte(), "key", shard_tokens=17)
    return tmp_path / "s"


@pytest.mark.parametrize("shard_tokens", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("settings", [{}, {"context": 4}, {"stride": 1}, {"stride": 3}], ids=str)
def test_shards_give_the_windows_of_the_corpus(tmp_path, shard_tokens, settings):
    byte = tokenizers.byte()
    index = shards.write(tmp_path / "s", {"train": TEXTS}, byte, "key", shard_tokens=shard_tokens)
    memory, mapped = Windows(Documents(TEXTS), byte, 9, **settings), Shards(str(tmp_path / "s"), 9, **settings)
    assert len(memory) == len(mapped)
    every = np.random.default_rng(0).permutation(len(memory))
    for key, rows in memory.rows(every).items():
        np.testing.assert_array_equal(mapped.rows(every)[key], rows)
        assert mapped.rows(every)[key].dtype == rows.dtype
    np.testing.assert_array_equal(mapped.documents, memory.documents)
    assert len(index["splits"]["train"]["shards"]) == -(-memory.total // shard_tokens)
    assert index["splits"]["train"]["bytes"] == len("".join(TEXTS).encode())


def test_large_vocabularies_are_written_in_32_bits(tmp_path):
    many = tokenizers.Characters("".join(map(chr, range(0x10000, 0x10000 + 70_000))))
    assert many.vocab > 1 << 16
    last = max(many.spec["alphabet"])
    shards.write(tmp_path / "s", {"train": [last * 5]}, many, "key")
    assert json.loads((tmp_path / "s" / "index.json").read_text())["dtype"] == "<u4"
    assert Shards(str(tmp_path / "s"), 4, stride=1)[0]["tokens"].tolist() == [many.vocab - 1] * 5


def test_workers_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP", 5)  # several groups
    bpe = tokenizers.BPE.train(TEXTS, 280)
    written = [shards.write(tmp_path / str(n), {"train": TEXTS}, bpe, "key", workers=n) for n in (0, 2)]
    assert written[0] == written[1]
    assert shards.verify(tmp_path / "0") == shards.verify(tmp_path / "2")


def test_an_error_in_the_text_reaches_the_caller_and_leaves_nothing(tmp_path):
    letters = tokenizers.Characters("abc")
    for workers in (0, 1):
        with pytest.raises(DataError, match="no 'd'"):
            shards.write(tmp_path / "s", {"train": ["abc", "abcd"]}, letters, "key", workers=workers)
    with pytest.raises(DataError, match="validation split has no text"):
        shards.write(tmp_path / "s", {"train": ["abc"], "validation": []}, letters, "key")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write shards to"):
        shards.write(tmp_path / "file" / "s", {"train": TEXTS}, tokenizers.byte(), "key")


def test_old_shards_stay_until_new_ones_are_whole(folder):
    before = sorted((p.name, p.read_bytes()) for p in folder.iterdir())
    with pytest.raises(DataError, match="no '"):
        shards.write(folder, {"train": TEXTS}, tokenizers.Characters("a"), "key", replace=True)
    assert sorted((p.name, p.read_bytes()) for p in folder.iterdir()) == before
    shards.write(folder, {"train": ["new"]}, tokenizers.byte(), "key", replace=True)
    assert shards.read_index(folder)["splits"]["train"]["documents"] == 1
    assert [p.name for p in folder.parent.iterdir()] == ["s"]


def test_a_damaged_shard_is_named(folder):
    file = folder / "train_00002.bin"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    Shards(str(folder), 4)  # sizes agree
    with pytest.raises(DataError, match=r"train_00002\.bin is damaged: its content"):
        shards.verify(folder)
    file.write_bytes(good[:-2])
    with pytest.raises(DataError, match=r"train_00002\.bin is damaged: it has 32 bytes, not 34"):
        Shards(str(folder), 4)
    file.unlink()
    with pytest.raises(DataError, match=r"train_00002\.bin is damaged: it is missing"):
        Shards(str(folder), 4)
    file.write_bytes(good)
    assert shards.verify(folder) > 0


def test_an_index_that_is_none_is_one_line(folder, tmp_path):
    with pytest.raises(DataError, match=r"make them with python -m fmjax\.tokenize"):
        Shards(str(tmp_path), 4)
    index = json.loads((folder / "index.json").read_text())
    with pytest.raises(DataError, match="no split 'test'; it has train, validation"):
        Shards(str(folder), 4, split="test")
    for bad, message in [("{", "no index"), ("[]", "no index"), (json.dumps({**index, "format": 9}), "upgrade")]:
        (folder / "index.json").write_text(bad)
        with pytest.raises(DataError, match=message):
            Shards(str(folder), 4)


def test_another_tokenizer_beside_the_shards_is_refused(folder):
    tokenizers.Characters("abc").save(folder)
    with pytest.raises(DataError, match="not the one its shards were made with"):
        Shards(str(folder), 4)
    with pytest.raises(DataError, match="not the one its shards were made with"):
        shards.verify(folder)


def test_shards_are_named_by_a_config_and_pickle_as_a_path(folder, monkeypatch):
    monkeypatch.setenv("SHARDS", str(folder))
    source = build(call(Shards, path="$SHARDS", length=5, stride=1, split="validation"))
    raw = pickle.dumps(source)
    assert len(raw) < 300
    assert pickle.loads(raw).fingerprint == source.fingerprint
    assert source.decode(source[0]["tokens"]) == "first "
    assert source.fingerprint != Shards(str(folder), 5, stride=1).fingerprint
