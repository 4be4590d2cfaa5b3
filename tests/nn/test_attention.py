"""Attention: what must hold whatever the weights, for every backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.nn.attention import Attention, attend, choose
from fmjax.nn.position import rotate

KEYS = jax.random.split(jax.random.key(0), 4)
Q_BTHK = jax.random.normal(KEYS[0], (2, 7, 4, 8))
BACKENDS = ("einsum", "xla")
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 2, 0], [1, 2, 2, 2, 2, 0, 0]])


def by_hand(q, k, v, mask):
    """softmax(q k / sqrt(K)) v, head by head, in float64."""
    q, k, v, mask = (np.asarray(x, np.float64) for x in (q, k, v, mask))
    out = np.zeros(q.shape)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            g = h // (q.shape[2] // k.shape[2])
            scores = q[b, :, h] @ k[b, :, g].T / np.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max(-1, keepdims=True)) * mask[b, 0]
            total = weights.sum(-1, keepdims=True)
            out[b, :, h] = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0) @ v[b, :, g]
    return out


def inputs(groups):
    k = jax.random.normal(KEYS[1], (2, 7, groups, 8))
    v = jax.random.normal(KEYS[2], (2, 7, groups, 8))
    return k, v


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_every_backend_equals_attention_written_by_hand(backend, groups, causal, packed):
    k, v = inputs(groups)
    mask = np.ones((2, 1, 7, 7), bool)
    given = None
    if packed:
        given = ((SEGMENTS[:, :, None] == SEGMENTS[:, None, :]) & (SEGMENTS[:, :, None] > 0))[:, None]
        mask &= np.asarray(given)
    if causal:
        mask &= np.tril(np.ones((7, 7), bool))
    out = jax.jit(lambda *x: attend(*x, given, causal, backend))(Q_BTHK, k, v)
    np.testing.assert_allclose(out, by_hand(Q_BTHK, k, v, mask), atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_every_backend_agree_and_a_blind_row_has_none(backend):
    k, v = inputs(2)
    mask = ((SEGMENTS[:, :, None] == SEGMENTS[:, None, :]) & (SEGMENTS[:, :, None] > 0))[:, None]

    def loss(q, k, v, backend):
        return jnp.sin(attend(q, k, v, mask, True, backend)).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
    mine, reference = gradient(Q_BTHK, k, v, backend), gradient(Q_BTHK, k, v, "einsum")
    for a, b in zip(mine, reference, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.isfinite(a).all()
    np.testing.assert_array_equal(mine[0][1, -2:], 0)


def test_a_backend_that_cannot_is_refused():
    for name, masked, says in (("cudnn", False, "runs on gpu"), ("flash", False, "no attention backend")):
        with pytest.raises(ConfigError, match=says):
            choose(name, masked, "cpu")
    with pytest.raises(ConfigError, match="applies no mask"):
        choose("cudnn", True, "gpu")
    assert choose("auto", True, "gpu") == "xla"


def test_rotation_keeps_lengths_and_makes_scores_depend_on_distance_alone():
    x = jax.random.normal(KEYS[3], (1, 1, 1, 16))
    at = lambda p: rotate(x, jnp.full((1, 1), p))[0, 0, 0]  # noqa: E731
    np.testing.assert_allclose(jnp.linalg.norm(at(5)), jnp.linalg.norm(at(0)), rtol=1e-6)
    np.testing.assert_allclose(at(3) @ at(7), at(103) @ at(107), rtol=2e-4)
    np.testing.assert_array_equal(at(0), x[0, 0, 0])


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_keys_are_shared_by_group_and_the_shape_is_kept(groups):
    x = jax.random.normal(KEYS[0], (2, 7, 16))
    positions = jnp.broadcast_to(jnp.arange(7), (2, 7))
    model = Attention(heads=4, groups=groups)
    (out, _), variables = jax.eval_shape(model.init_with_output, jax.random.key(1), x, positions)
    assert variables["params"]["key"]["kernel"].shape == (16, groups, 4)
    assert out.shape == x.shape
    with pytest.raises(ConfigError, match="does not divide"):
        Attention(heads=3).init(jax.random.key(1), x, positions)
