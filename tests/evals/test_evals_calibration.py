"""Calibration: equal to scikit-learn's curve and score, and blind to the order of rows."""

import numpy as np
import pytest
from evals_scoring import ROWS, labels, logits, probabilities, score, sigmoid, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from fmjax.core.errors import ConfigError
from fmjax.evals import metrics

C = 3
few = settings(max_examples=12, deadline=None)
KINDS = [metrics.CalibrationError, metrics.EqualMassCalibrationError]


def random_model(n=500, seed=0):
    rng = np.random.default_rng(seed)
    return 2 * rng.normal(size=(n, C)).astype(np.float32), rng.integers(0, C, n).astype(np.int32)


@few
@given(logits(ROWS, C), labels(ROWS, classes=C), weights(ROWS))
def test_brier_over_classes_equals_sklearn(x, y, w):
    w[0] = 1
    out = {"logits": x, "targets": y, "weights": w}
    oracle = sk.brier_score_loss(y, probabilities(x), labels=range(C), sample_weight=w)
    assert score(metrics.brier, out)[""] == pytest.approx(oracle, rel=1e-5, abs=1e-6)


def test_brier_of_two_classes_is_that_of_one_sigmoid():
    x, y = random_model()
    y = y % 2
    two = score(metrics.brier, {"logits": x[:, :2], "targets": y})[""]
    assert two == pytest.approx(score(metrics.brier, {"logits": x[:, 1] - x[:, 0], "targets": y})[""], rel=1e-5)
    assert two == pytest.approx(sk.brier_score_loss(y, sigmoid(x[:, 1] - x[:, 0])), rel=1e-5)


def test_bins_of_equal_width_are_sklearns_calibration_curve():
    x, y = random_model()
    found = score(metrics.CalibrationError(10), {"logits": x, "targets": y})
    p = probabilities(x)
    true, said = calibration_curve(p.argmax(1) == y, p.max(1), n_bins=10, strategy="uniform")
    np.testing.assert_allclose([b["accuracy"] for b in found["bins"]], true, atol=1e-5)
    np.testing.assert_allclose([b["confidence"] for b in found["bins"]], said, atol=1e-5)
    shares = np.array([b["weight"] for b in found["bins"]]) / 500
    assert found[""] == pytest.approx(shares @ np.abs(true - said), abs=1e-5)


def test_bins_of_equal_mass_hold_equally_many_sorted_rows():
    x, y = random_model(450)
    found = score(metrics.EqualMassCalibrationError(15), {"logits": x, "targets": y})
    p = probabilities(x)
    order = np.argsort(p.max(1))
    gaps = []
    for rows, row in zip(np.split(order, 15), found["bins"], strict=True):
        assert row["weight"] == 30
        assert row["confidence"] == pytest.approx(p.max(1)[rows].mean(), abs=1e-5)
        gaps.append(abs((p.argmax(1) == y)[rows].mean() - p.max(1)[rows].mean()))
    assert found[""] == pytest.approx(np.mean(gaps), abs=1e-5)


@few
@given(logits(ROWS, C), labels(ROWS, classes=C), st.randoms(use_true_random=False), st.integers(1, 6))
def test_the_order_of_rows_changes_nothing_even_with_ties(x, y, random, bins):
    order = list(range(ROWS))
    random.shuffle(order)
    for kind in KINDS:
        a, b = (score(kind(bins), o) for o in ({"logits": x, "targets": y}, {"logits": x[order], "targets": y[order]}))
        assert a[""] == pytest.approx(b[""], abs=1e-6)
        assert sum(row["weight"] for row in a["bins"]) == ROWS


@pytest.mark.parametrize("kind", KINDS)
def test_one_bin_is_the_gap_between_accuracy_and_confidence(kind):
    x, y = random_model()
    p = probabilities(x)
    gap = abs((p.argmax(1) == y).mean() - p.max(1).mean())
    assert score(kind(1), {"logits": x, "targets": y})[""] == pytest.approx(gap, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_means_what_it_says_is_calibrated_and_a_boaster_is_not(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000).astype(np.float32)
    y = (rng.random(4000) < sigmoid(x)).astype(np.int32)
    honest = score(kind(), {"logits": x, "targets": y}, size=1000)[""]
    boaster = score(kind(), {"logits": 5 * x, "targets": y}, size=1000)[""]
    assert honest < 0.04
    assert boaster > 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_counts_by_its_weight(kind):
    x, y = random_model(30)
    w = np.r_[np.full(10, 2), np.zeros(5), np.ones(15)].astype(np.float32)
    again = np.r_[np.arange(10), np.arange(10), np.arange(15, 30)]
    a = score(kind(4), {"logits": x, "targets": y, "weights": w})
    b = score(kind(4), {"logits": x[again], "targets": y[again]})
    assert a[""] == pytest.approx(b[""], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_no_bins_are_refused(kind):
    with pytest.raises(ConfigError, match="at least one bin"):
        kind(0)
