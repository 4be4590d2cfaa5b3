"""A bridge: linear maps from a student's features to the widths of its teacher's."""

import flax.linen as nn
from jaxtyping import Array, Float

from fmjax.nn.linear import default_kernel


class Bridge(nn.Module):
    """A matrix for each of several features, over their last axis (FitNets, arXiv 1412.6550).

    Attributes:
      sizes: (width of the student's, width of the teacher's) of each.
    """

    sizes: tuple[tuple[int, int], ...]

    @nn.compact
    def __call__(self, *features: Float[Array, "..."], train: bool = False) -> tuple[Float[Array, "..."], ...]:
        """The features in the other widths; without any, only its weights are made."""
        kernels = [self.param(f"kernel_{i}", default_kernel, size) for i, size in enumerate(self.sizes)]
        return tuple(x @ kernel for x, kernel in zip(features, kernels, strict=bool(features)))
