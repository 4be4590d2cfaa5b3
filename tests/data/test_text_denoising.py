"""Denoising: both halves together are the text, lengths are static, and nothing crosses documents."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.denoising import (
    Denoisers,
    Joined,
    MarkPrefix,
    SpanCorruption,
    SplitPrefix,
    Uncounted,
    text_length,
    top_sentinels,
    ul2,
)  # fmt: skip
from fmjax.data.pipeline import stream
from fmjax.data.source import InMemory

EOS, VOCAB = 256, 357
SENTINELS = top_sentinels(VOCAB)


def rng(seed=0):
    return np.random.Generator(np.random.Philox(key=seed))


def rebuilt(read, asked, eos):
    """The text, from the two halves of a span corruption."""
    if eos is not None:
        assert read[-1] == asked[-1] == eos
        read, asked = read[:-1], asked[:-1]
    spans, mark = {}, None
    for token in asked:
        if token in SENTINELS:
            mark = spans.setdefault(int(token), [])
        else:
            mark.append(int(token))
    return [t for token in read for t in (spans.pop(int(token)) if token in SENTINELS else [int(token)])]


def halves(row, document=1):
    read = row["tokens"][row["segment_ids"] == document]
    return read, row["targets"][row["target_segment_ids"] == document]


settings = st.tuples(st.integers(2, 80), st.floats(0.05, 0.9), st.floats(1, 8), st.sampled_from([None, EOS]))


@given(settings, st.data())
def test_read_and_asked_for_are_the_text_and_lengths_depend_on_settings_only(setting, data):
    length, density, mean, eos = setting
    spans = SpanCorruption(length, SENTINELS, density, mean, eos)
    size, seed = data.draw(st.integers(1, length)), data.draw(st.integers(0, 99))
    text = rng(seed).integers(0, 256, size).astype(np.int32)
    row = spans({"tokens": text}, rng(seed + 1))
    assert (len(row["tokens"]), len(row["targets"])) == spans.sizes
    read, asked = halves(row)
    if size == 1:
        assert read.tolist() == text.tolist()
        assert row["weights"].sum() == 0
        return
    assert rebuilt(read, asked, eos) == text.tolist()
    noise, count = spans.counts(size)
    assert np.isin(asked, SENTINELS).sum() == count
    assert asked[np.isin(asked, SENTINELS)].tolist() == list(SENTINELS[:count])
    assert len(asked) == noise + count + (eos is not None)
    np.testing.assert_array_equal(row["weights"], row["target_segment_ids"] > 0)
    if size == length:
        assert row["segment_ids"].all()
        assert row["weights"].all()


def test_lengths_are_those_of_t5():
    assert text_length(512, eos=True) == 568
    assert SpanCorruption(568, SENTINELS, eos=1).sizes == (512, 114)


@given(st.integers(4, 300), st.sampled_from([0.15, 0.5]), st.booleans())
def test_the_length_of_text_is_the_longest_that_fits(size, density, eos):
    def read(n):
        return SpanCorruption(n, tuple(range(n)), density, 3.0, 0 if eos else None).sizes[0]

    length = text_length(size, density, eos=eos)
    assert read(length) <= size < read(length + 1)


def test_spans_lie_everywhere_and_the_share_is_kept():
    spans, hits = SpanCorruption(60, SENTINELS), np.zeros(60)
    for seed in range(300):
        read, _ = halves(spans({"tokens": np.arange(60)}, rng(seed)))
        hits += ~np.isin(np.arange(60), read)
    assert hits.sum() == 300 * 9
    assert (hits[1:] > 5).all()
    assert hits[0] == 0  # T5's begin unharmed


PACKED = {
    "tokens": np.r_[np.arange(20), np.arange(40, 55), [77], np.zeros(4)].astype(np.int32),
    "segment_ids": np.r_[[1] * 20, [2] * 15, [3], [0] * 4].astype(np.int32),
}
ALL = [
    SpanCorruption(40, SENTINELS, eos=EOS),
    SplitPrefix(40, eos=EOS),
    SplitPrefix(40, 0.25, 0.75),
    Denoisers((SpanCorruption(40, SENTINELS), SplitPrefix(40)), (254, 255), (1.0, 3.0)),
    ul2(40, SENTINELS, (253, 254, 255), EOS),
]


@pytest.mark.parametrize("denoiser", ALL, ids=lambda d: f"{type(d).__name__}")
def test_documents_of_a_packed_row_are_denoised_apart(denoiser):
    own = [set(PACKED["tokens"][PACKED["segment_ids"] == d].tolist()) for d in (1, 2, 3)]
    for seed in range(10):
        row = denoiser(PACKED, rng(seed))
        assert (len(row["tokens"]), len(row["targets"])) == denoiser.sizes
        seen = set()
        for document in range(1, row["segment_ids"].max() + 1):
            read, asked = halves(row, document)
            both = {int(t) for t in (*read, *asked) if t < 200}
            home = [o for o in own if both <= o]
            assert len(home) == 1
            assert both == home[0]  # all of it is in one half or the other
            seen |= both
            np.testing.assert_array_equal(row["positions"][row["segment_ids"] == document], np.arange(len(read)))
        assert own[0] <= seen
        joined = Joined()(row, rng())
        inside = joined["segment_ids"] > 0
        assert inside.sum() == (row["segment_ids"] > 0).sum() + (row["target_segment_ids"] > 0).sum()
        asked = joined["tokens"][inside & (joined["prefix"] == 0)]
        np.testing.assert_array_equal(asked, row["targets"][row["target_segment_ids"] > 0])
        assert len(joined["tokens"]) == sum(denoiser.sizes)


@given(st.integers(2, 50), st.integers(0, 99), st.floats(0, 1), st.floats(0, 1))
def test_a_prefix_and_the_rest_are_the_text(size, seed, a, b):
    low, high = min(a, b), max(a, b)
    text = np.arange(size)
    read, asked = halves(SplitPrefix(50, low, high)({"tokens": text}, rng(seed)))
    assert [*read, *asked] == text.tolist()
    assert len(read) > 0 < len(asked)
    assert low * size - 1 <= len(read) <= high * size + 1


def test_a_marked_prefix_stays_inside_its_document():
    row = {**PACKED, "bytes": 3, "weights": np.ones(39, np.float32)}
    marks = set()
    for seed in range(50):
        out = MarkPrefix()(row, rng(seed))
        assert out.keys() == {"tokens", "segment_ids", "weights", "prefix"}
        for document, size in ((1, 20), (2, 15)):
            prefix = out["prefix"][PACKED["segment_ids"] == document]
            assert 0 < prefix.sum() < size
            assert (np.diff(prefix) <= 0).all()
            marks.add(int(prefix.sum()))
        assert out["prefix"][35:].sum() == 0
    assert len(marks) > 15
    window = MarkPrefix(1.0)({"tokens": np.arange(9), "weights": np.r_[np.ones(5), np.zeros(3)]}, rng())
    np.testing.assert_array_equal(window["prefix"], [1, 1, 1, 1, 1, 0, 0, 0, 0])


def test_a_mixture_draws_each_denoiser_as_often_as_was_asked():
    mixture, counts = ALL[3], {254: 0, 255: 0}
    for seed in range(400):
        counts[int(mixture({"tokens": np.arange(40)}, rng(seed))["tokens"][0])] += 1
    assert counts[255] / 400 == pytest.approx(0.75, abs=0.07)


@pytest.mark.parametrize("transform", [*ALL, MarkPrefix()], ids=lambda d: type(d).__name__)
def test_rows_depend_on_seed_and_index_alone(transform):
    source = InMemory("x", {"tokens": np.random.default_rng(0).integers(0, 200, (16, 40)).astype(np.int32)})
    small, large = (stream(source, n, (transform,), shuffle=False, threads=0) for n in (2, 8))
    for key, rows in large.batch(0, seed=5).items():
        np.testing.assert_array_equal(small.batch(3, seed=5)[key], rows[6:])
    assert large.fingerprint != stream(source, 8, (), shuffle=False).fingerprint


def test_text_in_short_documents_that_has_no_room_is_left_out_whole():
    row = {"tokens": np.arange(40), "segment_ids": np.repeat(np.arange(1, 21), 2)}
    out = SpanCorruption(40, SENTINELS)(row, rng())
    assert (out["segment_ids"].max(), out["target_segment_ids"].max()) == (4, 4)  # 8 targets, 2 a document


def test_uncounted_targets_weigh_nothing_and_all_else_stays():
    row = SpanCorruption(40, SENTINELS)({"tokens": np.arange(1, 41, dtype=np.int32)}, rng())
    out = Uncounted(SENTINELS)(row, rng())
    marks = np.isin(row["targets"], SENTINELS)
    assert marks.any()
    np.testing.assert_array_equal(out["weights"], np.where(marks, 0, row["weights"]))
    assert all(out[key] is row[key] for key in row.keys() - {"weights"})


@pytest.mark.parametrize(("make", "message"), [
    (lambda: SpanCorruption(512, SENTINELS, density=1.0), "between 0 and 1, not 1.0"),
    (lambda: SpanCorruption(512, SENTINELS[:10]), "512 tokens have 26 spans, and there are 10 sentinels"),
    (lambda: SpanCorruption(20, (5, 5)), "different ids"),
    (lambda: SpanCorruption(1, SENTINELS), "length is 2 or more"),
    (lambda: top_sentinels(100, 100), "100 sentinels do not fit a vocabulary of 100"),
    (lambda: SplitPrefix(20, 0.7, 0.2), "low <= high"),
    (lambda: Denoisers((ALL[0],), (1, 2)), "1 denoisers and 2 modes"),
    (lambda: Denoisers(()), "at least one denoiser"),
    (lambda: ul2(40, SENTINELS, (1,)), "three ids"),
    (lambda: text_length(1), "no text is read as 1 tokens"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_rows_that_cannot_be_denoised_are_refused():
    with pytest.raises(DataError, match="the text holds a sentinel"):
        ALL[0]({"tokens": np.array([1, 2, 350])}, rng())
    with pytest.raises(DataError, match=r"a row of 41 tokens, and SpanCorruption has length=40"):
        ALL[0]({"tokens": np.arange(41)}, rng())
    with pytest.raises(DataError, match="marked in 'tokens'"):
        MarkPrefix()({"image": 0}, rng())
