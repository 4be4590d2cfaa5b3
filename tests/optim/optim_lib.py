"""A small tree of weights with every kind of name, and a way to take optimizer steps on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fmjax.core.trees import flatten

SHAPES = {
    "embed/embedding": (11, 8),
    "block_0/attention/query/kernel": (8, 2, 4),
    "block_0/attention/query/bias": (2, 4),
    "block_0/attention/out/kernel": (2, 4, 8),
    "block_0/norm/scale": (8,),
    "block_1/up/kernel": (8, 16),
    "block_1/up/bias": (16,),
    "conv/kernel": (3, 3, 4, 6),
    "head/kernel": (8, 5),
}


FEW = ("embed/embedding", "block_1/up/kernel", "block_1/up/bias")  # enough where names do not matter


def tree(seed: int = 0, names: tuple[str, ...] = tuple(SHAPES)) -> dict:
    """Random weights of the shapes above, as `{net: params}`."""
    rng, out = np.random.default_rng(seed), {}
    for name in names:
        *parents, key = name.split("/")
        node = functools.reduce(lambda d, k: d.setdefault(k, {}), parents, out)
        node[key] = jnp.asarray(rng.normal(size=SHAPES[name]), jnp.float32)
    return {"model": out}


def gradients(count: int, names: tuple[str, ...] = tuple(SHAPES)) -> list[dict]:
    return [tree(100 + i, names) for i in range(count)]


@functools.cache
def compiled(optimizer):
    """The jitted update, shared by the tests of one optimizer, and the list of its traces."""
    traces = []
    return jax.jit(lambda *args, **kw: traces.append(1) or optimizer.update(*args, **kw)), traces


def run(optimizer, weights, grads, value=1.0):
    """Weights and state after one update for each tree of gradients."""
    update, _ = compiled(optimizer)
    state = optimizer.init(weights)
    for g in grads:
        updates, state = update(g, state, weights, value=value)
        weights = optax.apply_updates(weights, updates)
    return weights, state


def first_updates(optimizer, weights, grads):
    return compiled(optimizer)[0](grads, optimizer.init(weights), weights, value=1.0)[0]


def run_optax(transform, weights, grads):
    state, update = transform.init(weights), jax.jit(transform.update)
    for g in grads:
        updates, state = update(g, state, weights)
        weights = optax.apply_updates(weights, updates)
    return weights


def assert_close(a, b, rtol=2e-5, atol=1e-6):
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol, atol, err_msg=name)
