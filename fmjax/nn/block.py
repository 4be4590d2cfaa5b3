"""The transformer block: attention, then feed-forward, each added to the stream."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.attention import Attention
from fmjax.nn.experts import MixtureOfExperts
from fmjax.nn.feed_forward import FeedForward
from fmjax.nn.linear import compute_dtype
from fmjax.nn.norm import RMSNormOne
from fmjax.nn.position import Rotary, Rotary2d

NORMS = {"rms": nn.RMSNorm, "rms_one": RMSNormOne, "layer": nn.LayerNorm}
ORDERS = ("pre", "post", "sandwich")


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """What the blocks of a stack have in common; the fields of models/transformer.py's Stack say what they mean."""

    heads: int
    inner: int
    groups: int | None = None
    head_size: int | None = None
    feed_forward: str = "gelu"
    norm: str = "rms"
    norm_place: str = "pre"
    eps: float = 1e-6
    rotary: Rotary | Rotary2d | None = None
    qk_norm: bool = False
    use_bias: bool = False
    qkv_bias: bool = False
    window: int | None = None
    softcap: float | None = None
    attention_scale: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    depth: int = 1
    experts: int = 0
    experts_top: int = 2
    experts_shared: int = 0
    experts_capacity: float | None = None
    balance: float = 1e-2
    router_z: float = 1e-3
    dtype: str | None = None
    backend: str = "auto"
    layer_scale: float | None = None

    def __post_init__(self) -> None:
        for what, given, known in (("norm", self.norm, NORMS), ("norm_place", self.norm_place, ORDERS)):
            if given not in known:
                raise ConfigError(f"there is no {what} {given!r}; {did_you_mean(given, known)}")

    def forward_layer(self, down_init: Any, name: str | None = None) -> FeedForward | MixtureOfExperts:
        """The feed-forward of a block, or a mixture of them."""
        if not self.experts:
            return FeedForward(
                self.inner, self.feed_forward, self.use_bias, self.dropout, self.dtype, down_init, name=name
            )
        return MixtureOfExperts(
            self.experts, self.inner, self.experts_top, self.feed_forward, self.use_bias, self.dropout,
            normalize=self.experts_top > 1, capacity=self.experts_capacity, shared=self.experts_shared,
            balance=self.balance, z_loss=self.router_z, dtype=self.dtype, down_init=down_init, name=name,
        )  # fmt: skip

    def norm_layer(self, name: str | None = None) -> nn.Module:
        """A norm of this kind."""
        return NORMS[self.norm](epsilon=self.eps, dtype=compute_dtype(self.dtype), name=name)


class Block(nn.Module):
    """x + f(norm(x)) for attention, attention over a memory where there is one, and feed-forward.

    Norms stand before each branch ("pre"), after each sum ("post", arXiv 1706.03762), or before and after each branch
    ("sandwich", arXiv 2408.00118).

    Attributes:
      spec: what all blocks of the stack share.
      causal: whether a token sees only itself and what came before.
      cross: whether there is attention over a memory.
      drop_path: chance that a row skips a branch in training (stochastic depth, arXiv 1603.09382).
    """

    spec: BlockSpec
    causal: bool = True
    cross: bool = False
    drop_path: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Any = None,
        mask: Any = None,
        bias: Any = None,
        cache: Any = None,
        places: Any = None,
        memory: Any = None,
        memory_mask: Any = None,
        valid: Any = None,
        causal: bool | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], Any]:
        """The stream and the cache; a `causal` that is given goes before the block's own (a mask may say it all).

        A cache is {"own": what this sequence said} and, once a memory was read, {"memory": what that says}; a later
        call needs no memory.
        """
        spec, causal = self.spec, self.causal if causal is None else causal
        # The branches of all blocks add to one stream; their sum keeps its size when each starts this small (GPT-2).
        small = nn.initializers.variance_scaling(0.5 / spec.depth, "fan_in", "truncated_normal")
        attention = partial(
            Attention, spec.heads, spec.groups, spec.head_size, qk_norm=spec.qk_norm, norm_one=spec.norm == "rms_one",
            use_bias=spec.use_bias, qkv_bias=spec.qkv_bias, softcap=spec.softcap, scale=spec.attention_scale,
            dropout=spec.attention_dropout, eps=spec.eps, dtype=spec.dtype, out_init=small, backend=spec.backend,
        )  # fmt: skip
        own = attention(causal=causal, rotary=spec.rotary, window=spec.window, name="attention")
        kept = None if cache is None else cache["own"]
        look = partial(own, positions=positions, mask=mask, cache=kept, places=places, bias=bias, train=train)
        x, kept = self._add("attention", x, look, train)
        out = None if cache is None else {"own": kept}
        if self.cross:
            over = attention(rotary=None, name="cross_attention")
            kept = None if cache is None or memory is not None else cache["memory"]
            look = partial(over, mask=memory_mask, memory=memory, cache=kept, train=train)
            x, kept = self._add("cross_attention", x, look, train)
            out = None if cache is None else {**out, "memory": kept}
        forward = partial(spec.forward_layer(small, "feed_forward"), train=train)
        if spec.experts:
            forward = partial(forward, valid=valid)
        x, _ = self._add("feed_forward", x, lambda h: (forward(h), None), train)
        return x, out

    def _add(self, name: str, x: jax.Array, branch: Any, train: bool) -> tuple[jax.Array, Any]:
        """x + branch(x), with norms where they belong."""
        spec = self.spec
        out, rest = branch(x if spec.norm_place == "post" else spec.norm_layer(f"{name}_norm")(x))
        if spec.norm_place == "sandwich":
            out = spec.norm_layer(f"{name}_post_norm")(out)
        if spec.layer_scale is not None:
            start = nn.initializers.constant(spec.layer_scale)
            out = out * self.param(f"{name}_scale", start, x.shape[-1:], jnp.float32).astype(out.dtype)
        out = nn.Dropout(spec.dropout, deterministic=not train)(out)
        out = nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)(out)
        x = x + out
        return (spec.norm_layer(f"{name}_norm")(x) if spec.norm_place == "post" else x), rest
