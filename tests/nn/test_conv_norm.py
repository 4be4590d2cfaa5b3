"""Convolution with norm, and the blocks of mobile networks: what must hold whatever the weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.nn.conv_norm import ConvNorm, he_depthwise
from fmjax.nn.drop_path import drop_path, rising
from fmjax.nn.flops import count_flops
from fmjax.nn.mobile import InvertedResidual, SqueezeExcite, divisible
from fmjax.nn.pooling import adaptive_avg_pool

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 5, 8)), jnp.float32)


def started(module, *inputs):
    return module.init(jax.random.key(0), *inputs)


@pytest.mark.parametrize(("norm", "axes"), [("batch", (0, 1, 2)), ("layer", (3,)), ("group", (1, 2, 3))])
def test_a_norm_takes_the_mean_over_its_axes(norm, axes):
    module = ConvNorm(3, norm=norm, act=None, backend="xla")  # three channels have one group
    variables = started(module, X)
    y, _ = module.apply(variables, X, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(axes), 1, atol=1e-2)
    assert "bias" not in variables["params"]["conv"]


def test_batch_norm_is_over_all_rows_in_any_order():
    module = ConvNorm(4, backend="xla")
    variables = started(module, X)
    run = jax.jit(lambda x: module.apply(variables, x, train=True, mutable=["batch_stats"]))
    (y, stats), (turned, same) = run(X), run(X[::-1])
    np.testing.assert_allclose(y, turned[::-1], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), stats, same)


def test_the_running_statistics_move_by_what_momentum_leaves():
    module = ConvNorm(4, 1, momentum=0.75, backend="xla")
    variables = started(module, X)
    _, new = module.apply(variables, X, train=True, mutable=["batch_stats"])
    y = X @ variables["params"]["conv"]["kernel"][0, 0]
    np.testing.assert_allclose(new["batch_stats"]["norm"]["mean"], 0.25 * y.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["norm"]["var"], 0.75 + 0.25 * y.var((0, 1, 2)), atol=1e-4)


def test_padding_is_half_the_kernel_so_that_strides_start_at_the_first_place():
    image = jnp.arange(36.0).reshape(1, 6, 6, 1)
    module = ConvNorm(1, 3, 2, norm="none", act=None, backend="xla")
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
    y = module.apply({"params": {"conv": {"kernel": kernel, "bias": jnp.zeros(1)}}}, image)
    np.testing.assert_array_equal(y[0, :, :, 0], image[0, ::2, ::2, 0])


def test_a_branch_with_a_zero_scale_starts_as_nothing():
    module = ConvNorm(4, act=None, zero_scale=True, backend="xla")
    np.testing.assert_array_equal(module.apply(started(module, X), X), 0)


def test_norm_first_is_the_other_order():
    module = ConvNorm(4, 1, norm="layer", first=True, use_bias=False, backend="xla")
    variables = started(module, X)
    expected = nn.relu(nn.LayerNorm(1e-5).apply({"params": variables["params"]["norm"]}, X))
    np.testing.assert_allclose(
        module.apply(variables, X), expected @ variables["params"]["conv"]["kernel"][0, 0], atol=1e-5
    )


def test_a_norm_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="no norm 'bach'; did you mean 'batch'"):
        started(ConvNorm(4, norm="bach"), X)


def test_he_keeps_the_size_of_a_depthwise_convolution():
    assert he_depthwise(jax.random.key(0), (3, 3, 1, 4096)).std() == pytest.approx(np.sqrt(2 / 9), rel=0.02)


def test_squeeze_excite_scales_each_channel_of_an_image_by_one_number():
    module = SqueezeExcite(2)
    y = module.apply(started(module, X), X) / X
    np.testing.assert_allclose(y, np.broadcast_to(y[:, :1, :1], y.shape), rtol=1e-4)
    assert 0 < y.min() < y.max() < 1


def test_an_inverted_residual_adds_its_input_only_where_shapes_are_the_same():
    """With a last norm of zeros all that is left is what was added."""
    for strides, features, left in ((1, 8, X), (2, 8, 0), (1, 4, 0)):
        module = InvertedResidual(features, 16, strides=strides)
        variables = started(module, X)
        variables["params"]["project"]["norm"]["scale"] *= 0
        np.testing.assert_array_equal(module.apply(variables, X), np.broadcast_to(left, (4, *X.shape[1:3], features)) if
                                      strides == 1 else np.zeros((4, 3, 3, 8)))  # fmt: skip


@pytest.mark.parametrize(("width", "expected"), [(8, 8), (3, 8), (12, 16), (11.9, 16), (33, 32), (36, 40), (24.2, 24)])
def test_divisible_is_the_nearest_multiple_but_never_a_tenth_less(width, expected):
    assert divisible(width) == expected


def test_drop_path_drops_whole_rows_and_keeps_the_mean():
    class Branch(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return drop_path(x, 0.25, train)

    ones, rngs = jnp.ones((4000, 2, 3)), {"dropout": jax.random.key(0)}
    y = Branch().apply({}, ones, True, rngs=rngs)
    assert set(np.unique(y.reshape(4000, -1).std(1))) == {0.0}
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    assert y.mean() == pytest.approx(1, abs=0.03)
    np.testing.assert_array_equal(Branch().apply({}, ones, False), ones)
    assert rising(0.2, 3) == [0.0, 0.1, 0.2]
    assert rising(0.2, 1) == [0.0]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_adaptive_pooling_is_the_mean_of_windows_that_cover_the_image(size):
    y = adaptive_avg_pool(X, size)
    for i in range(size):
        for j in range(size):
            rows = slice(i * 6 // size, -(-(i + 1) * 6 // size))
            columns = slice(j * 5 // size, -(-(j + 1) * 5 // size))
            np.testing.assert_allclose(y[:, i, j], X[:, rows, columns].mean((1, 2)), atol=1e-5)


def test_flops_see_convolutions_in_groups_and_linear_maps_inside():
    assert count_flops(ConvNorm(8, 3, 2, groups=8), (2, 6, 6, 8)) == 2 * 2 * 9 * 8 * 9
    assert count_flops(SqueezeExcite(3), (2, 6, 6, 8)) == 2 * 2 * (8 * 3 + 3 * 8)
