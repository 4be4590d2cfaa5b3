"""Published vision networks have their published number of parameters, and start at their first image."""

import importlib

import jax
import jax.numpy as jnp
import pytest

from fmjax.core.trees import count

# torchvision's; timm's for ViT and Mixer; reference code's for CIFAR. Running statistics do not count.
PUBLISHED = {
    "resnet.resnet18": 11_689_512,
    "resnet.resnet34": 21_797_672,
    "resnet.resnet50": 25_557_032,
    "resnet.resnet101": 44_549_160,
    "resnet.resnet152": 60_192_808,
    "resnet.resnext50_32x4d": 25_028_904,
    "resnet.wide_resnet50_2": 68_883_240,
    "vgg.vgg11": 132_863_336,
    "vgg.vgg13": 133_047_848,
    "vgg.vgg16": 138_357_544,
    "vgg.vgg19": 143_667_240,
    "vgg.vgg11_bn": 132_868_840,
    "vgg.vgg13_bn": 133_053_736,
    "vgg.vgg16_bn": 138_365_992,
    "vgg.vgg19_bn": 143_678_248,
    "alexnet.alexnet": 61_100_840,
    "googlenet.googlenet": 6_624_904,
    "densenet.densenet121": 7_978_856,
    "densenet.densenet169": 14_149_480,
    "densenet.densenet201": 20_013_928,
    "mobilenet.mobilenet_v2": 3_504_872,
    "mobilenet.mobilenet_v3_small": 2_542_856,
    "mobilenet.mobilenet_v3_large": 5_483_032,
    "efficientnet.efficientnet_b0": 5_288_548,
    "efficientnet.efficientnet_b1": 7_794_184,
    "efficientnet.efficientnet_b2": 9_109_994,
    "efficientnet.efficientnet_b3": 12_233_232,
    "efficientnet.efficientnet_b4": 19_341_616,
    "efficientnet.efficientnet_b5": 30_389_784,
    "efficientnet.efficientnet_b6": 43_040_704,
    "efficientnet.efficientnet_b7": 66_347_960,
    "convnext.convnext_tiny": 28_589_128,
    "convnext.convnext_small": 50_223_688,
    "convnext.convnext_base": 88_591_464,
    "convnext.convnext_large": 197_767_336,
    "mlp_mixer.mixer_s16": 18_528_264,
    "mlp_mixer.mixer_b16": 59_880_472,
    "mlp_mixer.mixer_l16": 208_196_168,
    "mlp_mixer.mixer_s32": 19_104_624,
    "mlp_mixer.mixer_b32": 60_293_428,
    "vit.vit_ti16": 5_717_416,
    "vit.vit_s16": 22_050_664,
    "vit.vit_b16": 86_567_656,
    "vit.vit_l16": 304_326_632,
    "vit.vit_s32": 22_878_952,
    "vit.vit_b32": 88_224_232,
    "vit.vit_l32": 306_535_400,
    "vit.vit_s8": 22_055_272,
    "vit.vit_b8": 86_576_872,
}
CIFAR = {
    "resnet.resnet18_cifar": 11_173_962,
    "resnet.resnet20": 269_722,
    "resnet.resnet32": 464_154,
    "resnet.resnet44": 658_586,
    "resnet.resnet56": 853_018,
    "resnet.resnet110": 1_727_962,
    "resnet.wide_resnet28_10": 36_479_194,
    "densenet.densenet_bc100_12": 769_162,
}
# Tracing all of them takes a minute; these are of every shape that a family has.
DAILY = {
    "resnet.resnet18", "resnet.resnet50", "resnet.resnext50_32x4d", "vgg.vgg16", "vgg.vgg11_bn", "alexnet.alexnet",
    "googlenet.googlenet", "densenet.densenet121", "mobilenet.mobilenet_v2", "mobilenet.mobilenet_v3_small",
    "mobilenet.mobilenet_v3_large", "efficientnet.efficientnet_b0", "convnext.convnext_tiny", "mlp_mixer.mixer_s16",
    "vit.vit_ti16", "vit.vit_b16", "resnet.resnet18_cifar", "resnet.resnet20", "resnet.wide_resnet28_10",
    "densenet.densenet_bc100_12",
}  # fmt: skip
SIZES = {**dict.fromkeys(PUBLISHED, 224), **dict.fromkeys(CIFAR, 32)}


@pytest.mark.parametrize(
    ("name", "size"),
    [pytest.param(*one, marks=[] if one[0] in DAILY else pytest.mark.nightly) for one in SIZES.items()],
)
def test_a_variant_has_the_published_number_of_parameters(name, size):
    file, _, variant = name.partition(".")
    model = getattr(importlib.import_module(f"fmjax.models.{file}"), variant)()
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    assert count(jax.eval_shape(model.init, jax.random.key(0), image)["params"]) == {**PUBLISHED, **CIFAR}[name]
