"""ConvNet: the classic network, whatever order and backend its maximum and convolutions are computed in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmjax.core.config import build, call, parse
from fmjax.core.errors import ConfigError
from fmjax.core.trees import addresses, count
from fmjax.models.convnet import ConvNet

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 9, 8, 3)), jnp.float32)
LABELS = jnp.arange(4) % 3
SMALL = {"widths": (8, 12), "dense": 16, "classes": 3, "dropout": 0.0}


class Classic(nn.Module):
    """The same network in the usual order: convolution, activation, maximum."""

    activation: str = "relu"

    @nn.compact
    def __call__(self, x):
        act = {"relu": nn.relu, "gelu": nn.gelu, "tanh": nn.tanh}[self.activation]
        for i, width in enumerate((8, 12)):
            x = nn.max_pool(act(nn.Conv(width, (3, 3), name=f"conv_{i}")(x)), (2, 2), (2, 2))
        x = act(nn.Dense(16, name="dense")(x.reshape(x.shape[0], -1)))
        return nn.Dense(3, name="head")(x)


def loss(model: nn.Module, params: dict) -> jax.Array:
    logits = model.apply(params, IMAGES)
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def weights(model: nn.Module) -> dict:
    """Weights drawn by numpy: compiling their initialisers would take longer than the tests."""
    random, shapes = np.random.default_rng(1), jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    return jax.tree.map(lambda s: jnp.asarray(random.normal(size=s.shape, scale=s.size**-0.25), s.dtype), shapes)


@pytest.fixture(scope="module")
def params() -> dict:
    return weights(ConvNet(**SMALL))


@pytest.mark.parametrize(
    ("backend", "activation"), [("folded", "relu"), ("folded", "tanh"), ("folded", "gelu"), ("xla", "relu")]
)
def test_it_is_the_classic_network_in_values_and_gradients(params, activation, backend):
    ours = ConvNet(**SMALL, activation=activation, backend=backend)
    value, grads = jax.jit(jax.value_and_grad(lambda p: loss(ours, p)))(params)
    expected, reference = jax.jit(jax.value_and_grad(lambda p: loss(Classic(activation), p)))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), grads, reference)


def test_the_cifar_network_has_the_published_size():
    variables = jax.eval_shape(ConvNet().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert count(variables) == 896 + 18_496 + 73_856 + (2048 * 512 + 512) + 5_130
    assert addresses(variables["params"])[::2] == [
        "conv_0/bias",
        "conv_1/bias",
        "conv_2/bias",
        "dense/bias",
        "head/bias",
    ]


def test_flops_equal_a_count_by_hand():
    images = {"image": (128, 32, 32, 3)}
    convolutions = 9 * (32**2 * 3 * 32 + 16**2 * 32 * 64 + 8**2 * 64 * 128)
    assert ConvNet().flops(images) == 2 * 128 * (convolutions + 2048 * 512 + 512 * 10)
    twice = ConvNet(widths=(4, 6), convs=2, dense=None).flops({"image": (1, 9, 8, 3)})
    assert twice == 2 * (9 * (72 * (3 * 4 + 4 * 4) + 16 * (4 * 6 + 6 * 6)) + 2 * 2 * 6 * 10)


def test_two_convolutions_a_block_and_no_dense_layer():
    model = ConvNet(widths=(4, 6), convs=2, dense=None)
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGES)
    kernels = {k: v["kernel"].shape for k, v in variables["params"].items()}
    assert kernels["conv_0_1"] == (3, 3, 4, 4)
    assert kernels["conv_1_0"] == (3, 3, 4, 6)
    assert kernels["head"] == (2 * 2 * 6, 10)
    assert logits.shape == (4, 10)


def test_it_learns_its_own_images_by_heart(params):
    model, optimizer = ConvNet(**SMALL), optax.adam(1e-2)

    @jax.jit
    def step(params, moments):
        value, grads = jax.value_and_grad(lambda p: loss(model, p))(params)
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), moments, value

    moments = optimizer.init(params)
    for _ in range(60):
        params, moments, value = step(params, moments)
    assert value < 0.01


def test_dropout_is_only_for_training():
    model = ConvNet(**{**SMALL, "dropout": 0.5})
    variables = weights(model)
    run = jax.jit(
        lambda key, train: model.apply(variables, IMAGES, train=train, rngs={"dropout": key}), static_argnums=1
    )
    np.testing.assert_array_equal(run(jax.random.key(2), False), run(jax.random.key(3), False))
    assert not np.allclose(run(jax.random.key(2), True), run(jax.random.key(3), True))


def test_weights_stay_single_when_computing_in_half():
    model = ConvNet(**SMALL, dtype="bfloat16")
    variables = weights(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    half, full = jax.jit(lambda v: (model.apply(v, IMAGES), ConvNet(**SMALL).apply(v, IMAGES)))(variables)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), full, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 7, 32, 3), "7x32 cannot be halved 3 times: give fewer widths, or images of at least 8x8"),
        ((1, 32, 32), "reads images .* not an array of shape"),
    ],
)
def test_images_it_cannot_read_are_refused_with_one_line(shape, says):
    with pytest.raises(ConfigError, match=says):
        ConvNet().init(jax.random.key(0), jnp.zeros(shape))
    with pytest.raises(ConfigError, match=says):
        ConvNet().flops({"image": shape})


def test_every_knob_is_a_field_of_a_config():
    config = call(ConvNet, dense=64)
    holder = type(config)({"model": config})
    parse(holder, ["--config.model.widths=(16,32)", "--config.model.dense=None", "--config.model.backend=xla"])
    assert build(holder.model) == ConvNet(widths=(16, 32), dense=None, backend="xla")
