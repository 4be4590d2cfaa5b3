"""Convolution, norm and activation: the brick of every convolutional network, in both orders.

Batch norm's mean and variance are those of the *global* batch: under `jit` the batch is one array, however many
devices hold it, so there is no "synchronised" variant to ask for. In evaluation the running ones are used; they are
kept in the collection `batch_stats`, in float32 (the running variance divides by n; PyTorch's by n - 1).
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.convolution import Conv, pair
from fmjax.nn.feed_forward import activation
from fmjax.nn.linear import compute_dtype

NORMS = ("batch", "group", "layer", "none")
GROUPS = 32  # of group norm (arXiv 1803.08494), or the largest number below that divides both
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # arXiv 1502.01852, as ResNets are begun


def he_depthwise(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """`he_normal` for a kernel (h, w, 1, features) of one group a channel, where h w numbers leave each channel."""
    return jax.random.normal(key, shape, dtype) * math.sqrt(2.0 / math.prod(shape[:3]))


class ConvNorm(nn.Module):
    """act(norm(conv(x))), with weights `conv` and `norm`; or conv(act(norm(x))) with `first`.

    Attributes:
      features: channels out.
      kernel_size, strides, dilation, groups: see nn/convolution.py.
      padding: None is half the kernel on every side, which is what PyTorch's networks have (SAME differs at strides).
      norm: batch, group, layer (over the channels of each place) or none.
      act: name of the activation, or None.
      first: norm and activation before the convolution (pre-activation, arXiv 1603.05027).
      eps: of the norm; `momentum`: how much of the running statistics stays at each step.
      use_bias: of the convolution; None is only where no norm follows.
      zero_scale: start the norm's scale at zero, so that a residual branch starts as nothing (arXiv 1706.02677).
      kernel_init: None is `he_normal`, or `he_depthwise` where every channel is a group.
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    strides: int | tuple[int, int] = 1
    padding: Any = None
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    norm: str = "batch"
    act: str | None = "relu"
    first: bool = False
    eps: float = 1e-5
    momentum: float = 0.9
    use_bias: bool | None = None
    zero_scale: bool = False
    dtype: str | None = None
    backend: str = "auto"
    kernel_init: Callable | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool = False) -> Float[Array, "B Y X O"]:
        def normed(x: jax.Array) -> jax.Array:
            if self.norm != "none":
                x = make_norm(self.norm, x.shape[-1], train, self.eps, self.momentum, self.zero_scale, self.dtype)(x)
            return x if self.act is None else activation(self.act)(x)

        init = self.kernel_init or (he_depthwise if self.groups > 1 and self.groups == x.shape[-1] else he_normal)
        conv = Conv(
            self.features, pair(self.kernel_size), pair(self.strides), self._padding(), pair(self.dilation),
            self.groups, self.norm == "none" if self.use_bias is None else self.use_bias, self.dtype, self.backend,
            init, name="conv",
        )  # fmt: skip
        return conv(normed(x)) if self.first else normed(conv(x))

    def _padding(self) -> Any:
        if self.padding is not None:
            return self.padding
        return tuple(((k - 1) * d // 2,) * 2 for k, d in zip(pair(self.kernel_size), pair(self.dilation)))


def make_norm(
    kind: str,
    channels: int,
    train: bool,
    eps: float = 1e-5,
    momentum: float = 0.9,
    zero_scale: bool = False,
    dtype: str | None = None,
    name: str = "norm",
) -> nn.Module:
    """A norm of images of that many channels.

    Raises:
      ConfigError: there is none of that kind.
    """
    if kind not in NORMS or kind == "none":
        raise ConfigError(f"there is no norm {kind!r}; {did_you_mean(kind, NORMS)}")
    start = nn.initializers.zeros_init() if zero_scale else nn.initializers.ones_init()
    more = {"epsilon": eps, "dtype": compute_dtype(dtype), "scale_init": start, "name": name}
    if kind == "batch":
        return nn.BatchNorm(use_running_average=not train, momentum=momentum, **more)
    if kind == "group":
        return nn.GroupNorm(num_groups=math.gcd(GROUPS, channels), **more)
    return nn.LayerNorm(**more)
