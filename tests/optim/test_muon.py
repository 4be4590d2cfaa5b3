"""Muon: matrices move along nearly orthogonal directions, whatever axes they are stored in."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optim_lib import FEW, assert_close, compiled, first_updates, gradients, run, run_optax, tree

from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten, map_with_address
from fmjax.optim import optimizers
from fmjax.optim.muon import SHAPES, axes_of, newton_schulz

MATRIX = {  # name in the tree: (in, out)
    "block_0/attention/query/kernel": (8, 8),
    "block_0/attention/out/kernel": (8, 8),
    "block_1/up/kernel": (8, 16),
    "conv/kernel": (36, 6),
}


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8), (3, 12, 20)])
def test_newton_schulz_brings_singular_values_near_one_and_keeps_the_vectors(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    y = np.asarray(newton_schulz(jnp.asarray(x)))
    values = np.linalg.svd(y, compute_uv=False)
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, v = np.linalg.svd(x, full_matrices=False)
    inside = np.swapaxes(u, -1, -2) @ y @ np.swapaxes(v, -1, -2)
    diagonal = np.einsum("...ii->...i", inside)
    np.testing.assert_allclose(inside, diagonal[..., None] * np.eye(inside.shape[-1]), atol=2e-4)


@pytest.mark.parametrize("rms", [0.2, None])
def test_updates_are_orthogonal_as_matrices_and_scaled_by_shape(rms):
    weights, grads = tree(), gradients(1)
    optimizer = optimizers.muon(1.0, rms=rms)
    updates = flatten(first_updates(optimizer, weights, grads[0]))
    for name, (rows, columns) in MATRIX.items():
        values = np.linalg.svd(np.asarray(updates[f"model/{name}"]).reshape(rows, columns), compute_uv=False)
        scale = np.sqrt(max(1, columns / rows)) if rms is None else rms * np.sqrt(max(rows, columns))
        assert (values / scale).min() > 0.4, name
        assert (values / scale).max() < 1.3, name


def test_it_takes_the_steps_of_optax_and_adamw_takes_the_rest():
    dimensions, names = optax.contrib.MuonDimensionNumbers, (*FEW, "block_0/attention/out/kernel", "conv/kernel")

    def dims(name, w):
        if name.removeprefix("model/") not in MATRIX:
            return None
        rows = {"out": (0, 1), "conv": (0, 1, 2)}.get(name.split("/")[-2], (0,))
        return dimensions(rows, tuple(range(len(rows), w.ndim)))

    theirs = optax.contrib.muon(
        0.1, nesterov=False, weight_decay=0.0, adam_b2=0.95, consistent_rms=0.2,
        muon_weight_dimension_numbers=map_with_address(dims, tree(0, names)),
    )  # fmt: skip
    weights, grads = tree(0, names), gradients(2, names)
    expected = run_optax(theirs, weights, grads)
    assert_close(run(optimizers.muon(0.1, nesterov=False, rms=0.2), weights, grads)[0], expected, 1e-3, 1e-4)


def test_nesterov_is_the_published_rule():
    weights, grads = tree(0, FEW), gradients(2, FEW)
    name, mu = "model/block_1/up/kernel", 0.0
    optimizer = optimizers.muon(1.0, momentum=0.9, rms=None)
    state = optimizer.init(weights)
    for g in grads:
        updates, state = compiled(optimizer)[0](g, state, weights)
        mu = 0.9 * mu + 0.1 * np.asarray(flatten(g)[name])
        ahead = newton_schulz(jnp.asarray(0.1 * np.asarray(flatten(g)[name]) + 0.9 * mu))
        np.testing.assert_allclose(flatten(updates)[name], -np.sqrt(2) * ahead, 2e-4, 1e-5)


def test_embeddings_heads_and_vectors_are_adamws_with_a_rate_of_their_own():
    names = (*FEW, "block_0/norm/scale", "head/kernel", "conv/kernel")
    weights, grads = tree(0, names), gradients(2, names)
    ours, state = run(optimizers.muon(0.1, adamw_rate=0.03), weights, grads)
    ours, alone = flatten(ours), flatten(run(optimizers.adamw(0.03, b2=0.95, decay=0.0), weights, grads)[0])
    for name in flatten(weights):
        rest = name.removeprefix("model/") not in MATRIX
        assert np.allclose(ours[name], alone[name], 1e-6) == rest, name
    report = optimizers.muon(0.1, adamw_rate=0.03).report(state)
    assert report == {"rate": np.float32(0.1), "rate_adamw": np.float32(0.03)}


def test_a_stack_of_layers_moves_as_its_layers_would_alone():
    rng = np.random.default_rng(0)
    stack = jnp.asarray(rng.normal(size=(3, 8, 2, 4)), jnp.float32)

    def moved(x):
        w = {"model": {"attention": {"query": {"kernel": x}}}}
        optimizer = optimizers.muon(1.0)
        return first_updates(optimizer, w, w)["model"]["attention"]["query"]["kernel"]

    np.testing.assert_allclose(moved(stack)[1], moved(stack[1]), 1e-4, 1e-5)


def test_a_matrix_of_zeros_does_not_divide_by_zero():
    weights = tree(0, FEW)
    nothing = jax.tree.map(jnp.zeros_like, weights)
    assert_close(run(optimizers.muon(0.1), weights, [nothing])[0], weights, 0, 0)


def test_axes_are_told_by_name_and_count():
    told = {
        ("model/attention/key/kernel", 3): (0, 1, 2),
        ("model/attention/key/kernel", 4): (1, 1, 2),
        ("model/attention/out/kernel", 3): (0, 2, 1),
        ("model/attention/out/kernel", 2): (0, 1, 1),
        ("model/experts/up/kernel", 3): (1, 1, 1),
        ("model/conv_1/kernel", 3): (0, 2, 1),
        ("model/conv_1/kernel", 4): (0, 3, 1),
    }
    for (name, ndim), axes in told.items():
        assert axes_of(name, ndim, SHAPES) == axes, name


def test_axes_that_nothing_tells_are_an_error_that_a_rule_of_ones_own_mends():
    weights = {"model": {"strange": {"kernel": jnp.ones((2, 3, 4, 5, 6))}}}
    with pytest.raises(ConfigError, match=r"5 axes of model/strange/kernel .*'strange/kernel\$'"):
        optimizers.muon(0.1).init(weights)
    optimizer = optimizers.muon(0.1, shapes=(("strange", "ab,cd|e"),))
    updates = first_updates(optimizer, weights, weights)
    assert jnp.isfinite(updates["model"]["strange"]["kernel"]).all()
    with pytest.raises(ConfigError, match="not of the form"):
        optimizers.muon(0.1, shapes=(("strange", "cd-e"),))
