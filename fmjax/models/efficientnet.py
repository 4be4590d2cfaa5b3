"""EfficientNet (arXiv 1905.11946): one small network, made deeper, wider and finer by the same rule.

B0 to B7 multiply depth and width of seven stages of inverted residuals with squeeze-excite; each was trained at its
own resolution (224, 240, 260, 300, 380, 456, 528, 600), which the weights do not depend on. Padding is that of
PyTorch's versions, half the kernel on every side. Channels of the image are learned from the first one.
"""

import math
from functools import partial

import flax.linen as nn
from jaxtyping import Array, Float

from fmjax.nn.conv_norm import ConvNorm
from fmjax.nn.drop_path import rising
from fmjax.nn.flops import count_flops
from fmjax.nn.images import check_image
from fmjax.nn.linear import Linear
from fmjax.nn.mobile import InvertedResidual, divisible
from fmjax.nn.pooling import global_pool

# expansion, kernel, stride, channels out, blocks: of each stage of B0
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class EfficientNet(nn.Module):
    """A stem, stages of inverted residuals, a 1x1 convolution, the mean of the image, the head.

    Attributes:
      width, depth: what channels and blocks of B0 are multiplied by.
      stages: how many of the seven stages there are.
      stem_stride: 2 is the paper's; 1 keeps small images larger.
      squeeze: channels into a block for one in the middle of its squeeze-excite.
      norm: batch, group, layer or none; `eps`, `momentum`: see nn/conv_norm.py.
      act: see ACTIVATIONS in nn/feed_forward.py.
      dropout: before the head; `drop_path`: of the last block, earlier ones have less.
      classes: numbers that come out.
      backend: of the convolutions; `dtype`: compute dtype, weights stay float32.
    """

    width: float = 1.0
    depth: float = 1.0
    stages: int = 7
    stem_stride: int = 2
    squeeze: int = 4
    norm: str = "batch"
    eps: float = 1e-5
    momentum: float = 0.9
    act: str = "silu"
    dropout: float = 0.2
    drop_path: float = 0.2
    classes: int = 1000
    backend: str = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        stages = STAGES[: self.stages]
        least = self.stem_stride * math.prod(stage[2] for stage in stages)
        check_image("EfficientNet", x.shape, least, "give larger images or --config.model.stem_stride=1")
        conv = partial(
            ConvNorm, norm=self.norm, act=self.act, eps=self.eps, momentum=self.momentum, dtype=self.dtype,
            backend=self.backend,
        )  # fmt: skip
        x = conv(divisible(32 * self.width), 3, self.stem_stride, name="stem")(x, train)
        blocks = [
            (expansion, kernel, stride if i == 0 else 1, divisible(out * self.width))
            for expansion, kernel, stride, out, depth in stages
            for i in range(math.ceil(depth * self.depth))
        ]
        for i, (rate, (expansion, kernel, stride, out)) in enumerate(zip(rising(self.drop_path, len(blocks)), blocks)):
            channels = x.shape[-1]
            x = InvertedResidual(
                out, channels * expansion, kernel, stride, max(1, channels // self.squeeze), self.act, "sigmoid",
                self.act, rate, conv, self.dtype, name=f"block_{i}",
            )(x, train)  # fmt: skip
        x = global_pool(conv(4 * x.shape[-1], 1, name="last")(x, train))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear((self.classes,), use_bias=True, dtype=self.dtype, name="head")(x)

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s (B, H, W, C)."""
        return count_flops(self, shapes["image"])


efficientnet_b0 = EfficientNet
efficientnet_b1 = partial(EfficientNet, depth=1.1)
efficientnet_b2 = partial(EfficientNet, width=1.1, depth=1.2, dropout=0.3)
efficientnet_b3 = partial(EfficientNet, width=1.2, depth=1.4, dropout=0.3)
efficientnet_b4 = partial(EfficientNet, width=1.4, depth=1.8, dropout=0.4)
efficientnet_b5 = partial(EfficientNet, width=1.6, depth=2.2, dropout=0.4)
efficientnet_b6 = partial(EfficientNet, width=1.8, depth=2.6, dropout=0.5)
efficientnet_b7 = partial(EfficientNet, width=2.0, depth=3.1, dropout=0.5)
efficientnet_b0_cifar = partial(EfficientNet, stem_stride=1, classes=10)
