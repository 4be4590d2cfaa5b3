"""MixUp and CutMix: rows of a batch mixed in pairs, by factories that give `(rng, batch) -> batch`.

Row i meets row B - 1 - i, as in timm: a batch is shuffled already, and reversing a sharded batch passes blocks on
where a permutation would gather them. The batch then says in `mix_with` whose label a row has too, and in
`mix_weight` how much its own still counts. A row that is padding, or counts for nothing, mixes with none.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.types import Batch
from fmjax.data.augment import check

Mix = Callable[[jax.Array, Batch], Batch]
Blend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]  # (key, row, partner): row, its share


def mixup(alpha: float = 0.2, p: float = 1.0, inputs_from: str = "image", target: str = "label") -> Mix:
    """Every row is a weighted mean of two (Zhang et al., arXiv:1710.09412).

    Args:
      alpha: the weight is drawn from Beta(alpha, alpha), a row each; 0 mixes nothing.
      p: probability that a row is mixed.
      inputs_from: the key that is mixed; anything of floating-point numbers.
      target: the key of the labels.
    """
    check(alpha=(alpha, 0, 100), p=(p, 0, 1))
    return _mixed(_mixup(alpha, p), inputs_from, target)


def cutmix(alpha: float = 1.0, p: float = 1.0, inputs_from: str = "image", target: str = "label") -> Mix:
    """A rectangle of every image is its partner's, and counts by its area (Yun et al., arXiv:1905.04899).

    Args:
      alpha: the part that stays is drawn from Beta(alpha, alpha); a rectangle over the edge is cut there, and the
        part corrected. 0 mixes nothing.
      p, inputs_from, target: as of `mixup`.
    """
    check(alpha=(alpha, 0, 100), p=(p, 0, 1))
    return _mixed(_cutmix(alpha, p), inputs_from, target)


def mixup_or_cutmix(
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    p: float = 1.0,
    switch: float = 0.5,
    inputs_from: str = "image",
    target: str = "label",
) -> Mix:
    """One of the two for every row; `switch` is the probability of CutMix. The other arguments are theirs."""
    check(mixup_alpha=(mixup_alpha, 0, 100), cutmix_alpha=(cutmix_alpha, 0, 100), p=(p, 0, 1), switch=(switch, 0, 1))

    def blend(key: jax.Array, row: jax.Array, partner: jax.Array) -> tuple[jax.Array, jax.Array]:
        which, key = jax.random.split(key)
        cuts = jax.random.bernoulli(which, switch)
        ways = zip(_cutmix(cutmix_alpha, p)(key, row, partner), _mixup(mixup_alpha, p)(key, row, partner), strict=True)
        new, kept = (jnp.where(cuts, cut, mean) for cut, mean in ways)
        return new, kept

    return _mixed(blend, inputs_from, target)


def _mixed(blend: Blend, inputs_from: str, target: str) -> Mix:
    def mix(rng: jax.Array, batch: Batch) -> Batch:
        if "mix_with" in batch:
            raise ConfigError("rows are mixed already, and remember one partner: give one mix, or mixup_or_cutmix")
        x, labels = batch[inputs_from], batch[target]
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ConfigError(
                f"mixing takes floating-point numbers, and {inputs_from!r} is {x.dtype}: convert it first"
            )
        counts = batch["valid"] * batch.get("weights", 1.0) != 0
        both = counts & counts[::-1]
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, jnp.arange(len(x)))
        new, kept = jax.vmap(blend)(keys, x, x[::-1])
        return {
            **batch,
            inputs_from: jnp.where(both.reshape(-1, *[1] * (x.ndim - 1)), new, x),
            "mix_with": jnp.where(both, labels[::-1], labels),  # padding may hold no label at all
            "mix_weight": jnp.where(both, kept, 1.0),
        }

    return mix


def _share(key: jax.Array, alpha: float, p: float) -> jax.Array:
    """The part that stays, drawn; 1 where nothing is mixed."""
    yes, key = jax.random.split(key)
    if not alpha:
        return jnp.ones(())
    share = jax.random.uniform(key) if alpha == 1 else jax.random.beta(key, alpha, alpha)
    return jnp.where(jax.random.bernoulli(yes, p), share, 1.0)


def _mixup(alpha: float, p: float) -> Blend:
    def blend(key: jax.Array, row: jax.Array, partner: jax.Array) -> tuple[jax.Array, jax.Array]:
        share = _share(key, alpha, p)
        new = row.astype(jnp.float32) * share + partner.astype(jnp.float32) * (1 - share)
        return new.astype(row.dtype), share

    return blend


def _cutmix(alpha: float, p: float) -> Blend:
    def blend(key: jax.Array, row: jax.Array, partner: jax.Array) -> tuple[jax.Array, jax.Array]:
        if row.ndim != 3:
            raise ConfigError(f"cutmix takes images (B, H, W, C), not rows of shape {row.shape}: use mixup")
        H, W, _ = row.shape
        place, key = jax.random.split(key)
        side = jnp.sqrt(1 - _share(key, alpha, p))
        inside, area = True, 1.0
        for at, here, size in zip(jax.random.uniform(place, (2,)), (jnp.arange(H)[:, None], jnp.arange(W)), (H, W)):
            length = jnp.floor(side * size)
            start = jnp.floor(at * size) - length // 2
            low, high = jnp.clip(start, 0, size), jnp.clip(start + length, 0, size)
            inside, area = inside & (here >= low) & (here < high), area * (high - low)
        return jnp.where(inside[..., None], partner, row), 1 - area / (H * W)

    return blend
