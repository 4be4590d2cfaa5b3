"""Weights pulled to their start, and weights that move late."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optim_lib import gradients, tree

from fmjax.core.errors import ConfigError
from fmjax.core.trees import addresses, flatten
from fmjax.optim.anchored import gradually, toward_start
from fmjax.optim.optimizers import adamw, sgd


def course(optimizer, steps):
    """The weights after each of some steps."""
    weights, out = tree(), []
    state, update = optimizer.init(weights), jax.jit(optimizer.update)
    for grads in gradients(steps):
        updates, state = update(grads, state, weights)
        weights = optax.apply_updates(weights, updates)
        out.append(flatten(weights))
    return out


def test_the_pull_is_the_gradient_of_the_penalty():
    """By hand, for gradient descent: w -= rate * (grad + strength * (w - start))."""
    name = addresses(tree())[0]
    got = course(toward_start(sgd(rate=0.1), 0.5, on=f"^{name}$"), 3)
    plain = course(sgd(rate=0.1), 3)
    start = w = flatten(tree())[name]
    for grads in gradients(3):
        w = w - 0.1 * (flatten(grads)[name] + 0.5 * (w - start))
    np.testing.assert_allclose(got[-1][name], w, rtol=1e-5)
    for other in plain[-1].keys() - {name}:
        np.testing.assert_array_equal(got[-1][other], plain[-1][other])


def test_a_weight_stays_bit_for_bit_until_its_step_and_then_moves_as_if_it_began():
    name, *others = addresses(tree())
    got, plain = course(gradually(adamw(rate=0.1), ((f"^{name}$", 2),)), 4), course(adamw(rate=0.1), 4)
    for step in (0, 1):
        np.testing.assert_array_equal(got[step][name], flatten(tree())[name])
    assert not np.array_equal(got[2][name], got[1][name])
    for other in others:
        np.testing.assert_allclose(got[-1][other], plain[-1][other], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toward_start(sgd(rate=0.1), -1.0), "strength=-1.0"),
        (lambda: toward_start(sgd(rate=0.1), 1.0, on="nothing"), "on='nothing' matches no weight"),
        (lambda: gradually(sgd(rate=0.1), (("nothing", 2),)), "start 'nothing' is the first match of no weight"),
        (lambda: gradually(sgd(rate=0.1), ((".", -2),)), "give a number >= 0"),
    ],
)
def test_what_picks_nothing_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make().init(tree())


def test_their_state_is_arrays_only():
    for optimizer in (toward_start(adamw(rate=0.1), 0.1), gradually(adamw(rate=0.1), ((".", 3),))):
        assert all(isinstance(x, jnp.ndarray) for x in jax.tree.leaves(optimizer.init(tree())))
