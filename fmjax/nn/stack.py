"""A stack of transformer blocks: unrolled or scanned from the same weights, recomputed by a named policy."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn import cache as caches
from fmjax.nn import masks
from fmjax.nn.attention import attention_flops
from fmjax.nn.block import Block, BlockSpec
from fmjax.nn.embedding import Embed
from fmjax.nn.experts import MixtureOfExperts
from fmjax.nn.feed_forward import GATED
from fmjax.nn.position import RelativeBias, Rotary, Rotary2d, sine

POSITIONS = ("rotary", "rotary2d", "learned", "sine", "alibi", "relative", "none")
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
STATIC = (10, 11)  # the places of causal and train among the arguments of a block


class Blocks(nn.Module, kw_only=True):
    """What every transformer has: positions, blocks, a last norm. Subclasses call `make_blocks` in their setup.

    Attributes:
      width: size of the residual stream (D).
      depth: number of blocks.
      heads: query heads.
      groups: key/value heads; None is `heads`, 1 is multi-query attention.
      head_size: numbers a head; None is width / heads.
      inner: width of the feed-forward; None is 4 x width.
      feed_forward: an activation, or swiglu, geglu, reglu.
      norm: rms, rms_one (its scale is kept as the distance from one) or layer.
      norm_place: pre, post (which has no last norm) or sandwich.
      eps: of all norms.
      position: rotary, rotary2d (of an image), learned, sine, alibi, relative (T5's biases) or none.
      length: longest input; only learned positions need it.
      first_position: the row of the learned table that the first token gets (RoBERTa starts at 2).
      rope_base, rope_scaling, rope_factor, rope_length: see nn/position.py's Rotary.
      rope_base_local: base of the blocks with a window, which are not stretched either; None is that of all.
      qk_norm: normalise queries and keys.
      use_bias: biases everywhere; `qkv_bias`: on queries, keys and values only.
      window: how many places back (and ahead) a token sees, itself included; None is all.
      full_every: blocks from one that sees all to the next, which is the last of so many; 0 is a window in each.
      softcap: bound on the attention scores, see nn/attention.py.
      attention_scale: of the scores; None is 1 / sqrt(head size).
      embed_norm: normalise the embedded tokens.
      dropout: of the embedding and all branches; `attention_dropout`: of attention weights.
      drop_path: chance to skip a branch of the last block in training; earlier blocks have less, the first none.
      layer_scale: what a learned scale of every branch starts from (arXiv 2103.17239); None has no such scale.
      attention: backend, see nn/attention.py.
      experts: feed-forwards that each token chooses among, see nn/experts.py; 0 is one for all.
      experts_top: how many it chooses; `experts_shared`: width of one that all tokens see besides.
      experts_every: blocks from one mixture to the next; the others have one feed-forward.
      experts_capacity: room of an expert in training, times its fair share; None drops nothing.
      balance, router_z: weights of the router's two losses.
      scan: compile one block and loop over the weights of all: the same weights and numbers, a shorter compilation.
      remat: what the backward pass computes again of each block: none, all ("full"), all but matrix products ("dots"),
        or all but products with weights ("dots_no_batch").
    """

    width: int = 128
    depth: int = 4
    heads: int = 4
    groups: int | None = None
    head_size: int | None = None
    inner: int | None = None
    feed_forward: str = "gelu"
    norm: str = "rms"
    norm_place: str = "pre"
    eps: float = 1e-6
    position: str = "rotary"
    length: int = 1024
    first_position: int = 0
    rope_base: float = 10_000.0
    rope_scaling: str = "none"
    rope_factor: float = 1.0
    rope_length: int = 0
    rope_base_local: float | None = None
    qk_norm: bool = False
    use_bias: bool = False
    qkv_bias: bool = False
    window: int | None = None
    full_every: int = 0
    softcap: float | None = None
    attention_scale: float | None = None
    embed_norm: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    layer_scale: float | None = None
    attention: str = "auto"
    experts: int = 0
    experts_top: int = 2
    experts_shared: int = 0
    experts_every: int = 1
    experts_capacity: float | None = None
    balance: float = 1e-2
    router_z: float = 1e-3
    scan: bool = False
    remat: str | bool = "none"
    dtype: str | None = None

    @property
    def couples_batch(self) -> bool:
        """Whether the loss of a row depends on other rows: a router's balance is that of the whole batch."""
        return self.experts > 0 and self.balance > 0

    def make_blocks(self, causal: bool, cross: bool = False) -> None:
        """Create the layers; `cross` adds attention over a memory to each block."""
        policy = {True: "full", False: "none"}.get(self.remat, self.remat)  # older configs have a switch
        for what, given, known in (("position", self.position, POSITIONS), ("remat", policy, REMAT)):
            if given not in known:
                raise ConfigError(f"there is no {what} {given!r}; {did_you_mean(given, known)}")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path={self.drop_path} is a chance from 0 to below 1")
        differing = {
            "drop_path": self.drop_path > 0,
            "experts_every": self.experts_every > 1,
            "full_every": self.full_every > 1,
        }
        for what, differs in differing.items():
            if self.scan and differs:
                raise ConfigError(f"scan needs blocks that are alike, and {what} makes them differ: unset one of them")
        self.causal, self.remat_policy = causal, policy
        rotary = {
            "rotary": Rotary(self.rope_base, self.rope_scaling, self.rope_factor, self.rope_length),
            "rotary2d": Rotary2d(self.rope_base),
        }
        self.spec = BlockSpec(
            self.heads, self.inner or 4 * self.width, self.groups, self.head_size, self.feed_forward, self.norm,
            self.norm_place, self.eps, rotary.get(self.position), self.qk_norm, self.use_bias,
            self.qkv_bias, self.window, self.softcap, self.attention_scale, self.dropout, self.attention_dropout,
            self.depth, self.experts, self.experts_top, self.experts_shared, self.experts_capacity, self.balance,
            self.router_z, self.dtype, self.attention, self.layer_scale,
        )  # fmt: skip
        kind = Block if policy == "none" else nn.remat(Block, policy=REMAT[policy], static_argnums=STATIC)
        self.one = Block(self.spec, causal, cross, parent=None)  # what a scan applies to the weights of every block
        for i in range(self.depth):
            window, turned = self._window(i), self.spec.rotary
            if turned and window is not None and self.rope_base_local:
                turned = Rotary(self.rope_base_local)
            experts = self.experts if self._is_mixed(i) else 0
            spec = dataclasses.replace(self.spec, experts=experts, window=window, rotary=turned)
            setattr(self, f"block_{i}", kind(spec, causal, cross, self.drop_path * i / max(self.depth - 1, 1)))
        if self.position == "learned":
            self.position_embed = Embed(self.length + self.first_position, self.width, dtype=self.dtype)
        if self.position == "relative":
            self.relative_bias = RelativeBias(self.heads, causal=causal)
        if self.embed_norm:
            self.embedding_norm = self.spec.norm_layer()
        if self.norm_place != "post":
            self.final_norm = self.spec.norm_layer()
        self.drop = nn.Dropout(self.dropout)

    def run(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        prefix: Int[Array, "B T"] | None = None,
        cache: dict | None = None,
        memory: Float[Array, "B S D"] | None = None,
        memory_mask: Any = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], list | None]:
        """Embedded tokens to the last, normalised stream; with a cache, those of all blocks too."""
        B, T, _ = x.shape
        start = 0 if cache is None else cache["start"]
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(T), (B, T))
        if self.position == "learned":
            if self.length < T:
                raise ConfigError(f"{T} tokens do not fit {self.length} learned positions: raise --config.model.length")
            x = x + self.position_embed(positions + self.first_position)
        elif self.position == "sine":
            x = x + sine(positions, self.width).astype(x.dtype)
        if self.embed_norm:
            x = self.embedding_norm(x)
        x = self.drop(x, deterministic=not train)
        keys, causal, places = T, self.causal, None
        mask = None if segment_ids is None else masks.same_document(segment_ids)
        valid = None if segment_ids is None else segment_ids > 0
        if cache is not None:  # the blocks make their masks from the places
            keys, mask, causal = cache["segments"].shape[1], None, False
            places = caches.Places(start, cache["segments"], prefix)
            valid = jax.lax.dynamic_slice_in_dim(cache["segments"], start, T, 1) > 0
        elif prefix is not None:
            mask, causal = masks.both(mask, masks.with_prefix(prefix)), False
        bias = None
        if self.position == "alibi":
            bias = masks.alibi(self.heads, T, keys, start)
        elif self.position == "relative":
            bias = self.relative_bias(T, keys, start)
        if self.scan and cache is None and not self.is_initializing():
            x, blocks = (
                self._scanned(x, (positions, mask, bias, None, None, memory, memory_mask, valid, causal, train)),
                None,
            )
        else:
            blocks = []
            for i in range(self.depth):
                layer = None if cache is None else cache["blocks"][i]
                block = getattr(self, f"block_{i}")
                x, layer = block(x, positions, mask, bias, layer, places, memory, memory_mask, valid, causal, train)
                blocks.append(layer)
        return (x if self.norm_place == "post" else self.final_norm(x)), blocks

    def _scanned(self, x: jax.Array, inputs: tuple) -> jax.Array:
        """All blocks by one loop over their stacked weights."""
        weights = [self.variables["params"][f"block_{i}"] for i in range(self.depth)]
        if len({jax.tree.structure(own) for own in weights}) > 1:
            raise ConfigError(
                "scan needs blocks that are alike, and an adapter makes them differ: adapt all, or unset it"
            )
        key = self.make_rng("dropout") if self.has_rng("dropout") else jax.random.key(0)

        def body(x: jax.Array, layer: tuple) -> tuple[jax.Array, Any]:
            own, key = layer
            out, sown = self.one.apply({"params": own}, x, *inputs, rngs={"dropout": key}, mutable=["losses"])
            return out[0], sown.get("losses", {})

        if self.remat_policy != "none":
            body = jax.checkpoint(body, policy=REMAT[self.remat_policy])
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights)
        x, losses = jax.lax.scan(body, x, (stacked, jax.random.split(key, self.depth)))
        for loss in jax.tree.leaves(losses):
            self.sow("losses", "scanned", loss.sum())
        return x

    def empty_blocks(self, batch: int, length: int, slack: int) -> list:
        """The empty cache of every block.

        Raises:
          ConfigError: more tokens than there are learned positions.
        """
        if self.position == "learned" and length > self.length:
            raise ConfigError(
                f"{length} tokens, the prompt and what is to be written, do not fit the model's {self.length} learned "
                "positions: give a shorter prompt or ask for fewer tokens"
            )
        rings = self.position not in ("alibi", "relative")  # their biases are made for places in order
        shape = (batch, length, self.groups or self.heads, self._head_width, self.dtype)
        return [{"own": caches.empty(*shape, self._window(i) if rings else None, slack)} for i in range(self.depth)]

    def block_flops(self, rows: int, queries: int, causal: bool, memory: int = 0) -> float:
        """Forward FLOPs of all blocks; `causal` counts only the half of the scores that is seen."""
        heads = (self.width, self.heads, self.groups or self.heads, self._head_width)
        own = attention_flops(rows, queries, queries, *heads, causal)
        cross = attention_flops(rows, queries, memory, *heads) if memory else 0.0
        inner = self.inner or 4 * self.width
        dense = 2.0 * (3 if self.feed_forward in GATED else 2) * self.width * inner  # of one token
        mixed = sum(map(self._is_mixed, range(self.depth)))
        if mixed:
            mixture = MixtureOfExperts(
                self.experts, inner, self.experts_top, self.feed_forward, shared=self.experts_shared, parent=None
            )
            mixed *= mixture.flops(self.width) - dense
        return self.depth * (own + cross + rows * queries * dense) + rows * queries * mixed

    @property
    def _head_width(self) -> int:
        return self.head_size or self.width // self.heads

    def _window(self, block: int) -> int | None:
        full = self.full_every > 0 and (block + 1) % self.full_every == 0
        return None if full else self.window

    def _is_mixed(self, block: int) -> bool:
        return self.experts > 0 and (block + 1) % self.experts_every == 0


class Stack(Blocks, kw_only=True):
    """Blocks that read embedded tokens: one side of an encoder-decoder.

    Attributes:
      one_way: whether a token sees only itself and what came before.
      cross: whether each block attends over a memory.
    """

    one_way: bool = False
    cross: bool = False

    def setup(self) -> None:
        self.make_blocks(self.one_way, self.cross)

    def __call__(self, x: Float[Array, "B T D"], **more: Any) -> tuple[Float[Array, "B T D"], list | None]:
        """As `run`."""
        return self.run(x, **more)


def side(of: Blocks, depth: int | None = None, **kw: Any) -> Stack:
    """A stack with the fields of another."""
    fields = {f.name: getattr(of, f.name) for f in dataclasses.fields(Blocks) if f.name not in ("parent", "name")}
    return Stack(**{**fields, "depth": depth or of.depth, **kw})
