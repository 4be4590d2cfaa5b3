"""Several views of every image, for objectives that compare them: each view has keys of its own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.data.augment import Augment, compose


def views(transforms: tuple[Augment, ...], count: int = 2) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """`(rng, images (B, H, W, C)) -> (B, V, h, w, C)`: the transforms, one after the other, `count` times.

    Two views of one image are drawn apart (SimCLR, arXiv:2002.05709).
    """
    _check_count(count=count)
    transform = compose(tuple(transforms))

    def apply(rng: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.stack([transform(jax.random.fold_in(rng, i), images) for i in range(count)], 1)

    return apply


def multi_crop(
    large: tuple[Augment, ...], small: tuple[Augment, ...], larges: int = 2, smalls: int = 6
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """`(rng, images) -> ((B, larges, ...), (B, smalls, ...))`, of two sizes (SwAV, arXiv:2006.09882).

    Args:
      large, small: the transforms of either, with a `random_resized_crop` of another size and scale.
      larges, smalls: how many of each.
    """
    _check_count(larges=larges, smalls=smalls)
    two = views(large, larges), views(small, smalls)
    return lambda rng, images: tuple(make(jax.random.fold_in(rng, i), images) for i, make in enumerate(two))


def _check_count(**counts: int) -> None:
    for name, count in counts.items():
        if count != int(count) or count < 1:
            raise ConfigError(f"{name}={count!r}: give a whole number of views, 1 or more")
