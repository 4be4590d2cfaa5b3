"""A bare file of weights: what was written is read, of safetensors only what is asked for, and never a pickle."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from fmjax.core.errors import CheckpointError
from fmjax.interop import bare

ARRAYS = {
    "block_0/up/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "block_0/up/bias": np.ones(4, np.float16),
    "scale": np.array(2.0, np.float32),
    "half": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
}


def write(path, arrays):
    save_file(arrays, path) if path.suffix == ".safetensors" else np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_what_was_written_is_read(tmp_path, suffix):
    arrays = {k: v for k, v in ARRAYS.items() if suffix == "safetensors" or k != "half"}  # npz knows no bfloat16
    params, mutable = bare.read(write(tmp_path / f"w.{suffix}", arrays))
    assert params.keys() == arrays.keys()
    assert not mutable
    for name, x in arrays.items():
        assert params[name].dtype == x.dtype
        np.testing.assert_array_equal(params[name], x)


def test_of_safetensors_nothing_is_read_before_it_is_asked_for(tmp_path):
    params, _ = bare.read(write(tmp_path / "w.safetensors", ARRAYS))
    assert all(isinstance(x, np.memmap) for x in params.values())
    assert isinstance(params["block_0/up/kernel"][1:2], np.memmap)  # a part of the file, not a copy


def test_collections_are_told_apart_where_names_begin_with_them(tmp_path):
    path = write(tmp_path / "w.npz", {"params/a/kernel": np.ones(2), "batch_stats/a/mean": np.zeros(2)})
    params, mutable = bare.read(path)
    assert (list(params), list(mutable), list(mutable["batch_stats"])) == (["a/kernel"], ["batch_stats"], ["a/mean"])


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("w.npz", {"a": np.array([{}], object)}, "pickles are not read"),
        ("w.npz", {"a": np.arange(3)}, "a is int64"),
        ("w.safetensors", {"a": np.arange(3)}, "a is I64"),
        ("w.npz", {}, "holds no arrays"),
        ("w.npz", {"params/a": np.ones(1), "b": np.ones(1)}, "b has no collection"),
    ],
)
def test_what_are_no_weights_is_one_line(tmp_path, name, arrays, message):
    with pytest.raises(CheckpointError, match=message):
        bare.read(write(tmp_path / name, arrays))


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_damaged_or_absent_file_is_one_line(tmp_path, suffix):
    path = tmp_path / f"w.{suffix}"
    with pytest.raises(CheckpointError, match="there is no file"):
        bare.read(path)
    arrays = {"a": np.ones(1000, np.float32)}
    for broken in (write(path, arrays).read_bytes()[:-100], b"", b"\x80\x04N.", b"x" * 100):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"damaged|pickles are not read"):
            bare.read(path)
