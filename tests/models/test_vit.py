"""ViT: tokens that are added, images and patches of other sizes, and the knobs of the blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.core.trees import addresses
from fmjax.models import vit

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)
TINY = {"width": 16, "depth": 2, "heads": 2, "patch": 4, "image_size": 16, "classes": 3}


def weights(model):
    random, shapes = np.random.default_rng(1), jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    return jax.tree.map(lambda s: jnp.asarray(random.normal(size=s.shape, scale=0.3), s.dtype), shapes)


@pytest.mark.parametrize("pool", ["token", "gap"])
def test_places_of_an_image_are_told_apart_only_by_positions(pool):
    """Without positions the logits do not change when patches change places; with each kind they do."""
    turned = IMAGES[:, :, ::-1].reshape(2, 16, 4, 4, 3)[:, :, :, ::-1].reshape(2, 16, 16, 3)  # columns of patches
    for position in vit.POSITIONS:
        model = vit.ViT(**TINY, position=position, pool=pool)
        run, variables = jax.jit(model.apply), weights(model)
        same = np.allclose(run(variables, IMAGES), run(variables, turned), atol=1e-4)
        assert same == (position == "none")


def test_the_stream_holds_the_class_token_registers_and_patches():
    model = vit.ViT(**TINY, registers=3)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    stream = jax.eval_shape(lambda v: model.apply(v, IMAGES, method="hidden"), variables)
    assert stream.shape == (2, 1 + 3 + 16, 16)
    names = addresses(variables["params"])
    assert {"class_token", "register_tokens", "position_table", "embed/kernel", "head/kernel"} <= set(names)
    assert "encoder/block_1/attention/query/kernel" in names


def test_weights_read_images_and_patches_of_other_sizes():
    model = vit.ViT(**TINY, registers=1)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    larger = jax.ShapeDtypeStruct((2, 24, 32, 3), jnp.float32)
    assert jax.eval_shape(model.apply, variables, larger).shape == (2, 3)
    assert jax.eval_shape(lambda v, x: model.apply(v, x, patch=8), variables, larger).shape == (2, 3)


def test_scan_and_recomputing_change_no_number():
    plain, other = vit.ViT(**TINY, layer_scale=0.1), vit.ViT(**TINY, layer_scale=0.1, scan=True, remat="full")
    variables = weights(plain)
    a, b = jax.jit(lambda v: (plain.apply(v, IMAGES), other.apply(v, IMAGES)))(variables)
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_flops_equal_a_count_by_hand():
    model = vit.ViT(**TINY, registers=2)
    T, block = 16 + 1 + 2, 12 * 16**2  # tokens, weights of the matrices of a block
    by_hand = 16 * 48 * 16 + 2 * (T * block + 2 * T * T * 16) + 16 * 3
    assert model.flops({"image": (5, 16, 16, 3)}) == 2 * 5 * by_hand


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pool": "tokens"}, "no pool 'tokens' of a ViT; did you mean 'token'"),
        ({"position": "rotary"}, "no position 'rotary' of a ViT; did you mean 'rotary2d'"),
        ({"image_size": 18}, "18x18 does not divide into patches of 4x4"),
        ({"position": "rotary2d", "heads": 8}, "heads of a size that divides by 4, not 2"),
        ({"resize": "nearest", "image_size": 32}, "no way 'nearest' to resize positions"),
    ],
)
def test_what_cannot_be_is_refused_with_one_line(options, says):
    with pytest.raises(ConfigError, match=says):
        jax.eval_shape(vit.ViT(**{**TINY, **options}).init, jax.random.key(0), IMAGES)
