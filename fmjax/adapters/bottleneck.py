"""Bottleneck adapters: small layers behind frozen ones, y + up(act(down(y))).

They change how a layer is called, not its weights, so nothing can be merged. `up` begins at zero, so that the first
step sees the base.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fmjax.adapters.adapter import Adapter, Shapes, must_pick
from fmjax.core.axes import axes_of
from fmjax.core.errors import ConfigError
from fmjax.nn.feed_forward import activation

PART = "bottleneck"  # where the small layer lies, beside the kernel that it stands behind
ATTENTION, FEED_FORWARD = r"attention/out/kernel$", r"feed_forward/down/kernel$"


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """y + up(act(down(y))) for the outputs y of some layers.

    Attributes:
      size: numbers in the middle.
      targets: patterns of the kernels whose layers get one.
      act: name of the activation.
    """

    size: int
    targets: tuple[str, ...]
    act: str = "gelu"

    def picks(self, names: Shapes) -> list[str]:
        layers = [name for name, w in names.items() if name.endswith("/kernel") and _has_one_output(name, w.ndim)]
        return sorted({name for p in self.targets for name in must_pick(p, layers, "targets", "layer with one output")})

    def place(self, name: str) -> str:
        return f"{name.rpartition('/')[0]}/{PART}"

    def fits(self, module: nn.Module, args: tuple, y: Any) -> bool:
        return bool(args) and isinstance(y, jax.Array)  # and not a kernel that another layer asks for

    def begin(self, name: str, weight: jax.Array, rng: jax.Array) -> dict[str, jax.Array]:
        width, bound = weight.shape[-1], 1 / math.sqrt(weight.shape[-1])
        return {
            "down": jax.random.uniform(rng, (width, self.size), weight.dtype, -bound, bound),
            "down_bias": jnp.zeros(self.size, weight.dtype),
            "up": jnp.zeros((self.size, width), weight.dtype),
            "up_bias": jnp.zeros(width, weight.dtype),
        }

    def around(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        y, module = call(*args, **kwargs), context.module
        if context.method_name != "__call__" or module.scope is None or not module.has_variable("params", PART):
            return y
        own = {name: x.astype(y.dtype) for name, x in module.get_variable("params", PART).items()}
        rows = y.reshape(-1, y.shape[-1])
        hidden = activation(self.act)(rows @ own["down"] + own["down_bias"])
        return y + (hidden @ own["up"] + own["up_bias"]).reshape(y.shape)


def houlsby(
    size: int = 64,
    act: str = "gelu",
    targets: tuple[str, ...] = (ATTENTION, FEED_FORWARD),
    also: tuple[str, ...] | None = None,
    nets: tuple[str, ...] = (),
) -> Adapter:
    """Adapters after attention and after feed-forward (arXiv:1902.00751), before each is added to the stream.

    The paper moves norms too: also=("norm/(scale|bias)$",), with what `config.init` leaves fresh beside it.

    Args:
      size: numbers in the middle of each.
      act: activation there.
      targets: patterns of the kernels of layers that get one behind them, convolutions among them.
      also: patterns of what moves as a whole beside it; None is what `config.init` left as initialised.
      nets: which nets are adapted; () is all that learn.

    Raises:
      ConfigError: a size below 1, no targets, or an activation that does not exist.
    """
    if size < 1:
        raise ConfigError(f"size={size}: an adapter needs at least 1 number in the middle")
    if not targets:
        raise ConfigError("targets is empty: name patterns of the kernels of layers")
    activation(act)
    return Adapter(_none, Bottleneck(size, tuple(targets), act), also, nets)


pfeiffer = partial(houlsby, targets=(FEED_FORWARD,))  # arXiv:2005.00247: one a block is about as good


def _none(names: Shapes) -> list[str]:
    return []


def _has_one_output(name: str, ndim: int) -> bool:
    axes = axes_of(name, ndim)
    return axes is not None and (axes[0], axes[2]) == (0, 1)
