"""Optimizers: hyperparameters in, `Optimizer(init, update, report)` out.

All take a rate (a number or a schedule), decay, freezing and multipliers of the rate by address; what those
mean is said once, in `assemble.descend`. Gradients come in clipped.
"""

import optax

from fmjax.core.errors import ConfigError
from fmjax.optim import directions
from fmjax.optim.anchored import gradually, toward_start
from fmjax.optim.assemble import MATRICES, Optimizer, Rate, check_numbers, descend, frozen
from fmjax.optim.by_address import by_address, layerwise
from fmjax.optim.muon import muon
from fmjax.optim.plateau import plateau

__all__ = [
    "Optimizer", "adafactor", "adam", "adamw", "by_address", "descend", "frozen", "gradually", "layerwise", "lion",
    "muon", "plateau", "sgd", "toward_start",
]  # fmt: skip


def sgd(
    rate: Rate,
    momentum: float = 0.0,
    nesterov: bool = False,
    l2: float = 0.0,
    decay: float = 0.0,
    decay_on: str = MATRICES,
    freeze: tuple[str, ...] = (),
    rates: tuple[tuple[str, float], ...] = (),
) -> Optimizer:
    """Gradient descent, with momentum when `momentum` > 0."""
    check_numbers(momentum=(momentum, 0, 1))
    if nesterov and not momentum:
        raise ConfigError("nesterov=True needs momentum > 0, such as 0.9")
    return descend(directions.momentum(momentum, nesterov), rate, l2, decay, decay_on, freeze, rates)


def adam(
    rate: Rate,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    l2: float = 0.0,
    decay_on: str = MATRICES,
    freeze: tuple[str, ...] = (),
    rates: tuple[tuple[str, float], ...] = (),
    moment_dtype: str | None = None,
) -> Optimizer:
    """Adam (Kingma & Ba, arXiv:1412.6980), with coupled `l2`. `moment_dtype` is that of the first moment."""
    _check_betas(b1, b2, eps, moment_dtype)
    return descend(directions.adam(b1, b2, eps, moment_dtype), rate, l2, 0.0, decay_on, freeze, rates)


def adamw(
    rate: Rate,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    decay: float = 1e-2,
    decay_on: str = MATRICES,
    freeze: tuple[str, ...] = (),
    rates: tuple[tuple[str, float], ...] = (),
    moment_dtype: str | None = None,
) -> Optimizer:
    """Adam with decoupled decay, scaled by the rate (Loshchilov & Hutter, arXiv:1711.05101)."""
    _check_betas(b1, b2, eps, moment_dtype)
    return descend(directions.adam(b1, b2, eps, moment_dtype), rate, 0.0, decay, decay_on, freeze, rates)


def lion(
    rate: Rate,
    b1: float = 0.9,
    b2: float = 0.99,
    decay: float = 0.0,
    decay_on: str = MATRICES,
    freeze: tuple[str, ...] = (),
    rates: tuple[tuple[str, float], ...] = (),
    moment_dtype: str | None = None,
) -> Optimizer:
    """Lion (arXiv:2302.06675): wants a rate 3 to 10 times smaller, and a decay as much larger, than AdamW's."""
    _check_betas(b1, b2, 0.0, moment_dtype)
    return descend(directions.lion(b1, b2, moment_dtype), rate, 0.0, decay, decay_on, freeze, rates)


def adafactor(
    rate: Rate,
    power: float = 0.8,
    clip: float | None = 1.0,
    momentum: float | None = None,
    relative: bool = True,
    factor_from: int = 128,
    decay: float = 0.0,
    decay_on: str = MATRICES,
    freeze: tuple[str, ...] = (),
    rates: tuple[tuple[str, float], ...] = (),
) -> Optimizer:
    """Adafactor (Shazeer & Stern, arXiv:1804.04235): second moments of a matrix as one row and one column.

    Args:
      rate: relative to the size of the weights when `relative`.
      power: the second moments forget as step ** -power.
      clip: the largest root mean square of an update before the rate; None for no limit.
      momentum: of the updates; None for none, as in the paper. Vision transformers use 0.9 (arXiv:2106.04560).
      relative: scale updates by the root mean square of the weights.
      factor_from: a matrix is factored when its two largest axes are at least this long.
      decay: decoupled, scaled by the rate (optax's does not scale it).
      decay_on: pattern of what decays.
      freeze: patterns of the weights that get neither updates nor moments.
      rates: (pattern, multiplier) pairs.
    """
    check_numbers(power=(power, 0, 1), factor_from=(factor_from, 1, None))
    parts = [optax.scale_by_factored_rms(decay_rate=power, min_dim_size_to_factor=factor_from)]
    if clip is not None:
        check_numbers(clip=(clip, 0, None))
        parts.append(optax.clip_by_block_rms(clip))
    if relative:
        parts.append(optax.scale_by_param_block_rms())
    if momentum is not None:
        check_numbers(momentum=(momentum, 0, 1))
        parts.append(optax.ema(momentum, debias=False))
    return descend(optax.chain(*parts), rate, 0.0, decay, decay_on, freeze, rates)


def _check_betas(b1: float, b2: float, eps: float, moment_dtype: str | None) -> None:
    check_numbers(b1=(b1, 0, 1), b2=(b2, 0, 1), eps=(eps, 0, None))
    if moment_dtype not in (None, "float32", "bfloat16", "float16"):
        raise ConfigError(f"moment_dtype={moment_dtype!r}: give float32, bfloat16, float16 or None")
