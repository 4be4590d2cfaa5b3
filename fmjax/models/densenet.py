"""DenseNet (arXiv 1608.06993): every layer reads what all layers of its block before it wrote.

Norm and activation stand before each convolution. A layer first reduces all it reads to four times what it adds
("BC"); between blocks a 1x1 convolution halves the channels, a mean the image. CIFAR networks start with one 3x3
convolution and no maximum. Channels of the image are learned from the first one.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.conv_norm import ConvNorm, make_norm
from fmjax.nn.flops import count_flops
from fmjax.nn.images import check_image
from fmjax.nn.linear import Linear
from fmjax.nn.pooling import avg_pool, global_pool, max_pool

STEMS = {"imagenet": 4, "cifar": 1}  # and how much smaller each makes the image
REDUCED = 4  # channels inside a layer, for one that it adds


class DenseNet(nn.Module):
    """A stem, dense blocks with transitions between, a norm, the mean of the image, the head.

    Attributes:
      depths: layers of each block.
      growth: channels that a layer adds.
      stem_width: channels of the stem; None is twice the growth.
      stem: imagenet (7x7 at stride 2, norm, 3x3 maximum) or cifar (3x3).
      compression: what is left of the channels between blocks.
      norm: batch, group, layer or none; `eps`, `momentum`: see nn/conv_norm.py.
      layer_dropout: of what each layer adds (the paper's 0.2 for CIFAR without augmentation).
      dropout: before the head.
      classes: numbers that come out.
      backend: of the convolutions; `dtype`: compute dtype, weights stay float32.
    """

    depths: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    stem_width: int | None = None
    stem: str = "imagenet"
    compression: float = 0.5
    norm: str = "batch"
    eps: float = 1e-5
    momentum: float = 0.9
    layer_dropout: float = 0.0
    dropout: float = 0.0
    classes: int = 1000
    backend: str = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        if self.stem not in STEMS:
            raise ConfigError(f"there is no stem {self.stem!r}; {did_you_mean(self.stem, STEMS)}")
        instead = "give larger images or --config.model.stem=cifar" if self.stem == "imagenet" else "give fewer depths"
        check_image("DenseNet", x.shape, STEMS[self.stem] * 2 ** (len(self.depths) - 1), instead)
        conv = partial(
            ConvNorm, norm=self.norm, eps=self.eps, momentum=self.momentum, dtype=self.dtype, backend=self.backend
        )
        width = self.stem_width or 2 * self.growth
        if self.stem == "imagenet":
            x = max_pool(conv(width, 7, 2, name="stem")(x, train), 3, 2, padding=1)
        else:
            x = conv(width, norm="none", act=None, use_bias=False, name="stem")(x, train)
        bare = partial(conv, first=True, use_bias=False)
        for block, depth in enumerate(self.depths):
            if block:
                fewer = int(x.shape[-1] * self.compression)
                x = avg_pool(bare(fewer, 1, name=f"transition_{block}")(x, train))
            for i in range(depth):
                layer = DenseLayer(self.growth, self.layer_dropout, bare, name=f"block_{sum(self.depths[:block]) + i}")
                x = layer(x, train)
        if self.norm != "none":
            norm = partial(make_norm, self.norm, x.shape[-1], train, self.eps, self.momentum, dtype=self.dtype)
            x = norm(name="final_norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(global_pool(jax.nn.relu(x)))
        return Linear((self.classes,), use_bias=True, dtype=self.dtype, name="head")(x)

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s (B, H, W, C)."""
        return count_flops(self, shapes["image"])


class DenseLayer(nn.Module):
    """x with `growth` new channels behind its own.

    Attributes:
      conv: makes a ConvNorm, norm first.
    """

    growth: int
    dropout: float
    conv: partial

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool = False) -> Float[Array, "B H W O"]:
        y = self.conv(REDUCED * self.growth, 1, name="reduce")(x, train)
        y = self.conv(self.growth, 3, name="spatial")(y, train)
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return jnp.concatenate([x, y], axis=-1)


densenet121 = DenseNet
densenet169 = partial(DenseNet, depths=(6, 12, 32, 32))
densenet201 = partial(DenseNet, depths=(6, 12, 48, 32))
densenet_bc100_12 = partial(DenseNet, depths=(16, 16, 16), growth=12, stem="cifar", classes=10)
