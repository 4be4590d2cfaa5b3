"""Unequal classes: what is kept, what is repeated, and weights that are those of scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from fmjax.core.errors import ConfigError, DataError
from fmjax.data import imbalance, pipeline
from fmjax.data.source import InMemory


class Listed:
    """A source that reads one example at a time."""

    def __init__(self, labels):
        self.labels, self.fingerprint = labels, "listed"

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return {"label": self.labels[i], "x": np.float32(i)}


def source(labels):
    return InMemory("rows", {"label": np.asarray(labels, np.int32), "x": np.arange(len(labels), dtype=np.float32)})


LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(lambda more: [0, 1, 2, 3, *more])


@settings(max_examples=40, deadline=None)
@given(LABELS, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_balancing_leaves_nobody_out_and_repeats_evenly(labels, power):
    rows = source(labels)
    balanced = imbalance.Balanced(rows, power)
    seen = balanced.rows(np.arange(len(balanced)))
    times = np.bincount(seen["x"].astype(int), minlength=len(labels))
    before, after = np.bincount(labels), np.bincount(seen["label"])
    assert times.min() == 1
    for c in range(4):
        assert np.ptp(times[np.array(labels) == c]) <= 1
    np.testing.assert_allclose(after, before * (before.max() / before) ** power, atol=0.5)
    if power == 0:
        assert (times == 1).all()
    if power == 1:
        assert len(set(after.tolist())) == 1


@settings(max_examples=40, deadline=None)
@given(LABELS)
def test_weights_are_those_of_scikit_learn_and_priors_shares(labels):
    rows = source(labels)
    wanted = compute_class_weight("balanced", classes=np.arange(4), y=np.array(labels))
    np.testing.assert_allclose(imbalance.class_weights(rows), wanted)
    np.testing.assert_allclose(imbalance.class_weights(rows, beta=0.0), 1.0)
    np.testing.assert_allclose(imbalance.class_weights(rows, beta=1 - 1e-9), wanted, rtol=1e-5)
    np.testing.assert_allclose(imbalance.priors(rows), np.bincount(labels) / len(labels))


def test_a_long_tail_keeps_the_ratio_and_the_first_of_each_class():
    labels = np.tile(np.arange(5), 100)
    tail = imbalance.LongTailed(source(labels), 50)
    seen = tail.rows(np.arange(len(tail)))
    assert np.bincount(seen["label"]).tolist() == [100, 38, 14, 5, 2]
    for c in range(5):
        assert seen["x"][seen["label"] == c].tolist() == (5 * np.arange(100) + c)[: (seen["label"] == c).sum()].tolist()


def test_any_source_is_balanced_and_batches_know_it():
    listed, memory = Listed([0, 0, 0, 1]), source([0, 0, 0, 1])
    one, other = imbalance.Balanced(listed), imbalance.Balanced(memory)
    assert [float(one[i]["x"]) for i in range(6)] == other.rows(np.arange(6))["x"].tolist() == [0, 1, 2, 3, 3, 3]
    plain, even = pipeline.stream(memory, 2), pipeline.stream(other, 2)
    assert plain.fingerprint != even.fingerprint
    assert even.examples == 6


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="power=2"):
        imbalance.Balanced(source([0, 1]), 2)
    with pytest.raises(ConfigError, match="ratio=0"):
        imbalance.LongTailed(source([0, 1]), 0.5)
    with pytest.raises(ConfigError, match="beta=1"):
        imbalance.class_weights(source([0, 1]), 1.0)
    with pytest.raises(DataError, match="no example of class 1"):
        imbalance.priors(source([0, 2]))
    with pytest.raises(DataError, match="have no 'kind'"):
        imbalance.labels_of(source([0, 2]), "kind")
    with pytest.raises(DataError, match="must be one class an example"):
        imbalance.labels_of(Listed([0, -1]))
