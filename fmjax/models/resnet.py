"""ResNet (arXiv 1512.03385) and its relatives: each block adds to what it was given.

Bottleneck blocks have their stride in the 3x3 convolution, as torchvision's do ("v1.5"), not in the first 1x1.
ResNeXt (arXiv 1611.05431) convolves in groups, Wide ResNet (arXiv 1605.07146) has more channels. CIFAR networks start
with one 3x3 convolution and no maximum; those of 20 to 110 layers add by padding channels with zeros, without
weights (option A of the paper). Pre-activation (arXiv 1603.05027) puts norm and activation before each convolution.
Channels of the image are learned from the first one.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.conv_norm import ConvNorm, make_norm
from fmjax.nn.drop_path import drop_path, rising
from fmjax.nn.feed_forward import activation
from fmjax.nn.flops import count_flops
from fmjax.nn.images import check_image
from fmjax.nn.linear import Linear
from fmjax.nn.pooling import global_pool, max_pool

STEMS = {"imagenet": 4, "cifar": 1}  # and how much smaller each makes the image
SHORTCUTS = ("project", "pad")
EXPANSION = 4  # channels out of a bottleneck, for one in its middle


class ResNet(nn.Module):
    """A stem, stages of residual blocks, the mean of the image, the head.

    Attributes:
      depths: blocks of each stage; every stage but the first halves the image and doubles the channels.
      width: channels of the first stage (inside the block, for bottlenecks).
      stem_width: channels of the stem; None is `width`.
      bottleneck: blocks of three convolutions, 1x1, 3x3, 1x1, instead of two 3x3.
      groups, group_width: of the 3x3 of a bottleneck, whose channels are width * groups * group_width / 64.
      stem: imagenet (7x7 at stride 2, 3x3 maximum) or cifar (3x3).
      shortcut: project (1x1 convolution) or pad (with zeros), where a block changes the shape.
      preact: norm and activation before each convolution.
      norm: batch, group, layer or none; `eps`, `momentum`: see nn/conv_norm.py.
      zero_last: start every block as nothing: the scale of its last norm is zero.
      act: see ACTIVATIONS in nn/feed_forward.py.
      dropout: before the head; `drop_path`: of the last block, earlier ones have less.
      classes: numbers that come out.
      backend: of the convolutions; `dtype`: compute dtype, weights stay float32.
    """

    depths: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    stem_width: int | None = None
    bottleneck: bool = False
    groups: int = 1
    group_width: int = 64
    stem: str = "imagenet"
    shortcut: str = "project"
    preact: bool = False
    norm: str = "batch"
    eps: float = 1e-5
    momentum: float = 0.9
    zero_last: bool = True
    act: str = "relu"
    dropout: float = 0.0
    drop_path: float = 0.0
    classes: int = 1000
    backend: str = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        for what, given, known in (("stem", self.stem, STEMS), ("shortcut", self.shortcut, SHORTCUTS)):
            if given not in known:
                raise ConfigError(f"there is no {what} {given!r}; {did_you_mean(given, known)}")
        instead = "give larger images or --config.model.stem=cifar" if self.stem == "imagenet" else "give fewer depths"
        check_image("ResNet", x.shape, STEMS[self.stem] * 2 ** (len(self.depths) - 1), instead)
        conv = partial(
            ConvNorm, norm=self.norm, act=self.act, eps=self.eps, momentum=self.momentum, dtype=self.dtype,
            backend=self.backend,
        )  # fmt: skip
        begin = partial(conv, norm="none", act=None, use_bias=False) if self.preact else conv
        stem_width = self.stem_width or self.width
        if self.stem == "imagenet":
            x = max_pool(begin(stem_width, 7, 2, name="stem")(x, train), 3, 2, padding=1)
        else:
            x = begin(stem_width, name="stem")(x, train)
        rates = iter(rising(self.drop_path, sum(self.depths)))
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                block = sum(self.depths[:stage]) + i
                x = Residual(
                    self.width * 2**stage, 2 if stage and i == 0 else 1, self.bottleneck, self.groups, self.group_width,
                    self.shortcut, self.preact, self.zero_last, next(rates), conv, name=f"block_{block}",
                )(x, train)  # fmt: skip
        if self.preact:
            if self.norm != "none":
                x = make_norm(
                    self.norm, x.shape[-1], train, self.eps, self.momentum, dtype=self.dtype, name="final_norm"
                )(x)
            x = activation(self.act)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(global_pool(x))
        return Linear((self.classes,), use_bias=True, dtype=self.dtype, name="head")(x)

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s (B, H, W, C)."""
        return count_flops(self, shapes["image"])


