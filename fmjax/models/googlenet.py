"""GoogLeNet, Inception v1 (arXiv 1409.4842): blocks of four branches side by side.

As in torchvision's version there is a batch norm after each convolution, without which the paper needed its auxiliary
heads; they are left out. The third branch has 3x3 kernels where the paper has 5x5, again as torchvision (whose weights
were trained so); `third_kernel=5` is the paper's. Channels of the image are learned from the first one.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.conv_norm import ConvNorm
from fmjax.nn.flops import count_flops
from fmjax.nn.images import check_image
from fmjax.nn.linear import Linear
from fmjax.nn.pooling import global_pool, max_pool

STEMS = {"imagenet": 8, "cifar": 1}  # and how much smaller each makes the image
CEIL = ((0, 1), (0, 1))  # a last row or column that fills no window gets one of its own

# 1x1 · 1x1, 3x3 · 1x1, 5x5 · 1x1 after the maximum: channels of the branches of each block, in three stages
STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


class GoogLeNet(nn.Module):
    """A stem, stages of inception blocks with maxima between, the mean of the image, the head.

    Attributes:
      width: what all channels are multiplied by.
      stages: how many of the three stages there are.
      stem: imagenet (7x7 at stride 2, and two maxima) or cifar (3x3).
      third_kernel: of the third branch.
      norm: batch, group, layer or none; `eps`, `momentum`: see nn/conv_norm.py.
      dropout: before the head.
      classes: numbers that come out.
      backend: of the convolutions; `dtype`: compute dtype, weights stay float32.
    """

    width: float = 1.0
    stages: int = 3
    stem: str = "imagenet"
    third_kernel: int = 3
    norm: str = "batch"
    eps: float = 1e-3
    momentum: float = 0.9
    dropout: float = 0.2
    classes: int = 1000
    backend: str = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        if self.stem not in STEMS:
            raise ConfigError(f"there is no stem {self.stem!r}; {did_you_mean(self.stem, STEMS)}")
        instead = "give larger images or --config.model.stem=cifar" if self.stem == "imagenet" else "give fewer stages"
        check_image("GoogLeNet", x.shape, STEMS[self.stem] * 2 ** (self.stages - 1), instead)
        conv = partial(
            ConvNorm, norm=self.norm, eps=self.eps, momentum=self.momentum, dtype=self.dtype, backend=self.backend
        )
        few, many = self._scaled(64), self._scaled(192)
        if self.stem == "imagenet":
            x = max_pool(conv(few, 7, 2, name="stem")(x, train), 3, 2, CEIL)
            x = conv(few, 1, name="stem_reduce")(x, train)
            x = max_pool(conv(many, 3, name="stem_spatial")(x, train), 3, 2, CEIL)
        else:
            x = conv(many, 3, name="stem")(x, train)
        block = 0
        for stage, rows in enumerate(STAGES[: self.stages]):
            if stage:
                x = max_pool(x, 3 if stage == 1 else 2, 2, CEIL)
            for row in rows:
                branches = tuple(map(self._scaled, row))
                x = Inception(branches, self.third_kernel, conv, name=f"block_{block}")(x, train)
                block += 1
        x = nn.Dropout(self.dropout, deterministic=not train)(global_pool(x))
        return Linear((self.classes,), use_bias=True, dtype=self.dtype, name="head")(x)

    def _scaled(self, channels: int) -> int:
        return max(1, round(channels * self.width))

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s (B, H, W, C)."""
        return count_flops(self, shapes["image"])


class Inception(nn.Module):
    """Four branches of an image, their channels side by side: 1x1, two larger kernels, a maximum.

    Attributes:
      channels: of the 1x1; of the second and third, reduced and after; of the branch of the maximum.
      third_kernel: of the third branch.
      conv: makes a ConvNorm.
    """

    channels: tuple[int, ...]
    third_kernel: int
    conv: partial

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool = False) -> Float[Array, "B H W O"]:
        one, reduce_2, second, reduce_3, third, pooled = self.channels
        first = self.conv(one, 1, name="branch_0")(x, train)
        two = self.conv(reduce_2, 1, name="branch_1_reduce")(x, train)
        two = self.conv(second, 3, name="branch_1")(two, train)
        three = self.conv(reduce_3, 1, name="branch_2_reduce")(x, train)
        three = self.conv(third, self.third_kernel, name="branch_2")(three, train)
        four = self.conv(pooled, 1, name="branch_3")(max_pool(x, 3, 1, padding=1), train)
        return jnp.concatenate([first, two, three, four], axis=-1)


googlenet = GoogLeNet
googlenet_cifar = partial(GoogLeNet, stem="cifar", classes=10)
