"""MLP-Mixer (arXiv 2105.01601): a ViT whose attention is a feed-forward over the patches of each channel.

Its weights know how many patches there are: images of another size need fresh ones. Channels of the image are
learned from the first one.
"""

import math
from functools import partial

import flax.linen as nn
from jaxtyping import Array, Float

from fmjax.core.errors import ConfigError
from fmjax.nn.convolution import pair
from fmjax.nn.drop_path import drop_path, rising
from fmjax.nn.feed_forward import FeedForward
from fmjax.nn.flops import count_flops
from fmjax.nn.images import check_image
from fmjax.nn.linear import Linear, compute_dtype
from fmjax.nn.patches import PatchEmbed, grid_of


class Mixer(nn.Module):
    """Patches, blocks that mix tokens and then channels, a norm, the mean of all tokens, the head.

    Attributes:
      width: numbers a token (D).
      depth: number of blocks.
      token_inner, inner: widths of the feed-forward over tokens and over channels; None is D / 2 and 4 D.
      patch: rows and columns of a patch.
      image_size: of all images.
      feed_forward: an activation, or a gated kind, see nn/feed_forward.py.
      eps: of all norms.
      dropout: inside the feed-forwards; `drop_path`: of the last block, earlier ones have less.
      classes: numbers that come out.
      dtype: compute dtype; weights stay float32.
    """

    width: int = 768
    depth: int = 12
    token_inner: int | None = None
    inner: int | None = None
    patch: int | tuple[int, int] = 16
    image_size: int | tuple[int, int] = 224
    feed_forward: str = "gelu"
    eps: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0
    classes: int = 1000
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        check_image("Mixer", x.shape, 1)
        grid, own = grid_of(x.shape[1:3], self.patch), grid_of(pair(self.image_size), self.patch)
        if math.prod(grid) != math.prod(own):
            raise ConfigError(
                f"an image of {x.shape[1]}x{x.shape[2]} has {math.prod(grid)} patches, but Mixer's weights mix "
                f"{math.prod(own)}: resize it, or set --config.model.image_size and start from fresh weights"
            )
        x = PatchEmbed(self.width, self.patch, dtype=self.dtype, name="embed")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        for i, rate in enumerate(rising(self.drop_path, self.depth)):
            x = MixerBlock(
                self.token_inner or self.width // 2, self.inner or 4 * self.width, self.feed_forward, self.eps,
                self.dropout, rate, self.dtype, name=f"block_{i}",
            )(x, train)  # fmt: skip
        x = nn.LayerNorm(self.eps, dtype=compute_dtype(self.dtype), name="final_norm")(x).mean(1)
        return Linear((self.classes,), use_bias=True, dtype=self.dtype, name="head")(x)

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s (B, H, W, C)."""
        return count_flops(self, shapes["image"])


class MixerBlock(nn.Module):
    """x + f(norm(x)), over the tokens and then over the channels; the fields are those of Mixer."""

    token_inner: int
    inner: int
    feed_forward: str
    eps: float
    dropout: float
    drop_path: float
    dtype: str | None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool = False) -> Float[Array, "B T D"]:
        def mixed(name: str, inner: int, x: Float[Array, "B N M"]) -> Float[Array, "B N M"]:
            return FeedForward(inner, self.feed_forward, True, self.dropout, self.dtype, name=name)(x, train)

        def normed(name: str, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
            return nn.LayerNorm(self.eps, dtype=compute_dtype(self.dtype), name=name)(x)

        y = mixed("tokens", self.token_inner, normed("tokens_norm", x).swapaxes(1, 2)).swapaxes(1, 2)
        x = x + drop_path(y, self.drop_path, train)
        y = mixed("channels", self.inner, normed("channels_norm", x))
        return x + drop_path(y, self.drop_path, train)


mixer_s16 = partial(Mixer, width=512, depth=8)
mixer_b16 = Mixer
mixer_l16 = partial(Mixer, width=1024, depth=24)
mixer_s32, mixer_b32 = (partial(m, patch=32) for m in (mixer_s16, mixer_b16))
mixer_s4_cifar = partial(mixer_s16, patch=4, image_size=32, classes=10)
