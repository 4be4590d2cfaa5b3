"""Arrays from files: what was written is what is read, and what is wrong is named."""

import gzip
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.arrays import Arrays, parse_idx

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx(array):
    code = CODES[array.dtype.str[1:]]
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_idx_bytes_round_trip_in_every_type(data):
    dtype = np.dtype(data.draw(st.sampled_from(sorted(CODES))))
    array = data.draw(arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=1, max_dims=4, min_side=0)))
    got = parse_idx(idx(array))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, array)


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=40) | st.binary(max_size=30).map(lambda b: b"\0\0\x08" + b))
def test_any_other_bytes_are_refused_in_one_line(raw):
    try:
        array = parse_idx(raw)
    except DataError:
        return
    assert idx(array) == raw


def test_npz_npy_and_idx_give_the_same_examples(tmp_path):
    np.savez(tmp_path / "a.npz", pictures=IMAGES, y=LABELS)
    np.save(tmp_path / "x.npy", IMAGES)
    np.save(tmp_path / "y.npy", LABELS)
    (tmp_path / "x-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)))
    (tmp_path / "y-idx1-ubyte").write_bytes(idx(LABELS.astype(np.uint8)))
    at = lambda name: str(tmp_path / name)  # noqa: E731
    all_ = [
        Arrays(at("a.npz"), image="pictures", label="y", classes=3),
        Arrays(image=at("x.npy"), label=at("y.npy")),
        Arrays(image=at("x-idx3-ubyte.gz"), label=at("y-idx1-ubyte")),
    ]
    for source in all_:
        rows = source.rows(np.array([4, 0]))
        np.testing.assert_array_equal(rows["image"], IMAGES[[4, 0], ..., None])
        assert rows["label"].tolist() == [1, 0]
        assert len(source) == 6
        again = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(again.rows(np.array([4, 0]))["image"], rows["image"])
    assert isinstance(all_[1].arrays["image"], np.memmap)
    assert len(pickle.dumps(all_[1])) < len(pickle.dumps(all_[0])) + 400
    assert Arrays(at("a.npz")).arrays.keys() == {"pictures", "y"}


def test_the_fingerprint_is_of_the_content(tmp_path):
    def of(name, array):
        np.save(tmp_path / name, array)
        return Arrays(features=str(tmp_path / name)).fingerprint

    x = np.ones((3, 2), np.float32)
    base = of("x.npy", x)
    assert of("x.npy", x) == base
    assert of("x.npy", 2 * x) != base
    np.savez(tmp_path / "a.npz", x=x)
    first = Arrays(str(tmp_path / "a.npz"), features="x").fingerprint
    np.savez(tmp_path / "a.npz", x=x, other=x)
    assert Arrays(str(tmp_path / "a.npz"), features="x").fingerprint == first


def test_wrong_files_are_named(tmp_path):
    np.savez(
        tmp_path / "a.npz", image=IMAGES, label=LABELS, short=LABELS[:3], words=np.array(["a"] * 6), none=LABELS[:0]
    )
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(idx(IMAGES))[:40])
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    a = str(tmp_path / "a.npz")
    for make, message in [
        (lambda: Arrays(str(tmp_path / "aa.npz")), r"there is no file .*aa.npz; did you mean 'a.npz'"),
        (lambda: Arrays(image=str(tmp_path / "no" / "x.npy")), "there is no file"),
        (lambda: Arrays(a, image="imgae"), "holds no 'imgae'; did you mean 'image'"),
        (lambda: Arrays(a, image="image", label="short"), "different lengths: {'image': 6, 'label': 3}"),
        (
            lambda: Arrays(a, image="image", label="label", classes=2),
            r"label 2 of example 2 is out of range \(0 to 1\)",
        ),
        (lambda: Arrays(a, label="words"), "wanted integers"),
        (lambda: Arrays(a, label="none"), "has no examples"),
        (lambda: Arrays(a, image="label"), r"wanted \(N, H, W, C\)"),
        (lambda: Arrays(image=str(tmp_path / "evil.npy")), "cannot be read: .*Python objects"),
        (lambda: Arrays(image=str(tmp_path / "cut.gz")), "cannot be read"),
        (lambda: Arrays(str(tmp_path / "b.npz")), "cannot be read"),
        (lambda: Arrays(image=a), "is no IDX file"),
        (lambda: Arrays(str(tmp_path / "evil.npy")), "is no .npz file: name the word"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="a file for each word"):
        Arrays()
    np.savez(a, label=-LABELS)
    with pytest.raises(DataError, match="label -2 of example 2 is out of range"):
        Arrays(a)
