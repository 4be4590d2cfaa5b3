"""Packing: no token is lost, none counts twice, and nothing of one document is a target of another."""

import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError, DataError
from fmjax.data import packing, shards, tokenizers
from fmjax.data.cache import digest
from fmjax.data.corpora import TextFiles
from fmjax.data.packing import Packed, PackedShards, PackedTokens

BYTE = tokenizers.byte()


class Documents(list):
    """A corpus for tests."""

    @property
    def fingerprint(self):
        return digest(list(self))


def over(lengths, width, next_token=True, cuts=()):
    """Rows over a stream whose tokens are all different (0, 1, 2, ... modulo the vocabulary)."""
    bounds = np.cumsum([0, *lengths])
    parts = np.split(np.arange(bounds[-1], dtype=np.uint16), sorted(min(c, bounds[-1]) for c in cuts))
    return PackedTokens("x", parts, bounds, tokenizers.Characters("".join(map(chr, range(32, 2032)))), width,
                        next_token, fingerprint="0")  # fmt: skip


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)
cuts = st.lists(st.integers(0, 900), max_size=4)


@given(lengths, st.integers(1, 20), cuts)
@example([40, 1, 1, 39], 1, [5])
def test_every_token_is_an_input_once_and_a_target_once(sizes, length, cuts):
    source = over(sizes, length, cuts=cuts)
    rows = source.rows(np.arange(len(source)))
    tokens, segments = rows["tokens"], rows["segment_ids"]
    assert tokens.shape == segments.shape == rows["positions"].shape == (len(source), length + 1)
    assert rows["weights"].shape == (len(source), length)
    counted = rows["weights"] == 1
    bounds = np.cumsum([0, *sizes])
    firsts, lasts = set(bounds[:-1].tolist()), set((bounds[1:] - 1).tolist())
    everything = set(range(bounds[-1]))
    inputs, targets = tokens[:, :-1][counted], tokens[:, 1:][counted]
    assert sorted(inputs.tolist()) == sorted(everything - lasts)
    assert sorted(targets.tolist()) == sorted(everything - firsts)
    np.testing.assert_array_equal(targets, inputs + 1)  # each target follows its own input in the text
    np.testing.assert_array_equal(counted, (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0))
    assert set(tokens[segments > 0].tolist()) == everything


@given(lengths, st.integers(1, 20), cuts)
def test_without_next_token_every_token_is_there_exactly_once(sizes, length, cuts):
    source = over(sizes, length, next_token=False, cuts=cuts)
    rows = source.rows(np.arange(len(source)))
    assert rows["tokens"].shape == rows["weights"].shape == (len(source), length)
    np.testing.assert_array_equal(rows["weights"] == 1, rows["segment_ids"] > 0)
    assert sorted(rows["tokens"][rows["weights"] == 1].tolist()) == list(range(sum(sizes)))
    assert rows["bytes"].sum() == source.tokenizer.widths[: sum(sizes)].sum()


@given(lengths, st.integers(1, 20))
def test_segments_are_runs_of_one_document_with_positions_from_zero(sizes, length):
    source = over(sizes, length)
    document = np.repeat(np.arange(len(sizes)), sizes)
    for row in (source[i] for i in range(len(source))):
        segments, n = row["segment_ids"], row["segment_ids"].max()
        assert n >= 1
        assert segments[np.flatnonzero(segments)].tolist() == sorted(segments[segments > 0].tolist())
        assert (segments[np.count_nonzero(segments) :] == 0).all()  # padding comes last
        for key in ("tokens", "positions"):
            assert (row[key][segments == 0] == 0).all()
        for s in range(1, n + 1):
            mine = row["tokens"][segments == s]
            np.testing.assert_array_equal(mine, mine[0] + np.arange(len(mine)))
            assert len(set(document[mine])) == 1
            np.testing.assert_array_equal(row["positions"][segments == s], np.arange(len(mine)))


def best_fit(sizes, width):
    """The same the slow way: longest first, each into the fullest row that has room."""
    rooms, row_of = [], {}
    for i in np.argsort(-np.array(sizes), kind="stable").tolist():
        fitting = [(room, r) for r, room in enumerate(rooms) if room >= sizes[i]]
        r = min(fitting)[1] if fitting else len(rooms)
        if r == len(rooms):
            rooms.append(width)
        rooms[r] -= sizes[i]
        row_of[i] = r
    return sorted(rooms)


