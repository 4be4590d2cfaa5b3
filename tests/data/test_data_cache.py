"""The cache: decoded once, never trusted blindly, never in the way."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.data import cache
from fmjax.data.cache import Decoded, cached, digest, digest_files

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))
    cache._live.clear()
    return tmp_path / "cache"


def make():
    return {"image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "label": np.array([1, 2])}


def fresh(fingerprint, make):
    cache._live.clear()  # as another process would see it
    return cached(fingerprint, make)


def refuse():
    raise AssertionError("decoded again")


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def test_what_was_decoded_is_read_back_by_the_next_process(folder):
    cached("abc", make)
    same(fresh("abc", refuse), make())
    assert [p.name for p in folder.iterdir()] == ["abc.npz"]


def test_two_sources_of_one_process_share_the_memory():
    first = cached("abc", make)
    assert cached("abc", refuse) is first


@pytest.mark.parametrize("at", [0, 40, 170, 300, -90, -10])
def test_a_damaged_file_is_made_again_with_a_warning(folder, caplog, at):
    cached("abc", make)
    path = folder / "abc.npz"
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    path.write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        same(fresh("abc", make), make())
    if not caplog.records:  # a byte that zip does not use, such as a time stamp: the digest vouches for the arrays
        return
    assert "damaged" in caplog.text
    same(fresh("abc", refuse), make())


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_file_is_made_again(folder, keep, caplog):
    cached("abc", make)
    path = folder / "abc.npz"
    path.write_bytes(path.read_bytes()[:keep])
    same(fresh("abc", make), make())
    assert "damaged" in caplog.text


def test_other_numbers_under_the_name_are_noticed(folder, caplog):
    cached("abc", make)
    other = {**make(), "label": np.array([1, 3])}
    np.savez(folder / "abc.npz", digest=np.array(digest(Decoded(make()))), **other)
    same(fresh("abc", make), make())
    assert "its digest does not match" in caplog.text


def test_a_cache_that_cannot_be_written_is_skipped_with_a_warning(folder, caplog):
    folder.write_text("a file where the folder should be")
    same(cached("abc", make), make())
    assert "FMJAX_CACHE" in caplog.text


def test_a_write_that_fails_half_way_leaves_nothing(folder, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "replace", full)
    same(cached("abc", make), make())
    assert list(folder.iterdir()) == []
    assert "No space left" in caplog.text


@settings(max_examples=100, deadline=None)
@given(a=plain, b=plain)
def test_digests_are_equal_just_when_the_values_are(a, b):
    assert (digest(a) == digest(b)) == (repr(a) == repr(b) or (a == b and type(a) is dict))
    assert digest(a) == digest(a)


def test_digests_see_values_shapes_and_types_of_arrays():
    arrays = [np.arange(6), np.arange(6).reshape(2, 3), np.arange(6, dtype=np.int32), np.arange(1, 7), np.zeros(0)]
    assert len({digest(a) for a in arrays}) == len(arrays)
    assert digest(np.arange(6).reshape(2, 3).T) == digest(np.ascontiguousarray(np.arange(6).reshape(2, 3).T))
    with pytest.raises(TypeError):
        digest(object())


@pytest.mark.parametrize("whole", [True, False])
def test_a_digest_of_files_sees_content_names_and_sizes_and_not_the_place(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(cache, "WHOLE", 1 << 30 if whole else 0)
    monkeypatch.setattr(cache, "ENDS", 4)

    def of(name, files):
        root = tmp_path / name
        root.mkdir()
        for file, content in files.items():
            (root / file).write_bytes(content)
        return digest_files(root.iterdir(), root)

    base = of("a", {"x": b"0123456789abcdef", "y": b"1"})
    assert of("b", {"x": b"0123456789abcdef", "y": b"1"}) == base
    assert of("c", {"x": b"0123456789abcdeF", "y": b"1"}) != base
    assert of("d", {"z": b"0123456789abcdef", "y": b"1"}) != base
    assert of("e", {"x": b"0123456789abcdef", "y": b"12"}) != base
    assert (of("f", {"x": b"01234567X9abcdef", "y": b"1"}) != base) == whole  # as its docstring says
