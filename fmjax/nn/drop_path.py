"""Drop path: in training, a row of the batch skips a branch (stochastic depth, arXiv 1603.09382)."""

import flax.linen as nn
from jaxtyping import Array, Float

from fmjax.core.errors import ConfigError


def drop_path(x: Float[Array, "B ..."], rate: float, train: bool) -> Float[Array, "B ..."]:
    """The branch x, with whole rows at zero and the others made larger; to be called in a compact method."""
    if not 0 <= rate < 1:
        raise ConfigError(f"drop_path={rate} is a chance from 0 to below 1")
    return nn.Dropout(rate, broadcast_dims=tuple(range(1, x.ndim)), deterministic=not train)(x)


def rising(rate: float, depth: int) -> list[float]:
    """The rate of every block: none for the first, all for the last."""
    return [rate * i / max(depth - 1, 1) for i in range(depth)]
