"""Pooling: the fast gradient is the reference's to the last bit, ties included."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmjax.core.errors import ConfigError
from fmjax.nn.pooling import avg_pool, max_pool

LAW = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def cases(draw: st.DrawFn) -> tuple:
    """(images with many equal numbers, window, strides or None, padding)."""
    window = draw(st.sampled_from([(2, 2), (3, 3), (2, 3), (1, 2)]))
    strides = draw(st.sampled_from([None, window, (1, 1), (2, 2)]))
    size = [draw(st.integers(w, 9)) for w in window]
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(-1, 2, (2, *size, 3))
    return jnp.asarray(np.maximum(values, 0), jnp.float32), window, strides, draw(st.sampled_from(["VALID", "SAME"]))


@LAW
@given(cases())
def test_max_and_its_gradient_are_the_reference_s_also_where_numbers_are_equal(case):
    x, window, strides, padding = case

    @jax.jit
    def both(x: jax.Array) -> list:
        pools = (
            lambda x: max_pool(x, window, strides, padding),
            lambda x: nn.max_pool(x, window, strides or window, padding),
        )
        pairs = [jax.vjp(pool, x) for pool in pools]
        return [(out, back(jnp.arange(1.0, 1 + out.size).reshape(out.shape))) for out, back in pairs]

    ours, reference = both(x)
    jax.tree.map(np.testing.assert_array_equal, ours, reference)


def test_of_equal_numbers_the_first_gets_the_gradient():
    grad = jax.grad(lambda x: max_pool(x).sum())(jnp.zeros((1, 4, 4, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(grad, [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("strides", [None, 1])
def test_not_a_number_is_never_lost(strides):
    x = jnp.zeros((1, 2, 2, 4)).at[0, (0, 0, 1, 1), (0, 1, 0, 1), jnp.arange(4)].set(jnp.nan)
    assert jnp.isnan(max_pool(x, 2, strides)).all()
    assert jnp.isnan(jax.jvp(lambda x: max_pool(x, 2, strides), (x,), (x,))[0]).all()


def test_max_is_differentiable_forwards_backwards_and_again():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6, 3)), jnp.float32)
    ours, reference = (lambda x: max_pool(jnp.sin(x))), (lambda x: nn.max_pool(jnp.sin(x), (2, 2), (2, 2)))
    np.testing.assert_allclose(jax.jvp(ours, (x,), (x,))[1], jax.jvp(reference, (x,), (x,))[1], rtol=1e-6)
    curve = [
        jax.grad(lambda x, f=f: (jax.grad(lambda x: (f(x) ** 2).sum())(x) ** 2).sum())(x) for f in (ours, reference)
    ]
    np.testing.assert_allclose(*curve, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(jax.vmap(lambda x: max_pool(x[None])[0])(x), max_pool(x))


def test_whole_numbers_can_be_pooled():
    x = jnp.arange(32, dtype=jnp.uint8).reshape(1, 4, 4, 2)
    for strides in (None, 1):
        assert max_pool(x, 2, strides).dtype == jnp.uint8
        assert max_pool(x, 2, strides).max() == 31


@LAW
@given(cases())
def test_mean_counts_no_padding(case):
    x, window, strides, padding = case

    @jax.jit
    def both(x: jax.Array) -> list:
        linen = partial(nn.avg_pool, window_shape=window, strides=strides or window, padding=padding)
        pools = (lambda x: avg_pool(x, window, strides, padding), partial(linen, count_include_pad=False))
        pairs = [jax.vjp(pool, x) for pool in pools]
        return [(out, back(jnp.arange(1.0, 1 + out.size).reshape(out.shape))) for out, back in pairs]

    ours, reference = both(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, reference)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_an_image_smaller_than_the_window_is_refused(pool):
    with pytest.raises(ConfigError, match="an image of 1x5 is smaller than the 2x2 window"):
        pool(jnp.zeros((1, 1, 5, 3)))
