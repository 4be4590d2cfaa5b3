"""Schedules: factories that give `step -> rate`, a float32 number for the update after `step` updates.

Every rate climbs from `start` at step 0 to `peak` at step `warmup`, then does what its name says; what has
an `end` reaches it at step `steps` and stays there. Durations are steps.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.errors import ConfigError
from fmjax.core.traced import is_traced

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


def constant(peak: float, warmup: int = 0, start: float = 0.0) -> Schedule:
    """`peak` for ever, after the warm-up."""
    _check_rates(peak=peak, start=start)
    _check_steps(warmup=warmup)
    return _warmed(lambda step: jnp.full_like(step, peak), peak, warmup, start)


def warmup_cosine(peak: float, steps: int, warmup: int = 0, start: float = 0.0, end: float = 0.0) -> Schedule:
    """Half a cosine from `peak` to `end` (Loshchilov & Hutter, arXiv:1608.03983)."""
    _check_rates(peak=peak, start=start, end=end)
    _check_steps(steps, warmup=warmup)
    return _warmed(lambda step: _mix(peak, end, _cosine(_part(step, warmup, steps))), peak, warmup, start)


def linear(peak: float, steps: int, warmup: int = 0, start: float = 0.0, end: float = 0.0) -> Schedule:
    """A straight line from `peak` to `end`."""
    _check_rates(peak=peak, start=start, end=end)
    _check_steps(steps, warmup=warmup)
    return _warmed(lambda step: _mix(peak, end, _part(step, warmup, steps)), peak, warmup, start)


def rsqrt(
    peak: float,
    steps: int,
    warmup: int = 0,
    timescale: int = 10_000,
    decay: int = 0,
    start: float = 0.0,
    end: float = 0.0,
) -> Schedule:
    """Falls with the reciprocal square root of the step, then in a line to `end` over the last `decay` steps.

    `timescale` steps after the warm-up the rate is 1/sqrt(2) of the peak; `timescale=warmup` is the rate of
    the Transformer (Vaswani et al., arXiv:1706.03762), 10,000 that of large vision transformers (arXiv:2106.04560).
    """
    _check_rates(peak=peak, start=start, end=end)
    _check_steps(steps, warmup=warmup, decay=decay)
    _check_steps(timescale=timescale, least=1)

    def after(step: jax.Array) -> jax.Array:
        rate = peak * jnp.sqrt(timescale / (timescale + jnp.maximum(step - warmup, 0)))
        return _mix(rate, end, _part(step, steps - decay, steps)) if decay else rate

    return _warmed(after, peak, warmup, start)


def wsd(
    peak: float,
    steps: int,
    warmup: int = 0,
    decay: int | None = None,
    shape: str = "linear",
    start: float = 0.0,
    end: float = 0.0,
) -> Schedule:
    """Warm up, stay at `peak`, decay to `end` over the last `decay` steps (Hägele et al., arXiv:2405.18392).

    Args:
      peak: the rate of the plateau.
      steps: of the whole run.
      warmup: steps of the climb.
      decay: steps of the descent; None for a fifth of `steps`, or what the warm-up leaves of it.
      shape: of the descent: "linear", "cosine", or "sqrt" (1 - sqrt, the best of that paper).
      start: the rate at step 0.
      end: the rate at `steps`.
    """
    shapes = {"linear": lambda part: part, "cosine": _cosine, "sqrt": jnp.sqrt}
    if shape not in shapes:
        raise ConfigError(f"shape={shape!r}: give one of {', '.join(shapes)}")
    _check_rates(peak=peak, start=start, end=end)
    _check_steps(steps, warmup=warmup)
    decay = min(steps // 5, steps - warmup) if decay is None else decay
    _check_steps(steps, warmup=warmup, decay=decay)

    def after(step: jax.Array) -> jax.Array:
        return _mix(peak, end, shapes[shape](_part(step, steps - decay, steps))) if decay else jnp.full_like(step, peak)

    return _warmed(after, peak, warmup, start)


def piecewise(
    peak: float, at: tuple[int, ...] = (), factor: float = 0.1, warmup: int = 0, start: float = 0.0
) -> Schedule:
    """A staircase: multiplied by `factor` at each step of `at`."""
    _check_rates(peak=peak, start=start, factor=factor)
    _check_steps(warmup=warmup)
    for step in at:
        _check_steps(at=step)
    if list(at) != sorted(set(at)):
        raise ConfigError(f"at={tuple(at)}: give increasing steps")
    if at and at[0] < warmup:
        raise ConfigError(f"at={tuple(at)}: the first fall lies within the warm-up of {warmup} steps")

    def after(step: jax.Array) -> jax.Array:
        rate = jnp.full_like(step, peak)
        for i, corner in enumerate(at):
            rate = jnp.where(step >= corner, peak * factor ** (i + 1), rate)
        return rate

    return _warmed(after, peak, warmup, start)


def _warmed(after: Schedule, peak: float, warmup: int, start: float) -> Schedule:
    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step).astype(jnp.float32)  # exact up to 16.7 million steps
        if not warmup:
            return after(step)
        return jnp.where(step < warmup, _mix(start, peak, _part(step, 0, warmup)), after(step))

    return rate


def _part(step: jax.Array, first: int, last: int) -> jax.Array:
    """How much of [first, last] has passed, in [0, 1]."""
    return jnp.clip((step - first) / max(last - first, 1), 0.0, 1.0)


def _mix(a: jax.typing.ArrayLike, b: jax.typing.ArrayLike, part: jax.Array) -> jax.Array:
    return a * (1.0 - part) + b * part  # this form is exact at both ends


def _cosine(part: jax.Array) -> jax.Array:
    return 0.5 * (1.0 - jnp.cos(math.pi * part))


def _check_rates(**rates: float) -> None:
    for name, value in rates.items():
        if not is_traced(value) and not (
            isinstance(value, (int, float, np.number)) and math.isfinite(value) and value >= 0
        ):
            raise ConfigError(f"{name}={value!r}: give a number >= 0")


def _check_steps(steps: int | None = None, least: int = 0, **parts: int) -> None:
    for name, value in {**({} if steps is None else {"steps": steps}), **parts}.items():
        bound = 1 if name == "steps" else least
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < bound:
            raise ConfigError(f"{name}={value!r}: give a whole number of steps >= {bound}")
    if steps is not None and sum(parts.values()) > steps:
        said = " + ".join(f"{name}={value}" for name, value in parts.items())
        raise ConfigError(f"{said} is more than steps={steps}: shorten it, or train longer")
