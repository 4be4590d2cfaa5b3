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
}


@pytest.mark.parametrize(("name", "size"), [*((n, 224) for n in PUBLISHED), *((n, 32) for n in CIFAR)])
def test_a_variant_has_the_published_number_of_parameters(name, size):
    file, _, variant = name.partition(".")
    model = getattr(importlib.import_module(f"fmjax.models.{file}"), variant)()
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    assert count(jax.eval_shape(model.init, jax.random.key(0), image)["params"]) == {**PUBLISHED, **CIFAR}[name]
