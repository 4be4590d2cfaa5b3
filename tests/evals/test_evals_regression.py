"""R2: equal to scikit-learn's, also far from zero."""

import numpy as np
import pytest
from evals_scoring import ROWS, logits, score, weights
from hypothesis import assume, given, settings
from sklearn.metrics import r2_score

from fmjax.evals import metrics


@settings(max_examples=15, deadline=None)
@given(logits(ROWS, 2), logits(ROWS, 2), weights(ROWS))
def test_r2_equals_sklearn(x, y, w):
    assume(all(np.unique(column[w > 0]).size > 1 for column in y.T))
    found = score(metrics.R2, {"values": x, "targets": y, "weights": w})
    assert found[""] == pytest.approx(r2_score(y, x, sample_weight=w), rel=1e-6, abs=1e-6)
    each = r2_score(y, x, sample_weight=w, multioutput="raw_values")
    assert found["per_column"] == pytest.approx(each.tolist(), rel=1e-6, abs=1e-6)


def test_targets_far_from_zero_keep_their_variance():
    rng = np.random.default_rng(0)
    y = (1e5 + rng.normal(size=40)).astype(np.float32)
    x = (y + 0.1 * rng.normal(size=40)).astype(np.float32)
    assert score(metrics.R2, {"values": x, "targets": y})[""] == pytest.approx(r2_score(y, x), abs=1e-6)


def test_constant_targets_and_single_rows_have_no_r2():
    for n in (1, 6):
        y = np.ones(n, np.float32)
        assert np.isnan(score(metrics.R2, {"values": y, "targets": y})[""])


def test_perfect_is_one_and_the_mean_is_zero():
    y = np.arange(7, dtype=np.float32)
    assert score(metrics.R2, {"values": y, "targets": y})[""] == 1.0
    assert score(metrics.R2, {"values": np.full(7, 3, np.float32), "targets": y})[""] == 0.0
