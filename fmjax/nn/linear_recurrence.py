"""Linear recurrence: a state that fades at a gated rate, computed for all tokens at once by an associative scan.

The layer is the recurrent block of Griffin with its RG-LRU (arXiv 2402.19427, sections 2.3 and 2.4); it has the
signature of the layers in recurrent.py. Unusual: the weights of the gates are whole, not block-diagonal.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fmjax.core.errors import ConfigError
from fmjax.nn.feed_forward import gelu
from fmjax.nn.linear import Linear, compute_dtype
from fmjax.nn.recurrent import State, starts

SHARPNESS = 8.0  # c of the paper: how many times a gate may raise the decay to its own power
SLOWEST, FASTEST = 0.999, 0.9  # fresh decays with the gate open


@jax.custom_vjp
def linear_scan(decay: Float[Array, "B T R"], inputs: Float[Array, "B T R"]) -> Float[Array, "B T R"]:
    """h of h_t = decay_t h_{t-1} + inputs_t from h = 0, in about 2 log T steps.

    Its gradient is such a recurrence too, from the end; differentiating the scan would keep all its levels. No
    forward-mode derivatives.
    """
    return _scan(decay, inputs)


def _scan(decay: jax.Array, inputs: jax.Array, reverse: bool = False) -> jax.Array:
    def join(left: tuple, right: tuple) -> tuple:
        return left[0] * right[0], right[0] * left[1] + right[1]

    return jax.lax.associative_scan(join, (decay, inputs), axis=1, reverse=reverse)[1]


def _scan_forward(decay: jax.Array, inputs: jax.Array) -> tuple:
    hidden = _scan(decay, inputs)
    return hidden, (decay, hidden)


def _scan_backward(saved: tuple, d_hidden: jax.Array) -> tuple:
    decay, hidden = saved
    later = jnp.pad(decay[:, 1:], ((0, 0), (0, 1), (0, 0)))
    d_inputs = _scan(later, d_hidden, reverse=True)
    return d_inputs * jnp.pad(hidden[:, :-1], ((0, 0), (1, 0), (0, 0))), d_inputs


linear_scan.defvjp(_scan_forward, _scan_backward)


class LinearRecurrence(nn.Module):
    """out(gelu(gate(x)) * RG-LRU(conv(input(x)))): no product waits for the state.

    Attributes:
      features: width of the recurrence (R); the output has the width of the input.
      taps: tokens that the causal convolution sees, this one among them.
      dtype: compute dtype; weights, gates and states stay float32.
    """

    features: int
    taps: int = 4
    dtype: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], segment_ids: Int[Array, "B T"] | None = None, state: State | None = None
    ) -> tuple[Float[Array, "B T D"], State]:
        R = self.features
        if R < 1 or self.taps < 2:
            raise ConfigError(f"features={R} and taps={self.taps}: give at least 1 and 2")
        state = self.init_state(x.shape[0]) if state is None else state
        wide, inputs = self._convolve(Linear((R,), dtype=self.dtype, name="input")(x), segment_ids, state)
        decay, add = self._gates(wide)
        if segment_ids is not None:
            start, real = starts(segment_ids, state["segments"][:, -1])[0][..., None], segment_ids[..., None] > 0
            decay, add = jnp.where(real, jnp.where(start, 0, decay), 1), jnp.where(real, add, 0)
        hidden = linear_scan(decay, add.at[:, 0].add(decay[:, 0] * state["hidden"]))
        gate = gelu(Linear((R,), dtype=self.dtype, name="gate")(x))
        out = Linear(x.shape[-1:], dtype=self.dtype, name="out")(gate * hidden.astype(gate.dtype))
        return out, {"hidden": hidden[:, -1], **inputs}

    def _convolve(self, x: jax.Array, segment_ids: jax.Array | None, state: State) -> tuple[jax.Array, State]:
        """Each feature alone over the last tokens of its document, and what the next call has to remember of it."""
        T, past = x.shape[1], self.taps - 1
        kernel = self.param("conv_kernel", nn.initializers.lecun_normal(), (self.taps, 1, self.features))
        bias = self.param("conv_bias", nn.initializers.zeros_init(), (self.features,))
        kernel, out = kernel.astype(x.dtype), bias.astype(x.dtype)
        seen = jnp.concatenate([state["inputs"].astype(x.dtype), x], 1)
        ids = jnp.maximum(state["segments"][:, -1:], 1) if segment_ids is None else segment_ids
        segments = jnp.concatenate([state["segments"], jnp.broadcast_to(ids, x.shape[:2]).astype(jnp.int32)], 1)
        for back in range(self.taps):
            tap = seen[:, past - back : past - back + T]
            if segment_ids is not None:
                tap = jnp.where((segments[:, past - back : past - back + T] == segment_ids)[..., None], tap, 0)
            out = out + tap * kernel[past - back]
        return out, dict(zip(("inputs", "segments"), last_real(seen, segments, past), strict=True))

    def _gates(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """How much of the state stays, and what is added to it: float32, since a decay of 0.999 is none in bfloat16."""

        def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            decay = jax.random.uniform(key, shape, minval=FASTEST, maxval=SLOWEST)
            return jnp.log(jnp.expm1(-jnp.log(decay) / SHARPNESS))

        def gate(name: str) -> jax.Array:
            linear = Linear((self.features,), use_bias=True, dtype=self.dtype, name=name)
            return jax.nn.sigmoid(linear(x).astype(jnp.float32))

        rate = jax.nn.softplus(self.param("decay", init, (self.features,)))
        log_decay = -SHARPNESS * rate * gate("recurrence_gate")
        # What is added is scaled so that the state keeps its size; the floor keeps the slope of the root finite.
        size = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_decay), 1e-7))
        return jnp.exp(log_decay), size * gate("input_gate") * x.astype(jnp.float32)

    def init_state(self, batch: int) -> State:
        """The state before any token; needs no weights."""
        past = self.taps - 1
        return {
            "hidden": jnp.zeros((batch, self.features)),
            "inputs": jnp.zeros((batch, past, self.features), compute_dtype(self.dtype)),
            "segments": jnp.zeros((batch, past), jnp.int32),
        }

    def flops(self, width: int) -> float:
        """Forward FLOPs of the products and the convolution, a token of `width` features."""
        return 2.0 * self.features * (3 * width + 2 * self.features + self.taps)


def last_real(
    values: Float[Array, "B S *rest"], segment_ids: Int[Array, "B S"], n: int
) -> tuple[Float[Array, "B n *rest"], Int[Array, "B n"]]:
    """The last n entries that are no padding, with their segments; where there are fewer, segment 0 comes first."""
    place = jnp.where(segment_ids > 0, jnp.arange(1, segment_ids.shape[1] + 1), 0)
    top, index = jax.lax.top_k(place, n)
    index = index[:, ::-1]
    kept = jnp.take_along_axis(values, index.reshape(*index.shape, *(1,) * (values.ndim - 2)), 1)
    return kept, jnp.where(top[:, ::-1] > 0, jnp.take_along_axis(segment_ids, index, 1), 0)
