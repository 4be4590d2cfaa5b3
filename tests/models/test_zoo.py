"""Vision networks: what holds for every family, on one tiny network of each."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten, map_with_address
from fmjax.models import (
    alexnet,
    convnext,
    densenet,
    efficientnet,
    googlenet,
    mlp_mixer,
    mobilenet,
    resnet,
    vgg,
    vit,
)

pytestmark = pytest.mark.nightly
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)
LABELS = jnp.arange(4) % 3
TINY = {  # family: (the network, rows and columns that are too few, what it says)
    "resnet": (
        resnet.ResNet(depths=(1, 1), width=8, stem="cifar", bottleneck=True, groups=2, classes=3, backend="xla",
                      dropout=0.3, drop_path=0.5),
        (1, 8), "1x8 is too small for ResNet, which needs 2x2: give fewer depths",
    ),
    "resnet_preact": (
        resnet.ResNet(depths=(1, 1), width=8, stem="imagenet", preact=True, shortcut="pad", classes=3, backend="xla",
                      dropout=0.3),
        (8, 7), "8x7 is too small for ResNet, which needs 8x8: give larger images or --config.model.stem=cifar",
    ),
    "vit": (
        vit.ViT(width=16, depth=2, heads=2, patch=8, image_size=32, registers=2, layer_scale=0.1, classes=3,
                dropout=0.2, drop_path=0.3),
        (8, 7), "8x7 is smaller than a patch of 8x8: give smaller patches",
    ),
    "vit_rotary": (
        vit.ViT(width=16, depth=2, heads=2, patch=8, pool="gap", position="rotary2d", scan=True, remat="full",
                classes=3, dropout=0.2),
        (36, 32), "36x32 does not divide into patches of 8x8: resize or crop it",
    ),
    "convnext": (
        convnext.ConvNeXt(depths=(1, 1), widths=(8, 12), patch=2, layer_scale=0.1, classes=3, backend="xla",
                          drop_path=0.5),
        (3, 9), "3x9 is too small for ConvNeXt, which needs 4x4: .* a smaller --config.model.patch",
    ),
    "efficientnet": (
        efficientnet.EfficientNet(width=0.25, depth=0.5, stages=2, classes=3, backend="xla", drop_path=0.5),
        (3, 9), "3x9 is too small for EfficientNet, which needs 4x4: .* --config.model.stem_stride=1",
    ),
    "mobilenet_v2": (
        mobilenet.MobileNetV2(width=0.25, stages=2, last=16, classes=3, backend="xla"),
        (9, 3), "9x3 is too small for MobileNetV2, which needs 4x4: .* --config.model.stem_stride=1",
    ),
    "mobilenet_v3": (
        mobilenet.MobileNetV3("small", width=0.25, blocks=4, dense=16, classes=3, backend="xla"),
        (9, 15), "9x15 is too small for MobileNetV3, which needs 16x16: .* --config.model.stem_stride=1",
    ),
    "vgg": (
        vgg.VGG(depths=(1, 2), widths=(8, 12), pool=2, dense=(16,), classes=3, backend="xla"),
        (4, 3), "4x3 is too small for VGG, which needs 4x4: give larger images or fewer depths and widths",
    ),
    "alexnet": (
        alexnet.alexnet_cifar(widths=(8,) * 5, pool=2, dense=(16,), classes=3, backend="xla"),
        (8, 7), "8x7 is too small for AlexNet, which needs 8x8",
    ),
    "densenet": (
        densenet.DenseNet(depths=(1, 2), growth=4, stem="cifar", layer_dropout=0.2, classes=3, backend="xla"),
        (1, 2), "1x2 is too small for DenseNet, which needs 2x2: give fewer depths",
    ),
    "googlenet": (
        googlenet.GoogLeNet(width=0.1, stages=1, classes=3, backend="xla"),
        (7, 8), "7x8 is too small for GoogLeNet, which needs 8x8: .* --config.model.stem=cifar",
    ),
    "mixer": (
        mlp_mixer.Mixer(width=16, depth=1, patch=8, image_size=32, classes=3, dropout=0.2, drop_path=0.3),
        (24, 32), "24x32 has 12 patches, but Mixer's weights mix 16",
    ),
}  # fmt: skip


def weights(model):
    """Weights drawn by numpy: compiling their initialisers would take longer than the tests."""
    random, shapes = np.random.default_rng(1), jax.eval_shape(model.init, jax.random.key(0), IMAGES)

    def draw(name, shape):
        noise = random.normal(size=shape.shape)
        if name.endswith("kernel"):
            noise *= np.sqrt(2 * shape.shape[-1] / shape.size)
        elif name.endswith(("scale", "var")):
            noise = 1 + 0.1 * np.abs(noise)
        elif name.startswith("batch_stats"):
            noise *= 0
        else:
            noise *= 0.3
        return jnp.asarray(noise, shape.dtype)

    return map_with_address(draw, shapes)


# Each program runs a few times on almost nothing: compiling is all the time there is.
compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Ran:
    """What a network did, compiled once."""

    def __init__(self, name):
        self.model = TINY[name][0]
        self.variables = weights(self.model)
        self.params, self.stats = self.variables["params"], {k: v for k, v in self.variables.items() if k != "params"}

        @compiled
        def learn(params, stats, key):
            def loss(params):
                logits, new = self.model.apply(
                    {"params": params, **stats}, IMAGES, train=True, mutable=["batch_stats"], rngs={"dropout": key}
                )
                return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean(), (logits, new)

            (_, (logits, new)), grads = jax.value_and_grad(loss, has_aux=True)(params)
            return logits, new, grads, self.model.apply({"params": params, **stats}, IMAGES)

        @compiled
        def answer(stats):
            variables, half = {"params": self.params, **stats}, self.model.clone(dtype="bfloat16")
            return self.model.apply(variables, IMAGES[:3]), half.apply(variables, IMAGES[:3])

        self.learn, self.answer = learn, answer
        self.logits, self.new, self.grads, self.evaluated = learn(self.params, self.stats, jax.random.key(0))


@pytest.fixture(scope="module", params=TINY)
def ran(request):
    return Ran(request.param)


def test_gradients_are_finite_and_reach_every_weight(ran):
    assert ran.logits.shape == (4, 3)
    # A bias of the keys adds one number to all scores of a query: softmax does not see it.
    still = [
        name for name, g in flatten(ran.grads).items() if not np.abs(g).max() > 0 and not name.endswith("key/bias")
    ]
    assert not still
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(ran.grads))


def test_a_row_does_not_see_its_batch_in_evaluation_whatever_was_compiled(ran):
    full, half = ran.answer(ran.stats)
    np.testing.assert_allclose(full, ran.evaluated[:3], rtol=1e-4, atol=1e-4)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), full, rtol=0.2, atol=0.1 * np.abs(full).max())


def test_training_drops_by_its_key(ran):
    again = ran.learn(ran.params, ran.stats, jax.random.key(0))[0]
    other = ran.learn(ran.params, ran.stats, jax.random.key(1))[0]
    np.testing.assert_array_equal(again, ran.logits)
    assert not np.allclose(other, ran.logits)


def test_batch_norm_reads_the_batch_in_training_and_what_it_remembers_in_evaluation(ran):
    if "batch_stats" not in ran.stats:
        pytest.skip("no batch norm")
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), ran.new, ran.stats)
    assert all(jax.tree.leaves(moved))
    logits, _, _, evaluated = ran.learn(ran.params, ran.new, jax.random.key(0))
    np.testing.assert_array_equal(logits, ran.logits)
    assert not np.allclose(evaluated, ran.evaluated)


@pytest.mark.parametrize("name", TINY)
def test_an_image_that_is_too_small_is_refused_with_one_line(name):
    model, (rows, columns), says = TINY[name]
    with pytest.raises(ConfigError, match=says):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, rows, columns, 3)))
    with pytest.raises(ConfigError, match=says):
        model.flops({"image": (1, rows, columns, 3)})
    with pytest.raises(ConfigError, match=r"reads images .* not an array of shape"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32)))


@pytest.mark.parametrize("name", TINY)
def test_other_channels_than_the_weights_have_are_named(name):
    model = TINY[name][0]
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    with pytest.raises(ConfigError, match="images have 1 channels, but the weights were made for 3"):
        jax.eval_shape(model.apply, variables, IMAGES[..., :1])


@pytest.mark.parametrize("name", TINY)
def test_flops_grow_with_the_batch_and_a_config_holds_every_knob(name):
    model = TINY[name][0]
    assert model.flops({"image": (6, 32, 32, 3)}) == 6 * model.flops({"image": (1, 32, 32, 3)}) > 0
    node = call(type(model), classes=7)
    assert build(node) == type(model)(classes=7)
    assert {"dtype", "classes", "dropout"} <= set(node)


def test_flops_of_a_resnet_equal_a_count_by_hand():
    model = resnet.ResNet(depths=(1, 1), width=8, stem="cifar", classes=3)
    stem, first = 32**2 * 27 * 8, 2 * 32**2 * 72 * 8
    second = 16**2 * (72 * 16 + 144 * 16 + 8 * 16)
    assert model.flops({"image": (5, 32, 32, 3)}) == 2 * 5 * (stem + first + second + 16 * 3)
