"""LoRA and DoRA: a frozen matrix plus the product of two thin ones, whatever the axes of its kernel.

A kernel (in..., out...) gets "down" (in..., rank) and "up" (rank, out...); of a stack of kernels, such as those of
experts, each gets its own. `up` begins at zero, so that the first step sees the base.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fmjax.adapters.adapter import Adapter, Shapes, must_pick
from fmjax.core.axes import SHAPES, axes_of, check_shapes, sizes
from fmjax.core.errors import ConfigError

LINEAR = (r"/(query|key|value|out|gate|up|down)/kernel$",)  # all matrices of attention and feed-forward


@dataclasses.dataclass(frozen=True)
class LowRank:
    """w + scale * down @ up; where there is a "magnitude", each column of that brought to this length.

    Attributes:
      rank: columns of `down`.
      scale: of the product.
      targets: patterns of the kernels that get one.
      shapes: as in core/axes.py, tried before those there.
      magnitude: whether columns have a length of their own (DoRA).
    """

    rank: int
    scale: float
    targets: tuple[str, ...]
    shapes: tuple[tuple[str, str], ...] = ()
    magnitude: bool = False

    def picks(self, names: Shapes) -> list[str]:
        matrices = [name for name, w in names.items() if self._axes(name, w.ndim)]
        return sorted({name for p in self.targets for name in must_pick(p, matrices, "targets", "matrix")})

    def begin(self, name: str, weight: jax.Array, rng: jax.Array) -> dict[str, jax.Array]:
        axes = self._axes(name, weight.ndim)
        lead, inputs, outputs = _cut(weight.shape, axes)
        rows, columns = math.prod(inputs), math.prod(outputs)
        if self.rank > min(rows, columns):
            raise ConfigError(
                f"rank={self.rank} is above that of {name}, a matrix of {rows} x {columns}: lower it, or leave that "
                "out of targets"
            )
        bound = 1 / math.sqrt(rows)
        down = jax.random.uniform(rng, (*lead, *inputs, self.rank), weight.dtype, -bound, bound)
        parts = {"down": down, "up": jnp.zeros((*lead, self.rank, *outputs), weight.dtype)}
        return parts | ({"magnitude": _lengths(weight, axes)} if self.magnitude else {})

    def apply(self, name: str, weight: jax.Array, parts: Mapping[str, jax.Array]) -> jax.Array:
        axes = self._axes(name, weight.ndim)
        stack, rows, columns = sizes(weight.shape, axes)
        down, up = parts["down"].reshape(stack, rows, -1), parts["up"].reshape(stack, -1, columns)
        product = jnp.matmul(down, up, precision="highest").reshape(weight.shape)
        moved = weight + (self.scale * product).astype(weight.dtype)
        if "magnitude" not in parts:
            return moved
        lengths = jax.lax.stop_gradient(_lengths(moved, axes))  # a constant to the gradient, section 4.3 of the paper
        ratio = jnp.where(lengths > 0, parts["magnitude"] / jnp.where(lengths > 0, lengths, 1), 1)
        return moved * jnp.expand_dims(ratio, tuple(range(axes[0], axes[0] + axes[1])))

    def _axes(self, name: str, ndim: int) -> tuple[int, int, int] | None:
        return axes_of(name, ndim, (*self.shapes, *SHAPES))


def lora(
    rank: int = 8,
    alpha: float = 16.0,
    targets: tuple[str, ...] = LINEAR,
    also: tuple[str, ...] | None = None,
    nets: tuple[str, ...] = (),
    shapes: tuple[tuple[str, str], ...] = (),
    rank_stable: bool = False,
) -> Adapter:
    """LoRA (arXiv:2106.09685): the matrices of `targets` get a product of two thin ones, the rest stays.

    Args:
      rank: of the product.
      alpha: it is scaled by alpha / rank.
      targets: patterns of kernels; convolutions and stacks of experts may be among them.
      also: patterns of what moves as a whole beside it; None is what `config.init` left as initialised, such as a
        new head.
      nets: which nets are adapted; () is all that learn.
      shapes: (pattern, axes) pairs for kernels whose axes are not known, such as (("embedding$", "i|o"),).
      rank_stable: scale by alpha / sqrt(rank) (arXiv:2312.03732).

    Raises:
      ConfigError: a rank below 1, alpha that is not above 0, or no targets.
    """
    return Adapter(_none, _low_rank(rank, alpha, targets, shapes, rank_stable, False), also, nets)


def dora(
    rank: int = 8,
    alpha: float = 16.0,
    targets: tuple[str, ...] = LINEAR,
    also: tuple[str, ...] | None = None,
    nets: tuple[str, ...] = (),
    shapes: tuple[tuple[str, str], ...] = (),
    rank_stable: bool = False,
) -> Adapter:
    """DoRA (arXiv:2402.09353): LoRA whose columns keep a length of their own, which is trained; arguments of `lora`."""
    return Adapter(_none, _low_rank(rank, alpha, targets, shapes, rank_stable, True), also, nets)


def _low_rank(rank: int, alpha: float, targets: tuple, shapes: tuple, rank_stable: bool, magnitude: bool) -> LowRank:
    if rank < 1 or not alpha > 0 or not math.isfinite(alpha):
        raise ConfigError(f"rank={rank}, alpha={alpha}: the rank must be at least 1 and alpha above 0")
    if not targets:
        raise ConfigError("targets is empty: name patterns of kernels, or adapt by bias_only, last_layers or probe")
    check_shapes(shapes)
    scale = alpha / math.sqrt(rank) if rank_stable else alpha / rank
    return LowRank(rank, scale, tuple(targets), tuple(shapes), magnitude)


def _none(names: Shapes) -> list[str]:
    return []


def _cut(shape: tuple[int, ...], axes: tuple[int, int, int]) -> tuple[tuple, tuple, tuple]:
    """The (stack, in, out) axes of a kernel."""
    stack, rows, _ = axes
    return shape[:stack], shape[stack : stack + rows], shape[stack + rows :]


def _lengths(weight: jax.Array, axes: tuple[int, int, int]) -> jax.Array:
    """The length of what feeds each output, (stack..., out...)."""
    return jnp.sqrt(jnp.sum(jnp.square(weight), tuple(range(axes[0], axes[0] + axes[1]))))
