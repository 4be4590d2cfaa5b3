"""Areas under curves: equal to scikit-learn's, ties, weights and absent classes included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evals_scoring import ROWS, batches, collect, labels, logits, probabilities, score, weights
from hypothesis import assume, given, settings
from sklearn import metrics as sk

from fmjax.evals import metrics, ranking
from fmjax.evals.prediction import undefined
from fmjax.evals.ranking import POINTS

C = 3
few = settings(max_examples=20, deadline=None)
log_odds = jax.jit(ranking.log_odds)
AREAS = {metrics.RocAuc: sk.roc_auc_score, metrics.AveragePrecision: sk.average_precision_score}


@few
@given(logits(ROWS), labels(ROWS, classes=2), weights(ROWS))
def test_areas_of_one_question_equal_sklearn(x, y, w):
    assume(len(np.unique(y[w > 0])) == 2)
    two = np.stack([np.zeros_like(x), x], 1)
    for ours, theirs in AREAS.items():
        oracle = theirs(y, x, sample_weight=w)
        for scores in (x, x[:, None], two):
            found = score(ours, {"logits": scores, "targets": y, "weights": w})[""]
            assert found == pytest.approx(oracle, abs=1e-6)


@few
@given(logits(ROWS, C), labels(ROWS, classes=C))
def test_one_against_the_rest_equals_sklearn_class_by_class(x, y):
    odds = np.asarray(log_odds(jnp.asarray(x)))  # the same scores, so that ties are the same
    for ours, theirs in AREAS.items():
        found = score(ours, {"logits": x, "targets": y})
        defined = [len(np.unique(y == i)) == 2 for i in range(C)]
        oracle = [theirs(y == i, odds[:, i]) if defined[i] else None for i in range(C)]
        for row, expected, both in zip(found["per_class"], oracle, defined, strict=True):
            if both:
                assert row["value"] == pytest.approx(expected, abs=1e-6)
        if all(defined):
            assert found[""] == pytest.approx(np.mean(oracle), abs=1e-6)
        else:
            assert np.isnan(found[""]) or ours is metrics.AveragePrecision


def test_over_classes_it_is_the_macro_one_vs_rest_of_probabilities():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, C)).astype(np.float32), rng.integers(0, C, 200).astype(np.int32)
    oracle = sk.roc_auc_score(y, probabilities(x), multi_class="ovr", average="macro")
    assert score(metrics.RocAuc, {"logits": x, "targets": y}, size=64)[""] == pytest.approx(oracle, abs=1e-9)
    oracle = sk.average_precision_score(y, probabilities(x), average="macro")
    assert score(metrics.AveragePrecision, {"logits": x, "targets": y}, size=64)[""] == pytest.approx(oracle, abs=1e-9)


@few
@given(logits(ROWS, C), labels(ROWS, C, classes=2))
def test_several_questions_equal_sklearn(x, y):
    assume(all(len(np.unique(column)) == 2 for column in y.T))
    for ours, theirs in AREAS.items():
        assert score(ours, {"logits": x, "targets": y})[""] == pytest.approx(theirs(y, x, average="macro"), abs=1e-6)


@given(logits(6, 5))
@settings(max_examples=15, deadline=None)
def test_log_odds_are_those_of_the_softmax(x):
    p = probabilities(x)
    np.testing.assert_allclose(log_odds(jnp.asarray(x)), np.log(p) - np.log1p(-p), rtol=1e-4, atol=1e-4)


def test_log_odds_still_rank_where_probabilities_have_become_one():
    x = jnp.array([[30.0, 0, 0], [40, 0, 0], [50, 0, 0]])
    assert np.unique(jax.nn.softmax(x)[:, 0]).size == 1
    assert np.unique(log_odds(x)[:, 0]).size == 3


@pytest.mark.parametrize("label", [0, 1])
def test_an_area_with_one_class_is_nan_and_says_why_once(label):
    undefined.cache_clear()
    out = {"logits": np.arange(6, dtype=np.float32), "targets": np.full(6, label, np.int32)}
    rows = collect(metrics.RocAuc, batches(out))
    with pytest.warns(metrics.UndefinedMetric, match=r"ROC-AUC.*without both positives and negatives.*NaN"):
        assert np.isnan(metrics.RocAuc().result(rows)[""])
    assert np.isnan(metrics.RocAuc().result(rows)[""])  # silent: warnings are errors here


def test_average_precision_needs_a_positive_and_no_negative():
    x = np.arange(6, dtype=np.float32)
    assert np.isnan(score(metrics.AveragePrecision, {"logits": x, "targets": np.zeros(6, np.int32)})[""])
    assert score(metrics.AveragePrecision, {"logits": x, "targets": np.ones(6, np.int32)})[""] == 1.0


def test_the_curve_is_sklearns_and_never_long():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=60).astype(np.float32), rng.integers(0, 2, 60).astype(np.int32)
    curve = score(metrics.RocAuc, {"logits": x, "targets": y})["curve"]
    false, true, _ = sk.roc_curve(y, x, drop_intermediate=False)
    np.testing.assert_allclose([p["false_positive_rate"] for p in curve], false)
    np.testing.assert_allclose([p["true_positive_rate"] for p in curve], true)
    x, y = rng.normal(size=3000).astype(np.float32), rng.integers(0, 2, 3000).astype(np.int32)
    curve = score(metrics.AveragePrecision, {"logits": x, "targets": y}, size=1000)["curve"]
    assert len(curve) == POINTS
    assert curve[-1]["recall"] == 1.0
