"""Windows: every offset for training; for evaluation every token once, and every byte of the text counted."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError, DataError
from fmjax.data import tokenizers
from fmjax.data.cache import digest
from fmjax.data.corpora import TextFiles
from fmjax.data.text import Windows, encode
from fmjax.data.windows import TokenWindows

BYTE = tokenizers.byte()


class Documents(list):
    """A corpus for tests."""

    @property
    def fingerprint(self):
        return digest(list(self))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))


def over(stream, cuts=(), **settings):
    parts = np.split(np.asarray(stream, np.uint16), sorted(min(c, len(stream)) for c in cuts))
    settings = {"length": 4, "stride": None, "context": 0, **settings}
    return TokenWindows("x", parts, np.array([0, len(stream)]), BYTE, fingerprint="0", **settings)


streams = st.lists(st.integers(0, 256), min_size=2, max_size=60)
cuts = st.lists(st.integers(0, 60), max_size=4)


@given(streams, st.integers(1, 20), st.data(), cuts)
def test_covering_windows_hold_every_token_but_the_first_once_as_a_target(stream, length, data, cuts):
    context = data.draw(st.integers(0, length - 1))
    source = over(stream, cuts, length=length, context=context)
    rows = source.rows(np.arange(len(source)))
    assert rows["tokens"].shape == (len(source), length + 1)
    assert rows["weights"].shape == (len(source), length)
    counted = rows["weights"] == 1
    assert set(np.unique(rows["weights"])) <= {0.0, 1.0}
    np.testing.assert_array_equal(rows["tokens"][:, 1:][counted], stream[1:])
    assert counted.any(1).all()  # no window is padding only
    if len(source) > 1:
        assert (counted[1:, :context] == 0).all()
    widths = BYTE.widths[stream]
    assert rows["bytes"].sum() == widths[1:].sum()
    # each target comes right after its own input, and one token is shared by two neighbours
    np.testing.assert_array_equal(rows["tokens"][:, :-1][counted], stream[:-1])


@given(streams, st.integers(1, 20), st.integers(1, 25), cuts)
def test_strided_windows_are_full_slices_of_the_stream(stream, length, stride, cuts):
    if len(stream) < length + 1:
        with pytest.raises(DataError, match="too few"):
            over(stream, cuts, length=length, stride=stride)
        return
    source = over(stream, cuts, length=length, stride=stride)
    wanted = [stream[s : s + length + 1] for s in range(0, len(stream) - length, stride)]
    rows = source.rows(np.arange(len(source)))
    np.testing.assert_array_equal(rows["tokens"], wanted)
    assert (rows["weights"] == 1).all()
    np.testing.assert_array_equal(rows["bytes"], [BYTE.widths[w[1:]].sum() for w in wanted])
    if stride == 1:
        assert len(source) == len(stream) - length


@given(streams, st.data(), cuts)
def test_rows_are_the_examples_in_any_order(stream, data, cuts):
    source = over(stream, cuts, length=3)
    indices = data.draw(st.lists(st.integers(0, len(source) - 1), max_size=8))
    rows = source.rows(np.array(indices, np.int64))
    for row, index in enumerate(indices):
        for key, value in source[index].items():
            np.testing.assert_array_equal(rows[key][row], value)
            assert rows[key].dtype == value.dtype


def test_rows_are_fresh_arrays():
    source = over(range(10))
    source.rows(np.array([0]))["tokens"][:] = 99
    assert source[0]["tokens"].tolist() == [0, 1, 2, 3, 4]


def test_outside_the_source_there_is_nothing():
    source = over(range(10), stride=1)
    for wrong in (-1, len(source)):
        with pytest.raises(IndexError):
            source[wrong]
        with pytest.raises(IndexError):
            source.rows(np.array([0, wrong]))


@pytest.mark.parametrize(
    "settings", [{"length": 0}, {"stride": 0}, {"context": 4}, {"context": -1}, {"stride": 2, "context": 1}]
)
def test_windows_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError):
        over(range(10), **settings)


def test_a_corpus_is_documents_with_ends_and_its_bytes_are_counted():
    corpus = Documents(["héllo\n", "wörld", "\U0001f600"])
    source = Windows(corpus, BYTE, length=5)
    np.testing.assert_array_equal(source.documents, [0, 8, 15, 20])
    rows = source.rows(np.arange(len(source)))
    assert rows["bytes"].sum() == len("".join(corpus).encode()) - 1  # all but the first byte
    stream = [source[0]["tokens"][0], *rows["tokens"][:, 1:][rows["weights"] == 1]]
    assert np.flatnonzero(np.array(stream) == BYTE.eos).tolist() == [7, 14, 19]
    assert source.decode(stream) == "".join(corpus)
    assert source.vocab == BYTE.vocab == 257


def test_characters_have_no_end_and_bytes_are_still_exact():
    corpus = Documents(["héé", "łł"])
    source = Windows(corpus, tokenizers.characters(corpus), length=2)
    rows = source.rows(np.arange(len(source)))
    assert source.total == 5
    assert rows["bytes"].sum() == len("héé" + "łł") * 2 - 1 - 1  # h is one byte, and the first token is no target


def test_bytes_of_a_bpe_are_those_of_the_text():
    corpus = Documents(["the cat and the hat\n" * 5, "\0 naïve \U0001f600 the end"])
    bpe = tokenizers.BPE.train(corpus, 280)
    source = Windows(corpus, bpe, length=7, context=3)
    rows = source.rows(np.arange(len(source)))
    first = bpe.widths[source[0]["tokens"][0]]
    assert rows["bytes"].sum() == len("".join(corpus).encode()) - first


def test_fingerprints_follow_everything_that_changes_rows():
    corpus = Documents(["some text here, and more of it"])
    letters = tokenizers.characters(corpus)
    made = [
        Windows(corpus, BYTE, 4),
        Windows(corpus, BYTE, 5),
        Windows(corpus, BYTE, 4, stride=1),
        Windows(corpus, BYTE, 4, context=1),
        Windows(corpus, letters, 4),
        Windows(Documents(["other text"]), BYTE, 4),
    ]
    assert len({w.fingerprint for w in made}) == len(made)
    assert Windows(Documents(corpus), BYTE, 4).fingerprint == made[0].fingerprint


def test_an_encoded_corpus_is_held_once_and_a_bpe_one_kept_on_disk(tmp_path, monkeypatch):
    corpus = Documents(["words and words and words. " * 9])
    bpe = tokenizers.BPE.train(corpus, 270)
    train, evaluation = Windows(corpus, bpe, 4, stride=1), Windows(corpus, bpe, 4)
    assert train.parts[0] is evaluation.parts[0]
    rows = train.rows(np.arange(5))
    del train, evaluation
    monkeypatch.setattr(tokenizers.BPE, "encode_many", None)
    again = Windows(corpus, bpe, 4, stride=1).rows(np.arange(5))
    np.testing.assert_array_equal(again["tokens"], rows["tokens"])
    Windows(corpus, BYTE, 4)
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1


def test_an_empty_corpus_is_refused():
    for empty in ([], [""]):
        with pytest.raises(DataError, match="no text"):
            encode(Documents(empty), BYTE)


def test_windows_are_named_by_a_config_and_survive_pickling(tmp_path):
    (tmp_path / "a.txt").write_text("hello world")
    corpus = call(TextFiles, paths=str(tmp_path / "a.txt"))
    source = build(call(Windows, corpus=corpus, tokenizer=call(tokenizers.byte), length=4, stride=1))
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint == source.fingerprint
    np.testing.assert_array_equal(again[3]["tokens"], source[3]["tokens"])
    assert source.decode(source[0]["tokens"]) == "hello"
