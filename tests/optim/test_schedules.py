"""Schedules: exact at their corners, monotone between them, and clear about misuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.core.config import build, call, parse
from fmjax.core.errors import ConfigError
from fmjax.optim import schedules

ENDING = [schedules.warmup_cosine, schedules.linear, schedules.wsd]


@pytest.mark.parametrize("make", ENDING)
@pytest.mark.parametrize("warmup", [0, 1, 7, 50])
def test_corners_are_exact(make, warmup):
    rate = make(0.3, 50, warmup, start=0.01, end=0.02)
    peak, start, end = np.float32(0.3), np.float32(0.01), np.float32(0.02)
    assert rate(0) == (start if warmup else peak)
    assert rate(warmup) == peak
    if warmup < 50:
        assert rate(50) == end
    assert rate(51) == rate(10**6)  # nothing moves after the end


def test_halfway_values_are_those_of_the_formula():
    assert schedules.linear(1.0, 110, 10, end=0.5)(60) == pytest.approx(0.75)
    assert schedules.linear(1.0, 110, 10)(5) == pytest.approx(0.5)
    assert schedules.warmup_cosine(1.0, 100)(25) == pytest.approx(0.5 * (1 + np.cos(np.pi / 4)))
    assert schedules.wsd(1.0, 100, 10, decay=40, shape="sqrt")(90) == pytest.approx(1 - np.sqrt(30 / 40))
    assert schedules.wsd(1.0, 100, 10, decay=40, shape="cosine")(80) == pytest.approx(0.5)
    assert schedules.wsd(1.0, 100, 10)(90) == pytest.approx(0.5)  # a fifth of the steps decays
    assert schedules.constant(0.3, 10, 0.1)(5) == pytest.approx(0.2)


def test_cosine_and_linear_are_those_of_optax():
    steps = np.arange(0, 130)
    theirs = optax.warmup_cosine_decay_schedule(0.01, 0.3, 20, 100, 0.02)
    np.testing.assert_allclose(schedules.warmup_cosine(0.3, 100, 20, 0.01, 0.02)(steps), theirs(steps), 1e-5)
    falls = optax.linear_schedule(0.3, 0.02, 80)
    np.testing.assert_allclose(schedules.linear(0.3, 100, 20, end=0.02)(steps[20:]), falls(steps[20:] - 20), 1e-5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_rate_climbs_to_its_peak_and_never_rises_again(data):
    steps = data.draw(st.integers(1, 10**6), "steps")
    warmup = data.draw(st.integers(0, steps), "warmup")
    peak = data.draw(st.floats(1e-6, 10), "peak")
    start, end = (data.draw(st.floats(0, peak), name) for name in ("start", "end"))
    make = data.draw(st.sampled_from([*ENDING, schedules.rsqrt, schedules.constant]))
    more = {} if make is schedules.constant else {"steps": steps, "end": end}
    rate = make(peak, warmup=warmup, start=start, **more)
    at = np.unique(np.linspace(0, 2 * steps, 63).astype(int))
    values = np.asarray(rate(np.resize(at, 64)))[: len(at)]  # one shape, so that nothing is compiled twice
    slack = peak * 1e-6
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert (np.diff(values[at <= warmup]) >= -slack).all()
    assert (np.diff(values[at >= warmup]) <= slack).all()
    assert values.max() <= peak + slack
    assert values.min() >= min(peak, end, start if warmup else peak) - slack or make is schedules.rsqrt


@pytest.mark.parametrize("make", [*ENDING, schedules.rsqrt])
def test_a_run_of_one_step_uses_the_peak(make):
    assert make(0.3, 1)(0) == np.float32(0.3)


def test_wsd_is_flat_between_warmup_and_decay():
    values = schedules.wsd(0.3, 100, 10, decay=30)(np.arange(101))
    np.testing.assert_array_equal(values[10:71], np.float32(0.3))
    assert values[71] < 0.3 < values[9] * 1.2
    assert values[100] == 0
    np.testing.assert_array_equal(schedules.wsd(0.3, 100, decay=0)(np.arange(200)), np.float32(0.3))


def test_rsqrt_falls_by_the_root_of_two_in_a_timescale():
    rate = schedules.rsqrt(1.0, 10**6, warmup=100, timescale=400)
    assert rate(100) == 1
    assert rate(500) == pytest.approx(2**-0.5)
    np.testing.assert_allclose(  # the Transformer's: proportional to min(step * warmup ** -1.5, step ** -0.5)
        schedules.rsqrt(1.0, 10**6, warmup=100, timescale=100)(np.arange(1, 9000)),
        np.minimum(np.arange(1, 9000) / 100, (np.arange(1, 9000) / 100) ** -0.5),
        2e-6,
    )
    cooled = schedules.rsqrt(1.0, 1000, warmup=100, timescale=400, decay=200, end=0.01)
    assert cooled(1000) == np.float32(0.01)
    assert cooled(800) == rate(800)


def test_piecewise_falls_at_its_steps_and_nowhere_else():
    values = schedules.piecewise(0.8, (10, 30), 0.5, warmup=4)(np.arange(40))
    np.testing.assert_allclose(values[:5], [0, 0.2, 0.4, 0.6, 0.8], 1e-6)
    np.testing.assert_array_equal(values[4:], np.float32([0.8] * 6 + [0.4] * 20 + [0.2] * 10))
    assert schedules.piecewise(0.8)(10**6) == np.float32(0.8)


def test_a_schedule_is_traced_once_for_all_steps():
    traces = []
    rate = schedules.warmup_cosine(0.3, 100, 10)
    jitted = jax.jit(lambda step: traces.append(1) or rate(step))
    values = [jitted(jnp.int32(step)) for step in range(5)]
    np.testing.assert_allclose(values, rate(np.arange(5)), 1e-6)
    assert len(traces) == 1
    assert values[0].dtype == jnp.float32
    assert values[0].shape == ()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: schedules.warmup_cosine(0.3, 10, 11), "warmup=11 is more than steps=10"),
        (lambda: schedules.warmup_cosine(0.3, 0), "steps=0"),
        (lambda: schedules.warmup_cosine(-0.3, 10), "peak=-0.3"),
        (lambda: schedules.warmup_cosine(float("nan"), 10), "peak=nan"),
        (lambda: schedules.linear(0.3, 10, -1), "warmup=-1"),
        (lambda: schedules.linear(0.3, "5%"), "steps='5%'"),
        (lambda: schedules.linear(0.3, 10, end=-1), "end=-1"),
        (lambda: schedules.rsqrt(0.3, 10, timescale=0), "timescale=0"),
        (lambda: schedules.rsqrt(0.3, 10, 6, decay=5), "warmup=6 + decay=5 is more than steps=10"),
        (lambda: schedules.wsd(0.3, 10, 6, 5), "warmup=6 + decay=5 is more than steps=10"),
        (lambda: schedules.wsd(0.3, 10, shape="cubic"), "linear, cosine, sqrt"),
        (lambda: schedules.piecewise(0.3, (30, 10)), "increasing"),
        (lambda: schedules.piecewise(0.3, (3,), warmup=5), "within the warm-up"),
        (lambda: schedules.constant(0.3, 2.5), "warmup=2.5"),
    ],
)
def test_misuse_is_one_line_that_names_the_option(make, said):
    with pytest.raises(ConfigError) as error:
        make()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_every_option_can_be_overridden_from_the_command_line():
    config = call(schedules.wsd, peak=0.3, steps=100)
    parse(config, ["--config.peak=1", "--config.decay=50", "--config.shape=sqrt", "--config.end=0.5"])
    rate = build(config)
    assert rate(50) == 1
    assert rate(100) == 0.5
