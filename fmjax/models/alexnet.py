"""AlexNet (arXiv 1404.5997): the network that began it, in its version with one tower, as torchvision has it.

No local response norm, 64 channels in the first convolution instead of 96, and the last image is averaged to 6x6
whatever its size was. Dropout stands before each dense layer, not after. Channels of the image are learned from the
first one.
"""

from functools import partial

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from fmjax.nn.conv_norm import ConvNorm
from fmjax.nn.flops import count_flops
from fmjax.nn.images import check_image
from fmjax.nn.linear import Linear
from fmjax.nn.pooling import adaptive_avg_pool, max_pool


class AlexNet(nn.Module):
    """Five convolutions, three of them followed by a maximum, two dense layers, the head.

    Attributes:
      widths: channels of the five convolutions.
      kernel_sizes: of the first two; the others are 3x3.
      strides: of the first.
      window: rows and columns of the maxima, which lie two apart.
      pool: rows and columns that the last image is averaged to.
      dense: widths of the dense layers.
      norm: batch, group, layer or none; `eps`, `momentum`: see nn/conv_norm.py.
      dropout: before each dense layer; before the head, where there is none.
      classes: numbers that come out.
      backend: of the convolutions; `dtype`: compute dtype, weights stay float32.
    """

    widths: tuple[int, ...] = (64, 192, 384, 256, 256)
    kernel_sizes: tuple[int, int] = (11, 5)
    strides: int = 4
    window: int = 3
    pool: int = 6
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
        check_image("AlexNet", x.shape, self._least(), "give larger images, or take alexnet.alexnet_cifar")
        conv = partial(
            ConvNorm, norm=self.norm, eps=self.eps, momentum=self.momentum, dtype=self.dtype, backend=self.backend
        )
        first, second = self.kernel_sizes
        for i, width in enumerate(self.widths):
            if i == 0:
                x = conv(width, first, self.strides, self._border(), name="block_0")(x, train)
            else:
                x = conv(width, second if i == 1 else 3, name=f"block_{i}")(x, train)
            if i in (0, 1, len(self.widths) - 1):
                x = max_pool(x, self.window, 2)
        x = adaptive_avg_pool(x, self.pool).reshape(x.shape[0], -1)
        for i, width in enumerate(self.dense):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = jax.nn.relu(Linear((width,), use_bias=True, dtype=self.dtype, name=f"dense_{i}")(x))
        if not self.dense:
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear((self.classes,), use_bias=True, dtype=self.dtype, name="head")(x)

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s (B, H, W, C)."""
        return count_flops(self, shapes["image"])

    def _border(self) -> int:
        """torchvision pads the 11x11 convolution at stride 4 by 2: what is left when windows overlap."""
        return max((self.kernel_sizes[0] - self.strides) // 2, 0) if self.strides < 4 else 2

    def _least(self) -> int:
        """The image of which the last maximum still finds one window."""
        size = 1
        for _ in range(3):
            size = (size - 1) * 2 + self.window
        return max((size - 1) * self.strides + self.kernel_sizes[0] - 2 * self._border(), 1)


alexnet = AlexNet
alexnet_cifar = partial(
    AlexNet, kernel_sizes=(3, 3), strides=1, window=2, pool=4, dense=(1024, 1024), classes=10
)  # 32x32 becomes 16, 8, 4
