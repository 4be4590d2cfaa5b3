"""Recurrence: a state that reads a sequence token by token, and how little of the work waits for it.

Layers map (B, T, D) to (B, T, features) and give the state after the last token, a tree of arrays that the next call
takes up. With `segment_ids` a state starts from zeros where another document begins, and padding leaves it alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fmjax.core.errors import ConfigError
from fmjax.nn.linear import Linear, compute_dtype

State = dict[str, jax.Array]  # (B, features) each, "hidden" among them; of layers also "segment" (B,), the last one


class Cell(NamedTuple):
    """A recurrence, apart from its products.

    join: (what comes from the input, what comes from the hidden state) -> gates; linear.
    update: (state, gates) -> state.
    """

    join: Callable[[jax.Array, jax.Array], jax.Array]
    update: Callable[[State, jax.Array], State]


class Borders(NamedTuple):
    """Per token: whether the state before it counts (1) or a document starts (0), and whether it is no padding."""

    keep: jax.Array
    real: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur(
    cell: Cell,
    unroll: int,
    kernel: Float[Array, "H G"],
    bias: Float[Array, " G"] | None,
    state: State,
    inputs: Float[Array, "T B I"],
    borders: Borders | None,
) -> tuple[State, State]:
    """The state after the last step, and after each (T, B, ...): state = update(state, join(input, hidden @ kernel)).

    States are float32; products are taken in the dtype of `inputs`. Its own backward pass leaves the gradient of the
    kernel out of the loop: one product over all steps, where differentiating the scan adds up T small ones. Hence
    no forward-mode derivatives.

    Args:
      cell: what a step does.
      unroll: steps in one turn of the loop.
      kernel: of the hidden state.
      bias: added to its product.
      state: before the first step.
      inputs: what comes from the input, time first.
      borders: (T, B, 1) each; None for one whole document a row.
    """
    return _forward(cell, unroll, kernel, bias, state, inputs, borders)[0]


def _forward(cell: Cell, unroll: int, kernel: Any, bias: Any, state: Any, inputs: Any, borders: Any) -> tuple:
    weights = kernel.astype(inputs.dtype)

    def step(state: State, now: tuple) -> tuple:
        x, border = now
        begun = _begin(state, border)
        product = jnp.matmul(begun["hidden"].astype(x.dtype), weights, preferred_element_type=jnp.float32)
        gates = cell.join(x.astype(jnp.float32), product if bias is None else product + bias)
        state = _settle(cell.update(begun, gates), begun, border)
        return state, (state, gates)

    last, (states, gates) = jax.lax.scan(step, state, (inputs, borders), unroll=unroll)
    return (last, states), (kernel, bias, state, inputs, borders, states, gates)


def _backward(cell: Cell, unroll: int, saved: tuple, gradients: tuple) -> tuple:
    kernel, bias, state, inputs, borders, states, gates = saved
    before = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), state, states)
    weights = kernel.T.astype(inputs.dtype)
    parts = (inputs.shape[-1], kernel.shape[1])

    def unjoin(d_gates: jax.Array) -> tuple[jax.Array, jax.Array]:
        zeros = [jnp.zeros((*d_gates.shape[:-1], size)) for size in parts]
        return jax.vjp(cell.join, *zeros)[1](d_gates)

    def step(d_state: State, now: tuple) -> tuple:
        d_here, before, gates, border = now

        def move(begun: State, gates: jax.Array) -> State:
            return _settle(cell.update(begun, gates), begun, border)

        _, back = jax.vjp(move, _begin(before, border), gates)
        d_begun, d_gates = back(jax.tree.map(jnp.add, d_state, d_here))
        d_product = unjoin(d_gates)[1].astype(inputs.dtype)
        d_hidden = jnp.matmul(d_product, weights, preferred_element_type=jnp.float32)
        return _begin({**d_begun, "hidden": d_begun["hidden"] + d_hidden}, border), d_gates

    steps = (gradients[1], before, gates, borders)
    d_state, d_gates = jax.lax.scan(step, gradients[0], steps, reverse=True, unroll=unroll)
    d_inputs, d_product = unjoin(d_gates)
    hidden = _begin(before, borders)["hidden"].astype(inputs.dtype)
    d_kernel = jnp.einsum(
        "tbh,tbg->hg", hidden, d_product.astype(inputs.dtype), preferred_element_type=jnp.float32
    )  # one product, whatever T
    d_bias = None if bias is None else d_product.sum((0, 1))
    d_borders = jax.tree.map(jnp.zeros_like, borders)
    return d_kernel, d_bias, d_state, d_inputs.astype(inputs.dtype), d_borders


recur.defvjp(_forward, _backward)


def _begin(state: State, border: Borders | None) -> State:
    return state if border is None else jax.tree.map(lambda s: s * border.keep, state)


def _settle(new: State, old: State, border: Borders | None) -> State:
    return new if border is None else jax.tree.map(lambda n, o: jnp.where(border.real > 0, n, o), new, old)


def starts(
    segment_ids: Int[Array, "B T"], before: Int[Array, " B"] | None = None
) -> tuple[Bool[Array, "B T"], Int[Array, " B"]]:
    """Where a document starts, and the segment of each row's last real token; `before` is that of the last call.

    Padding inside a document does not start another one.
    """
    B, T = segment_ids.shape
    segment_ids = jnp.asarray(segment_ids, jnp.int32)
    before = jnp.zeros(B, jnp.int32) if before is None else before.astype(jnp.int32)
    place = jnp.where(segment_ids > 0, jnp.arange(1, T + 1), 0)
    latest = jnp.pad(jax.lax.cummax(place, axis=1), ((0, 0), (1, 0)))  # 0: none yet in this call
    held = jnp.take_along_axis(jnp.concatenate([before[:, None], segment_ids], 1), latest, 1)
    return (segment_ids > 0) & (segment_ids != held[:, :-1]), held[:, -1]


class Kernel(nn.Module):
    """A matrix that is multiplied elsewhere: orthogonal (arXiv 1312.6120) in each block of as many columns as rows."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> Float[Array, "H G"]:
        H, G = self.shape
        orthogonal = nn.initializers.orthogonal()

        def init(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
            blocks = jax.vmap(lambda k: orthogonal(k, (H, H), jnp.float32))(jax.random.split(key, G // H))
            return blocks.swapaxes(0, 1).reshape(shape)

        return self.param("kernel", init, self.shape)


class Layer(nn.Module):
    """A recurrent layer: one product for the inputs of all steps, then one a step. Abstract; use Elman, LSTM or GRU.

    Attributes:
      features: size of the hidden state (H).
      unroll: steps in one turn of the loop.
      dtype: compute dtype; weights and states stay float32.
    """

    features: int
    unroll: int = 1
    dtype: str | None = None

    cell: ClassVar[Cell]
    gates: ClassVar[int]
    names: ClassVar[tuple[str, ...]] = ("hidden",)

    def biases(self) -> tuple[jax.Array, jax.Array | None]:
        """What is added to the product of the input, and to that of the hidden state."""
        return self.param("bias", nn.initializers.zeros_init(), (self.gates * self.features,)), None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], segment_ids: Int[Array, "B T"] | None = None, state: State | None = None
    ) -> tuple[Float[Array, "B T H"], State]:
        B, T, _ = x.shape
        H, G = self.features, self.gates * self.features
        if H < 1 or self.unroll < 1:
            raise ConfigError(f"features={H} and unroll={self.unroll}: give 1 or more of each")
        state = self.init_state(B) if state is None else state
        bias, recurrent_bias = self.biases()
        inputs = Linear((G,), dtype=self.dtype, name="input")(x.swapaxes(0, 1)) + bias.astype(compute_dtype(self.dtype))
        kernel = Kernel((H, G), name="recurrent")()
        borders, segment = None, jnp.maximum(state["segment"], 1)
        if segment_ids is not None:
            start, segment = starts(segment_ids, state["segment"])
            borders = Borders(*(m.T[..., None].astype(jnp.float32) for m in (~start, segment_ids > 0)))
        begun = {name: state[name] for name in self.names}
        last, states = recur(self.cell, min(self.unroll, T), kernel, recurrent_bias, begun, inputs, borders)
        return states["hidden"].astype(inputs.dtype).swapaxes(0, 1), {**last, "segment": segment}

    def init_state(self, batch: int) -> State:
        """The state before any token; needs no weights."""
        return {
            **{name: jnp.zeros((batch, self.features)) for name in self.names},
            "segment": jnp.zeros(batch, jnp.int32),
        }

    def flops(self, width: int) -> float:
        """Forward FLOPs of the products, a token of `width` features."""
        return 2.0 * self.gates * self.features * (width + self.features)


def elman_update(state: State, gates: Float[Array, "B H"]) -> State:
    """hidden = tanh(gates)."""
    return {"hidden": jnp.tanh(gates)}


def lstm_update(state: State, gates: Float[Array, "B 4H"]) -> State:
    """memory = forget * memory + input * candidate; hidden = output * tanh(memory)."""
    # The barrier keeps the sigmoid one loop over the row, which XLA vectorises; fused with the slices it is not, and
    # a forward pass on CPU takes 1.3 times as long.
    i, f, _, o = jnp.split(jax.lax.optimization_barrier(jax.nn.sigmoid(gates)), 4, axis=-1)
    memory = f * state["memory"] + i * jnp.tanh(jnp.split(gates, 4, axis=-1)[2])
    return {"hidden": o * jnp.tanh(memory), "memory": memory}


def gru_join(x: Float[Array, "B 3H"], product: Float[Array, "B 3H"]) -> Float[Array, "B 4H"]:
    """The sums of reset and update; the two halves of the candidate apart, because reset scales one of them."""
    cut = 2 * (x.shape[-1] // 3)
    return jnp.concatenate([x[..., :cut] + product[..., :cut], x[..., cut:], product[..., cut:]], -1)


def gru_update(state: State, gates: Float[Array, "B 4H"]) -> State:
    """hidden = update * hidden + (1 - update) * tanh(input + reset * recurrent)."""
    r, z, n, m = jnp.split(gates, 4, axis=-1)
    keep = jax.nn.sigmoid(z)
    return {"hidden": keep * state["hidden"] + (1 - keep) * jnp.tanh(n + jax.nn.sigmoid(r) * m)}


class Elman(Layer):
    """The plain recurrent layer (Elman, Finding structure in time, 1990)."""

    cell = Cell(jnp.add, elman_update)
    gates = 1


class LSTM(Layer):
    """Long short-term memory with a forget gate (Gers et al., 2000); gates lie in the order i, f, g, o.

    Attributes:
      forget_bias: fresh bias of the forget gate; 1 remembers from the start (Jozefowicz et al., 2015).
    """

    forget_bias: float = 1.0

    cell = Cell(jnp.add, lstm_update)
    gates = 4
    names = ("hidden", "memory")

    def biases(self) -> tuple[jax.Array, jax.Array | None]:
        return self.param("bias", second_gate(self.forget_bias, self.features), (4 * self.features,)), None


class GRU(Layer):
    """The gated recurrent unit (arXiv 1406.1078, with the reset after the product); gates in the order r, z, n.

    Attributes:
      forget_bias: fresh bias of the update gate z, which keeps the state where it is open.
    """

    forget_bias: float = 1.0

    cell = Cell(gru_join, gru_update)
    gates = 3

    def biases(self) -> tuple[jax.Array, jax.Array | None]:
        H = self.features
        candidate = self.param("candidate_bias", nn.initializers.zeros_init(), (H,))
        bias = self.param("bias", second_gate(self.forget_bias, H), (3 * H,))
        return bias, jnp.pad(candidate, (2 * H, 0))


def second_gate(value: float, features: int) -> Callable:
    """An initialiser of biases: `value` for the second gate, 0 elsewhere."""

    def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jnp.zeros(shape).at[features : 2 * features].set(value)

    return init


class Bidirectional(nn.Module):
    """Two layers, one of which reads from the end; their outputs lie beside each other.

    The second one reads each document of a row from its own last token: padding leaves a state alone.

    Attributes:
      make: a Layer class.
      features: of both directions together.
    """

    make: type[Layer]
    features: int
    unroll: int = 1
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], segment_ids: Int[Array, "B T"] | None = None) -> Float[Array, "B T H"]:
        if self.features % 2:
            raise ConfigError(f"{self.features} features do not divide into two directions: give an even number")
        layer = partial(self.make, self.features // 2, unroll=self.unroll, dtype=self.dtype)
        ahead, _ = layer(name="forward")(x, segment_ids)
        flipped = None if segment_ids is None else segment_ids[:, ::-1]
        back, _ = layer(name="backward")(x[:, ::-1], flipped)
        return jnp.concatenate([ahead, back[:, ::-1]], -1)
