"""Inverted residuals and squeeze-excite: the blocks of networks for phones, and of EfficientNet."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from fmjax.nn.conv_norm import ConvNorm
from fmjax.nn.drop_path import drop_path
from fmjax.nn.feed_forward import activation
from fmjax.nn.linear import Linear
from fmjax.nn.pooling import global_pool


class SqueezeExcite(nn.Module):
    """x times a gate for every channel, learned from the means of all of them (arXiv 1709.01507).

    Attributes:
      hidden: channels in the middle.
      act: activation there; `gate`: what the result goes through.
    """

    hidden: int
    act: str = "relu"
    gate: str = "sigmoid"
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        mean = global_pool(x)
        few = activation(self.act)(Linear((self.hidden,), use_bias=True, dtype=self.dtype, name="down")(mean))
        gate = activation(self.gate)(Linear(x.shape[-1:], use_bias=True, dtype=self.dtype, name="up")(few))
        return x * gate[:, None, None]


class InvertedResidual(nn.Module):
    """Wide, depthwise, narrow again (arXiv 1801.04381); the input is added where shapes allow.

    Attributes:
      features: channels out.
      expanded: channels in the middle; as many as come in needs no widening.
      kernel_size, strides: of the depthwise convolution.
      squeeze: hidden width of squeeze-excite; 0 is none. `gate`: its last activation; `squeeze_act`: its first.
      act: after the first two convolutions; the last has none.
      drop_path: chance that a row skips the branch in training.
      conv: options of every ConvNorm, such as eps.
    """

    features: int
    expanded: int
    kernel_size: int = 3
    strides: int = 1
    squeeze: int = 0
    squeeze_act: str = "relu"
    gate: str = "sigmoid"
    act: str = "relu6"
    drop_path: float = 0.0
    conv: Any = ConvNorm
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool = False) -> Float[Array, "B Y X O"]:
        start = x
        if self.expanded != x.shape[-1]:
            x = self.conv(self.expanded, 1, act=self.act, name="expand")(x, train)
        depthwise = self.conv(
            self.expanded, self.kernel_size, self.strides, groups=self.expanded, act=self.act, name="depthwise"
        )
        x = depthwise(x, train)
        if self.squeeze:
            x = SqueezeExcite(self.squeeze, self.squeeze_act, self.gate, self.dtype, name="squeeze")(x)
        x = self.conv(self.features, 1, act=None, name="project")(x, train)
        return start + drop_path(x, self.drop_path, train) if x.shape == start.shape and self.strides == 1 else x


def divisible(width: float, by: int = 8) -> int:
    """The nearest multiple, but never more than a tenth below."""
    nearest = max(by, int(width + by / 2) // by * by)
    return nearest + by if nearest < 0.9 * width else nearest
