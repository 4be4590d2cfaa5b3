"""Batches: a pure function of (fingerprint, seed, k), whoever asks, from wherever."""

import dataclasses
import itertools
import logging
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.core.errors import ConfigError, DataError
from fmjax.data import pipeline, sources, transforms
from fmjax.data.source import InMemory


class Listed:
    """Examples by item only: no fast path."""

    def __init__(self, count: int, bad: tuple = (), error: type = OSError):
        self.count, self.bad, self.error = count, bad, error
        self.reads: list[int] = []
        self.fingerprint = f"listed{count}"

    def __repr__(self):
        return "Listed"

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads.append(index)
        if index in self.bad:
            raise self.error("truncated file")
        return {"features": np.full(3, index, np.float64), "label": index, "text": f"row {index}"}


@dataclasses.dataclass(frozen=True)
class Noise:
    """Replaces the features by random numbers."""

    def __call__(self, example, rng):
        return {**example, "features": rng.random(3)}


def memory(count: int) -> InMemory:
    return InMemory(f"memory{count}", {"label": np.arange(count, dtype=np.int32)})


def equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        np.testing.assert_array_equal(a[key], b[key])


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 70), size=st.integers(1, 30), epochs=st.integers(1, 3), seed=st.integers(0, 9))
def test_every_epoch_visits_every_example_exactly_once(n, size, epochs, seed):
    stream = pipeline.stream(memory(n), size)
    seen = np.concatenate([stream.batch(k, seed)["label"] for k in range(-(-epochs * n // size))])
    for epoch in range(epochs):
        np.testing.assert_array_equal(np.sort(seen[epoch * n : (epoch + 1) * n]), np.arange(n))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 70), size=st.integers(1, 30), limit=st.none() | st.integers(1, 80))
def test_one_pass_gives_every_row_once_in_order_and_marks_the_padding(n, size, limit):
    batches = pipeline.one_pass(memory(n), size, limit=limit)
    given_ = list(batches.iterate())
    assert len(given_) == len(batches) == -(-min(n, limit or n) // size)
    valid = np.concatenate([b["valid"] for b in given_])
    assert all(len(b["label"]) == size for b in given_)
    assert valid.sum() == batches.examples == min(n, limit or n)
    np.testing.assert_array_equal(
        np.concatenate([b["label"] for b in given_])[valid > 0], np.arange(min(n, limit or n))
    )


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    hosts=st.sampled_from([1, 2, 4]),
    k=st.integers(0, 6),
    endless=st.booleans(),
    noisy=st.booleans(),
)
def test_the_hosts_slices_are_the_global_batch(n, hosts, k, endless, noisy):
    make = pipeline.stream if endless else pipeline.one_pass
    batches = make(Listed(n), 8, transforms=(Noise(),) if noisy else ())
    if not endless:
        k %= len(batches)
    whole = batches.batch(k, 3)
    parts = [batches.batch(k, 3, slice(h * 8 // hosts, (h + 1) * 8 // hosts)) for h in range(hosts)]
    equal({key: np.concatenate([p[key] for p in parts]) for key in whole}, whole)


def test_a_host_reads_its_own_rows_only():
    source = Listed(64)
    batches = pipeline.stream(source, 16)
    batches.batch(1, rows=slice(4, 8))
    assert len(source.reads) == 4


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("start", [0, 5])
def test_iteration_gives_batch_k_whatever_the_start_and_the_threads(threads, start):
    batches = pipeline.stream(Listed(20), 8, transforms=(Noise(),), threads=threads)
    again = pipeline.stream(Listed(20), 8, transforms=(Noise(),), threads=0)
    for k, batch in zip(range(start, 9), batches.iterate(seed=2, start=start)):
        equal(batch, again.batch(k, seed=2))


def test_an_augmentation_differs_from_epoch_to_epoch_and_from_seed_to_seed():
    batches = pipeline.stream(Listed(8), 8, transforms=(Noise(),), shuffle=False)
    first, second, other = batches.batch(0, 0), batches.batch(1, 0), batches.batch(0, 1)
    np.testing.assert_array_equal(first["label"], second["label"])
    assert not np.isin(first["features"], second["features"]).any()
    assert not np.isin(first["features"], other["features"]).any()
    equal(first, batches.batch(0, 0))


def test_memory_and_items_give_the_same_rows():
    digits = sources.Digits("validation")

    class ByItem:
        fingerprint = digits.fingerprint
        __len__ = lambda self: len(digits)  # noqa: E731
        __getitem__ = lambda self, i: digits[i]  # noqa: E731

    fast, slow = pipeline.stream(digits, 16), pipeline.stream(ByItem(), 16)
    assert fast.fingerprint == slow.fingerprint
    for k in (0, 13):
        equal(fast.batch(k), slow.batch(k))


def test_the_spec_is_the_shape_and_type_of_every_batch():
    for batches in (pipeline.stream(Listed(5), 8), pipeline.one_pass(sources.Digits("test"), 128)):
        spec = batches.spec()
        for batch in itertools.islice(batches.iterate(), 4):
            got = {key: (a.shape, a.dtype) for key, a in batch.items() if key != "text"}
            assert got == {key: s for key, s in spec.items() if key != "text"}
    assert spec["image"] == ((128, 8, 8, 1), np.dtype(np.uint8))
    assert pipeline.stream(Listed(5), 8).spec()["features"][1] == np.float32
    assert pipeline.stream(Listed(5), 8).spec()["label"][1] == np.int32


def test_the_fingerprint_changes_with_all_that_changes_rows_and_with_nothing_else():
    digits, crop = sources.Digits("validation"), transforms.RandomCrop((8, 8), padding=1)
    base = pipeline.stream(digits, 16)
    same = pipeline.stream(sources.Digits("validation"), 16, threads=3, workers=2, prefetch=5)
    others = [
        pipeline.stream(digits, 17),
        pipeline.stream(sources.Digits("test"), 16),
        pipeline.stream(digits, 16, shuffle=False),
        pipeline.stream(digits, 16, corrupt="skip"),
        pipeline.stream(digits, 16, (crop,)),
        pipeline.stream(digits, 16, (dataclasses.replace(crop, padding=2),)),
        pipeline.one_pass(digits, 16),
        pipeline.one_pass(digits, 16, limit=100),
    ]
    assert base.fingerprint == same.fingerprint
    assert len({b.fingerprint for b in [base, *others]}) == 1 + len(others)


def test_a_transform_whose_settings_cannot_be_seen_is_refused():
    with pytest.raises(DataError, match="has no fingerprint"):
        pipeline.stream(memory(3), 2, (lambda example, rng: example,))


@pytest.mark.parametrize("threads", [0, 2])
def test_a_corrupt_record_is_named_when_its_batch_is_due(threads):
    iterator = pipeline.one_pass(Listed(12, bad=(9,)), 4, threads=threads).iterate()
    assert next(iterator)["label"].tolist() == [0, 1, 2, 3]
    assert next(iterator)["label"].tolist() == [4, 5, 6, 7]
    with pytest.raises(DataError, match=r"^example 9 of Listed cannot be read: truncated file$"):
        next(iterator)


def test_a_corrupt_record_is_replaced_by_the_next_one_counted_and_logged(caplog):
    batches = pipeline.one_pass(Listed(12, bad=(2, 3, 11)), 4, corrupt="skip")
    with caplog.at_level(logging.WARNING):
        labels = np.concatenate([b["label"] for b in batches.iterate()])
    assert labels.tolist() == [0, 1, 4, 4, 4, 5, 6, 7, 8, 9, 10, 0]
    assert batches.skipped == {2, 3, 11}
    assert len(caplog.records) == 3
    with pytest.raises(DataError, match="3 examples in a row"):
        pipeline.one_pass(Listed(3, bad=(0, 1, 2)), 2, corrupt="skip").batch(0)


def test_records_known_to_be_corrupt_stop_the_run_before_it_starts_or_are_skipped():
    source = InMemory("m", {"label": np.arange(6)}, unreadable={4: "bad checksum"})
    with pytest.raises(DataError, match="example 4 of m cannot be read: bad checksum"):
        pipeline.stream(source, 2)
    assert pipeline.one_pass(source, 6, corrupt="skip").batch(0)["label"].tolist() == [0, 1, 2, 3, 5, 5]
    with pytest.raises(DataError, match="example 1 of"):
        pipeline.one_pass(sources.Subset(source, 3), 2)


def test_a_bug_stays_a_bug_and_says_where_it_was():
    with pytest.raises(TypeError, match="truncated") as caught:
        pipeline.one_pass(Listed(12, bad=(2,), error=TypeError), 4, corrupt="skip").batch(0)
    assert "in example 2 of Listed" in caught.value.__notes__


def test_a_failing_transform_names_the_example():
    digits = sources.Digits("validation")
    with pytest.raises(DataError, match=r"example 0 of Digits\(validation\): an image of 8x8 has no crop of 9x9"):
        pipeline.one_pass(digits, 4, (transforms.CenterCrop((9, 9)),), corrupt="skip").batch(0)


def test_examples_of_different_shapes_or_keys_are_refused_by_name():
    class Ragged(Listed):
        def __getitem__(self, index):
            return {"features": np.zeros(3 + (index == 2))} if index != 5 else {"label": 1}

    with pytest.raises(DataError, match=r"example 2 of Listed: features has shape \(4,\), example 0 has \(3,\)"):
        pipeline.one_pass(Ragged(8), 4, corrupt="skip").batch(0)
    with pytest.raises(DataError, match=r"example 5 of Listed has keys \['label'\]"):
        pipeline.one_pass(Ragged(8), 4).batch(1)


def test_integers_that_do_not_fit_the_device_are_refused():
    with pytest.raises(DataError, match="4294967296 does not fit"):
        pipeline.one_pass(InMemory("m", {"tokens": np.array([[2**32]])}), 1).batch(0)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 4, "corrupt": "ignore"}, "'fail' or 'skip'"),
        ({"batch_size": 4, "threads": -1}, "0 or more"),
        ({"batch_size": 4, "prefetch": 0}, "1 or more"),
        ({"batch_size": 4, "limit": 0}, "limit is 0"),
    ],
)
def test_bad_settings_are_refused(settings_, message):
    with pytest.raises(ConfigError, match=message):
        pipeline.one_pass(memory(8), **settings_)


def test_an_empty_source_is_refused():
    with pytest.raises(DataError, match="Listed has no examples"):
        pipeline.stream(Listed(0), 4)


def test_there_is_no_batch_past_the_end_of_a_pass():
    with pytest.raises(IndexError):
        pipeline.one_pass(memory(8), 4).batch(2)
    assert list(pipeline.one_pass(memory(8), 4).iterate(start=2)) == []


def test_closing_early_leaves_no_thread_behind():
    before = threading.active_count()
    iterator = pipeline.stream(Listed(40), 4, threads=3).iterate()
    next(iterator)
    assert threading.active_count() > before
    iterator.close()
    assert threading.active_count() == before


@pytest.mark.slow
def test_worker_processes_give_the_same_batches_and_hand_over_errors():
    kwargs = {"transforms": (transforms.RandomCrop((8, 8), padding=1),), "shuffle": False}
    digits = sources.Digits("validation")
    plain = pipeline.stream(sources.Digits("validation"), 16, **kwargs)
    working = pipeline.stream(digits, 16, workers=2, **kwargs)
    digits.unreadable = {16 * 7 + 5: "bad checksum"}
    iterator = working.iterate(seed=1, start=4, rows=slice(4, 12))
    for k in range(4, 7):
        batch = next(iterator)
        assert all(type(array) is np.ndarray for array in batch.values())
        equal(batch, plain.batch(k, 1, slice(4, 12)))
    with pytest.raises(DataError, match=r"^example 117 of Digits\(validation\) cannot be read: bad checksum$"):
        next(iterator)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("repeats", [2, 3, 7])
def test_repeated_examples_stand_together_whatever_batch_is_asked_for(repeats, shuffle):
    """The stream with repeats is the stream without, each example so often, and batch k is still cut out of it."""
    source = pipeline_source()
    plain = pipeline.stream(source, 11, shuffle=shuffle)
    rows = np.concatenate([plain.batch(k, seed=3)["label"] for k in range(4)])
    again = pipeline.stream(source, 4, shuffle=shuffle, repeats=repeats)
    for k in (5, 0, 2):
        np.testing.assert_array_equal(again.batch(k, seed=3)["label"], np.repeat(rows, repeats)[4 * k : 4 * k + 4])
        np.testing.assert_array_equal(again.batch(k, 3, slice(1, 3))["label"], again.batch(k, 3)["label"][1:3])
    assert len(again) == len(pipeline.stream(source, 4))


def test_repeats_are_a_part_of_the_fingerprint_and_one_is_none():
    source = pipeline_source()
    prints = [pipeline.stream(source, 4, repeats=r).fingerprint for r in (1, 2, 3)]
    assert len(set(prints)) == 3
    assert prints[0] == pipeline.stream(source, 4).fingerprint
    with pytest.raises(ConfigError, match="repeats is 0"):
        pipeline.stream(source, 4, repeats=0)


def pipeline_source():
    return InMemory("numbers", {"label": np.arange(10)})
