"""Means: equal to scikit-learn's, with the standard error of independent rows."""

import numpy as np
import pytest
from evals_scoring import ROWS, labels, logits, probabilities, score, sigmoid, weights
from hypothesis import given, settings
from sklearn import metrics as sk

from fmjax.core.errors import ConfigError
from fmjax.evals import metrics
from fmjax.evals.intervals import standard_error

C = 4
few = settings(max_examples=12, deadline=None)


@few
@given(logits(ROWS, C), labels(ROWS, classes=C), weights(ROWS))
def test_accuracy_and_likelihood_of_classes_equal_sklearn(x, y, w):
    w[0] = 1
    out = {"logits": x, "targets": y, "weights": w}
    close = lambda a: pytest.approx(a, rel=1e-5, abs=1e-6)  # noqa: E731
    assert score(metrics.accuracy, out)[""] == close(sk.accuracy_score(y, x.argmax(1), sample_weight=w))
    nll = sk.log_loss(y, probabilities(x), labels=range(C), sample_weight=w)
    assert score(metrics.loss, out)[""] == close(nll)
    assert score(metrics.nll, out)[""] == close(nll)


@few
@given(logits(ROWS, 3), labels(ROWS, 3, classes=2))
def test_yes_or_no_questions_equal_sklearn(x, y):
    out = {"logits": x, "targets": y}
    assert score(metrics.accuracy, out)[""] == pytest.approx(((x > 0) == y).mean())
    assert score(metrics.exact_match, out)[""] == pytest.approx(sk.accuracy_score(y, x > 0))
    by_label = [sk.log_loss(y[:, i], sigmoid(x[:, i]), labels=[0, 1]) for i in range(3)]
    assert score(metrics.loss, out)[""] == pytest.approx(np.mean(by_label), rel=1e-5)


@few
@given(logits(ROWS), labels(ROWS, classes=2))
def test_one_sigmoid_may_come_with_or_without_its_axis(x, y):
    column = {"logits": x[:, None], "targets": y}
    for metric in (metrics.accuracy, metrics.loss, metrics.brier):
        flat = score(metric, {"logits": x, "targets": y})
        assert score(metric, column) == flat
        assert score(metric, {"logits": x[:, None], "targets": y[:, None].astype(np.float32)}) == flat
    assert flat[""] == pytest.approx(sk.brier_score_loss(y, sigmoid(x), labels=[0, 1]), rel=1e-5)


@few
@given(logits(ROWS, C), labels(ROWS, classes=C))
def test_top_k_equals_sklearn_with_ties_to_the_first_class(x, y):
    for k in (1, 2, 3):
        # scikit-learn breaks ties towards the last class: hand it the classes in reverse.
        oracle = sk.top_k_accuracy_score(C - 1 - y, x[:, ::-1], k=k, labels=range(C))
        assert score(metrics.TopK(k), {"logits": x, "targets": y})[""] == pytest.approx(oracle)
    assert score(metrics.TopK(C), {"logits": x, "targets": y})[""] == 1.0


def test_top_1_is_the_accuracy_and_constant_logits_are_chance():
    out = {"logits": np.zeros((20, C), np.float32), "targets": np.arange(20, dtype=np.int32) % C}
    assert score(metrics.TopK(1), out)[""] == score(metrics.accuracy, out)[""] == 1 / C
    assert score(metrics.TopK(3), out)[""] == 3 / C


@pytest.mark.parametrize("k", [0, -1])
def test_top_k_of_nothing_is_refused(k):
    with pytest.raises(ConfigError, match="k >= 1"):
        metrics.TopK(k)


