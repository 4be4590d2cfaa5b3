"""Attention: every query looks at the keys and brings back their values."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.linear import Linear, default_kernel
from fmjax.nn.position import rotate

Cache = dict[str, jax.Array]  # {"key", "value"}: (B, L, G, K)


class Backend(NamedTuple):
    """What an implementation of attention can do, and on which platforms it runs."""

    platforms: tuple[str, ...]
    masks: bool  # takes an arbitrary boolean mask (packing, caches), not only "causal"


BACKENDS = {
    "einsum": Backend(("cpu", "gpu", "tpu"), masks=True),  # the reference
    "xla": Backend(("cpu", "gpu", "tpu"), masks=True),
    "cudnn": Backend(("gpu",), masks=False),
}


def choose(backend: str, masked: bool, platform: str | None = None) -> str:
    """The backend that will run; "auto" takes the measured best of the platform.

    Raises:
      ConfigError: a backend that does not exist, does not run here, or cannot apply the mask.
    """
    platform = platform or jax.default_backend()
    if backend == "auto":
        return "einsum" if platform == "cpu" else "xla"
    if backend not in BACKENDS:
        raise ConfigError(f"there is no attention backend {backend!r}; {did_you_mean(backend, BACKENDS)}")
    able = BACKENDS[backend]
    if platform not in able.platforms:
        raise ConfigError(f"attention backend {backend!r} runs on {', '.join(able.platforms)}, not on {platform}")
    if masked and not able.masks:
        raise ConfigError(
            f"attention backend {backend!r} applies no mask, and this input is packed or cached: use 'xla'"
        )
    return backend


def attend(
    q_BTHK: Float[Array, "B T H K"],
    k_BSGK: Float[Array, "B S G K"],
    v_BSGK: Float[Array, "B S G K"],
    mask: Bool[Array, "B 1 T S"] | None = None,
    causal: bool = False,
    backend: str = "auto",
) -> Float[Array, "B T H K"]:
    """Scaled dot-product attention; heads in groups share keys and values. A row that may see nothing gives zeros."""
    name = choose(backend, mask is not None)
    if name != "einsum":
        out = jax.nn.dot_product_attention(q_BTHK, k_BSGK, v_BSGK, mask=mask, is_causal=causal, implementation=name)
        seen = None if mask is None else mask.any(-1)[:, 0, :, None, None]
        return out if seen is None else jnp.where(seen, out, 0)
    B, T, H, K = q_BTHK.shape
    S, G = k_BSGK.shape[1:3]
    q = (q_BTHK * K**-0.5).reshape(B, T, G, H // G, K).transpose(0, 2, 3, 1, 4).reshape(B, G, H // G * T, K)
    scores = jnp.einsum("bgtk,bsgk->bgts", q, k_BSGK).astype(jnp.float32).reshape(B, G, H // G, T, S)
    allowed = None if mask is None else mask[:, :, None]
    if causal:
        below = jnp.arange(T)[:, None] + (S - T) >= jnp.arange(S)
        allowed = below if allowed is None else below & allowed
    if allowed is not None:
        scores = jnp.where(allowed, scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1)
    if mask is not None:
        weights = jnp.where(allowed, weights, 0.0)
    weights = weights.astype(v_BSGK.dtype).reshape(B, G, H // G * T, S)
    out = jnp.einsum("bgts,bsgk->bgtk", weights, v_BSGK).reshape(B, G, H // G, T, K)
    return out.transpose(0, 3, 1, 2, 4).reshape(B, T, H, K)


class Attention(nn.Module):
    """Multi-head self-attention, in groups that share keys, with rotary positions and an explicit cache.

    Attributes:
      heads: query heads (H).
      groups: key/value heads (G); None is H.
      causal: whether a token sees only itself and what came before.
      rotary: whether queries and keys are turned by their positions.
      qk_norm: whether queries and keys are RMS-normalised (arXiv 2302.05442).
      use_bias: biases on the projections.
      out_init: initialiser of the output projection.
      backend: see BACKENDS.
    """

    heads: int
    groups: int | None = None
    causal: bool = False
    rotary: bool = True
    qk_norm: bool = False
    use_bias: bool = False
    dtype: str | None = None
    out_init: Any = default_kernel
    backend: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B 1 T S"] | None = None,
        cache: Cache | None = None,
        start: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        D, H, G = x.shape[-1], self.heads, self.groups or self.heads
        if D % H or H % G:
            raise ConfigError(f"width {D} does not divide into {H} heads, or {H} heads into {G} groups")
        K = D // H

        def project(name: str, heads: int) -> jax.Array:
            return Linear((heads, K), use_bias=self.use_bias, dtype=self.dtype, name=name)(x)

        q_BTHK, k_BTGK, v_BTGK = project("query", H), project("key", G), project("value", G)
        if self.qk_norm:
            q_BTHK = nn.RMSNorm(dtype=q_BTHK.dtype, name="query_norm")(q_BTHK)
            k_BTGK = nn.RMSNorm(dtype=k_BTGK.dtype, name="key_norm")(k_BTGK)
        if self.rotary:
            q_BTHK, k_BTGK = rotate(q_BTHK, positions), rotate(k_BTGK, positions)
        causal = self.causal
        if cache is not None:  # the mask then says which cached places are seen
            write = jax.lax.dynamic_update_slice_in_dim
            cache = {"key": write(cache["key"], k_BTGK, start, 1), "value": write(cache["value"], v_BTGK, start, 1)}
            k_BTGK, v_BTGK, causal = cache["key"], cache["value"], False
        out_BTHK = attend(q_BTHK, k_BTGK, v_BTGK, mask, causal, self.backend)
        out = Linear((D,), contract=2, use_bias=self.use_bias, dtype=self.dtype, kernel_init=self.out_init, name="out")(
            out_BTHK
        )
        return out, cache
