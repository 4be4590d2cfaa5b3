"""Language modelling numbers, worked out by hand."""

import numpy as np
import pytest
from evals_scoring import score

from fmjax.evals import metrics


def test_bits_per_byte_by_hand():
    # Two rows of tokens that cost ln 2 nats each = 1 bit; 3 + 2 tokens count; they stand for 4 + 6 bytes.
    nll = np.full((2, 3), np.log(2), np.float32)
    out = {"nll": nll, "weights": np.array([[1, 1, 1], [1, 1, 0]], np.float32)}
    assert score(metrics.BitsPerByte, out, {"bytes": np.array([4, 6])})[""] == pytest.approx(5 / 10)


def test_a_uniform_guess_over_bytes_costs_eight_bits_and_perplexity_256():
    out = {"logits": np.zeros((7, 4, 256), np.float32), "targets": np.zeros((7, 4), np.int32)}
    assert score(metrics.BitsPerByte, out, {"bytes": np.full(7, 4.0, np.float32)})[""] == pytest.approx(8)
    assert score(metrics.Perplexity, out)[""] == pytest.approx(256, rel=1e-5)


def test_perplexity_is_the_exponent_of_the_mean_and_not_the_mean_of_exponents():
    out = {"nll": np.array([[0.0], [2.0]], np.float32)}
    assert score(metrics.Perplexity, out)[""] == pytest.approx(np.e)


def test_perplexity_may_overflow_without_a_crash():
    assert score(metrics.Perplexity, {"nll": np.full((3, 2), 1e4, np.float32)})[""] == np.inf


@pytest.mark.parametrize(("metric", "batch"), [(metrics.Perplexity, {}), (metrics.BitsPerByte, {"bytes": np.zeros(3)})])
def test_no_text_has_no_number(metric, batch):
    out = {"nll": np.ones((3, 2), np.float32), "weights": np.zeros((3, 2), np.float32)}
    assert np.isnan(score(metric, out, batch)[""])
