"""MLP: an image as one long row of numbers, through dense layers."""

import itertools
import math

import flax.linen as nn
from jaxtyping import Array, Float

from fmjax.nn.feed_forward import activation
from fmjax.nn.linear import Linear


class MLP(nn.Module):
    """Dense layers with an activation and dropout after each, then the head.

    Attributes:
      features: widths of the hidden layers; () is a linear classifier.
      classes: numbers that come out.
      activation: see ACTIVATIONS in nn/feed_forward.py.
      dropout: probability, after every hidden layer.
      dtype: compute dtype; weights stay float32.
    """

    features: tuple[int, ...] = (128,)
    classes: int = 10
    activation: str = "relu"
    dropout: float = 0.0
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B ..."], train: bool = False) -> Float[Array, "B K"]:
        act = activation(self.activation)
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.features):
            x = act(Linear((width,), use_bias=True, dtype=self.dtype, name=f"dense_{i}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear((self.classes,), use_bias=True, dtype=self.dtype, name="head")(x)

    def flops(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """Forward FLOPs of a batch of `image`s, or of `features`."""
        shape = shapes["image"] if "image" in shapes else shapes["features"]
        widths = [math.prod(shape[1:]), *self.features, self.classes]
        return 2.0 * shape[0] * sum(a * b for a, b in itertools.pairwise(widths))
