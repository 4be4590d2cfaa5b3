"""MLP: shapes, cost, and what dropout may touch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.config import build, call, parse
from fmjax.core.errors import ConfigError
from fmjax.core.trees import addresses, count
from fmjax.models.mlp import MLP

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 7, 1)), jnp.float32)


def weights(model: MLP) -> dict:
    """Weights drawn by numpy: compiling their initialisers would take longer than the tests."""
    random, shapes = np.random.default_rng(1), jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    return jax.tree.map(lambda s: jnp.asarray(random.normal(size=s.shape), s.dtype), shapes)


def test_the_classic_mnist_network_has_the_published_size():
    model = MLP()
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert addresses(variables["params"]) == ["dense_0/bias", "dense_0/kernel", "head/bias", "head/kernel"]
    assert count(variables) == 784 * 128 + 128 + 128 * 10 + 10


def test_an_image_is_the_row_of_its_numbers():
    model = MLP(features=(7, 6), classes=3)
    variables = weights(model)
    logits = model.apply(variables, IMAGES)
    assert logits.shape == (5, 3)
    np.testing.assert_array_equal(logits, model.apply(variables, IMAGES.reshape(5, -1)))


def test_dropout_is_only_for_training():
    model = MLP(dropout=0.5)
    variables = weights(model)
    run = jax.jit(
        lambda key, train: model.apply(variables, IMAGES, train=train, rngs={"dropout": key}), static_argnums=1
    )
    np.testing.assert_array_equal(run(jax.random.key(2), False), run(jax.random.key(3), False))
    assert not np.allclose(run(jax.random.key(2), True), run(jax.random.key(3), True))


@pytest.mark.parametrize("key", ["image", "features"])
def test_flops_are_two_for_each_weight_of_a_kernel(key):
    shape = (5, 28, 28, 1) if key == "image" else (5, 784)
    assert MLP(features=(128, 32)).flops({key: shape}) == 2 * 5 * (784 * 128 + 128 * 32 + 32 * 10)


def test_every_knob_is_a_field_of_a_config():
    config = call(MLP)
    holder = type(config)({"model": config})
    parse(holder, ["--config.model.features=(16,8)", "--config.model.activation=tanh", "--config.model.dropout=0.1"])
    assert build(holder.model) == MLP(features=(16, 8), activation="tanh", dropout=0.1)


def test_an_activation_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="no activation 'rleu'; did you mean 'relu'"):
        MLP(activation="rleu").init(jax.random.key(0), jnp.zeros((1, 4)))
