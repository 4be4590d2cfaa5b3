"""Intervals: the same seed gives the same one, it covers what it says, and pairs are worth having."""

import numpy as np
import pytest
from evals_scoring import score
from scipy import stats

from fmjax.core.errors import ConfigError, DataError
from fmjax.evals import metrics
from fmjax.evals.intervals import Bootstrapped, bootstrap, paired_bootstrap, standard_error

RNG = np.random.default_rng(0)
VALUES = RNG.exponential(size=80)


def test_the_standard_error_equals_scipys():
    assert standard_error(VALUES) == pytest.approx(stats.sem(VALUES))
    assert np.isnan(standard_error(VALUES[:1]))


def test_the_interval_is_scipys_percentile_bootstrap():
    found = bootstrap(VALUES, resamples=5000)
    oracle = stats.bootstrap((VALUES,), np.mean, method="percentile", n_resamples=5000, rng=1).confidence_interval
    assert found.value == pytest.approx(VALUES.mean())
    assert [found.low, found.high] == pytest.approx([oracle.low, oracle.high], abs=0.15 * (oracle.high - oracle.low))


def test_a_seed_fixes_the_interval():
    assert bootstrap(VALUES, resamples=99) == bootstrap(VALUES, resamples=99)
    assert bootstrap(VALUES, resamples=99) != bootstrap(VALUES, resamples=99, seed=1)


def test_it_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    inside = 0
    for i in range(200):
        interval = bootstrap(rng.normal(size=40), level=0.9, resamples=200, seed=i)
        inside += interval.low <= 0 <= interval.high
    assert 0.8 <= inside / 200 <= 0.97


def test_weights_are_drawn_with_their_values_and_zero_is_absence():
    weights = np.r_[np.ones(40), np.zeros(40)]
    assert bootstrap(VALUES, weights).value == pytest.approx(VALUES[:40].mean())
    assert bootstrap(VALUES, np.full(80, 2.0)) == pytest.approx(bootstrap(VALUES))


def test_any_statistic_has_an_interval():
    found = bootstrap(VALUES, statistic=np.median, resamples=500)
    assert found.low < found.value == np.median(VALUES) < found.high


def test_pairs_see_a_difference_that_two_intervals_hide():
    rng = np.random.default_rng(3)
    hard = rng.normal(size=100)
    a, b = hard + 0.1, hard + 0.05 * rng.normal(size=100)
    assert bootstrap(a).low < bootstrap(b).high
    found = paired_bootstrap(a, b)
    assert 0 < found.low < found.value < found.high
    nothing = paired_bootstrap(a, a)
    assert nothing == (0, 0, 0)


def test_a_metric_with_its_interval():
    x, y = RNG.normal(size=(60, 3)).astype(np.float32), RNG.integers(0, 3, 60).astype(np.int32)
    out = {"logits": x, "targets": y}
    found = score(Bootstrapped(metrics.accuracy, keep=True), out)
    right = x.argmax(1) == y
    assert (found[""], found["low"], found["high"]) == pytest.approx(tuple(bootstrap(right)))
    np.testing.assert_array_equal(found["values"], right)
    assert "values" not in score(Bootstrapped(metrics.accuracy), out)


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match="level between 0 and 1"):
        bootstrap(VALUES, level=95)
    with pytest.raises(ConfigError, match="takes no weights"):
        bootstrap(VALUES, VALUES, statistic=np.median)
    with pytest.raises(DataError, match="no values"):
        bootstrap(np.array([]))
    with pytest.raises(DataError, match="same examples"):
        paired_bootstrap(VALUES, VALUES[:3])
