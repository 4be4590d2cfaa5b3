"""ConvNeXt (arXiv 2201.03545): a ResNet with the habits of transformers.

Each block is one depthwise 7x7 convolution, a layer norm and a feed-forward over the channels of each place, scaled
by a learned number a channel that starts almost at zero. GELU is the tanh form; `feed_forward=gelu_exact` is
PyTorch's. Channels of the image are learned from the first one.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmjax.nn.convolution import Conv
from fmjax.nn.drop_path import drop_path, rising
from fmjax.nn.feed_forward import FeedForward
from fmjax.nn.flops import count_flops
from fmjax.nn.images import check_image, check_stages
from fmjax.nn.linear import Linear, compute_dtype
from fmjax.nn.patches import PatchEmbed
from fmjax.nn.pooling import global_pool

small = nn.initializers.truncated_normal(0.02)


class ConvNeXt(nn.Module):
    """Patches, stages of blocks with a norm and a 2x2 convolution at stride 2 between, the mean, a norm, the head.

    Attributes:
      depths: blocks of each stage.
      widths: channels of each stage.
      patch: rows and columns of the stem's patches; 4 is the paper's, 1 or 2 fits small images.
      kernel_size: of the depthwise convolutions.
      feed_forward: an activation, or a gated kind, see nn/feed_forward.py.
      layer_scale: what the scale of a branch starts from; None has no such scale.
      eps: of all norms.
      dropout: before the head; `drop_path`: of the last block, earlier ones have less.
      classes: numbers that come out.
      backend: of the convolutions; `dtype`: compute dtype, weights stay float32.
    """

    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    patch: int = 4
    kernel_size: int = 7
    feed_forward: str = "gelu"
    layer_scale: float | None = 1e-6
    eps: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0
    classes: int = 1000
    backend: str = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        check_stages("ConvNeXt", self.depths, self.widths)
        least = self.patch * 2 ** (len(self.depths) - 1)
        check_image("ConvNeXt", x.shape, least, "give larger images or a smaller --config.model.patch")

        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(self.eps, dtype=compute_dtype(self.dtype), name=name)

        x = self._patches(x, self.widths[0], self.patch, "stem")
        x = norm("stem_norm")(x)
        rates, block = rising(self.drop_path, sum(self.depths)), 0
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths)):
            if stage:
                x = self._patches(norm(f"shrink_{stage}_norm")(x), width, 2, f"shrink_{stage}")
            for _ in range(depth):
                x = ConvNeXtBlock(
                    self.kernel_size, self.feed_forward, self.layer_scale, self.eps, rates[block], self.backend,
                    self.dtype, name=f"block_{block}",
                )(x, train)  # fmt: skip
                block += 1
        x = norm("final_norm")(global_pool(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear((self.classes,), use_bias=True, dtype=self.dtype, kernel_init=small, name="head")(x)

    def _patches(self, x: Float[Array, "B H W C"], width: int, patch: int, name: str) -> Float[Array, "B h w D"]:
        """A convolution of patches side by side; rows and columns that fill none are left out, as its stride does."""
        x = x[:, : x.shape[1] // patch * patch, : x.shape[2] // patch * patch]
        return PatchEmbed(width, patch, dtype=self.dtype, name=name)(x)

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s (B, H, W, C)."""
        return count_flops(self, shapes["image"])


class ConvNeXtBlock(nn.Module):
    """x + scale * f(norm(depthwise(x))); the fields are those of ConvNeXt."""

    kernel_size: int
    feed_forward: str
    layer_scale: float | None
    eps: float
    drop_path: float
    backend: str
    dtype: str | None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W D"], train: bool = False) -> Float[Array, "B H W D"]:
        D, window = x.shape[-1], (self.kernel_size, self.kernel_size)
        conv = Conv(
            D, window, groups=D, dtype=self.dtype, backend=self.backend, kernel_init=small, name="conv"
        )  # fmt: skip
        y = nn.LayerNorm(self.eps, dtype=compute_dtype(self.dtype), name="norm")(conv(x))
        y = FeedForward(4 * D, self.feed_forward, use_bias=True, dtype=self.dtype, name="feed_forward")(y, train)
        if self.layer_scale is not None:
            scale = self.param("scale", nn.initializers.constant(self.layer_scale), (D,), jnp.float32)
            y = y * scale.astype(y.dtype)
        return x + drop_path(y, self.drop_path, train)


convnext_tiny = ConvNeXt
convnext_small = partial(ConvNeXt, depths=(3, 3, 27, 3))
convnext_base = partial(convnext_small, widths=(128, 256, 512, 1024))
convnext_large = partial(convnext_small, widths=(192, 384, 768, 1536))
