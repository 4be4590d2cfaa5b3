"""Cross-entropy in chunks: equal to the plain one in value and gradient, without its logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.core.types import Mean
from fmjax.objectives.chunked import score, score_chunked

RNG = np.random.default_rng(0)
B, T, D, V = 3, 7, 4, 11
HIDDEN = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
HEAD = {
    "kernel": jnp.asarray(RNG.normal(size=(D, V)), jnp.float32),
    "bias": jnp.asarray(RNG.normal(size=V), jnp.float32),
}
TARGETS = jnp.asarray(RNG.integers(0, V, (B, T)))
WEIGHTS = jnp.asarray(RNG.integers(0, 3, (B, T)), jnp.float32)


SCORED = jax.jit(score)


def apply(head, hidden, dtype=jnp.float32):
    return hidden.astype(dtype) @ head["kernel"].astype(dtype) + head["bias"].astype(dtype)


def plain(head, hidden, dtype=jnp.float32, **settings):
    scores = score(apply(head, hidden, dtype), TARGETS, **settings)
    return Mean.of(scores.loss, WEIGHTS).sum, scores


def chunked(head, hidden, dtype=jnp.float32, chunk=4, **settings):
    return score_chunked(lambda x: apply(head, x, dtype), hidden, TARGETS, WEIGHTS, chunk, **settings)


@functools.cache
def both(loss, **settings):
    return jax.jit(jax.value_and_grad(functools.partial(loss, **settings), (0, 1), has_aux=True))


def close(a, b, tol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float32), np.asarray(y, np.float32), rtol=tol, atol=tol)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("chunk", [4, 100])
def test_value_scores_and_gradients_are_those_of_the_plain_loss(chunk, dtype):
    settings = {"smoothing": 0.1, "z_loss": 1e-2, "dtype": dtype}
    hidden = HIDDEN.astype(dtype)
    wanted = both(plain, **settings)(HEAD, hidden)
    got = both(chunked, chunk=chunk, **settings)(HEAD, hidden)
    # In bfloat16 the plain gradient of the head is rounded to 8 bits, and compilers choose where logits are.
    close(got, wanted, 1e-5 if dtype == jnp.float32 else 3e-2)
    close(got[0], wanted[0], 1e-5 if dtype == jnp.float32 else 1e-3)
    assert got[0][1].nll.dtype == got[1][0]["kernel"].dtype == jnp.float32
    assert got[1][1].dtype == dtype


def test_without_a_gradient_the_value_is_the_same_and_a_cotangent_scales():
    (loss, scores), (_, wanted) = both(plain)(HEAD, HIDDEN)
    close(jax.jit(chunked)(HEAD, HIDDEN), (loss, scores), 1e-5)
    close(jax.jit(jax.grad(lambda h: -2 * chunked(HEAD, h)[0]))(HIDDEN), -2 * wanted, 1e-5)


def test_gradients_pass_through_scans_and_rematerialisation():
    def many(loss):
        def one(total, hidden):
            return total + jax.checkpoint(lambda h: loss(HEAD | {"bias": jnp.sin(h[0, 0, 0]) + HEAD["bias"]}, h)[0])(
                hidden
            ), None

        return jax.jit(jax.grad(lambda hs: jax.lax.scan(one, 0.0, hs)[0]))(jnp.stack([HIDDEN, HIDDEN + 1]))

    close(many(chunked), many(plain), 1e-5)


def test_smoothing_and_the_normaliser_are_those_of_optax():
    logits = apply(HEAD, HIDDEN)
    hard = jax.nn.one_hot(TARGETS, V)
    scores = score(logits, TARGETS, smoothing=0.3)
    close(scores.loss, optax.softmax_cross_entropy(logits, optax.smooth_labels(hard, 0.3)), 1e-5)
    close(scores.nll, optax.softmax_cross_entropy_with_integer_labels(logits, TARGETS), 1e-5)
    more = score(logits, TARGETS, z_loss=0.2)
    close(more.loss - more.nll, 0.2 * jax.nn.logsumexp(logits, -1) ** 2, 1e-4)


@given(st.lists(st.lists(st.integers(-1, 1), min_size=4, max_size=4), min_size=1, max_size=6), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_the_first_of_equal_logits_is_the_guess(rows, target):
    logits = np.array(rows, np.float32)
    padded = np.pad(logits, ((0, 6 - len(rows)), (0, 0)))
    correct = SCORED(padded, np.full(6, target)).correct
    np.testing.assert_array_equal(correct, padded.argmax(-1) == target)


def test_what_is_no_number_is_no_guess():
    assert np.isnan(score(jnp.array([[jnp.nan, 1.0]]), jnp.array([1])).correct).all()


def test_no_array_has_a_logit_for_every_token():
    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.size for v in equation.outvars)
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from sizes(inner)

    def largest(loss):
        return max(sizes(jax.make_jaxpr(jax.value_and_grad(loss, (0, 1), has_aux=True))(HEAD, HIDDEN).jaxpr))

    assert largest(plain) >= B * T * V
    assert largest(functools.partial(chunked, chunk=4)) < B * T * V / 2
