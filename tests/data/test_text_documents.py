"""Cleaning: one form of Unicode, reasons for what is dropped, and duplicates found where they were planted."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError, DataError
from fmjax.data import documents, duplicates, parallel
from fmjax.data.cache import digest
from fmjax.data.corpora import TextFiles
from fmjax.data.documents import Cleaned, Cleaner
from fmjax.data.duplicates import Deduplicated

RNG = np.random.default_rng(0)
VOCABULARY = ["".join(map(chr, RNG.integers(97, 123, 5))) for _ in range(3000)]


class Documents(list):
    """A corpus for tests."""

    @property
    def fingerprint(self):
        return digest(list(self))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))


def some_words(count, seed):
    return np.random.default_rng(seed).choice(VOCABULARY, count).tolist()


text = st.text(st.characters(exclude_categories=["Cs"]))


@given(text, st.sampled_from(documents.FORMS))
@example("e\u0301\r\na\0b\ufeff\x85\r", "NFC")
def test_normalised_text_stays_as_it_is(text, unicode):
    cleaner = Cleaner(unicode=unicode)
    once = cleaner.normalised(text)
    assert cleaner.normalised(once) == once
    assert not any(unicodedata.category(c) == "Cc" and c not in "\t\n" for c in once)
    if unicode != "none":
        assert unicodedata.is_normalized(unicode, once)


@given(text)
def test_nothing_is_changed_when_nothing_is_asked_for(text):
    assert Cleaner(unicode="none", controls=False).normalised(text) == text


def test_unicode_and_line_ends_have_one_form():
    assert Cleaner().normalised("e\u0301\r\na\0b\r\tc\ufeff") == "é\nab\n\tc"
    assert Cleaner(unicode="NFKC").normalised("\ufb01ne") == "fine"


def test_wrongly_decoded_text_is_repaired_by_an_optional_library():
    pytest.importorskip("ftfy")
    assert Cleaner(fix=True).normalised("schÃ¶n") == "schön"


SAME_LINE = "\n".join(["this line is here again", "another one"] * 10)
HEADINGS = [f"Chapter {i}" for i in range(9)]
BOOK = "\n\n".join([*HEADINGS, *("\n".join([h, *some_words(30, i)]) for i, h in enumerate(HEADINGS))])


@pytest.mark.parametrize(("text", "settings", "reason"), [
    ("fine text", {}, ""),
    (" \n ", {}, "too short"),
    ("short", {"min_chars": 6}, "too short"),
    ("long", {"max_chars": 3}, "too long"),
    ("two words", {"min_words": 3}, "too few words"),
    (SAME_LINE, {}, "repeated lines"),
    (BOOK, {}, ""),
    (" ".join(["buy this now"] * 20), {}, "repeated words"),
    (" ".join(some_words(12, 0) * 3), {}, "repeated words"),
    (" ".join(some_words(300, 0)), {}, ""),
    (SAME_LINE, {"repetition": False}, ""),
    (" ".join(["buy this now"] * 20), {"ngrams": 10.0}, ""),
    ("\n".join(some_words(50, 0) + ["same"] * 5), {}, ""),
])  # fmt: skip
def test_a_document_is_dropped_for_one_reason(text, settings, reason):
    assert Cleaner(**settings)(text) == (("", reason) if reason else (text, ""))


def slow_repeats(words, n):
    """The fraction of words in n-grams that occur again, the slow way."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    covered = {i + k for i, gram in enumerate(grams) if grams.count(gram) > 1 for k in range(n)}
    return len(covered) / len(words), max((grams.count(g) for g in grams), default=0) * n / len(words)


@given(st.lists(st.sampled_from("abcdefghijklm"), min_size=1, max_size=40))
def test_repeated_words_are_counted_as_the_slow_way_counts_them(words):
    wanted = False
    for n, most in documents.REPEATED.items():
        wanted |= slow_repeats(words, n)[0] > most
    for n, most in documents.COMMONEST.items():
        commonest = slow_repeats(words, n)[1]
        wanted |= commonest > most and commonest * len(words) > n  # it occurs again
    assert documents._repetitive(words, 1.0) == wanted


def test_a_corpus_is_cleaned_in_order_and_counted(monkeypatch):
    corpus = Documents(["good text\r\n", "", "x" * 50, "more good text"] * 3)
    cleaned = Cleaned(corpus, Cleaner(max_chars=40))
    assert list(cleaned) == list(cleaned) == ["good text\n", "more good text"] * 3
    assert (cleaned.documents, cleaned.dropped) == (12, {"too long": 3, "too short": 3})
    with pytest.raises(DataError, match=r"leaves nothing of the 12 documents .*\(12 too short\)"):
        list(Cleaned(corpus, Cleaner(min_chars=99)))


def test_workers_change_nothing():
    corpus = Documents([" ".join(some_words(30, seed)) for seed in (0, 1, 0, 2, 0)] + ["x"])
    made = [
        (list(Cleaned(corpus, Cleaner(min_chars=2), workers)), Deduplicated(corpus, workers=workers)._judge().tolist())
        for workers in (0, 1)
    ]
    assert made[0] == made[1]
    assert len(made[0][0]) == 5


@pytest.mark.parametrize("make", [Cleaned, Deduplicated])
@pytest.mark.parametrize("change", [lambda texts: texts.append("more"), lambda texts: texts.pop()])
def test_a_corpus_that_changes_between_passes_is_refused(make, change):
    corpus = Documents(["one text", "two texts", "three of them"])
    made = make(corpus)
    assert len(list(made)) == 3
    change(corpus)
    with pytest.raises(DataError, match="changed while it was read: it had 3 documents"):
        list(made)


