"""Mixture of experts: a router sends every token to a few of many feed-forwards (arXiv 1701.06538, 2101.03961)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.feed_forward import GATED, FeedForward, activation
from fmjax.nn.linear import Linear, compute_dtype, default_kernel

Rows = Callable[[jax.Array], jax.Array]  # a stack (E, ...) of one value an expert -> what each row needs of it
Product = Callable[[jax.Array, jax.Array], jax.Array]  # rows, kernels (E, D, F) -> rows


class Dispatcher(NamedTuple):
    """What a way of bringing tokens to their experts can do."""

    capacity: bool  # experts may be full
    dropless: bool  # every token may reach every expert it chose


DISPATCHERS = {
    "dense": Dispatcher(capacity=True, dropless=True),  # the reference: all experts on all tokens
    "ragged": Dispatcher(capacity=False, dropless=True),  # tokens sorted by expert, one ragged product
    "buffers": Dispatcher(capacity=True, dropless=False),  # a buffer of fixed size for every expert
}


def choose(name: str, limited: bool, platform: str | None = None) -> str:
    """The dispatcher that will run; "auto" takes the measured best of the platform.

    Raises:
      ConfigError: a dispatcher that does not exist, or cannot do with (or without) a capacity.
    """
    if name == "auto":
        # On CPU a ragged product multiplies every row with every expert, and there are top_k rows a token.
        dropless = "dense" if (platform or jax.default_backend()) == "cpu" else "ragged"
        return "buffers" if limited else dropless
    if name not in DISPATCHERS:
        raise ConfigError(f"there is no dispatcher of experts {name!r}; {did_you_mean(name, DISPATCHERS)}")
    if limited and not DISPATCHERS[name].capacity:
        raise ConfigError(f"dispatcher {name!r} drops nothing, and a capacity is given: use 'buffers' or capacity=None")
    if not limited and not DISPATCHERS[name].dropless:
        raise ConfigError(f"dispatcher {name!r} needs a capacity, such as 1.25; or use 'ragged'")
    return name


class Routes(NamedTuple):
    """Where every token goes."""

    gates: Float[Array, "B T k"]  # 0 for padding and for what is dropped
    chosen: Int[Array, "B T k"]
    place: Int[Array, "B T k"] | None  # in the chosen expert's queue; None without a capacity


class StackedLinear(nn.Module):
    """One linear map an expert, its kernels stacked: (E, D, F)."""

    experts: int
    features: int
    use_bias: bool = False
    dtype: str | None = None
    kernel_init: Any = default_kernel

    @nn.compact
    def __call__(self, x: Float[Array, "... D"], product: Product, rows: Rows) -> Float[Array, "... F"]:
        def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.vmap(lambda k: self.kernel_init(k, shape[1:], jnp.float32))(jax.random.split(key, shape[0]))

        dtype = compute_dtype(self.dtype)
        kernel = self.param("kernel", init, (self.experts, x.shape[-1], self.features))
        y = product(x.astype(dtype), kernel.astype(dtype))
        if self.use_bias:
            shape = (self.experts, self.features)
            y = y + rows(self.param("bias", nn.initializers.zeros_init(), shape, jnp.float32).astype(dtype))
        return y


class Experts(nn.Module):
    """`FeedForward`s side by side; how rows meet their expert's weights is the dispatcher's to say."""

    experts: int
    hidden: int
    kind: str
    use_bias: bool
    dropout: float
    dtype: str | None
    down_init: Any

    @nn.compact
    def __call__(self, x: Float[Array, "... D"], product: Product, rows: Rows, train: bool) -> Float[Array, "... D"]:
        def linear(name: str, features: int, init: Any = default_kernel) -> Callable:
            return StackedLinear(self.experts, features, self.use_bias, self.dtype, init, name=name)

        act = activation(GATED.get(self.kind, self.kind))
        wide = linear("up", self.hidden)(x, product, rows)
        if self.kind in GATED:
            wide = act(linear("gate", self.hidden)(x, product, rows)) * wide
        else:
            wide = act(wide)
        wide = nn.Dropout(self.dropout, deterministic=not train)(wide)
        return linear("down", x.shape[-1], self.down_init)(wide, product, rows)


class MixtureOfExperts(nn.Module):
    """The sum of the `top_k` experts that a token's router likes best, weighted by how much; called as a `FeedForward`.

    Balance and z-losses are sown to "losses" as means over the tokens of the batch, times their coefficients; "load"
    (the share of the choices that each expert got) and "dropped" (the share that found no room) to "intermediates".

    Attributes:
      experts: how many (E).
      hidden: width in the middle of each.
      top_k: experts a token.
      kind: an activation, or swiglu, geglu, reglu.
      normalize: the gates of the chosen experts sum to 1; else they are the router's probabilities.
      capacity: in training an expert takes this many times its fair share of a row's choices, in the order of the
        tokens, and what comes later passes it by (GShard, arXiv 2006.16668). None, and evaluation, drop nothing.
      shared: width of a feed-forward that sees every token besides (arXiv 2401.06066); 0 is none.
      balance: weight of E * sum(share of the choices * mean probability), 1 when balanced (arXiv 2101.03961, eq. 4).
      z_loss: weight of the mean squared log-normaliser of the router (ST-MoE, arXiv 2202.08906).
      jitter: in training the router sees x times a number between 1 - jitter and 1 + jitter.
      dispatch: see DISPATCHERS; of a capacity in training, "auto" takes "buffers".
      down_init: initialiser of the last projections.
    """

    experts: int
    hidden: int
    top_k: int = 2
    kind: str = "gelu"
    use_bias: bool = False
    dropout: float = 0.0
    normalize: bool = True
    capacity: float | None = None
    shared: int = 0
    balance: float = 1e-2
    z_loss: float = 1e-3
    jitter: float = 0.0
    dispatch: str = "auto"
    dtype: str | None = None
    down_init: Any = default_kernel

    @nn.compact
    def __call__(
        self, x: Float[Array, "... D"], train: bool = False, valid: Shaped[Array, "..."] | None = None
    ) -> Float[Array, "... D"]:
        """`valid` (true or 1 for a token, of x's leading shape): padding is not routed, counted or given room."""
        self._check(x, valid)
        limited = train and self.capacity is not None
        way = choose(self.dispatch, self.capacity is not None)
        if not limited and not DISPATCHERS[way].dropless:
            way = choose("auto", False)
        D, lead = x.shape[-1], x.shape[:-1]
        x_BTD = x.reshape(-1, lead[-1], D)
        valid_BT = jnp.ones(x_BTD.shape[:2], bool) if valid is None else valid.reshape(x_BTD.shape[:2]).astype(bool)
        x_BTD = jnp.where(valid_BT[:, :, None], x_BTD, 0)  # padding may hold anything, NaN included
        routes = self._route(x_BTD, valid_BT, train, limited)
        experts = Experts(
            self.experts, self.hidden, self.kind, self.use_bias, self.dropout, self.dtype, self.down_init,
            name="experts",
        )  # fmt: skip
        out = {"dense": _dense, "ragged": _ragged, "buffers": self._buffers}[way](x_BTD, routes, experts, train)
        out = out.astype(compute_dtype(self.dtype))
        if self.shared:
            out = out + FeedForward(
                self.shared, self.kind, self.use_bias, self.dropout, self.dtype, self.down_init, name="shared"
            )(x_BTD, train)
        return out.reshape(x.shape)

    def flops(self, width: int) -> float:
        """Forward FLOPs of one token of size `width`: the router, the experts it goes to, and the shared one."""
        matrices = 3 if self.kind in GATED else 2
        return 2.0 * width * (self.experts + matrices * (self.top_k * self.hidden + self.shared))

    def _check(self, x: jax.Array, valid: jax.Array | None) -> None:
        if not 1 <= self.top_k <= self.experts:
            raise ConfigError(f"top_k={self.top_k} of {self.experts} experts: give 1 to {self.experts}")
        if self.normalize and self.top_k == 1 < self.experts:
            raise ConfigError("one normalised gate is always 1 and teaches the router nothing: give normalize=False")
        if self.capacity is not None and not (math.isfinite(self.capacity) and self.capacity > 0):
            raise ConfigError(f"capacity={self.capacity}: give a factor such as 1.25, or None to drop nothing")
        if not 0 <= self.jitter < 1:
            raise ConfigError(f"jitter={self.jitter}: give a number >= 0 and < 1")
        if valid is not None and valid.shape != x.shape[:-1]:
            raise ConfigError(f"valid has shape {valid.shape}, and the tokens {x.shape[:-1]}: give one number a token")

    def _room(self, tokens: int) -> int:
        """How many of a row's tokens fit into the buffer of an expert."""
        return min(tokens, math.ceil(self.capacity * self.top_k / self.experts * tokens - 1e-5))

    def _route(self, x_BTD: jax.Array, valid_BT: jax.Array, train: bool, limited: bool) -> Routes:
        seen = x_BTD.astype(jnp.float32)
        if train and self.jitter:
            low, high = 1 - self.jitter, 1 + self.jitter
            seen = seen * jax.random.uniform(self.make_rng("dropout"), seen.shape, minval=low, maxval=high)
        logits_BTE = Linear((self.experts,), name="router")(seen)  # float32 whatever the dtype of the experts
        chances_BTE = jax.nn.softmax(logits_BTE)
        gates, chosen = jax.lax.top_k(chances_BTE, self.top_k)
        if self.normalize:
            gates = gates / gates.sum(-1, keepdims=True)

        tokens = jnp.maximum(valid_BT.sum(), 1)
        picked_BTkE = jax.nn.one_hot(chosen, self.experts, dtype=jnp.int32) * valid_BT[:, :, None, None]
        load_E = picked_BTkE.sum((0, 1, 2)) / (tokens * self.top_k)
        mean_E = jnp.where(valid_BT[:, :, None], chances_BTE, 0).sum((0, 1)) / tokens
        squares = jnp.square(jax.nn.logsumexp(logits_BTE, axis=-1))
        if self.balance:
            self.sow("losses", "balance", self.balance * self.experts * jnp.sum(load_E * mean_E))
        if self.z_loss:
            self.sow("losses", "router_z", self.z_loss * jnp.where(valid_BT, squares, 0).sum() / tokens)
        self.sow("intermediates", "load", load_E)

        kept, place = jnp.broadcast_to(valid_BT[:, :, None], gates.shape), None
        if limited:
            B, T, k = gates.shape
            flat = picked_BTkE.reshape(B, T * k, self.experts)  # a token's choices together: none waits for the future
            place = ((jnp.cumsum(flat, axis=1) - flat) * flat).sum(-1).reshape(B, T, k)
            # The share of the real tokens, so that more padding makes no more room.
            share = self.capacity * self.top_k / self.experts
            room = jnp.minimum(jnp.ceil(share * valid_BT.sum(1) - 1e-5), self._room(T))  # float32 may round up
            lost = kept & (place >= room[:, None, None])
            self.sow("intermediates", "dropped", lost.sum() / (tokens * self.top_k))
            kept = kept & ~lost
        return Routes(jnp.where(kept, gates, 0.0), chosen, place)

    def _buffers(self, x_BTD: jax.Array, routes: Routes, experts: Experts, train: bool) -> jax.Array:
        """Tokens written to a buffer (E, B, C, D), one product an expert, and read back."""
        (B, T, D), E, k = x_BTD.shape, self.experts, self.top_k
        C = self._room(T)
        slots = jnp.where(routes.gates > 0, routes.chosen * C + routes.place, E * C).reshape(B, T * k)
        rows = jnp.repeat(x_BTD, k, axis=1)
        filled = jax.vmap(lambda s, x: jnp.zeros((E * C, D), x.dtype).at[s].set(x, mode="drop"))(slots, rows)
        x_ERD = filled.reshape(B, E, C, D).swapaxes(0, 1).reshape(E, B * C, D)
        y_ERD = experts(x_ERD, _each, lambda b_EF: b_EF[:, None], train)
        y = y_ERD.reshape(E, B, C, D).swapaxes(0, 1).reshape(B, E * C, D)
        back = jax.vmap(lambda s, y: y.at[s].get(mode="fill", fill_value=0))(slots, y).reshape(B, T, k, D)
        return jnp.einsum("btk,btkd->btd", routes.gates, back.astype(jnp.float32))


def _each(x_ERD: jax.Array, kernel_EDF: jax.Array) -> jax.Array:
    return jnp.einsum("erd,edf->erf", x_ERD, kernel_EDF)


def _dense(x_BTD: jax.Array, routes: Routes, experts: Experts, train: bool) -> jax.Array:
    """Every expert on every token, and a weighted sum of them all: what the others are compared with."""
    (B, T, D), E = x_BTD.shape, experts.experts
    weights_BTE = jnp.einsum("btk,btke->bte", routes.gates, jax.nn.one_hot(routes.chosen, E))
    x_END = jnp.broadcast_to(x_BTD.reshape(1, B * T, D), (E, B * T, D))
    y_END = experts(x_END, _each, lambda b_EF: b_EF[:, None], train)
    out = jnp.einsum("ne,end->nd", weights_BTE.reshape(-1, E), y_END.astype(jnp.float32))
    return out.reshape(B, T, D)


def _ragged(x_BTD: jax.Array, routes: Routes, experts: Experts, train: bool) -> jax.Array:
    """Choices sorted by expert, so that each expert's rows lie together; what has no weight comes last, in no group."""
    (B, T, D), k, E = x_BTD.shape, routes.chosen.shape[-1], experts.experts
    owner = jnp.where(routes.gates > 0, routes.chosen, E).reshape(-1)
    order = jnp.argsort(owner)
    owner = owner[order]
    sizes = jnp.searchsorted(owner, jnp.arange(1, E + 1)) - jnp.searchsorted(owner, jnp.arange(E))
    rows = x_BTD.reshape(-1, D)[order // k]

    def product(x_RD: jax.Array, kernel_EDF: jax.Array) -> jax.Array:
        return jax.lax.ragged_dot(x_RD, kernel_EDF, sizes.astype(jnp.int32))

    y_RD = experts(rows, product, lambda b_EF: b_EF[jnp.minimum(owner, E - 1)], train)
    back = y_RD[jnp.argsort(order)].reshape(B, T, k, D)
    return jnp.einsum("btk,btkd->btd", routes.gates, back.astype(jnp.float32))
