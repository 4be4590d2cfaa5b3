"""Convolution: one dispatcher over the ways to compute it, and the module that holds its weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.conv_depthwise import convolve_depthwise
from fmjax.nn.conv_folded import NHWC, Pads, convolve_folded
from fmjax.nn.linear import compute_dtype, default_kernel


class Backend(NamedTuple):
    """What an implementation of convolution can do."""

    groups: str  # "any", "one" of all channels, or "each" channel by itself
    dilation: bool
    forward_mode: bool  # jax.jvp; all of them have gradients of gradients


BACKENDS = {
    "xla": Backend(groups="any", dilation=True, forward_mode=True),  # the reference
    "folded": Backend(groups="one", dilation=False, forward_mode=False),  # made for CPU, see conv_folded.py
    "shifted": Backend(groups="each", dilation=True, forward_mode=False),  # made for CPU, see conv_depthwise.py
}
MANY_TAPS = 49  # a program of more would take long to compile


def choose(
    backend: str,
    x: Float[Array, "B H W I"],
    kernel: tuple[int, ...],
    groups: int = 1,
    dilation: tuple[int, int] = (1, 1),
    platform: str | None = None,
    devices: int | None = None,
) -> str:
    """The backend that will run; "auto" takes the measured best of the platform that can do it.

    Args:
      kernel: its shape, (h, w, I / groups, O).

    Raises:
      ConfigError: a backend that does not exist or cannot do what is asked.
    """
    if backend not in (*BACKENDS, "auto"):
        raise ConfigError(f"there is no convolution backend {backend!r}; {did_you_mean(backend, [*BACKENDS, 'auto'])}")
    common = []
    if x.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        common.append(f"dtype {x.dtype}")
    if not all(isinstance(size, int) for size in x.shape):
        common.append("sizes that are unknown when compiling")
    cannot = {name: list(common) for name in ("folded", "shifted")}
    if groups != 1:
        cannot["folded"].append(f"groups={groups}")
    if dilation != (1, 1):
        cannot["folded"].append(f"dilation={dilation}")
    if not groups == x.shape[-1] == kernel[3]:
        cannot["shifted"].append(f"groups={groups} of {x.shape[-1]} channels and {kernel[3]} features (only depthwise)")
    if cannot.get(backend):
        raise ConfigError(
            f"convolution backend {backend!r} cannot do {', '.join(cannot[backend])}: use 'xla' or 'auto'"
        )
    if backend != "auto":
        return backend
    # Both work through the batch, which a mesh splits over devices: there they would gather.
    alone = (devices or jax.device_count()) == 1
    if not alone or (platform or jax.default_backend()) != "cpu":
        return "xla"
    many = kernel[0] * kernel[1] > MANY_TAPS or groups == 1
    return "folded" if not cannot["folded"] else "xla" if many or cannot["shifted"] else "shifted"


def convolve(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "h w C O"],
    strides: int | tuple[int, int] = 1,
    padding: str | int | Pads = "SAME",
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    backend: str = "auto",
) -> Float[Array, "B Y X O"]:
    """Correlate images with a kernel, as `flax.linen.Conv` does; C = I / groups.

    Args:
      x: images; the result has their dtype.
      kernel: cast to the dtype of x.
      padding: SAME, VALID, one number for all sides, or ((above, below), (left, right)).
      backend: see BACKENDS, or auto.

    Raises:
      ConfigError: a backend that cannot do this, groups that do not divide the channels, an image smaller than
        the kernel.
    """
    strides, dilation = pair(strides), pair(dilation)
    name = choose(backend, x, kernel.shape, groups, dilation)
    if x.shape[-1] != kernel.shape[2] * groups or kernel.shape[3] % groups:
        raise ConfigError(
            f"{x.shape[-1]} channels in and {kernel.shape[3]} out do not fit {groups} groups of {kernel.shape[2]}"
        )
    pads = explicit_padding(padding, x.shape[1:3], kernel.shape[:2], strides, dilation)
    if 0 in out_size(x.shape[1:3], kernel.shape[:2], strides, pads, dilation):
        raise ConfigError(f"an image of {x.shape[1]}x{x.shape[2]} is smaller than the kernel {kernel.shape[:2]}")
    kernel = kernel.astype(x.dtype)
    single = (x.astype(jnp.float32), kernel.astype(jnp.float32))
    if name == "folded":
        return convolve_folded(*single, strides, pads).astype(x.dtype)
    if name == "shifted":
        return convolve_depthwise(*single, strides, pads, dilation).astype(x.dtype)
    return lax.conv_general_dilated(
        x, kernel, strides, pads, rhs_dilation=dilation, dimension_numbers=NHWC, feature_group_count=groups
    )


class Conv(nn.Module):
    """A convolution with its weights: `kernel` (h, w, channels in / groups, features) and `bias`.

    Attributes:
      features: channels out; with groups = channels in it is a depthwise convolution.
      kernel_size: rows and columns of the kernel.
      strides: rows and columns between outputs.
      padding: SAME, VALID, one number for all sides, or ((above, below), (left, right)).
      dilation: rows and columns between the kernel's taps.
      groups: parts the channels are split into, each convolved alone.
      use_bias: whether a number is added to every feature.
      dtype: compute dtype; weights stay float32.
      backend: see BACKENDS, or auto.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: Any = "SAME"
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    use_bias: bool = True
    dtype: str | None = None
    backend: str = "auto"
    kernel_init: Callable = default_kernel
    bias_init: Callable = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], before_bias: Callable | None = None) -> Float[Array, "B Y X O"]:
        """Convolve; `before_bias` is applied before the bias is added: a maximum commutes with it, and leaves less."""
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise ConfigError(f"{x.shape[-1]} channels in, {self.features} out do not divide into {self.groups} groups")
        shape = (*pair(self.kernel_size), x.shape[-1] // self.groups, self.features)
        if self.has_variable("params", "kernel"):
            check_channels(self.get_variable("params", "kernel").shape[2] * self.groups, x)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x = x.astype(compute_dtype(self.dtype))
        y = convolve(x, kernel, self.strides, self.padding, self.dilation, self.groups, self.backend)
        if before_bias is not None:
            y = before_bias(y)
        if self.use_bias:
            y = y + self.param("bias", self.bias_init, (self.features,), jnp.float32).astype(y.dtype)
        return y


def check_channels(made_for: int, x: jax.Array) -> None:
    """Refuse images whose channels are not those that the weights were made for, which the first images decide.

    Raises:
      ConfigError: other channels.
    """
    if x.shape[-1] != made_for:
        raise ConfigError(
            f"images have {x.shape[-1]} channels, but the weights were made for {made_for}: "
            "convert the images, or start from fresh weights"
        )


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """One number for rows and columns, or two."""
    value = (value, value) if isinstance(value, int) else tuple(value)
    if len(value) != 2 or not all(isinstance(v, int) and v > 0 for v in value):
        raise ConfigError(f"{value} is not one or two positive numbers (rows, columns)")
    return value


def explicit_padding(
    padding: str | int | Pads,
    size: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> Pads:
    """((above, below), (left, right)) of a window that moves over an image.

    Raises:
      ConfigError: padding that is no word, number or pair of pairs; negative padding.
    """
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "VALID"):
            raise ConfigError(f"there is no padding {padding!r}; {did_you_mean(padding, ('SAME', 'VALID'))}")
        reach = tuple((w - 1) * d + 1 for w, d in zip(window, dilation))
        return tuple(map(tuple, lax.padtype_to_pads(size, reach, strides, padding.upper())))
    pads = ((padding, padding),) * 2 if isinstance(padding, int) else tuple(map(tuple, padding))
    if len(pads) != 2 or not all(len(p) == 2 and min(p) >= 0 for p in pads):
        raise ConfigError(f"padding {padding} is not SAME, VALID, a number, or ((above, below), (left, right))")
    return pads


def out_size(
    size: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    pads: Pads,
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int]:
    """Rows and columns that come out of a window that moves over an image; 0 where it does not fit."""
    return tuple(
        max(0, (n + sum(p) - (w - 1) * d - 1) // s + 1) for n, w, s, p, d in zip(size, window, strides, pads, dilation)
    )


def conv_flops(
    shape: tuple[int, int, int, int],
    features: int,
    kernel_size: int | tuple[int, int] = 3,
    strides: int | tuple[int, int] = 1,
    padding: str | int | Pads = "SAME",
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> tuple[float, tuple[int, int, int, int]]:
    """Forward FLOPs of a convolution of images (B, H, W, C), padding counted as work, and the shape that comes out."""
    window, strides, dilation = pair(kernel_size), pair(strides), pair(dilation)
    pads = explicit_padding(padding, shape[1:3], window, strides, dilation)
    rows, columns = out_size(shape[1:3], window, strides, pads, dilation)
    out = (shape[0], rows, columns, features)
    return 2.0 * shape[0] * rows * columns * features * window[0] * window[1] * shape[3] // groups, out
