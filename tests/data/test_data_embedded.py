"""What is on every machine: digits equal scikit-learn's, counting counts."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fmjax.core.errors import ConfigError
from fmjax.data.sources import Counting, Digits


def test_the_digits_are_scikit_learns_and_the_splits_partition_them():
    oracle = load_digits()
    wanted = {(np.round(i * 255 / 16).astype(np.uint8).tobytes(), int(t)) for i, t in zip(oracle.images, oracle.target)}
    parts = [Digits(split) for split in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [1297, 200, 300]
    got = [(p[i]["image"].tobytes(), int(p[i]["label"])) for p in parts for i in range(len(p))]
    assert len(got) == len(oracle.target) == len(Digits("all"))
    assert set(got) == wanted


def test_every_split_has_every_class_about_equally_often():
    for split in ("train", "validation", "test"):
        counts = np.bincount(Digits(split).arrays["label"], minlength=10)
        assert counts.min() > 0.6 * len(Digits(split)) / 10
        assert counts.max() < 1.5 * len(Digits(split)) / 10


def test_digits_are_bytes_from_0_to_255_with_a_channel():
    example = Digits()[0]
    assert example["image"].shape == (8, 8, 1)
    assert example["image"].dtype == np.uint8
    assert Digits().arrays["image"].max() == 255
    with pytest.raises(ConfigError, match="no split 'dev'; there is train, validation, test, all"):
        Digits("dev")


def test_counting_counts_with_every_start_and_stride():
    source = Counting(vocab=7, length=5, strides=3)
    rows = source.rows(np.arange(len(source)))["tokens"]
    assert rows.dtype == np.int32
    assert len({tuple(row) for row in rows}) == len(source) == 21
    steps = (rows[:, 1:] - rows[:, :-1]) % 7
    assert (steps == steps[:, :1]).all()
    assert set(steps[:, 0]) == {1, 2, 3}
    np.testing.assert_array_equal(source[9]["tokens"], rows[9])
    assert source.decode(rows[0]) == "0 1 2 3 4"
    assert Counting(7, 5).fingerprint != source.fingerprint
    with pytest.raises(ConfigError, match="positive"):
        Counting(0, 5)
    with pytest.raises(IndexError):
        source[21]
