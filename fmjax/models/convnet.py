"""ConvNet: the classic small image classifier, convolutions and pooling, then one dense layer.

With its defaults it is the 32-64-128 network of many CIFAR-10 tutorials. Where the activation never falls (relu, tanh)
the maximum is taken before bias and activation: the same numbers as in the usual order, for a quarter of the work.
"""

import math

import flax.linen as nn
from jaxtyping import Array, Float

from fmjax.core.errors import ConfigError
from fmjax.nn.convolution import Conv, conv_flops
from fmjax.nn.feed_forward import activation
from fmjax.nn.linear import Linear
from fmjax.nn.pooling import max_pool

RISING = ("relu", "tanh")  # max(act(x)) = act(max(x))


class ConvNet(nn.Module):
    """Blocks of 3x3 convolutions and 2x2 maximum, a dense layer with dropout, the head.

    Attributes:
      widths: features of each block; every block halves the image, an odd last row or column is dropped.
      convs: convolutions in a block.
      dense: width of the dense layer; None goes straight to the head.
      dropout: probability, after the dense layer.
      classes: numbers that come out.
      activation: see ACTIVATIONS in nn/feed_forward.py.
      backend: of the convolutions, see nn/convolution.py.
      dtype: compute dtype; weights stay float32.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    convs: int = 1
    dense: int | None = 512
    dropout: float = 0.5
    classes: int = 10
    activation: str = "relu"
    backend: str = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        act = activation(self.activation)
        self._check(x.shape)
        for i, width in enumerate(self.widths):
            for j in range(self.convs):
                last = j == self.convs - 1
                early = max_pool if last and self.activation in RISING else None
                name = f"conv_{i}" if self.convs == 1 else f"conv_{i}_{j}"
                conv = Conv(width, dtype=self.dtype, backend=self.backend, name=name)
                x = act(conv(x, before_bias=early))
                x = max_pool(x) if last and not early else x
        x = x.reshape(x.shape[0], -1)
        if self.dense is not None:
            x = act(Linear((self.dense,), use_bias=True, dtype=self.dtype, name="dense")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear((self.classes,), use_bias=True, dtype=self.dtype, name="head")(x)

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s (B, H, W, C)."""
        shape, total = tuple(shapes["image"]), 0.0
        self._check(shape)
        for width in self.widths:
            for _ in range(self.convs):
                cost, shape = conv_flops(shape, width)
                total += cost
            shape = (shape[0], shape[1] // 2, shape[2] // 2, shape[3])
        row = math.prod(shape[1:])
        if self.dense is not None:
            total, row = total + 2.0 * shape[0] * row * self.dense, self.dense
        return total + 2.0 * shape[0] * row * self.classes

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 4:
            raise ConfigError(f"ConvNet reads images (batch, rows, columns, channels), not an array of shape {shape}")
        least = 2 ** len(self.widths)
        if min(shape[1:3]) < least:
            raise ConfigError(
                f"an image of {shape[1]}x{shape[2]} cannot be halved {len(self.widths)} times: "
                f"give fewer widths, or images of at least {least}x{least}"
            )
