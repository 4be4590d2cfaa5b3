"""Feed-forward: every token alone goes wide, through an activation, and back."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.nn.linear import Linear, default_kernel


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The tanh form of GELU (arXiv 1606.08415): exact erf costs 2.4 times as much on CPU.

    Its slope is found together with it and is all that is kept for the backward pass; left to itself jax keeps the
    input and the tanh, which are twice as many numbers to write and to read.
    """
    return jax.nn.gelu(x)


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    c, cubic = math.sqrt(2 / math.pi), 0.044715
    half = jax.nn.sigmoid(2 * c * (x + cubic * x**3))  # (1 + tanh) / 2
    slope = half + x * half * (1 - half) * 2 * c * (1 + 3 * cubic * jnp.square(x))
    return gelu(x), dx * slope


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "gelu": gelu,
    "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu6": jax.nn.relu6,
    "hard_swish": jax.nn.hard_swish,
    "hard_sigmoid": jax.nn.hard_sigmoid,
}
GATED = {"swiglu": "silu", "geglu": "gelu", "reglu": "relu"}


def activation(name: str) -> Any:
    """The activation called `name`.

    Raises:
      ConfigError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"there is no activation {name!r}; {did_you_mean(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


class FeedForward(nn.Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x)) for the gated kinds (arXiv 2002.05202).

    Attributes:
      hidden: width in the middle.
      kind: an activation, or swiglu, geglu, reglu.
      down_init: initialiser of the last projection.
    """

    hidden: int
    kind: str = "gelu"
    use_bias: bool = False
    dropout: float = 0.0
    dtype: str | None = None
    down_init: Any = default_kernel

    @nn.compact
    def __call__(self, x: Float[Array, "... D"], train: bool = False) -> Float[Array, "... D"]:
        act = activation(GATED.get(self.kind, self.kind))
        wide = Linear((self.hidden,), use_bias=self.use_bias, dtype=self.dtype, name="up")(x)
        if self.kind in GATED:
            gate = Linear((self.hidden,), use_bias=self.use_bias, dtype=self.dtype, name="gate")(x)
            wide = act(gate) * wide
        else:
            wide = act(wide)
        wide = nn.Dropout(self.dropout, deterministic=not train)(wide)
        down = Linear(x.shape[-1:], use_bias=self.use_bias, dtype=self.dtype, kernel_init=self.down_init, name="down")
        return down(wide)
