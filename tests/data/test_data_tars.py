"""Tar shards: the examples are those that were written, found by place; what is wrong is named."""

import gzip
import io
import json
import logging
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fmjax.core.errors import ConfigError, DataError
from fmjax.data import cache, pipeline, tars
from fmjax.data.images import Decode
from fmjax.data.sources import TarShards

N = 10


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))
    cache._live.clear()


def png(number, size=(4, 6)):
    file = io.BytesIO()
    Image.new("RGB", size[::-1], (number, 2 * number, 7)).save(file, "PNG")
    return file.getvalue()


def tar(path, members, kind=tarfile.USTAR_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return str(path)


def members(numbers, label=lambda i: ("cls", str(i % 3))):
    for i in numbers:
        end, text = label(i)
        yield f"part/{i:03}.png", png(i)
        yield f"part/{i:03}.{end}", text.encode()


@pytest.fixture
def shards(tmp_path):
    """Ten examples in three shards."""
    for number, part in enumerate((range(4), range(4, 7), range(7, N))):
        tar(tmp_path / "shards" / f"train-{number}.tar", members(part))
    return str(tmp_path / "shards" / "train-*.tar")


@pytest.mark.parametrize("in_memory", [True, False])
def test_every_example_is_the_one_that_was_written(shards, in_memory):
    source = TarShards(shards, in_memory=in_memory)
    batch = pipeline.one_pass(source, N).batch(0)
    assert batch["label"].tolist() == [i % 3 for i in range(N)]
    assert batch["image"].shape == (N, 4, 6, 3)
    assert batch["image"][:, 0, 0].tolist() == [[i, 2 * i, 7] for i in range(N)]
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[8]["image"], batch["image"][8])


def test_memory_disk_and_bytes_give_the_same_batches(shards):
    decode = Decode((3, 3), shorter=4)
    held, lazy = (TarShards(shards, decode=decode, in_memory=m) for m in (True, False))
    encoded = TarShards(shards, decode=None)
    plain = pipeline.stream(held, 4)
    others = [pipeline.stream(lazy, 4), pipeline.stream(encoded, 4, (decode,))]
    for batches in others:
        for k, batch in enumerate(batches.iterate(seed=1, stop=2)):
            np.testing.assert_array_equal(batch["image"], plain.batch(k, 1)["image"])
            np.testing.assert_array_equal(batch["label"], plain.batch(k, 1)["label"])
    assert plain.fingerprint == others[0].fingerprint != others[1].fingerprint


@pytest.mark.nightly
@pytest.mark.slow
def test_worker_processes_decode_the_same_batches(shards):
    source = TarShards(shards, decode=Decode((3, 3), shorter=4), in_memory=False)
    for k, batch in enumerate(pipeline.stream(source, 4, workers=2).iterate(seed=1, stop=3)):
        expected = pipeline.stream(source, 4).batch(k, 1)
        for key in expected:
            np.testing.assert_array_equal(batch[key], expected[key])


def test_the_index_is_made_once_and_again_when_a_shard_changes(shards, tmp_path, monkeypatch):
    first = TarShards(shards, in_memory=False).fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(tars, "_members", None)
        cache._live.clear()
        assert TarShards(shards, in_memory=False).fingerprint == first
    tar(tmp_path / "shards" / "train-0.tar", members(range(10, 14)))
    cache._live.clear()
    second = TarShards(shards, in_memory=False)
    assert second.fingerprint != first
    assert second[0]["image"][0, 0, 0] == 10


def test_labels_are_numbers_names_or_fields_of_json(tmp_path):
    names = ("cat", "dog", "emu")
    words = tar(tmp_path / "a.tar", members(range(5), lambda i: ("cls", names[i % 3] + "\n")))
    field = tar(tmp_path / "b.tar", members(range(5), lambda i: ("json", json.dumps({"of": {"kind": i % 3}}))))
    assert TarShards(words, classes=names).rows(np.arange(5))["label"].tolist() == [0, 1, 2, 0, 1]
    assert TarShards(field, label="json.of.kind").rows(np.arange(5))["label"].tolist() == [0, 1, 2, 0, 1]
    assert TarShards(words, label=None)[2].keys() == {"image"}


