"""Linear maps on the last axes, written as one matrix product."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

default_kernel = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def compute_dtype(dtype: str | None) -> jnp.dtype:
    """The dtype a module computes in; None is float32."""
    return jnp.dtype(dtype or "float32")


class Linear(nn.Module):
    """y = x W + b over the last `contract` axes of x, in `features` new axes.

    The kernel keeps its axes apart, (D, H, K) for heads, so that rules can name them, but the product is one
    (rows, in) x (in, out) matrix product: batched or 3-D forms are slower on CPU.

    Attributes:
      features: sizes of the new last axes.
      contract: how many last axes of x are summed over.
      use_bias: whether b is there.
      dtype: compute dtype; weights stay float32.
    """

    features: tuple[int, ...]
    contract: int = 1
    use_bias: bool = False
    dtype: str | None = None
    kernel_init: Callable = default_kernel

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        inner, lead = x.shape[x.ndim - self.contract :], x.shape[: x.ndim - self.contract]
        d_in, d_out = math.prod(inner), math.prod(self.features)
        dtype = compute_dtype(self.dtype)

        def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return self.kernel_init(key, (d_in, d_out), jnp.float32).reshape(shape)

        kernel = self.param("kernel", init, (*inner, *self.features))
        y = x.reshape(-1, d_in).astype(dtype) @ kernel.reshape(d_in, d_out).astype(dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), self.features, jnp.float32)
            y = y + bias.reshape(-1).astype(dtype)
        return y.reshape(*lead, *self.features)
