"""Counts by class: equal to scikit-learn's over all classes, absent ones included."""

import numpy as np
import pytest
from evals_scoring import ROWS, labels, logits, score, weights
from hypothesis import given, settings
from sklearn import metrics as sk

from fmjax.core.errors import ConfigError, DataError
from fmjax.evals import metrics

C = 4
few = settings(max_examples=12, deadline=None)
SCORES = {
    metrics.Precision: sk.precision_score,
    metrics.Recall: sk.recall_score,
    metrics.F1: sk.f1_score,
}


@few
@given(logits(ROWS, C), labels(ROWS, classes=C), weights(ROWS))
def test_scores_of_classes_equal_sklearn(x, y, w):
    w[0] = 1
    out = {"logits": x, "targets": y, "weights": w}
    given = {"labels": range(C), "zero_division": 0, "sample_weight": w}
    for ours, theirs in SCORES.items():
        for average in ("macro", "micro", "weighted"):
            oracle = theirs(y, x.argmax(1), average=average, **given)
            assert score(ours(average), out)[""] == pytest.approx(oracle, abs=1e-6), (ours, average)
    found = score(metrics.ClassificationReport, out)
    columns = sk.precision_recall_fscore_support(y, x.argmax(1), **given)
    for word, column in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        assert [row[word] for row in found["per_class"]] == pytest.approx(column.tolist(), abs=1e-6)
        if word != "support":
            assert found[f"{word}_macro"] == pytest.approx(column.mean(), abs=1e-6)
    assert found["f1_micro"] == score(metrics.F1("micro"), out)[""]


@few
@given(logits(ROWS), labels(ROWS, classes=2))
def test_scores_of_one_sigmoid_equal_sklearn(x, y):
    for ours, theirs in SCORES.items():
        for average in ("macro", "binary"):
            oracle = theirs(y, x > 0, average=average, zero_division=0, labels=[0, 1])
            assert score(ours(average), {"logits": x[:, None], "targets": y})[""] == pytest.approx(oracle, abs=1e-6)


@few
@given(logits(ROWS, 3), labels(ROWS, 3, classes=2))
def test_scores_of_several_questions_equal_sklearn(x, y):
    for ours, theirs in SCORES.items():
        for average in ("macro", "micro", "weighted"):
            oracle = theirs(y, x > 0, average=average, zero_division=0)
            assert score(ours(average), {"logits": x, "targets": y})[""] == pytest.approx(oracle, abs=1e-6)


@few
@given(logits(ROWS, 2, C), labels(ROWS, 2, classes=C), weights(ROWS, 2))
def test_the_confusion_matrix_equals_sklearn(x, y, w):
    w[0] = 1
    found = score(metrics.ConfusionMatrix, {"logits": x, "targets": y, "weights": w})[""]
    oracle = sk.confusion_matrix(y.ravel(), x.argmax(-1).ravel(), labels=range(C), sample_weight=w.ravel())
    np.testing.assert_allclose(found, oracle, atol=1e-6)


@few
@given(logits(ROWS), labels(ROWS, classes=2))
def test_one_sigmoid_has_a_confusion_matrix_of_two_classes(x, y):
    found = score(metrics.ConfusionMatrix, {"logits": x, "targets": y})[""]
    np.testing.assert_array_equal(found, sk.confusion_matrix(y, x > 0, labels=[0, 1]))


@few
@given(logits(ROWS, C), labels(ROWS, classes=C), weights(ROWS))
def test_the_matthews_correlation_equals_sklearn(x, y, w):
    w[0] = 1
    found = score(metrics.MatthewsCorrelation, {"logits": x, "targets": y, "weights": w})[""]
    assert found == pytest.approx(sk.matthews_corrcoef(y, x.argmax(1), sample_weight=w), abs=1e-6)
    binary = score(metrics.MatthewsCorrelation, {"logits": x[:, 0], "targets": y // 2})[""]
    assert binary == pytest.approx(sk.matthews_corrcoef(y // 2, x[:, 0] > 0), abs=1e-6)


def test_a_confusion_matrix_may_have_names():
    out = {"logits": np.eye(3, dtype=np.float32)[[0, 1, 1]], "targets": np.array([0, 1, 2], np.int32)}
    found = score(metrics.ConfusionMatrix(classes=("a", "b", "c")), out)[""]
    assert found["classes"] == ["a", "b", "c"]
    np.testing.assert_array_equal(found["counts"], [[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    with pytest.raises(ConfigError, match="2 names do not fit 3 classes"):
        score(metrics.ConfusionMatrix(classes=("a", "b")), out)


def test_several_questions_have_no_one_confusion_matrix():
    with pytest.raises(ConfigError, match="ClassificationReport"):
        score(metrics.ConfusionMatrix, {"logits": np.zeros((4, 3)), "targets": np.zeros((4, 3), np.int32)})


@pytest.mark.parametrize("metric", [metrics.ConfusionMatrix, metrics.ClassificationReport, metrics.F1])
@pytest.mark.parametrize("label", [-1, C])
def test_a_label_that_is_no_class_is_an_error_and_not_left_out(metric, label):
    out = {"logits": np.zeros((6, C), np.float32), "targets": np.array([0, 1, 2, 3, 0, label], np.int32)}
    with pytest.raises(DataError, match=f"none of the {C} classes"):
        score(metric, out)


def test_an_average_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="macro, micro"):
        metrics.F1("marco")