def test_nothing_in_a_shard_is_written_or_followed(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        for kind, name in ((tarfile.DIRTYPE, "d"), (tarfile.SYMTYPE, "1.png"), (tarfile.LNKTYPE, "2.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
        for name, data in (("../../up.png", png(5)), ("../../up.cls", b"1"), ("/abs.png", png(6)), ("/abs.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    source = TarShards(str(path), in_memory=False)
    assert [source[i]["image"][0, 0, 0] for i in range(2)] == [5, 6]
    assert len(source) == 2
    assert {p.name for p in tmp_path.iterdir()} == {"a.tar", "cache"}


@pytest.mark.parametrize("how", ["held", "lazy", "transform"])
def test_a_damaged_image_fails_by_name_or_is_skipped_and_counted(tmp_path, how, caplog):
    broken = {"part/001.png": png(1)[:40], "part/003.png": b"", "part/004.png": b"no image"}
    path = tar(tmp_path / "a.tar", [(name, broken.get(name, data)) for name, data in members(range(6))])
    decode = None if how == "transform" else Decode()
    source = TarShards(path, decode=decode, in_memory=how == "held")
    transforms = (Decode(),) if how == "transform" else ()
    with pytest.raises(DataError, match=r"example 1 of TarShards.* cannot be read: .*cannot be decoded"):
        pipeline.one_pass(source, 6, transforms).batch(0)
    batches = pipeline.one_pass(source, 6, transforms, corrupt="skip")
    with caplog.at_level(logging.WARNING):
        batch = batches.batch(0)
    assert batch["image"][:, 0, 0, 0].tolist() == [0, 2, 2, 5, 5, 5]
    assert batch["label"].tolist() == [0, 2, 2, 2, 2, 2]
    assert batches.skipped == {1, 3, 4}
    assert "(3 so far)" in caplog.text
    if how != "transform":
        assert f"part/001.png in {path} cannot be decoded" in caplog.text


def test_wrong_shards_are_named(tmp_path):
    good = list(members(range(3)))
    at = lambda name, *change: tar(tmp_path / name, [*good, *change])  # noqa: E731
    packed = tmp_path / "packed.tar"
    packed.write_bytes(gzip.compress((tmp_path / at("train.tar")).read_bytes()))
    cut = tmp_path / "cut.tar"
    cut.write_bytes((tmp_path / "train.tar").read_bytes()[:700])
    for make, said in [
        (lambda: TarShards(str(tmp_path / "tarin.tar")), "there is no tar file .*; did you mean 'train.tar'"),
        (lambda: TarShards(str(tmp_path / "no" / "*.tar")), "there is no tar file"),
        (lambda: TarShards(str(packed)), "gunzip"),
        (lambda: TarShards(str(cut)), "cut.tar (is cut short|cannot be read)"),
        (lambda: TarShards(at("a.tar", ("x.png", png(1)))), "x.png in .*a.tar has no label x.cls: label=None"),
        (lambda: TarShards(at("b.tar", ("x.cls", b"1"))), "x.cls in .*b.tar has no image"),
        (lambda: TarShards(at("c.tar", ("part/001.jpg", b""))), "two images for one key"),
        (lambda: TarShards(at("d.tar", ("part/001.cls", b"1"))), "two labels"),
        (
            lambda: TarShards(at("e.tar", ("x.png", png(1)), ("x.cls", b"cat"))),
            "label of x.png is 'cat'.*name the classes",
        ),
        (lambda: TarShards(at("f.tar", ("x.png", png(1)), ("x.cls", b"\xff"))), "x.cls in .* cannot be read"),
        (lambda: TarShards(at("g.tar"), classes=("a", "b")), r"label 2 of example 2 is out of range \(0 to 1\)"),
        (lambda: TarShards(at("h.tar", ("x.png", png(1)), ("x.cls", b"1" * (1 << 21)))), "a label has at most"),
        (lambda: TarShards(at("i.tar"), image="webp"), "has no image"),
        (lambda: TarShards(at("j.tar"), image="webp", label=None), "no member ends in webp"),
        (
            lambda: TarShards(at("k.tar", ("x.png", png(1)), ("x.json", b'{"a": 1}')), label="json.b"),
            "no field 'b'|no label",
        ),
        (
            lambda: TarShards(at("l.tar", ("x.png", png(1, (5, 5))), ("x.cls", b"1"))),
            "x.png in .* is 5x5, part/000.png in .* is 4x6",
        ),
    ]:
        with pytest.raises(DataError, match=said) as caught:
            make()
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="endings"):
        TarShards(at("m.tar"), image=" ")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_to_a_shard_is_one_line_or_examples(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "a.tar"
    tar(path, members(range(2)))
    raw = bytearray(path.read_bytes()[: data.draw(st.integers(0, 5000))])
    for at in data.draw(st.lists(st.integers(0, max(len(raw) - 1, 0)), max_size=5)):
        if raw:
            raw[at] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    said = ""
    try:
        source = TarShards(str(path), in_memory=False, decode=None)
        [source[i] for i in range(len(source))]
    except DataError as error:
        said = str(error)
    assert "\n" not in said
