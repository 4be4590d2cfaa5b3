"""Norms that flax does not have."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class RMSNormOne(nn.Module):
    """RMS norm whose scale is kept as its distance from one, as Gemma's is: decay pulls it to one, not to zero.

    The scale is applied in float32, before the result is cast.
    """

    epsilon: float = 1e-6
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.initializers.zeros_init(), x.shape[-1:], jnp.float32)
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        return (wide * (1 + scale)).astype(self.dtype or x.dtype)
