"""VGG (arXiv 1409.1556): 3x3 convolutions and maxima, nothing else, then three dense layers.

As in PyTorch's version the last image is averaged to 7x7 whatever its size was, and the convolutions keep their bias
where a batch norm follows. For small images the dense layers, nine tenths of the weights, are left out.
Channels of the image are learned from the first one.
"""

from functools import partial

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from fmjax.nn.conv_norm import ConvNorm
from fmjax.nn.flops import count_flops
from fmjax.nn.images import check_image, check_stages
from fmjax.nn.linear import Linear
from fmjax.nn.pooling import adaptive_avg_pool, max_pool


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each ended by a 2x2 maximum, dense layers with dropout, the head.

    Attributes:
      depths: convolutions of each stage; `widths`: their channels.
      pool: rows and columns that the last image is averaged to; 1 is its mean.
      dense: widths of the dense layers; () goes straight to the head.
      norm: batch, group, layer or none; `eps`, `momentum`: see nn/conv_norm.py.
      dropout: after each dense layer; before the head, where there is none.
      classes: numbers that come out.
      backend: of the convolutions; `dtype`: compute dtype, weights stay float32.
    """

    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    pool: int = 7
    dense: tuple[int, ...] = (4096, 4096)
    norm: str = "none"
    eps: float = 1e-5
    momentum: float = 0.9
    dropout: float = 0.5
    classes: int = 1000
    backend: str = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        check_stages("VGG", self.depths, self.widths)
        check_image("VGG", x.shape, 2 ** len(self.depths), "give larger images or fewer depths and widths")
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths)):
            for i in range(depth):
                x = ConvNorm(
                    width, norm=self.norm, eps=self.eps, momentum=self.momentum, use_bias=True, dtype=self.dtype,
                    backend=self.backend, name=f"block_{sum(self.depths[:stage]) + i}",
                )(x, train)  # fmt: skip
            x = max_pool(x)
        x = adaptive_avg_pool(x, self.pool).reshape(x.shape[0], -1)
        return dense_head(x, self.dense, self.classes, self.dropout, self.dtype, train)

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s (B, H, W, C)."""
        return count_flops(self, shapes["image"])


def dense_head(
    x: Float[Array, "B D"], dense: tuple[int, ...], classes: int, dropout: float, dtype: str | None, train: bool
) -> Float[Array, "B K"]:
    """Dense layers with ReLU, dropout after each, then the head; to be called in a compact method."""
    if not dense:
        x = nn.Dropout(dropout, deterministic=not train)(x)
    for i, width in enumerate(dense):
        x = jax.nn.relu(Linear((width,), use_bias=True, dtype=dtype, name=f"dense_{i}")(x))
        x = nn.Dropout(dropout, deterministic=not train)(x)
    return Linear((classes,), use_bias=True, dtype=dtype, name="head")(x)


vgg11 = partial(VGG, depths=(1, 1, 2, 2, 2))
vgg13 = partial(VGG, depths=(2, 2, 2, 2, 2))
vgg16 = VGG
vgg19 = partial(VGG, depths=(2, 2, 4, 4, 4))
vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn = (partial(v, norm="batch") for v in (vgg11, vgg13, vgg16, vgg19))
vgg16_bn_cifar = partial(vgg16_bn, pool=1, dense=(), classes=10)