@few
@given(logits(ROWS, 3, C), labels(ROWS, 3, classes=C), weights(ROWS, 3))
def test_tokens_count_by_their_weights(x, y, w):
    w[0, 0] = 1
    out = {"logits": x, "targets": y, "weights": w}
    flat = {"sample_weight": w.ravel()}
    right = x.argmax(-1) == y
    assert score(metrics.accuracy, out)[""] == pytest.approx(sk.accuracy_score(y.ravel(), x.argmax(-1).ravel(), **flat))
    nll = sk.log_loss(y.ravel(), probabilities(x).reshape(-1, C), labels=range(C), **flat)
    assert score(metrics.loss, out)[""] == pytest.approx(nll, rel=1e-5)
    counted = (w != 0).any(1)
    assert score(metrics.exact_match, out)[""] == pytest.approx((right | (w == 0)).all(1)[counted].mean())


@few
@given(logits(ROWS, 2), logits(ROWS, 2), weights(ROWS))
def test_errors_of_regression_equal_sklearn(x, y, w):
    w[0] = 1
    out = {"values": x, "targets": y, "weights": w}
    assert score(metrics.mean_squared_error, out)[""] == pytest.approx(sk.mean_squared_error(y, x, sample_weight=w))
    assert score(metrics.mean_absolute_error, out)[""] == pytest.approx(sk.mean_absolute_error(y, x, sample_weight=w))


def test_values_are_never_broadcast_against_targets():
    x, y = np.arange(6, dtype=np.float32), np.arange(6, dtype=np.float32)
    assert score(metrics.mean_squared_error, {"values": x[:, None], "targets": y})[""] == 0
    with pytest.raises(ConfigError, match=r"\(5,\).*\(5, 1\)"):
        score(metrics.mean_squared_error, {"values": x, "targets": y[:, None]})


@few
@given(logits(ROWS, C), labels(ROWS, classes=C))
def test_the_standard_error_is_that_of_the_values(x, y):
    out = {"logits": x, "targets": y}
    nll = -np.log(probabilities(x))[np.arange(ROWS), y]
    assert score(metrics.accuracy, out)["se"] == pytest.approx(standard_error(x.argmax(1) == y), abs=1e-6)
    assert score(metrics.loss, out)["se"] == pytest.approx(standard_error(nll), rel=1e-3, abs=1e-4)


def test_tokens_of_a_row_are_not_independent_draws():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(40, 1, C)), 50, 1).astype(np.float32)  # each row says the same 50 times
    y = np.repeat(rng.integers(0, C, (40, 1)), 50, 1).astype(np.int32)
    once = score(metrics.accuracy, {"logits": x[:, 0], "targets": y[:, 0]})
    assert score(metrics.accuracy, {"logits": x, "targets": y}) == pytest.approx(once)


def test_the_standard_error_of_ragged_rows_is_the_spread_over_samples():
    rng = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(300):
        w = (np.arange(8) < rng.integers(1, 9, (60, 1))).astype(np.float32)
        y = ((rng.random((60, 8)) + rng.random((60, 1))) > 1.2).astype(np.int32)
        found = score(metrics.accuracy, {"logits": np.ones((60, 8, 1)), "targets": y, "weights": w}, size=60)
        means.append(found[""])
        errors.append(found["se"])
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.12)


def test_one_row_has_a_mean_and_no_error():
    found = score(metrics.accuracy, {"logits": np.eye(C, dtype=np.float32)[:1], "targets": np.zeros(1, np.int32)})
    assert found[""] == 1.0
    assert np.isnan(found["se"])


def test_a_models_own_nll_is_its_loss_and_not_its_likelihood():
    x, y = np.zeros((6, C), np.float32), np.zeros(6, np.int32)
    out = {"logits": x, "targets": y, "nll": np.full(6, 9, np.float32)}
    assert score(metrics.loss, out)[""] == 9
    assert score(metrics.nll, out)[""] == pytest.approx(np.log(C))


def test_an_infinite_loss_is_reported_as_such():
    x = np.array([[0, -np.inf], [0, 0]], np.float32)
    found = score(metrics.loss, {"logits": x, "targets": np.array([1, 0], np.int32)})
    assert found[""] == np.inf
