"""Parts of a source: they cover it, once, and pass on what it can do."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.source import InMemory
from fmjax.data.sources import Counting, Digits, Fold, Split, Subset


def memory(count):
    return InMemory("m", {"label": np.arange(count)})


def labels(view):
    return view.rows(np.arange(len(view)))["label"].tolist()


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 80), folds=st.integers(2, 9), seed=st.integers(0, 5))
def test_held_out_folds_partition_the_source_and_the_rest_is_the_rest(n, folds, seed):
    folds = min(folds, n)
    held = [labels(Fold(memory(n), f, folds, held_out=True, seed=seed)) for f in range(folds)]
    assert sorted(itertools.chain(*held)) == list(range(n))
    assert max(map(len, held)) - min(map(len, held)) <= 1
    for f in range(folds):
        assert sorted(held[f] + labels(Fold(memory(n), f, folds, seed=seed))) == list(range(n))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(10, 200), fraction=st.floats(0.1, 0.9), seed=st.integers(0, 5))
def test_train_and_validation_parts_cover_the_source_once(n, fraction, seed):
    train, held = (labels(Split(memory(n), part, fraction, seed)) for part in ("train", "validation"))
    assert sorted(train + held) == list(range(n))
    assert len(held) == round(n * fraction)
    assert held != sorted(held) or len(held) < 4


def test_a_subset_is_a_range_and_counts_from_the_end():
    assert labels(Subset(memory(10), 2, 5)) == [2, 3, 4]
    assert labels(Subset(memory(10), -3)) == [7, 8, 9]
    assert labels(Subset(Subset(memory(10), 2, 8), 1, 3)) == [3, 4]
    assert int(Subset(memory(10), 2)[1]["label"]) == 3
    with pytest.raises(IndexError):
        Subset(memory(10), 2, 5)[3]


def test_parts_have_fingerprints_of_their_own():
    source = memory(30)
    parts = [source, Subset(source, 0, 15), Subset(source, 0, 16), Fold(source, 0, 3), Fold(source, 1, 3)]
    parts += [Fold(source, 0, 3, held_out=True), Fold(source, 0, 3, seed=1), Split(source), Split(source, "validation")]
    parts += [Subset(memory(31), 0, 15)]
    assert len({part.fingerprint for part in parts}) == len(parts)


def test_a_part_keeps_the_class_names_the_decoder_and_the_fast_path_and_pickles():
    part = Subset(Digits("test"), 0, 5)
    assert part.classes == tuple("0123456789")
    again = pickle.loads(pickle.dumps(part))
    np.testing.assert_array_equal(again.rows(np.arange(5))["image"], part.rows(np.arange(5))["image"])
    assert Subset(Counting(8, 3), 1).decode(np.array([1, 2])) == "1 2"


def test_parts_that_are_empty_or_unknown_are_refused():
    with pytest.raises(DataError, match=r"m\[4:4\] has no examples"):
        Subset(memory(4), 4)
    with pytest.raises(DataError, match="has no examples"):
        Split(memory(4), "validation", 0.01)
    with pytest.raises(ConfigError, match="fold 3 of 3"):
        Fold(memory(9), 3, 3)
    with pytest.raises(ConfigError, match="train or validation"):
        Split(memory(9), "test")


def test_a_kept_permutation_is_the_computed_one(monkeypatch):
    kept = labels(Fold(memory(50), 1, 3))
    monkeypatch.setattr("fmjax.data.splits.TABLE", 0)
    assert labels(Fold(memory(50), 1, 3)) == kept
