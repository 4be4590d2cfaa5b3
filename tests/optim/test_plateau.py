"""Plateau: the rate falls when, and only when, the mean loss has stopped to improve."""

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.core.errors import ConfigError
from fmjax.optim.optimizers import plateau, sgd

W = {"model": {"kernel": jax.numpy.ones((2, 2))}}
OPTIONS = {"factor": 0.5, "patience": 2, "window": 2, "cooldown": 1, "tolerance": 0.1, "floor": 0.1}
OURS = plateau(sgd(1.0), **OPTIONS)
THEIRS = optax.contrib.reduce_on_plateau(0.5, 2, 0.1, 0.0, 1, 2, 0.1)
UPDATE = jax.jit(OURS.update)
THEIR_UPDATE = jax.jit(THEIRS.update)


def rates_of(losses, optimizer=OURS, update=UPDATE):
    """The rate that each update used, as reported before it and as seen in the update."""
    state, said = optimizer.init(W), []
    for loss in losses:
        said.append(float(optimizer.report(state)["rate"]))
        updates, state = update(W, state, W, value=np.float32(loss))
        assert float(updates["model"]["kernel"][0, 0]) == -said[-1]
    return said


def test_the_rate_falls_after_patience_windows_without_improvement_then_rests():
    #        first reading, better, two that are not: falls; cooldown 1, then two more: falls again
    losses = [4, 4] + [2, 2] + [2, 2] * 2 + [2, 2] + [2, 2] * 2 + [2]
    assert rates_of(losses) == [1.0] * 8 + [0.5] * 6 + [0.25]


def test_an_improvement_within_the_tolerance_is_none():
    assert rates_of([10, 10, 9.5, 9.5, 9.5, 9.5, 1])[-1] == 0.5
    assert rates_of([10, 10, 8.9, 8.9, 8.9, 8.9, 1])[-1] == 1.0


def test_negative_losses_improve_downwards():
    assert rates_of([-1, -1, -2, -2, -3, -3, -4, -4, -5, -5]) == [1.0] * 10


def test_the_floor_holds():
    assert min(rates_of([1.0] * 60)) == np.float32(0.1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 10_000).map(lambda n: n / 100), min_size=20, max_size=40))
def test_it_is_the_rule_of_optax_one_update_later(losses):
    state, theirs = THEIRS.init(W), []
    for loss in losses:
        _, state = THEIR_UPDATE(W, state, W, value=np.float32(loss))
        theirs.append(float(state.scale))
    np.testing.assert_allclose(rates_of(losses)[1:], theirs[:-1], 1e-6)


def test_a_loss_that_is_not_finite_is_no_improvement():
    assert rates_of([1, 1, np.nan, 1, np.inf, 1, 1])[-1] == 0.5


def test_misuse_is_said():
    for wrong in ({"factor": 0.0}, {"factor": 1.0}, {"patience": 0}, {"window": 0}, {"cooldown": -1}, {"floor": 1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            plateau(sgd(1.0), **wrong)
    with pytest.raises(TypeError, match="value"):
        OURS.update(W, OURS.init(W), W)
