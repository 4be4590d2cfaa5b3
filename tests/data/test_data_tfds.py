"""TFDS data sets: read without tensorflow, decoded once, and absent ones explained."""

import hashlib
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from fmjax.core.errors import DataError
from fmjax.data import cache, pipeline
from fmjax.data.sources import Arrays, Tfds

here = pytest.mark.skipif("FMJAX_DATA" not in os.environ, reason="FMJAX_DATA is not set")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def folder(kept, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(kept))
    cache._live.clear()


@here
def test_mnist_test_images_are_the_original_ones():
    """TFDS shuffles the records: compared as a set with the IDX files."""
    idx = Path(os.environ["FMJAX_DATA"]) / "mnist_idx"
    kwargs = {"image": str(idx / "t10k-images-idx3-ubyte.gz"), "label": str(idx / "t10k-labels-idx1-ubyte.gz")}
    original, ours = Arrays(classes=10, **kwargs), Tfds("mnist", "test")
    assert ours.arrays["image"].shape == (10_000, 28, 28, 1)

    def rows(source):
        pairs = zip(source.arrays["image"], source.arrays["label"], strict=True)
        return sorted(hashlib.md5(image.tobytes()).hexdigest() + str(label) for image, label in pairs)

    assert rows(ours) == rows(original)
    assert hashlib.md5(b"").hexdigest() not in rows(ours)
    assert "tensorflow" not in sys.modules


@here
def test_slices_memory_and_items_agree():
    part, lazy = Tfds("mnist", "test[:1%]"), Tfds("mnist", "test[:1%]", in_memory=False)
    assert len(part) == len(lazy) == 100
    assert part.classes == lazy.classes == tuple("0123456789")
    assert pipeline.stream(part, 32).fingerprint == pipeline.stream(lazy, 32).fingerprint
    for key in ("image", "label"):
        np.testing.assert_array_equal(pipeline.stream(part, 32).batch(2)[key], pipeline.stream(lazy, 32).batch(2)[key])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(lazy))[3]["image"], part[3]["image"])
    assert Tfds("mnist:3.0.1", "test[1%:2%]").fingerprint != part.fingerprint


@here
def test_the_cache_spares_the_decoding(monkeypatch):
    first = Tfds("mnist", "test[:1%]").rows(np.arange(100))
    cache._live.clear()
    monkeypatch.setattr("fmjax.data.tfds._decode", lambda *args: pytest.fail("decoded again"))
    np.testing.assert_array_equal(Tfds("mnist", "test[:1%]").rows(np.arange(100))["image"], first["image"])


@here
def test_a_damaged_record_fails_by_name_or_is_skipped(tmp_path):
    shutil.copytree(Path(os.environ["FMJAX_DATA"]) / "tfds" / "mnist", tmp_path / "mnist", copy_function=shutil.copy)
    os.chmod(tmp_path / "mnist" / "3.0.1", 0o755)
    file = tmp_path / "mnist" / "3.0.1" / "mnist-test.array_record-00000-of-00001"
    file.chmod(0o644)
    clean = Tfds("mnist", "test[:400]", data_dir=str(tmp_path))
    raw = bytearray(file.read_bytes())
    raw[100_000:100_400] = bytes(b ^ 0x5A for b in raw[100_000:100_400])
    file.write_bytes(raw)
    for in_memory in (True, False):
        source = Tfds("mnist", "test[:400]", data_dir=str(tmp_path), in_memory=in_memory)
        assert source.fingerprint != clean.fingerprint
        with pytest.raises(DataError, match=r"^example 257 of Tfds\(mnist, test\[:400\]\) cannot be read: Corrupted"):
            pipeline.one_pass(source, 400).batch(0)
        batch = pipeline.one_pass(source, 400, corrupt="skip").batch(0)
        expected = np.arange(400)
        expected[[257, 258]] = 259
        np.testing.assert_array_equal(batch["image"], clean.arrays["image"][expected])


@here
def test_unknown_splits_and_features_are_named():
    for make, message in [
        (lambda: Tfds("mnist", "tset"), r"no split 'tset'; did you mean 'test'"),
        (lambda: Tfds("mnist", "train[10"), "Error parsing split"),
        (lambda: Tfds("mnist", "train[:0]"), r"Tfds\(mnist, train\[:0\]\)"),
        (lambda: Tfds("mnist", "test", words=(("image", "img"),)), "no feature 'img'"),
        (lambda: Tfds("mnist:9.9.9"), "there is no TFDS data set 'mnist:9.9.9'"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_an_absent_data_set_says_where_it_looked_and_how_to_prepare_it(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"'mnist' under .*: give data_dir .*file_format='array_record'") as caught:
        Tfds("mnist", data_dir=str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    monkeypatch.setenv("FMJAX_DATA", str(tmp_path / "shared"))
    with pytest.raises(DataError, match=str(tmp_path / "shared" / "tfds")):
        Tfds("mnist")
    monkeypatch.delenv("FMJAX_DATA")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "mine"))
    with pytest.raises(DataError, match=str(tmp_path / "mine")):
        Tfds("mnist")


def test_a_format_that_needs_tensorflow_is_refused(tmp_path):
    version = tmp_path / "old" / "1.0.0"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text(json.dumps({"fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match="stored as tfrecord, which needs tensorflow"):
        Tfds("old", data_dir=str(tmp_path))
    (tmp_path / "wide" / "en" / "1.0.0").mkdir(parents=True)
    (tmp_path / "wide" / "en" / "1.0.0" / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="has configs: write wide/en"):
        Tfds("wide", data_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"dataset_info\.json cannot be read"):
        Tfds("wide/en", data_dir=str(tmp_path))
