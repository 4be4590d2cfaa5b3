"""Attention: every query looks at the keys and brings back their values."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn import masks
from fmjax.nn.cache import Kept, Places, keep, kept_again, remember
from fmjax.nn.linear import Linear, default_kernel
from fmjax.nn.norm import RMSNormOne
from fmjax.nn.position import Rotary, Rotary2d

CHUNK = 256  # queries at a time in the chunked backend
UNSEEN = -1e30  # the score of a key that a query may not see
BLOCK, BLOCKS = 128, 4  # least queries of a block and most blocks of a sequence, in the backend "blocks"


class Backend(NamedTuple):
    """What an implementation of attention can do besides causal masks and grouped heads, and where it runs."""

    platforms: tuple[str, ...]
    abilities: frozenset[str]


ABILITIES = ("mask", "window", "bias", "softcap", "dropout")
ALL = frozenset(ABILITIES)
BACKENDS = {
    "einsum": Backend(("cpu", "gpu", "tpu"), ALL),  # the reference
    "blocks": Backend(("cpu", "gpu", "tpu"), ALL),  # the reference, of the keys that a block of queries may see
    "chunked": Backend(("cpu", "gpu", "tpu"), ALL - {"dropout"}),  # the reference, a block of queries at a time
    "xla": Backend(("cpu", "gpu", "tpu"), frozenset({"mask", "window", "bias"})),
    # It has been seen to ignore segment ids elsewhere: it gets no mask before a test on a GPU says that it heeds them.
    "cudnn": Backend(("gpu",), frozenset()),
}


def choose(backend: str, needs: frozenset[str] | set[str] = frozenset(), platform: str | None = None) -> str:
    """The backend that will run; "auto" takes the measured best of the platform that can do what is needed.

    Raises:
      ConfigError: a backend that does not exist, does not run here, or cannot do something that is needed.
    """
    platform = platform or jax.default_backend()
    if backend == "auto":
        if platform == "cpu":
            return "blocks"
        return "einsum" if needs - BACKENDS["xla"].abilities else "xla"
    if backend not in BACKENDS:
        raise ConfigError(f"there is no attention backend {backend!r}; {did_you_mean(backend, BACKENDS)}")
    able = BACKENDS[backend]
    if platform not in able.platforms:
        raise ConfigError(f"attention backend {backend!r} runs on {', '.join(able.platforms)}, not on {platform}")
    if missing := [word for word in ABILITIES if word in needs - able.abilities]:
        others = [name for name, b in BACKENDS.items() if not needs - b.abilities and platform in b.platforms]
        raise ConfigError(
            f"attention backend {backend!r} cannot do {' or '.join(missing)}, which this model or input needs "
            f"(packed, padded and cached input needs a mask): use {' or '.join(others)}"
        )
    return backend


def attend(
    q_BTHK: Float[Array, "B T H K"],
    k_BSGK: Float[Array, "B S G K"],
    v_BSGK: Float[Array, "B S G K"],
    mask: Bool[Array, "b 1 t S"] | None = None,
    causal: bool = False,
    backend: str = "auto",
    *,
    bias: Float[Array, "b H t S"] | None = None,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> Float[Array, "B T H K"]:
    """Scaled dot-product attention; heads in groups share keys and values. A row that may see nothing gives zeros.

    Args:
      mask: where a query may look.
      causal: only at keys up to its own place; the last query stands at the last key.
      bias: added to the scores.
      window: only at keys less than this many places away.
      softcap: scores become softcap * tanh(scores / softcap) (arXiv 2408.00118).
      scale: of the scores; None is 1 / sqrt(K).
      dropout: chance of a weight to be dropped, when there is a `key`.
    """
    needs = {"mask": mask is not None, "bias": bias is not None, "window": window is not None}
    needs |= {"softcap": softcap is not None, "dropout": bool(dropout) and key is not None}
    name = choose(backend, {word for word, needed in needs.items() if needed})
    (B, T, H, K), S = q_BTHK.shape, k_BSGK.shape[1]
    scale = K**-0.5 if scale is None else scale
    if name in ("xla", "cudnn"):
        near = None if window is None else (window - 1, 0 if causal else window - 1)
        out = jax.nn.dot_product_attention(
            q_BTHK, k_BSGK, v_BSGK, bias, mask, scale=scale, is_causal=causal, local_window_size=near,
            implementation=name,
        )  # fmt: skip
        if mask is None:
            return out
        seen = masks.both(mask, masks.behind(T, S, S - T) if causal else None)
        return jnp.where(seen.any(-1)[:, 0, :, None, None], out, 0)  # it gives a blind row the mean of all values
    if mask is not None:
        mask = jnp.broadcast_to(mask, (B, 1, T, S))
    if bias is not None:
        bias = jnp.broadcast_to(bias, (bias.shape[0], H, T, S))
    q_BTHK = q_BTHK * scale
    key = key if dropout else None
    if name == "blocks" and causal:
        return _in_blocks(q_BTHK, k_BSGK, v_BSGK, mask, bias, window, softcap, dropout, key)
    if name in ("einsum", "blocks") or T <= CHUNK:
        return _attend(q_BTHK, k_BSGK, v_BSGK, mask, bias, S - T, causal, window, softcap, dropout, key)
    parts = -(-T // CHUNK)

    def cut(x: jax.Array | None, axis: int) -> jax.Array | None:
        """Blocks of queries, on a new first axis; the last is filled up."""
        if x is None:
            return None
        x = jnp.moveaxis(x, axis, 0)
        x = jnp.pad(x, ((0, parts * CHUNK - T), *((0, 0),) * (x.ndim - 1)))
        return jnp.moveaxis(x.reshape(parts, CHUNK, *x.shape[1:]), 1, axis + 1)

    @jax.checkpoint  # the scores of a block are made again in the backward pass: they are never all there
    def block(_: None, x: tuple) -> tuple[None, jax.Array]:
        start, q, m, b = x
        return None, _attend(q, k_BSGK, v_BSGK, m, b, start, causal, window, softcap, 0.0, None)

    starts = S - T + CHUNK * jnp.arange(parts)
    out = jax.lax.scan(block, None, (starts, cut(q_BTHK, 1), cut(mask, 2), cut(bias, 2)))[1]
    return jnp.moveaxis(out, 0, 1).reshape(B, parts * CHUNK, H, K)[:, :T]


def _attend(
    q_BTHK: Any, k_BSGK: Any, v_BSGK: Any, mask: Any, bias: Any, start: Any, causal: bool, window: int | None,
    softcap: float | None, dropout: float, key: Any,
) -> Float[Array, "B T H K"]:  # fmt: skip
    """The reference: two products of (B G) matrices; `start` is the place of the first query among the keys."""
    (B, T, H, K), (S, G) = q_BTHK.shape, k_BSGK.shape[1:3]
    weights, share = _weigh(q_BTHK, k_BSGK, mask, bias, start, causal, window, softcap)
    if key is not None:
        weights = weights * jax.random.bernoulli(key, 1 - dropout, weights.shape) / (1 - dropout)
    weights = weights.astype(v_BSGK.dtype).reshape(B, G, H // G * T, S)
    out = jnp.einsum("bgts,bsgk->bgtk", weights, v_BSGK).reshape(B, G, H // G, T, K)
    return (out * share.astype(out.dtype)).transpose(0, 3, 1, 2, 4).reshape(B, T, H, K)


def _in_blocks(
    q_BTHK: Any, k_BSGK: Any, v_BSGK: Any, mask: Any, bias: Any, window: int | None, softcap: float | None,
    dropout: float, key: Any,
) -> Float[Array, "B T H K"]:  # fmt: skip
    """The reference with a causal mask, without the keys that no query of a block sees: they would weigh 0."""
    T, S = q_BTHK.shape[1], k_BSGK.shape[1]
    size, outs = max(BLOCK, -(-T // BLOCKS)) if S >= T else T, []
    for begin in range(0, T, size):
        start, end = S - T + begin, min(begin + size, T)  # `start`: the place of its first query among the keys
        first = 0 if window is None else max(0, start - window + 1)
        at, keys = slice(begin, end), slice(first, S - T + end)
        m, b = (None if x is None else x[:, :, at, keys] for x in (mask, bias))
        own = None if key is None else jax.random.fold_in(key, begin)
        outs.append(_attend(
            q_BTHK[:, at], k_BSGK[:, keys], v_BSGK[:, keys], m, b, start - first, True, window, softcap, dropout, own
        ))  # fmt: skip
    return outs[0] if len(outs) == 1 else jnp.concatenate(outs, 1)


def _weigh(
    q_BTHK: Any, k_BSGK: Any, mask: Any, bias: Any, start: Any, causal: bool, window: int | None, softcap: float | None
) -> tuple[Float[Array, "B G h T S"], Float[Array, "B G h T 1"]]:
    """How much each query takes of each key, in float32, and what that is to be multiplied by to sum to 1.

    The sum is divided by after the values are added up, which is less work in either direction: the gradient of the
    softmax needs a sum over the values' numbers then, not one over the keys. h heads share one of G keys.
    """
    (B, T, H, K), (S, G) = q_BTHK.shape, k_BSGK.shape[1:3]
    q = q_BTHK.reshape(B, T, G, H // G, K).transpose(0, 2, 3, 1, 4).reshape(B, G, H // G * T, K)
    scores = jnp.einsum("bgtk,bsgk->bgts", q, k_BSGK).astype(jnp.float32).reshape(B, G, H // G, T, S)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias.reshape(bias.shape[0], G, H // G, T, S)
    allowed = masks.both(
        None if mask is None else mask[:, :, None],
        masks.behind(T, S, start)[0, 0] if causal else None,
        masks.near(T, S, window, start)[0, 0] if window is not None else None,
    )
    if allowed is not None:
        scores = jnp.where(allowed, scores, UNSEEN)
    most = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - most)
    share = 1 / weights.sum(-1, keepdims=True)
    return weights, share if mask is None else jnp.where(most > UNSEEN, share, 0.0)


def attention_weights(
    q_BTHK: Float[Array, "B T H K"],
    k_BSGK: Float[Array, "B S G K"],
    mask: Bool[Array, "b 1 t S"] | None = None,
    causal: bool = False,
    *,
    bias: Float[Array, "b H t S"] | None = None,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
) -> Float[Array, "B H T S"]:
    """What `attend` weighs the values with, whatever its backend, before dropout: rows that sum to 1.

    The row of a query that may see nothing is 0. All of it is held at once.
    """
    (B, T, H, K), S = q_BTHK.shape, k_BSGK.shape[1]
    mask = None if mask is None else jnp.broadcast_to(mask, (B, 1, T, S))
    bias = None if bias is None else jnp.broadcast_to(bias, (bias.shape[0], H, T, S))
    q_BTHK = q_BTHK * (K**-0.5 if scale is None else scale)
    weights, share = _weigh(q_BTHK, k_BSGK, mask, bias, S - T, causal, window, softcap)
    return (weights * share).reshape(B, H, T, S)


class Attention(nn.Module):
    """Multi-head attention, in groups that share keys, over the sequence itself or over another one's memory.

    Where a caller asks for "intermediates", it sows its `attention_weights` there as "weights".

    Attributes:
      heads: query heads (H).
      groups: key/value heads (G); None is H, 1 is multi-query attention.
      size: numbers a head (K); None is D / H.
      causal: whether a token sees only itself and what came before.
      rotary: how queries and keys are turned by their positions; None does not.
      qk_norm: whether queries and keys are RMS-normalised (arXiv 2302.05442); `norm_one`: with the scale kept as its
        distance from one.
      use_bias: biases on all projections; `qkv_bias` on all but the last.
      window, softcap, scale, dropout: see `attend`.
      eps: of the norms of queries and keys.
      out_init: initialiser of the output projection.
      backend: see BACKENDS.
    """

    heads: int
    groups: int | None = None
    size: int | None = None
    causal: bool = False
    rotary: Rotary | Rotary2d | None = Rotary()
    qk_norm: bool = False
    norm_one: bool = False
    use_bias: bool = False
    qkv_bias: bool = False
    window: int | None = None
    softcap: float | None = None
    scale: float | None = None
    dropout: float = 0.0
    eps: float = 1e-6
    dtype: str | None = None
    out_init: Any = default_kernel
    backend: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"] | None = None,
        mask: Bool[Array, "b 1 t S"] | None = None,
        cache: Kept | None = None,
        places: Places | None = None,
        memory: Float[Array, "B S M"] | None = None,
        bias: Float[Array, "b H t S"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], Kept | None]:
        """What the values say, and the keys and values to keep.

        With `places` the cache holds what the sequence said before; without them, what a memory says, which is then
        not read again.
        """
        D, H, G = x.shape[-1], self.heads, self.groups or self.heads
        if (self.size is None and D % H) or H % G:
            raise ConfigError(f"width {D} does not divide into {H} heads, or {H} heads into {G} groups")
        K = self.size or D // H
        biased = self.use_bias or self.qkv_bias

        def project(name: str, heads: int, of: jax.Array) -> jax.Array:
            return Linear((heads, K), use_bias=biased, dtype=self.dtype, name=name)(of)

        q_BTHK = project("query", H, x)
        norm = RMSNormOne if self.norm_one else nn.RMSNorm
        if self.qk_norm:
            q_BTHK = norm(epsilon=self.eps, dtype=q_BTHK.dtype, name="query_norm")(q_BTHK)
        causal, window = self.causal, self.window
        if cache is not None and places is None:
            k_BSGK, v_BSGK = kept_again(cache)
        else:
            source = x if memory is None else memory
            k_BSGK, v_BSGK = project("key", G, source), project("value", G, source)
            if self.qk_norm:
                k_BSGK = norm(epsilon=self.eps, dtype=k_BSGK.dtype, name="key_norm")(k_BSGK)
        if self.rotary is not None and memory is None:
            q_BTHK, k_BSGK = self.rotary(q_BTHK, positions), self.rotary(k_BSGK, positions)
        if places is not None:
            k_BSGK, v_BSGK, cache, mask = remember(cache, k_BSGK, v_BSGK, places, window)
            causal, window = False, None  # the mask says it all
        elif memory is not None:
            cache = keep(k_BSGK, v_BSGK)
        if self.is_mutable_collection("intermediates") and not self.is_initializing():
            weights_BHTS = attention_weights(
                q_BTHK, k_BSGK, mask, causal, bias=bias, window=window, softcap=self.softcap, scale=self.scale
            )
            self.sow("intermediates", "weights", weights_BHTS)
        key = self.make_rng("dropout") if train and self.dropout else None
        out_BTHK = attend(
            q_BTHK, k_BSGK, v_BSGK, mask, causal, self.backend, bias=bias, window=window,
            softcap=self.softcap, scale=self.scale, dropout=self.dropout, key=key,
        )  # fmt: skip
        out = Linear((D,), contract=2, use_bias=self.use_bias, dtype=self.dtype, kernel_init=self.out_init, name="out")(
            out_BTHK
        )
        return out, cache


def attention_flops(
    rows: int, queries: int, keys: int, width: int, heads: int, groups: int, size: int, causal: bool = False
) -> float:
    """Forward FLOPs of one attention layer, projections included; `causal` counts only the half that is seen."""
    projections = queries * width * 2 * heads * size + keys * width * 2 * groups * size
    scores = 2 * queries * keys * heads * size * (0.5 if causal else 1.0)
    return 2.0 * rows * (projections + scores)