@settings(max_examples=200)
@given(
    st.integers(1, 30).flatmap(lambda w: st.tuples(st.just(w), st.lists(st.integers(1, w), min_size=1, max_size=60)))
)
def test_the_plan_is_best_fit_decreasing(case):
    width, sizes = case
    starts = np.cumsum([0, *sizes])[:-1]
    made = packing.plan(starts, np.array(sizes), width)
    sums = np.add.reduceat(made.lengths, made.rows[:-1])
    assert sorted((width - sums).tolist()) == best_fit(sizes, width)
    assert sorted(zip(made.starts.tolist(), made.lengths.tolist(), strict=True)) == list(
        zip(starts, sizes, strict=True)
    )
    firsts = made.starts[made.rows[:-1]]
    assert (np.diff(firsts) > 0).all()  # rows come in the order of the text
    for begin, end in zip(made.rows, made.rows[1:], strict=False):
        assert (np.diff(made.starts[begin:end]) > 0).all()


def test_many_documents_are_planned_together():
    sizes = np.random.default_rng(0).integers(1, 400, 200_000)
    made = packing.plan(np.cumsum(sizes) - sizes, sizes, 512)
    assert len(made.starts) == len(sizes)
    assert sizes.sum() / ((len(made.rows) - 1) * 512) > 0.99


@given(lengths, st.data())
def test_rows_are_the_examples_in_any_order_and_whatever_the_cuts(sizes, data):
    source, other = over(sizes, 7), over(sizes, 7, cuts=data.draw(cuts))
    indices = data.draw(st.lists(st.integers(0, len(source) - 1), max_size=8))
    rows = other.rows(np.array(indices, np.int64))
    for row, index in enumerate(indices):
        for key, value in source[index].items():
            np.testing.assert_array_equal(rows[key][row], value)
            assert rows[key].dtype == value.dtype
    for wrong in (-1, len(source)):
        with pytest.raises(IndexError):
            source[wrong]
        with pytest.raises(IndexError):
            source.rows(np.array([0, wrong]))


def test_bytes_are_those_of_the_targets():
    corpus = Documents(["héllo wörld " * 3, "x", "tiny \U0001f600"])
    source = Packed(corpus, BYTE, 10)
    rows = source.rows(np.arange(len(source)))
    assert rows["bytes"].sum() == len("".join(corpus).encode()) - len(corpus)  # all but each document's first byte
    assert source.vocab == 257
    assert 0 < source.fill <= 1


@pytest.mark.parametrize("shard_tokens", [1, 7, 1 << 20])
@pytest.mark.parametrize("next_token", [True, False])
def test_shards_give_the_rows_of_the_corpus(tmp_path, shard_tokens, next_token):
    corpus = Documents(["first document\n" * 3, "zwölf", "x", "the last one, longer than the others by far"])
    shards.write(tmp_path / "s", {"train": corpus}, BYTE, "key", shard_tokens=shard_tokens)
    memory = Packed(corpus, BYTE, 9, next_token=next_token)
    mapped = pickle.loads(pickle.dumps(PackedShards(str(tmp_path / "s"), 9, next_token=next_token)))
    every = np.random.default_rng(0).permutation(len(memory))
    for key, rows in memory.rows(every).items():
        np.testing.assert_array_equal(mapped.rows(every)[key], rows)


def test_fingerprints_follow_everything_that_changes_rows():
    corpus = Documents(["some text here, and more of it", "and more"])
    made = [
        Packed(corpus, BYTE, 4),
        Packed(corpus, BYTE, 5),
        Packed(corpus, BYTE, 4, next_token=False),
        Packed(corpus, tokenizers.characters(corpus), 4),
        Packed(Documents(["other text"]), BYTE, 4),
    ]
    assert len({p.fingerprint for p in made}) == len(made)
    assert Packed(Documents(corpus), BYTE, 4).fingerprint == made[0].fingerprint


def test_rows_are_named_by_a_config_and_read_as_text(tmp_path):
    (tmp_path / "a.txt").write_text("hello world")
    corpus = call(TextFiles, paths=str(tmp_path / "a.txt"))
    source = build(call(Packed, corpus=corpus, tokenizer=call(tokenizers.byte), length=4))
    assert source.decode(source[0]["tokens"]) == "hello"
    with pytest.raises(ConfigError, match="length=0"):
        Packed(Documents(["a"]), BYTE, 0)
    with pytest.raises(DataError, match="no tokens"):
        PackedTokens("x", [], np.array([0, 0]), BYTE, 4, True, "0")
