"""Similarity and retrieval against scipy and against ranks by hand."""

import json

import numpy as np
import pytest
import scipy.stats
from evals_scoring import score
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.errors import ConfigError, DataError
from fmjax.data import pairs, tokenizers
from fmjax.evals.similarity import Retrieval, Similarity, partner_ranks, spearman

RNG = np.random.default_rng(0)


def vectors(rows, noise, width=6):
    left = RNG.normal(size=(rows, width)).astype(np.float32)
    right = left + noise * RNG.normal(size=left.shape).astype(np.float32)
    return {"vectors": 3 * left, "target_vectors": right}


def test_correlations_are_scipys_and_lie_in_their_intervals():
    out = vectors(13, 1.0)
    cosine = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(*out.values(), strict=True)]
    people = np.round(np.array(cosine) * 2 + RNG.normal(size=13) * 0.5).astype(np.float32)
    found = score(Similarity(resamples=50), out, {"score": people})
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(cosine, people).statistic, abs=1e-6)
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(cosine, people).statistic, abs=1e-6)
    for name in ("spearman", "pearson"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert found == score(Similarity(resamples=50), out, {"score": people})
    assert np.isnan(score(Similarity(), out, {"score": people * 0})["spearman"])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=20))
def test_spearman_of_ties_is_scipys(both):
    both = np.array(both, np.float64)
    if (both == both[0]).all(0).any():
        return
    assert spearman(both) == pytest.approx(scipy.stats.spearmanr(*both.T).statistic)


def test_retrieval_is_the_rank_of_the_partner_by_hand():
    out = vectors(13, 1.5)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in out.values()]
    near = unit[0] @ unit[1].T
    ranks = np.array([1 + sum(near[i] > near[i, i]) for i in range(13)])
    back = np.array([1 + sum(near[:, i] > near[i, i]) for i in range(13)])
    found = score(Retrieval(k=(1, 3)), out)
    assert found["recall_1"] == (ranks == 1).mean()
    assert found["recall_3"] == (ranks <= 3).mean()
    assert found["mrr"] == pytest.approx((1 / ranks).mean())
    assert found["back_mrr"] == pytest.approx((1 / back).mean())
    assert found["recall_1_se"] == pytest.approx(np.std(ranks == 1, ddof=1) / np.sqrt(13))


def test_equal_vectors_and_broken_ones_find_nothing():
    same = {"vectors": np.ones((13, 4), np.float32), "target_vectors": np.ones((13, 4), np.float32)}
    assert score(Retrieval(), same)["recall_10"] == 0
    broken = vectors(13, 0.0)
    assert score(Retrieval(), broken)["recall_1"] == 1
    broken["vectors"][4] = np.nan
    assert partner_ranks(*broken.values())[4] == 13
    with pytest.raises(ConfigError, match="k are 1 or more"):
        Retrieval(k=())


def test_pairs_may_carry_the_score_that_people_gave(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"a": "x", "b": "y", "s": s}) + "\n" for s in (1.5, 3)))
    source = pairs.Pairs(str(path), "a", "b", tokenizers.byte(), score="s")
    assert source.rows(np.array([1, 0]))["score"].tolist() == [3, 1.5]
    assert source.fingerprint != pairs.Pairs(str(path), "a", "b", tokenizers.byte()).fingerprint
    path.write_text(json.dumps({"a": "x", "b": "y", "s": "high"}) + "\n")
    with pytest.raises(DataError, match="'s' is 'high', and a number is wanted"):
        pairs.Pairs(str(path), "a", "b", tokenizers.byte(), score="s")
