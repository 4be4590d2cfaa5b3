"""How an optimizer is put together: a direction, a rate, and patterns that pick weights by their address."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fmjax.core.errors import ConfigError
from fmjax.core.traced import is_traced, matters
from fmjax.core.trees import addresses, first_match, map_with_address, matches
from fmjax.core.types import Tree
from fmjax.optim import schedules

MATRICES = r"(^|/)(kernel|embedding)(_\d+)?$"  # what decays unless told otherwise: no bias, no scale, no norm
Rate = float | Callable[[jax.Array], jax.Array]


class Optimizer(NamedTuple):
    """How one player moves: three pure functions; the state is a tree of arrays only.

    init: weights `{net: params}` -> state.
    update: (grads, state, weights, value=mean loss) -> (updates to add to the weights, state).
    report: state -> {"rate": the rate that the next update will use, ...}.
    """

    init: Callable[[Tree], Tree]
    update: Callable[..., tuple[Tree, Tree]]
    report: Callable[[Tree], dict[str, jax.Array]]


def descend(
    direction: optax.GradientTransformation,
    rate: Rate,
    l2: float = 0.0,
    decay: float = 0.0,
    decay_on: str = MATRICES,
    freeze: tuple[str, ...] = (),
    rates: tuple[tuple[str, float], ...] = (),
    strict: bool = True,
) -> Optimizer:
    """Go down along `direction`: `w -= rate * multiplier * (direction(grad + l2 * w) + decay * w)`.

    Args:
      direction: gradients -> where to go, unsigned and not yet scaled: any of optax's `scale_by_*`, or one of
        `directions.py`. It also receives `count`, the number of updates so far.
      rate: a number, or a schedule of the number of updates so far.
      l2: coupled decay: the gradient of l2/2 |w|^2, which the moments see.
      decay: decoupled decay, which they do not see; the rate scales it.
      decay_on: pattern of the addresses that `l2` and `decay` apply to.
      freeze: patterns of the weights that get neither updates nor moments.
      rates: (pattern, multiplier of the rate) pairs; the first match counts, no match means 1.
      strict: refuse patterns that match nothing; a part of another optimizer leaves that to the whole.

    Raises:
      ConfigError: a number out of range, a pattern that is no regular expression, or (by `init`) one that
        matches no weight.
    """
    if not callable(rate):
        check_numbers(rate=(rate, 0, None))
    schedule = rate if callable(rate) else schedules.constant(rate)
    check_numbers(l2=(l2, 0, None), decay=(decay, 0, None), **{f"rates[{p}]": (m, 0, None) for p, m in rates})
    check_patterns([decay_on, *freeze, *(p for p, _ in rates)])
    direction = optax.with_extra_args_support(direction)

    def alive(tree: Tree) -> Tree:
        return map_with_address(lambda name, _: not any(matches(p, name) for p in freeze), tree)

    def init(tree: Tree) -> Tree:
        if strict:
            must_match(tree, decay_on if matters(decay) or matters(l2) else MATRICES, freeze, rates)
        return {"count": jnp.zeros((), jnp.int32), "moments": direction.init(prune(tree, alive(tree)))}

    def update(grads: Tree, state: Tree, params: Tree, value: Any = None) -> tuple[Tree, Tree]:
        # Which weight gets what is decided here, while tracing: no mask is ever computed on the device.
        keep, count = alive(params), state["count"]
        grads, weights = prune(grads, keep), prune(params, keep)
        decays = map_with_address(lambda name, _: matches(decay_on, name), weights)
        if matters(l2):
            grads = jax.tree.map(lambda yes, g, w: g + l2 * w if yes else g, decays, grads, weights)
        ways, moments = direction.update(grads, state["moments"], weights, count=count)
        now = schedule(count)

        def move(yes: bool, times: float, way: jax.Array, w: jax.Array) -> jax.Array:
            way = way + decay * w if yes and matters(decay) else way
            return (-now if times == 1 else -(now * times)) * way

        times = map_with_address(lambda name, _: next((x for p, x in rates if matches(p, name)), 1.0), weights)
        moved = jax.tree.map(move, decays, times, ways, weights)
        # w + -0.0 is w bit for bit, whatever w; + 0.0 would turn -0.0 into 0.0.
        updates = jax.tree.map(lambda yes, u, w: u if yes else jnp.full_like(w, -0.0), keep, moved, params)
        return updates, {"count": count + 1, "moments": moments}

    def report(state: Tree) -> dict[str, jax.Array]:
        return {"rate": schedule(state["count"])}

    return Optimizer(init, update, report)


def frozen() -> Optimizer:
    """Moves nothing and remembers nothing: for the weights of `by_address` that stay as they are."""

    def update(grads: Tree, state: Tree, params: Tree, value: Any = None) -> tuple[Tree, Tree]:
        return jax.tree.map(lambda w: jnp.full_like(w, -0.0), params), state

    return Optimizer(lambda tree: {}, update, lambda state: {})


def partition(label: Callable[[Tree], Tree], parts: Mapping[str, Optimizer]) -> Optimizer:
    """Each weight is moved by the part that its label names; `label(weights)` is a tree of names of `parts`."""
    names = list(parts)

    def pick(tree: Tree, labels: Tree, name: str) -> Tree:
        return prune(tree, jax.tree.map(lambda x: x == name, labels))

    def init(tree: Tree) -> Tree:
        labels = label(tree)
        return {name: part.init(pick(tree, labels, name)) for name, part in parts.items()}

    def update(grads: Tree, state: Tree, params: Tree, value: Any = None) -> tuple[Tree, Tree]:
        labels, moved, new = label(params), [], {}
        for name, part in parts.items():
            own = (pick(grads, labels, name), state[name], pick(params, labels, name))
            updates, new[name] = part.update(*own, value=value)
            moved.append(updates)
        return jax.tree.map(lambda name, *updates: updates[names.index(name)], labels, *moved), new

    def report(state: Tree) -> dict[str, jax.Array]:
        out: dict[str, jax.Array] = {}
        for name, part in parts.items():
            for key, number in part.report(state[name]).items():
                out[key if key not in out else f"{key}_{name}"] = number
        return out

    return Optimizer(init, update, report)


def prune(tree: Tree, keep: Tree) -> Tree:
    """None, which is no leaf, in the place of what is not kept: the rest keeps its address."""
    return jax.tree.map(lambda yes, leaf: leaf if yes else None, keep, tree)


def must_match(tree: Tree, decay_on: str, freeze: Iterable[str], rates: Iterable[tuple[str, float]]) -> None:
    """Refuse a pattern given by a person that picks nothing.

    Raises:
      ConfigError: such a pattern, or nothing left to train.
    """
    names = addresses(tree)
    given = [("freeze", p) for p in freeze] + ([] if decay_on == MATRICES else [("decay_on", decay_on)])
    for what, pattern in given:
        if not any(matches(pattern, name) for name in names):
            raise ConfigError(f"{what} {pattern!r} matches no weight such as {names[0]}")
    left = prune(tree, map_with_address(lambda name, _: not any(matches(p, name) for p in freeze), tree))
    if names and not jax.tree.leaves(left):
        raise ConfigError(f"freeze={tuple(freeze)} leaves nothing to train")
    first_match([*rates, (".*", 1.0)], left, "multiplier of rates")


def check_patterns(patterns: Iterable[str]) -> None:
    """Raises ConfigError on what is no regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ConfigError(f"{pattern!r} is no regular expression: {error}") from None


def check_numbers(**numbers: tuple[float, float, float | None]) -> None:
    """`name=(value, least, below)`: raises ConfigError unless least <= value < below (None: no bound above).

    A traced number passes: each of its values was checked before.
    """
    for name, (value, least, below) in numbers.items():
        if is_traced(value):
            continue
        is_number = isinstance(value, (int, float, np.number)) and math.isfinite(value)
        if not is_number or value < least or (below is not None and value >= below):
            limit = "" if below is None else f" and < {below:g}"
            raise ConfigError(f"{name}={value!r}: give a number >= {least:g}{limit}")
