"""FLOPs of a network, counted by looking at every layer it calls: shapes only, nothing is computed.

Convolutions, linear maps and attention are counted, two for a multiplication and its addition; norms, activations
and pooling are not, as in the published tables (which often count multiplications only: half of this).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fmjax.nn.attention import Attention
from fmjax.nn.convolution import Conv, conv_flops
from fmjax.nn.linear import Linear
from fmjax.nn.patches import PatchEmbed


def count_flops(module: nn.Module, *shapes: tuple[int, ...]) -> float:
    """Forward FLOPs of a module on float arrays of these shapes."""
    total = 0.0

    def watch(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        nonlocal total
        layer, out = context.module, call(*args, **kwargs)
        if context.method_name == "__call__":
            if isinstance(layer, Conv):
                total += conv_flops(
                    args[0].shape, layer.features, layer.kernel_size, layer.strides, layer.padding, layer.dilation,
                    layer.groups,
                )[0]  # fmt: skip
            elif isinstance(layer, PatchEmbed):
                total += 2.0 * args[0].size * layer.width  # every pixel meets every number of its token once
            elif isinstance(layer, Linear):
                total += 2.0 * args[0].size * math.prod(layer.features)
            elif isinstance(layer, Attention):
                (B, T, D), memory = args[0].shape, kwargs.get("memory")
                keys = T if memory is None else memory.shape[1]
                total += 4.0 * B * T * keys * layer.heads * (layer.size or D // layer.heads)
        return out

    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    with nn.intercept_methods(watch):
        jax.eval_shape(module.clone(parent=None).init, jax.random.key(0), *arrays)
    return total
