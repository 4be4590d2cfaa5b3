"""Pairs: each side comes back whole with its end, padding counts for nothing, and long ones follow the policy."""

import gzip
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError, DataError
from fmjax.data import pairs, pipeline, tokenizers
from fmjax.data.pairs import Pairs

BYTE = tokenizers.byte()
PAIRS = [("ein Hund", "a dog"), ("zwölf Katzen schlafen", "twelve cats sleep"), ("ja", "yes \U0001f600")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "a.jsonl.gz", PAIRS)


def write(path, texts):
    lines = "".join(json.dumps({"de": a, "en": b}) + "\n" for a, b in texts)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return str(path)


def over(path, **settings):
    return Pairs(path, "de", "en", BYTE, **{"source_length": 32, "target_length": 24, **settings})


def test_both_sides_come_back_with_their_ends(path):
    source = over(path)
    rows = source.rows(np.array([2, 0, 1]))
    for i, (de, en) in enumerate([PAIRS[2], PAIRS[0], PAIRS[1]]):
        for keys, text in (
            (("tokens", "segment_ids", "positions"), de),
            (("targets", "target_segment_ids", "target_positions"), en),
        ):
            tokens, segments, positions = (rows[key][i] for key in keys)
            n = len(text.encode()) + 1
            assert tokens[:n].tolist() == [*text.encode(), BYTE.eos]
            np.testing.assert_array_equal(segments, np.arange(len(tokens)) < n)
            np.testing.assert_array_equal(positions, np.where(segments, np.arange(len(tokens)), 0))
            assert (tokens[n:] == 0).all()
        np.testing.assert_array_equal(rows["weights"][i], rows["target_segment_ids"][i])
        assert rows["bytes"][i] == len(en.encode())
    assert source.decode(source[0]["targets"][:6]) == "a dog"
    assert len(source) == 3


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6), st.integers(1, 20), st.sampled_from(pairs.LONG))
def test_the_policy_for_long_pairs_is_kept_and_counted(tmp_path_factory, both, length, long):
    path = write(tmp_path_factory.mktemp("pairs") / "a.jsonl", both)
    fits = [max(len(a.encode()), len(b.encode())) < length for a, b in both]
    settings = {"source_length": length, "target_length": length, "long": long}
    if (long == "fail" and not all(fits)) or (long == "drop" and not any(fits)):
        with pytest.raises(DataError, match="too long"):
            over(path, **settings)
        return
    source = over(path, **settings)
    kept = [b for (_, b), fit in zip(both, fits, strict=True) if fit or long == "truncate"]
    wanted = [[*b.encode(), BYTE.eos][:length] for b in kept]
    rows = source.rows(np.arange(len(source)))
    assert [row[n == 1].tolist() for row, n in zip(rows["targets"], rows["weights"], strict=True)] == wanted
    count = len(fits) - sum(fits)
    assert source.long == {"truncated": count * (long == "truncate"), "dropped": count * (long == "drop")}


def test_a_pair_that_is_too_long_is_named_with_what_to_do(path):
    with pytest.raises(
        DataError, match=r"1 of 3 pairs.*pair 1: 23 tokens of 'de' \(at most 12\).*raise the lengths to"
    ):
        over(path, source_length=12)


def test_two_tokenizers_and_one_that_changes_text(path):
    letters = tokenizers.with_specials(tokenizers.Characters("".join(b for _, b in PAIRS)), ("eos",))
    source = over(path, target_tokenizer=letters)
    assert source.vocab == 257
    assert source[2]["weights"].sum() == len("yes \U0001f600") + 1
    assert source[2]["bytes"] == len("yes \U0001f600".encode())
    wordpiece = tokenizers.Subwords.train_wordpiece([b for _, b in PAIRS], 60)
    assert "bytes" not in over(path, target_tokenizer=wordpiece)[0]
    with pytest.raises(ConfigError, match=r"characters tokenizer has no eos: with_specials"):
        over(path, target_tokenizer=tokenizers.Characters("abc"))


def test_pairs_are_a_config_a_pipeline_and_survive_pickling(path):
    source = build(call(Pairs, paths=path, source="de", target="en", tokenizer=call(tokenizers.byte)))
    assert pickle.loads(pickle.dumps(source)).fingerprint == source.fingerprint
    batch = pipeline.one_pass(source, 2).batch(1)
    assert batch["valid"].tolist() == [1, 0]
    assert batch["weights"][1].sum() == 0
    others = [over(path), over(path, long="drop"), over(path, target_length=30), Pairs(path, "en", "de", BYTE)]
    assert len({s.fingerprint for s in [*others, source]}) == 5


def test_bad_pairs_are_one_line(tmp_path):
    with pytest.raises(DataError, match=r"pair 1 in .* has no text in 'en'"):
        over(write(tmp_path / "b.jsonl", [("a", "b"), ("c", " ")]))
    with pytest.raises(DataError, match=r"line 1 is no JSON object with a field 'fr'"):
        Pairs(write(tmp_path / "c.jsonl", PAIRS), "de", "fr", BYTE)
    (tmp_path / "d.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"name \.jsonl files"):
        over(str(tmp_path / "d.txt"))
    (tmp_path / "e.jsonl").write_text("\n")
    with pytest.raises(DataError, match="there are no pairs"):
        over(str(tmp_path / "e.jsonl"))
    with pytest.raises(ConfigError, match="long must be one of"):
        over(write(tmp_path / "f.jsonl", PAIRS), long="cut")
    with pytest.raises(ConfigError, match="1 or more"):
        over(write(tmp_path / "g.jsonl", PAIRS), target_length=0)


@pytest.mark.skipif("FMJAX_DATA" not in os.environ, reason="FMJAX_DATA names no folder of real data")
def test_multi30k_is_read():
    path = Path(os.environ["FMJAX_DATA"]) / "nlp" / "multi30k_val.jsonl.gz"
    source = Pairs(str(path), "de", "en", BYTE, source_length=256, target_length=256)
    assert len(source) == 1014
    row = source[0]
    assert source.decode(row["targets"][row["weights"] == 1]) == "A group of men are loading cotton onto a truck"
