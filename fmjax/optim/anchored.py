"""Wrappers of an optimizer for fine-tuning: weights that are pulled back to where they began, or that move late."""

from typing import Any

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.trees import addresses, first_match, map_with_address, matches
from fmjax.core.types import Tree
from fmjax.optim.assemble import Optimizer, check_numbers, check_patterns, prune


def toward_start(optimizer: Optimizer, strength: float, on: str = ".*") -> Optimizer:
    """L2-SP (arXiv:1802.01483): the gradient of strength/2 |w - start|^2 is added, on the addresses of a pattern.

    The start is a copy in the optimizer's state. Like coupled decay, moments see it; leave a new head out.

    Raises:
      ConfigError: a strength below 0, or (by `init`) a pattern that matches no weight.
    """
    check_numbers(strength=(strength, 0, None))
    check_patterns([on])

    def held(tree: Tree) -> Tree:
        return map_with_address(lambda name, _: matches(on, name), tree)

    def init(tree: Tree) -> Tree:
        if not any(jax.tree.leaves(held(tree))):
            raise ConfigError(f"on={on!r} matches no weight such as {addresses(tree)[0]}")
        return {"start": jax.tree.map(jnp.copy, prune(tree, held(tree))), "inner": optimizer.init(tree)}

    def update(grads: Tree, state: Tree, params: Tree, value: Any = None) -> tuple[Tree, Tree]:
        keep = held(params)
        away = jax.tree.map(lambda w, start: strength * (w - start), prune(params, keep), state["start"])
        pulls = iter(jax.tree.leaves(away))
        grads = jax.tree.map(lambda yes, g: g + next(pulls) if yes else g, keep, grads)
        updates, inner = optimizer.update(grads, state["inner"], params, value=value)
        return updates, {**state, "inner": inner}

    return Optimizer(init, update, lambda state: optimizer.report(state["inner"]))


def gradually(optimizer: Optimizer, starts: tuple[tuple[str, int], ...]) -> Optimizer:
    """Gradual unfreezing (arXiv:1801.06146): a weight stays as it is until the step of the first pattern it matches.

    Until then it has neither gradient nor update, so its moments are zero; memory is that of `optimizer` from the
    start. What no pattern matches moves at once.

    Args:
      optimizer: moves what is free.
      starts: (pattern, step) pairs, such as (("/block_0/", 400), ("/block_1/", 200)).

    Raises:
      ConfigError: a step below 0, or (by `init`) a pattern that is the first match of no weight.
    """
    check_patterns(pattern for pattern, _ in starts)
    check_numbers(**{f"starts[{pattern}]": (step, 0, None) for pattern, step in starts})
    rules = (*starts, (".*", 0))

    def init(tree: Tree) -> Tree:
        first_match(rules, tree, "start")
        return {"count": jnp.zeros((), jnp.int32), "inner": optimizer.init(tree)}

    def update(grads: Tree, state: Tree, params: Tree, value: Any = None) -> tuple[Tree, Tree]:
        count, when = state["count"], first_match(rules, params, "start")

        def free(step: int, x: jax.Array, other: float) -> jax.Array:
            return x if step == 0 else jnp.where(count >= step, x, other)

        grads = jax.tree.map(lambda step, g: free(step, g, 0.0), when, grads)
        updates, inner = optimizer.update(grads, state["inner"], params, value=value)
        updates = jax.tree.map(lambda step, u: free(step, u, -0.0), when, updates)  # w + -0.0 is w bit for bit
        return updates, {"count": count + 1, "inner": inner}

    return Optimizer(init, update, lambda state: optimizer.report(state["inner"]))
