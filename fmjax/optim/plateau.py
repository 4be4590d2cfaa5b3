"""Plateau: the rate falls when the training loss has stopped to improve."""

from typing import Any

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.types import Tree
from fmjax.optim.assemble import Optimizer, check_numbers


def plateau(
    optimizer: Optimizer,
    factor: float = 0.1,
    patience: int = 10,
    window: int = 100,
    cooldown: int = 0,
    tolerance: float = 1e-4,
    floor: float = 0.0,
) -> Optimizer:
    """Multiply the rate of `optimizer` by `factor` whenever the mean loss has not improved for `patience` windows.

    The loss is the training loss that the step hands to `update(value=...)`; what it decides holds from the
    next update on. optax.contrib.reduce_on_plateau is the same rule, deciding one update earlier.

    Args:
      optimizer: what moves the weights.
      factor: what the rate is multiplied with, in (0, 1).
      patience: windows without improvement before it is.
      window: steps whose losses are averaged into one reading.
      cooldown: windows after a fall in which nothing is counted.
      tolerance: a reading is better when it is below the best by more than this part of it.
      floor: the smallest multiplier that the falls may lead to.
    """
    check_numbers(factor=(factor, 0, 1), tolerance=(tolerance, 0, 1), floor=(floor, 0, 1), cooldown=(cooldown, 0, None))
    check_numbers(patience=(patience, 1, None), window=(window, 1, None))
    if factor == 0:
        raise ConfigError("factor=0 would stop the training for good: give a number > 0 and < 1")

    def init(tree: Tree) -> Tree:
        whole = {key: jnp.zeros((), jnp.int32) for key in ("seen", "bad", "rest")}
        real = {"scale": jnp.ones(()), "best": jnp.full((), jnp.finfo(jnp.float32).max), "total": jnp.zeros(())}
        return {"inner": optimizer.init(tree), "plateau": {**whole, **real}}

    def update(grads: Tree, state: Tree, params: Tree, value: Any = None) -> tuple[Tree, Tree]:
        if value is None:
            raise TypeError("plateau watches the loss: update(grads, state, params, value=mean_loss)")
        updates, inner = optimizer.update(grads, state["inner"], params, value=value)
        scale = state["plateau"]["scale"]
        updates = jax.tree.map(lambda u: scale * u, updates)
        return updates, {"inner": inner, "plateau": _read(state["plateau"], jnp.asarray(value, jnp.float32))}

    def _read(s: Tree, value: jax.Array) -> Tree:
        seen, total = s["seen"] + 1, s["total"] + value
        full = seen == window
        mean, resting = total / window, s["rest"] > 0
        better = mean < s["best"] - tolerance * jnp.abs(s["best"])  # a loss may be negative
        bad = jnp.where(better | resting, 0, s["bad"] + 1)
        fall = bad == patience
        after = {
            "scale": jnp.where(fall, jnp.maximum(s["scale"] * factor, floor), s["scale"]),
            "best": jnp.where(better, mean, s["best"]),
            "bad": jnp.where(fall, 0, bad),
            "rest": jnp.where(fall, cooldown, jnp.maximum(s["rest"] - 1, 0)),
            "seen": jnp.zeros_like(seen),
            "total": jnp.zeros_like(total),
        }
        return {key: jnp.where(full, new, {**s, "seen": seen, "total": total}[key]) for key, new in after.items()}

    def report(state: Tree) -> dict[str, jax.Array]:
        scale = state["plateau"]["scale"]
        return {key: scale * rate for key, rate in optimizer.report(state["inner"]).items()}

    return Optimizer(init, update, report)
