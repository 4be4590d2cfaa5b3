"""The networks of the fast CIFAR-10 recipes (K. Jordan, arXiv 2404.00498): whitened patches, then conv-pool-norm-act.

The first convolution is no learned one: its 2x2 filters are the eigenvectors of the training images' patches, each
twice with both signs, scaled so that what comes out is white (`data/whitening.py` computes them, `config.init` puts
them there, the optimizer freezes them). Every stage convolves, takes the maximum of 2x2 places, norms and activates,
then convolves at the smaller size; with three convolutions the last two are a residual branch, as in airbench96.
Convolutions begin as the identity on their first channels. Batch norm's scales are meant to be frozen too.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmjax.core.errors import ConfigError
from fmjax.nn.conv_norm import ConvNorm, make_norm
from fmjax.nn.convolution import Conv
from fmjax.nn.feed_forward import activation
from fmjax.nn.flops import count_flops
from fmjax.nn.images import check_image
from fmjax.nn.linear import Linear
from fmjax.nn.pooling import max_pool


class FastCifar(nn.Module):
    """Whitening, stages of two or three convolutions, the maximum of what is left, the head.

    Attributes:
      widths: channels of each stage, which halves the image.
      convs: convolutions of a stage: 2, or 3 with a residual branch around the last two.
      patch: rows and columns of the whitened patches; they give 2 * patch * patch * channels features.
      momentum, eps: of the batch norms.
      act: see ACTIVATIONS in nn/feed_forward.py.
      logit_scale: the head's output is multiplied by it.
      classes: numbers that come out.
      backend: of the convolutions; `dtype`: compute dtype, weights stay float32.
    """

    widths: tuple[int, ...] = (64, 256, 256)
    convs: int = 2
    patch: int = 2
    momentum: float = 0.4
    eps: float = 1e-12
    act: str = "gelu"
    logit_scale: float = 1 / 9
    classes: int = 10
    backend: str = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        if self.convs not in (2, 3):
            raise ConfigError(f"convs={self.convs}: give 2, or 3 for a residual branch around the last two")
        check_image("FastCifar", x.shape, 2 ** len(self.widths) + self.patch - 1, "give larger images or fewer widths")
        act, common = activation(self.act), {"dtype": self.dtype, "backend": self.backend}
        features = 2 * self.patch**2 * x.shape[-1]
        x = act(Conv(features, (self.patch,) * 2, padding="VALID", **common, name="whiten")(x))
        conv = partial(
            ConvNorm, momentum=self.momentum, eps=self.eps, kernel_init=identity_first, **common, act=self.act
        )
        for i, width in enumerate(self.widths):
            x = Conv(width, use_bias=False, kernel_init=identity_first, **common, name=f"conv_{i}")(x)
            norm = make_norm("batch", width, train, self.eps, self.momentum, dtype=self.dtype, name=f"norm_{i}")
            x = act(norm(max_pool(x)))
            y = conv(width, name=f"block_{i}_0")(x, train)
            x = y if self.convs == 2 else act(x + conv(width, act=None, name=f"block_{i}_1")(y, train))
        x = x.max((1, 2))
        head = Linear((self.classes,), use_bias=False, dtype=self.dtype, name="head")
        return head(x) * self.logit_scale

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s (B, H, W, C)."""
        return count_flops(self, shapes["image"])


def identity_first(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A kernel (h, w, I, O) whose first I features copy their channels; the others begin as PyTorch's do."""
    h, w, channels, features = shape
    bound = (h * w * channels) ** -0.5
    kernel = jax.random.uniform(key, shape, dtype, -bound, bound)
    same = min(channels, features)
    copy = jnp.zeros((h, w, channels, same), dtype).at[h // 2, w // 2].set(jnp.eye(channels, same, dtype=dtype))
    return kernel.at[..., :same].set(copy)


airbench94 = FastCifar
airbench96 = partial(FastCifar, widths=(128, 384, 512), convs=3)
