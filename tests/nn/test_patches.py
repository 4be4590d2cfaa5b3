"""Images as tokens: patches of several sizes, positions, and attention inside windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.nn.attention import Attention
from fmjax.nn.convolution import convolve
from fmjax.nn.image_attention import ClassAttention, WindowAttention
from fmjax.nn.patches import LINE, PatchEmbed, grid_places, interpolate_positions, resize_kernel, sincos2d
from fmjax.nn.position import Rotary2d

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def test_patches_are_a_convolution_at_the_stride_of_its_kernel():
    x, module = normal(2, 6, 8, 3), PatchEmbed(5, (3, 2))
    variables = module.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (3, 2, 3, 5)
    expected = convolve(x, kernel, (3, 2), "VALID", backend="xla")
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [((4, 4), (8, 8)), ((4, 3), (7, 5)), ((4, 4), (4, 4))])
def test_a_resized_kernel_gives_resized_patches_the_same_tokens(old, new):
    patches, kernel = normal(3, *old, 2), normal(*old, 2, 5)
    larger = jax.image.resize(patches, (3, *new, 2), "linear")
    tokens = jnp.einsum("bpqc,pqcd->bd", larger, resize_kernel(kernel, new))
    np.testing.assert_allclose(tokens, jnp.einsum("bpqc,pqcd->bd", patches, kernel), rtol=1e-3, atol=1e-3)


def test_weights_of_one_patch_size_read_another():
    x, module = normal(2, 8, 8, 3), PatchEmbed(5, 4)
    variables = module.init(jax.random.key(0), x)
    assert module.apply(variables, x, patch=2).shape == (2, 4, 4, 5)
    larger = jax.image.resize(x[:, :4, :4], (2, 8, 8, 3), "linear")
    np.testing.assert_allclose(
        module.apply(variables, larger, patch=8), module.apply(variables, x[:, :4, :4]), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_positions_of_another_grid_keep_constants_and_the_rows_before_the_grid(method):
    table = jnp.concatenate([normal(2, 4), jnp.broadcast_to(jnp.arange(4.0), (12, 4))])
    out = interpolate_positions(table, (5, 7), (3, 4), 2, method)
    np.testing.assert_array_equal(out[:2], table[:2])
    np.testing.assert_allclose(out[2:], np.broadcast_to(np.arange(4.0), (35, 4)), atol=1e-5)
    np.testing.assert_array_equal(interpolate_positions(table, (3, 4), (3, 4), 2, method), table)


def test_positions_are_resized_by_rows_and_columns():
    rows = jnp.repeat(jnp.arange(4.0), 6)[:, None]  # a grid of 4 x 6 whose number is its row
    out = interpolate_positions(rows, (8, 3), (4, 6), 0, "bilinear").reshape(8, 3)
    np.testing.assert_allclose(out[:, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-5)
    np.testing.assert_allclose(out, np.broadcast_to(out[:, :1], (8, 3)), atol=1e-5)


def test_bad_positions_are_named():
    with pytest.raises(ConfigError, match="no way 'bicubik' to resize positions; did you mean 'bicubic'"):
        interpolate_positions(normal(4, 2), (3, 3), (2, 2), 0, "bicubik")
    with pytest.raises(ConfigError, match="a table of 4 positions is not one of 1 and a grid of 2x2"):
        interpolate_positions(normal(4, 2), (3, 3), (2, 2), 1)
    with pytest.raises(ConfigError, match="a width that divides by 4, not 6"):
        sincos2d((2, 2), 6)


def test_waves_tell_every_place_apart_and_depend_on_its_row_and_column():
    waves = sincos2d((3, 5), 16).reshape(3, 5, 16)
    np.testing.assert_array_equal(waves[:, 2, :8], np.broadcast_to(waves[:1, 2, :8], (3, 8)))
    np.testing.assert_array_equal(waves[1, :, 8:], np.broadcast_to(waves[1, :1, 8:], (5, 8)))
    distance = jnp.linalg.norm(waves.reshape(15, 1, 16) - waves.reshape(15, 16), axis=-1)
    assert (distance + jnp.eye(15)).min() > 0.1


def test_turned_heads_see_only_the_difference_of_rows_and_columns():
    q, k, turn = normal(1, 1, 2, 8), normal(1, 1, 2, 8), Rotary2d()

    def score(query, key):
        places = [jnp.asarray([[r * LINE + c]]) for r, c in (query, key)]
        return (turn(q, places[0]) * turn(k, places[1])).sum(-1)

    np.testing.assert_allclose(score((1, 2), (4, 3)), score((6, 0), (9, 1)), rtol=1e-4, atol=1e-4)
    assert not np.allclose(score((1, 2), (4, 3)), score((1, 2), (3, 4)))
    np.testing.assert_array_equal(turn(q, grid_places((1, 1), 1)[None, :1]), q)  # a class token stands nowhere
    assert grid_places((2, 3), 1).tolist() == [-1, 0, 1, 2, LINE, LINE + 1, LINE + 2]


@pytest.mark.parametrize("shift", [0, 1])
def test_windows_are_attention_under_a_mask_of_who_lies_in_the_same_one(shift):
    H, W, w, heads = 4, 6, 2, 2
    x, module = normal(2, H, W, 8), WindowAttention(heads, w, shift)
    variables = module.init(jax.random.key(0), x)
    variables["params"]["position_bias"] = normal((2 * w - 1) ** 2, heads)
    rows, columns = np.divmod(np.arange(H * W), W)
    inside = ((rows - shift) // w, (columns - shift) // w)
    same = np.logical_and(*(n[:, None] == n for n in inside))
    down, right = rows[:, None] - rows + w - 1, columns[:, None] - columns + w - 1
    row = np.clip(down * (2 * w - 1) + right, 0, (2 * w - 1) ** 2 - 1)  # those outside are masked
    bias = variables["params"]["position_bias"][row].transpose(2, 0, 1)[None]
    whole = Attention(heads, rotary=None, use_bias=True)
    expected, _ = whole.apply(
        {"params": variables["params"]["attention"]},
        x.reshape(2, H * W, 8),
        mask=jnp.asarray(same)[None, None],
        bias=bias,
    )
    np.testing.assert_allclose(module.apply(variables, x), expected.reshape(x.shape), atol=1e-5)


def test_windows_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="5x6 places do not divide into windows of 2x2"):
        WindowAttention(2, 2).init(jax.random.key(0), normal(1, 5, 6, 8))
    with pytest.raises(ConfigError, match="cannot be moved by 2: give a shift from 0 to 1"):
        WindowAttention(2, 2, 2).init(jax.random.key(0), normal(1, 4, 6, 8))


def test_a_class_token_sees_all_patches_as_the_first_row_of_full_attention():
    token, patches, module = normal(2, 1, 8), normal(2, 5, 8), ClassAttention(2)
    variables = module.init(jax.random.key(0), token, patches)
    full, _ = Attention(2, rotary=None, use_bias=True).apply(
        {"params": variables["params"]["attention"]}, jnp.concatenate([token, patches], axis=1)
    )
    np.testing.assert_allclose(module.apply(variables, token, patches), full[:, :1], atol=1e-5)
