"""Where to go, given the gradients: momentum, Adam and Lion as optax transforms over trees with gaps.

They are optax's `trace`, `scale_by_adam` and `scale_by_lion` (and as fast), with the one count of updates that
`descend` keeps instead of one each, and with Adam's bias corrected to full precision.
"""

import math

import jax
import jax.numpy as jnp
import optax

from fmjax.core.traced import matters
from fmjax.core.types import Tree


def momentum(beta: float, nesterov: bool = False) -> optax.GradientTransformationExtraArgs:
    """The decaying sum of the gradients; `beta` 0 keeps no state. Nesterov looks one step ahead."""

    def init(params: Tree) -> Tree:
        return {"mu": jax.tree.map(jnp.zeros_like, params)} if matters(beta) else {}

    def update(grads: Tree, state: Tree, params: Tree = None, **extra) -> tuple[Tree, Tree]:
        if not matters(beta):
            return grads, state
        mu = jax.tree.map(lambda g, m: g + beta * m, grads, state["mu"])
        return jax.tree.map(lambda g, m: g + beta * m, grads, mu) if nesterov else mu, {"mu": mu}

    return optax.GradientTransformationExtraArgs(init, update)


def adam(b1: float, b2: float, eps: float, moment_dtype: str | None = None) -> optax.GradientTransformationExtraArgs:
    """Mean gradient over root mean square, both corrected for starting at 0 (Kingma & Ba, arXiv:1412.6980)."""

    def init(params: Tree) -> Tree:
        mu = jax.tree.map(lambda w: jnp.zeros_like(w, dtype=moment_dtype), params)
        return {"mu": mu, "nu": jax.tree.map(jnp.zeros_like, params)}

    def update(grads: Tree, state: Tree, params: Tree = None, *, count, **extra) -> tuple[Tree, Tree]:
        root = jnp.sqrt(_correction(b2, count))
        scale, floor = root / _correction(b1, count), eps * root
        mu = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, grads, state["mu"])
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * g * g, grads, state["nu"])
        way = jax.tree.map(lambda m, v: scale * m / (jnp.sqrt(v) + floor), mu, nu)
        return way, {"mu": _cast(mu, moment_dtype), "nu": nu}

    return optax.GradientTransformationExtraArgs(init, update)


def lion(b1: float, b2: float, moment_dtype: str | None = None) -> optax.GradientTransformationExtraArgs:
    """The sign of a mean gradient (Chen et al., arXiv:2302.06675)."""

    def init(params: Tree) -> Tree:
        return {"mu": jax.tree.map(lambda w: jnp.zeros_like(w, dtype=moment_dtype), params)}

    def update(grads: Tree, state: Tree, params: Tree = None, **extra) -> tuple[Tree, Tree]:
        way = jax.tree.map(lambda g, m: jnp.sign(b1 * m + (1 - b1) * g), grads, state["mu"])
        mu = jax.tree.map(lambda g, m: b2 * m + (1 - b2) * g, grads, state["mu"])
        return way, {"mu": _cast(mu, moment_dtype)}

    return optax.GradientTransformationExtraArgs(init, update)


def _correction(beta: float, count: jax.Array) -> jax.Array:
    """1 - beta ** (count + 1), without the cancellation that costs five digits at beta = 0.999."""
    return -jnp.expm1((count + 1) * math.log(beta)) if beta else jnp.ones(())


def _cast(tree: Tree, dtype: str | None) -> Tree:
    return tree if dtype is None else jax.tree.map(lambda x: x.astype(dtype), tree)
