"""Durations: every unit becomes steps, and only where a number of steps is wanted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from fmjax.core.config import call, parse
from fmjax.core.durations import resolve, steps_of
from fmjax.core.errors import ConfigError


@pytest.mark.parametrize(("duration", "wanted"), [
    (300, 300), (0, 0), ("300steps", 300), ("1step", 1), ("2epochs", 250), ("1epoch", 125), ("0.5epochs", 62),
    ("20000examples", 2500), ("4examples", 1), ("10%", 40), ("0.01%", 1), ("0%", 0), (" 5epochs ", 625),
])  # fmt: skip
def test_every_unit_is_steps(duration, wanted):
    assert steps_of(duration, examples=1000, batch_size=8, total=400) == wanted


@pytest.mark.parametrize("wrong", ["5 epochs", "five", "epochs", "-3steps", "10 %", "", "1e3steps", "3weeks"])
def test_what_is_no_duration_is_refused(wrong):
    with pytest.raises(ConfigError, match="is no duration: write 300, 5epochs"):
        steps_of(wrong, 1000, 8, 400)


def test_the_length_of_the_run_is_no_percentage_of_itself():
    with pytest.raises(ConfigError, match=r"--config.steps=50% is a percentage of itself"):
        steps_of("50%", 1000, 8)


@given(st.integers(1, 1000), st.integers(1, 100000), st.integers(1, 512))
def test_epochs_and_examples_agree(epochs, examples, batch):
    assert steps_of(f"{epochs}epochs", examples, batch) == steps_of(f"{epochs * examples}examples", examples, batch)
    assert steps_of(f"{epochs}epochs", examples, batch) >= 1


def schedule(peak: float = 0.1, steps: int = 100, warmup: int | None = None, word: str = "10%"):
    return peak, steps, warmup, word


def every(steps: int = 10, inner: tuple = ()):
    return steps, inner


def config():
    config = ConfigDict({"steps": 100})
    config.rate = call(schedule, steps=config.get_oneway_ref("steps"))
    config.evals = {"a": call(every), "b": call(every, inner=(call(every),))}
    return config


def test_durations_are_resolved_in_place_where_steps_are_wanted():
    c = config()
    parse(c, ["--config.steps=2epochs", "--config.rate.steps=50%", "--config.evals.a.steps=40examples"])
    resolve(c, examples=80, batch_size=8)
    assert c.steps == 20
    assert c.rate.steps == 10
    assert c.evals.a.steps == 5
    assert c.rate.word == "10%"  # a string that only looks like one
    assert c.evals.b.inner[0].steps == 10


def test_the_schedule_follows_the_run_unless_it_is_told_otherwise():
    c = config()
    parse(c, ["--config.steps=2epochs"])
    resolve(c, examples=80, batch_size=8)
    assert (c.steps, c.rate.steps) == (20, 20)


def test_an_optional_number_of_steps_takes_a_duration_too():
    c = config()
    with c.rate.ignore_type():
        c.rate.warmup = "25%"
    resolve(c, examples=80, batch_size=8)
    assert c.rate.warmup == 25


@pytest.mark.parametrize("steps", [0, -5, "0epochs"])
def test_a_run_has_at_least_one_step(steps):
    c = ConfigDict({"steps": 3})
    with c.ignore_type():
        c.steps = steps
    with pytest.raises(ConfigError, match=r"--config.steps must be at least 1"):
        resolve(c, 80, 8)