class Residual(nn.Module):
    """x + f(x), where f is two or three convolutions; the shortcut takes x to the shape of f(x).

    Attributes:
      conv: makes a ConvNorm; the other fields are those of ResNet.
    """

    width: int
    strides: int
    bottleneck: bool
    groups: int
    group_width: int
    shortcut: str
    preact: bool
    zero_last: bool
    drop_path: float
    conv: partial

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool = False) -> Float[Array, "B Y X O"]:
        if self.bottleneck:
            inner, out = self.width * self.group_width // 64 * self.groups, self.width * EXPANSION
            sizes = [
                ("reduce", inner, 1, 1, 1),
                ("spatial", inner, 3, self.strides, self.groups),
                ("expand", out, 1, 1, 1),
            ]
        else:
            out = self.width
            sizes = [("spatial_0", out, 3, self.strides, 1), ("spatial_1", out, 3, 1, 1)]
        changes = self.strides > 1 or x.shape[-1] != out
        return (
            self._before(x, sizes, out, changes, train) if self.preact else self._after(x, sizes, out, changes, train)
        )

    def _after(self, x: jax.Array, sizes: list, out: int, changes: bool, train: bool) -> jax.Array:
        """Norm after each convolution, the last activation after the sum."""
        y = x
        for name, features, kernel, strides, groups in sizes:
            last = name == sizes[-1][0]
            more = {"act": None, "zero_scale": self.zero_last} if last else {}
            y = self.conv(features, kernel, strides, groups=groups, name=name, **more)(y, train)
        y = drop_path(y, self.drop_path, train)
        if changes and self.shortcut == "project":
            x = self.conv(out, 1, self.strides, act=None, name="shortcut")(x, train)
        elif changes:
            x = self._pad(x, out)
        return activation(self.conv.keywords["act"])(x + y)

    def _before(self, x: jax.Array, sizes: list, out: int, changes: bool, train: bool) -> jax.Array:
        """Norm and activation before each convolution; where the shape changes, the shortcut reads them too."""
        conv = self.conv.keywords
        if conv["norm"] != "none":
            norm = make_norm(conv["norm"], x.shape[-1], train, conv["eps"], conv["momentum"], dtype=conv["dtype"])
            first = norm(x)
        else:
            first = x
        first = activation(conv["act"])(first)
        y = first
        for i, (name, features, kernel, strides, groups) in enumerate(sizes):
            # The first norm stands outside, since the shortcut shares it.
            more = {"first": True} if i else {"norm": "none", "act": None, "use_bias": False}
            y = self.conv(features, kernel, strides, groups=groups, name=name, **more)(y, train)
        y = drop_path(y, self.drop_path, train)
        if changes and self.shortcut == "project":
            bare = partial(self.conv, norm="none", act=None, use_bias=False)
            x = bare(out, 1, self.strides, name="shortcut")(first, train)
        elif changes:
            x = self._pad(x, out)
        return x + y

    def _pad(self, x: jax.Array, out: int) -> jax.Array:
        """Every second row and column; half of the missing channels before, half after."""
        more = out - x.shape[-1]
        return jnp.pad(x[:, :: self.strides, :: self.strides], ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))


resnet18 = partial(ResNet, depths=(2, 2, 2, 2))
resnet34 = partial(ResNet, depths=(3, 4, 6, 3))
resnet50 = partial(ResNet, depths=(3, 4, 6, 3), bottleneck=True)
resnet101 = partial(ResNet, depths=(3, 4, 23, 3), bottleneck=True)
resnet152 = partial(ResNet, depths=(3, 8, 36, 3), bottleneck=True)
resnext50_32x4d = partial(resnet50, groups=32, group_width=4)
wide_resnet50_2 = partial(resnet50, group_width=128)

resnet18_cifar = partial(resnet18, stem="cifar", classes=10)
preact_resnet18_cifar = partial(resnet18_cifar, preact=True)
resnet20 = partial(ResNet, depths=(3, 3, 3), width=16, stem="cifar", shortcut="pad", zero_last=False, classes=10)
resnet32 = partial(resnet20, depths=(5, 5, 5))
resnet44 = partial(resnet20, depths=(7, 7, 7))
resnet56 = partial(resnet20, depths=(9, 9, 9))
resnet110 = partial(resnet20, depths=(18, 18, 18))
preact_resnet110 = partial(resnet110, preact=True)
wide_resnet28_10 = partial(
    ResNet, depths=(4, 4, 4), width=160, stem_width=16, stem="cifar", preact=True, zero_last=False, classes=10
)