@given(st.lists(st.text("ab", max_size=3), max_size=20), st.integers(1, 10))
def test_groups_join_to_all_documents(texts, size):
    made = list(parallel.groups(texts, size))
    assert [t for group in made for t in group] == texts
    assert all(sum(map(len, group[:-1])) < size for group in made)


@given(st.lists(st.sampled_from(["a b", "b a", "c", "c ", "d e f g h i"]), min_size=1, max_size=20))
def test_without_near_the_first_of_each_text_stays(texts):
    made = Deduplicated(Documents(texts), near=None)
    assert list(made) == list(dict.fromkeys(texts))
    assert made.dropped == {"exact": len(texts) - len(set(texts)), "near": 0}


@settings(max_examples=20)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=9).map(" ".join), min_size=1, max_size=12))
def test_deduplicating_again_changes_nothing_and_keeps_the_order(texts):
    once = list(Deduplicated(Documents(texts)))
    assert list(Deduplicated(Documents(once))) == once
    places = [texts.index(t) for t in once]
    assert places == sorted(places)
    assert once[0] == texts[0]


@pytest.fixture(scope="module")
def planted():
    """40 documents, and of each a copy with one word in 200 changed; (texts, which are near-duplicates)."""
    originals = [some_words(200, seed) for seed in range(40)]
    changed = []
    for seed, words in enumerate(originals):
        copy = list(words)
        copy[np.random.default_rng(seed).integers(200)] = "changed"
        changed.append(copy)
    texts = [" ".join(words) for words in originals + changed]
    order = np.random.default_rng(1).permutation(len(texts))
    seen, near = set(), []
    for i in order:
        near.append(i % 40 in seen)
        seen.add(i % 40)
    return Documents([texts[i] for i in order]), near


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_near_duplicates_are_found_and_distinct_documents_stay(planted, seed):
    texts, near = planted
    made = Deduplicated(texts, seed=seed)
    assert (made.verdicts == 2).tolist() == near
    assert made.dropped == {"exact": 0, "near": 40}
    assert len(list(made)) == 40


def test_minhashes_estimate_the_overlap():
    one, two = some_words(400, 0), some_words(400, 1)
    for shared in (100, 200, 300):
        a, b = " ".join(one), " ".join(one[:shared] + two[shared:])
        sets = [{tuple(t.split()[i : i + 5]) for i in range(396)} for t in (a, b)]
        overlap = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        agreed = np.mean([(duplicates.signature(a, s) == duplicates.signature(b, s)).mean() for s in range(8)])
        assert abs(agreed - overlap) < 0.05  # three standard errors of 1,024 hashes
    assert duplicates.signature("  ") is None
    np.testing.assert_array_equal(duplicates.signature("One  TWO"), duplicates.signature("one two"))


def test_half_alike_documents_are_no_duplicates(planted):
    words = some_words(200, 0)
    halves = Documents([" ".join(words), " ".join(words[:100] + some_words(100, 99))])
    assert len(list(Deduplicated(halves))) == 2
    assert len(list(Deduplicated(halves, near=0.2))) == 1
    assert [duplicates.band_size(near) for near in (0.2, 0.5, 0.8, 1.0)] == [1, 2, 8, 16]


def test_verdicts_are_found_once_and_kept(planted, monkeypatch):
    texts, _ = planted
    first = Deduplicated(texts).verdicts.tolist()
    monkeypatch.setattr(Deduplicated, "_judge", None)
    duplicates.cached.__globals__["_live"].clear()
    assert Deduplicated(texts).verdicts.tolist() == first


def test_fingerprints_follow_the_settings_and_the_text():
    corpus = Documents(["a b c"])
    made = [Cleaned(corpus, Cleaner(min_chars=2)), Cleaned(corpus), Cleaned(Documents(["d"]))]
    made += [Deduplicated(c, near, s) for c, near, s in ((corpus, 0.8, 0), (corpus, None, 0), (corpus, 0.8, 1))]
    made += [Deduplicated(Cleaned(corpus))]
    assert len({m.fingerprint for m in made}) == len(made)
    assert Cleaned(Documents(corpus)).fingerprint == made[1].fingerprint == Cleaned(corpus, workers=3).fingerprint


def test_they_are_named_by_a_config(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "hello\\r\\nyou"}\n{"text": "hello\\nyou"}\n')
    corpus = call(TextFiles, paths=str(tmp_path / "a.jsonl"))
    config = call(Deduplicated, corpus=call(Cleaned, corpus=corpus, cleaner=call(Cleaner, min_chars=3)))
    assert list(build(config)) == ["hello\nyou"]


@pytest.mark.parametrize("make", [
    lambda: Cleaner(unicode="NFX"), lambda: Cleaner(min_chars=-1), lambda: Cleaner(max_chars=0),
    lambda: Cleaner(duplicate_lines=2.0), lambda: Cleaned([], workers=-1), lambda: Deduplicated([], near=0.0),
    lambda: Deduplicated([], seed=-1),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(ConfigError):
        make()


@pytest.mark.skipif("FMJAX_DATA" not in os.environ, reason="FMJAX_DATA names no folder of real data")
def test_novels_are_kept_whole():
    novels = TextFiles(str(Path(os.environ["FMJAX_DATA"]) / "text" / "novels_valid.jsonl.xz"))
    assert list(Cleaned(novels)) == [unicodedata.normalize("NFC", text) for text in novels]
