"""ViT (arXiv 2010.11929): an image as a sentence of patches, read by the blocks that read texts.

The blocks are nn/stack.py's, so attention backends, scan, recomputing and adapters work as for language models.
Besides the paper's class token and learned positions: the mean of all tokens and fixed waves (arXiv 2205.01580),
positions that turn queries and keys by row and column, registers (arXiv 2309.16588: tokens that belong to no patch),
layer scale, other patch sizes from the same weights (arXiv 2212.08013), other image sizes by resized positions. GELU
is the tanh form; `feed_forward=gelu_exact` is PyTorch's. DeiT (arXiv 2012.12877) is the same network.
Channels of the image are learned from the first one.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.convolution import pair
from fmjax.nn.images import check_image
from fmjax.nn.linear import Linear
from fmjax.nn.patches import PatchEmbed, grid_of, grid_places, interpolate_positions, sincos2d
from fmjax.nn.stack import Blocks, side

POOLS = ("token", "gap")
POSITIONS = ("learned", "sincos2d", "rotary2d", "none")


class ViT(Blocks, kw_only=True):
    """Patches, blocks, one vector for the image, the head; for other fields see nn/stack.py's Blocks.

    Attributes:
      patch: rows and columns of a patch.
      image_size: of the learned positions; images of other sizes get resized ones.
      classes: numbers that come out.
      pool: "token" reads a class token, "gap" the mean of the patches.
      registers: tokens besides, which no one reads.
      position: learned, sincos2d, rotary2d or none.
      resize: how learned positions are resized, bicubic or bilinear.
    """

    patch: int | tuple[int, int] = 16
    image_size: int | tuple[int, int] = 224
    classes: int = 1000
    pool: str = "token"
    registers: int = 0
    position: str = "learned"
    resize: str = "bicubic"
    width: int = 768
    depth: int = 12
    heads: int = 12
    norm: str = "layer"
    use_bias: bool = True
    rope_base: float = 100.0

    def setup(self) -> None:
        for what, given, known in (("pool", self.pool, POOLS), ("position", self.position, POSITIONS)):
            if given not in known:
                raise ConfigError(f"there is no {what} {given!r} of a ViT; {did_you_mean(given, known)}")
        self.embed = PatchEmbed(self.width, self.patch, dtype=self.dtype)
        small = nn.initializers.normal(0.02)
        if self.pool == "token":
            self.class_token = self.param("class_token", small, (1, self.width), jnp.float32)
        if self.registers:
            self.register_tokens = self.param("register_tokens", small, (self.registers, self.width), jnp.float32)
        if self.position == "learned":
            grid = grid_of(pair(self.image_size), self.patch)
            rows = grid[0] * grid[1] + (self.pool == "token")
            self.position_table = self.param("position_table", small, (rows, self.width), jnp.float32)
        self.encoder = side(self, position="rotary2d" if self.position == "rotary2d" else "none")
        self.head = Linear((self.classes,), use_bias=True, dtype=self.dtype)

    def __call__(
        self, x: Float[Array, "B H W C"], train: bool = False, patch: int | tuple[int, int] | None = None
    ) -> Float[Array, "B K"]:
        """Logits; with another `patch`, from a resized kernel and positions."""
        x = self.hidden(x, train=train, patch=patch)
        return self.head(x[:, 0] if self.pool == "token" else x[:, self.registers :].mean(1))

    def hidden(
        self, x: Float[Array, "B H W C"], train: bool = False, patch: int | tuple[int, int] | None = None
    ) -> Float[Array, "B T D"]:
        """The last, normalised stream: the class token where there is one, registers, patches in rows."""
        check_image("ViT", x.shape, 1)
        x = self.embed(x, patch)
        B, *grid, D = x.shape
        x, extra = x.reshape(B, -1, D), []
        if self.pool == "token":
            extra.append(self.class_token)
        if self.position == "learned":
            own, kept = grid_of(pair(self.image_size), self.patch), len(extra)
            table = interpolate_positions(self.position_table, tuple(grid), own, kept, self.resize)
            x = x + table[kept:].astype(x.dtype)
            extra = [token + table[:kept] for token in extra]
        elif self.position == "sincos2d":
            x = x + sincos2d(tuple(grid), D).astype(x.dtype)
        if self.registers:
            extra.append(self.register_tokens)
        if extra:
            tokens = jnp.concatenate(extra).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(tokens, (B, *tokens.shape)), x], axis=1)
        places = None
        if self.position == "rotary2d":
            places = jnp.broadcast_to(grid_places(tuple(grid), x.shape[1] - grid[0] * grid[1]), x.shape[:2])
        return self.encoder(x, positions=places, train=train)[0]

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s (B, H, W, C)."""
        B, H, W, C = shapes["image"]
        p, q = pair(self.patch)
        rows, columns = grid_of((H, W), (p, q))
        tokens = rows * columns
        patches = 2.0 * B * tokens * p * q * C * self.width
        blocks = self.block_flops(B, tokens + (self.pool == "token") + self.registers, False)
        return patches + blocks + 2.0 * B * self.width * self.classes


vit_ti16 = partial(ViT, width=192, heads=3)
vit_s16 = partial(ViT, width=384, heads=6)
vit_b16 = partial(ViT, width=768, heads=12)
vit_l16 = partial(ViT, width=1024, depth=24, heads=16)
vit_s32, vit_b32, vit_l32 = (partial(v, patch=32) for v in (vit_s16, vit_b16, vit_l16))
vit_s8, vit_b8 = (partial(v, patch=8) for v in (vit_s16, vit_b16))
vit_s16_gap = partial(vit_s16, pool="gap", position="sincos2d")  # arXiv 2205.01580: no class token, fixed waves
vit_ti4_cifar = partial(vit_ti16, patch=4, image_size=32, classes=10)
