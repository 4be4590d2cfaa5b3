"""MobileNet V2 (arXiv 1801.04381) and V3 (arXiv 1905.02244): small networks of inverted residuals.

V3's table was found by search: kernels, widths, squeeze-excite and hard swish differ from block to block, and its
last dense layer stands after the mean of the image. Channels of the image are learned from the first one.
"""

import math
from functools import partial

import flax.linen as nn
from jaxtyping import Array, Float

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.conv_norm import ConvNorm
from fmjax.nn.feed_forward import activation
from fmjax.nn.flops import count_flops
from fmjax.nn.images import check_image
from fmjax.nn.linear import Linear
from fmjax.nn.mobile import InvertedResidual, divisible
from fmjax.nn.pooling import global_pool

# expansion, channels out, blocks, stride: of each stage of V2
V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

# kernel, channels in the middle, channels out, squeeze-excite, activation, stride: of each block of V3
V3 = {
    "small": (
        (3, 16, 16, True, "relu", 2),
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hard_swish", 2),
        (5, 240, 40, True, "hard_swish", 1),
        (5, 240, 40, True, "hard_swish", 1),
        (5, 120, 48, True, "hard_swish", 1),
        (5, 144, 48, True, "hard_swish", 1),
        (5, 288, 96, True, "hard_swish", 2),
        (5, 576, 96, True, "hard_swish", 1),
        (5, 576, 96, True, "hard_swish", 1),
    ),
    "large": (
        (3, 16, 16, False, "relu", 1),
        (3, 64, 24, False, "relu", 2),
        (3, 72, 24, False, "relu", 1),
        (5, 72, 40, True, "relu", 2),
        (5, 120, 40, True, "relu", 1),
        (5, 120, 40, True, "relu", 1),
        (3, 240, 80, False, "hard_swish", 2),
        (3, 200, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
        (3, 480, 112, True, "hard_swish", 1),
        (3, 672, 112, True, "hard_swish", 1),
        (5, 672, 160, True, "hard_swish", 2),
        (5, 960, 160, True, "hard_swish", 1),
        (5, 960, 160, True, "hard_swish", 1),
    ),
}


class MobileNetV2(nn.Module):
    """A stem, stages of inverted residuals, a 1x1 convolution, the mean of the image, the head.

    Attributes:
      width: what all channels are multiplied by; the last convolution never gets narrower.
      last: channels of that convolution.
      stages: how many of the seven stages there are.
      stem_stride: 2 is the paper's; 1 keeps small images larger.
      norm: batch, group, layer or none; `eps`, `momentum`: see nn/conv_norm.py.
      dropout: before the head.
      classes: numbers that come out.
      backend: of the convolutions; `dtype`: compute dtype, weights stay float32.
    """

    width: float = 1.0
    last: int = 1280
    stages: int = 7
    stem_stride: int = 2
    norm: str = "batch"
    eps: float = 1e-5
    momentum: float = 0.9
    dropout: float = 0.2
    classes: int = 1000
    backend: str = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        instead = "give larger images or --config.model.stem_stride=1"
        least = self.stem_stride * math.prod(stage[3] for stage in V2[: self.stages])
        check_image("MobileNetV2", x.shape, least, instead)
        conv = partial(
            ConvNorm, norm=self.norm, act="relu6", eps=self.eps, momentum=self.momentum, dtype=self.dtype,
            backend=self.backend,
        )  # fmt: skip
        x = conv(divisible(32 * self.width), 3, self.stem_stride, name="stem")(x, train)
        blocks = [
            (expansion, divisible(out * self.width), stride if i == 0 else 1)
            for expansion, out, depth, stride in V2[: self.stages]
            for i in range(depth)
        ]
        for i, (expansion, out, stride) in enumerate(blocks):
            block = InvertedResidual(
                out, x.shape[-1] * expansion, strides=stride, conv=conv, dtype=self.dtype, name=f"block_{i}"
            )
            x = block(x, train)
        x = conv(divisible(self.last * max(1.0, self.width)), 1, name="last")(x, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(global_pool(x))
        return Linear((self.classes,), use_bias=True, dtype=self.dtype, name="head")(x)

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s (B, H, W, C)."""
        return count_flops(self, shapes["image"])


class MobileNetV3(nn.Module):
    """A stem, the blocks of a table, a 1x1 convolution, the mean of the image, a dense layer, the head.

    Attributes:
      size: whose table, small or large.
      width: what all channels of the convolutions are multiplied by.
      dense: width of the dense layer.
      blocks: how many of the table there are; None is all.
      others: as in MobileNetV2; the eps and momentum are those that the paper's code was trained with.
    """

    size: str = "large"
    width: float = 1.0
    dense: int = 1280
    blocks: int | None = None
    stem_stride: int = 2
    norm: str = "batch"
    eps: float = 1e-3
    momentum: float = 0.99
    dropout: float = 0.2
    classes: int = 1000
    backend: str = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        if self.size not in V3:
            raise ConfigError(f"there is no size {self.size!r} of MobileNetV3; {did_you_mean(self.size, V3)}")
        instead = "give larger images or --config.model.stem_stride=1"
        table = V3[self.size][: self.blocks]
        check_image("MobileNetV3", x.shape, self.stem_stride * math.prod(row[5] for row in table), instead)
        conv = partial(
            ConvNorm, norm=self.norm, act="hard_swish", eps=self.eps, momentum=self.momentum, dtype=self.dtype,
            backend=self.backend,
        )  # fmt: skip
        x = conv(divisible(16 * self.width), 3, self.stem_stride, name="stem")(x, train)
        for i, (kernel, inner, out, squeeze, act, stride) in enumerate(table):
            inner = divisible(inner * self.width)
            x = InvertedResidual(
                divisible(out * self.width), inner, kernel, stride, divisible(inner // 4) if squeeze else 0,
                gate="hard_sigmoid", act=act, conv=conv, dtype=self.dtype, name=f"block_{i}",
            )(x, train)  # fmt: skip
        x = global_pool(conv(6 * x.shape[-1], 1, name="last")(x, train))
        x = activation("hard_swish")(Linear((self.dense,), use_bias=True, dtype=self.dtype, name="dense")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear((self.classes,), use_bias=True, dtype=self.dtype, name="head")(x)

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s (B, H, W, C)."""
        return count_flops(self, shapes["image"])


mobilenet_v2 = MobileNetV2
mobilenet_v3_large = MobileNetV3
mobilenet_v3_small = partial(MobileNetV3, size="small", dense=1024)
