"""Muon: momentum whose matrices are made nearly orthogonal before they are followed (Jordan et al., 2024).

https://kellerjordan.github.io/posts/muon; the scale that lets it share AdamW's rate is that of arXiv:2502.16982.
Matrices are picked by address and seen as (in, out): attention kernels (D, H, K) as (D, H*K), kernels of
convolutions with everything but the last axis flattened, layers stacked by `nn.scan` one by one.
"""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import optax

from fmjax.core.axes import SHAPES, axes_of, check_shapes, sizes
from fmjax.core.errors import ConfigError
from fmjax.core.traced import matters
from fmjax.core.trees import map_with_address, matches
from fmjax.core.types import Tree
from fmjax.optim import directions
from fmjax.optim.assemble import (
    MATRICES,
    Optimizer,
    Rate,
    check_numbers,
    check_patterns,
    descend,
    must_match,
    partition,
)

_QUINTIC = (3.4445, -4.7750, 2.0315)  # steepest at 0; leaves singular values between about 0.7 and 1.2


def muon(
    rate: Rate,
    adamw_rate: Rate | None = None,
    momentum: float = 0.95,
    nesterov: bool = True,
    iterations: int = 5,
    rms: float | None = 0.2,
    dtype: str = "float32",
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    decay: float = 0.0,
    decay_on: str = MATRICES,
    muon_on: str = r"(^|/)kernel$",
    adamw_on: str = r"(^|/)(\w*embed\w*|\w*head)/",
    shapes: tuple[tuple[str, str], ...] = (),
    freeze: tuple[str, ...] = (),
    rates: tuple[tuple[str, float], ...] = (),
) -> Optimizer:
    """Muon for matrices, AdamW for the rest, embeddings and heads.

    Args:
      rate: of Muon's updates; a usual AdamW rate with `rms=0.2`, about 0.02 with `rms=None`.
      adamw_rate: of the rest; None for the same. Reported as "rate_adamw".
      momentum: of the mean gradient that is made orthogonal.
      nesterov: look one step ahead.
      iterations: of Newton-Schulz.
      rms: root mean square of an update of full rank at rate 1 (0.2 is AdamW's); None for Jordan's scale, a
        spectral norm of sqrt(max(1, out / in)).
      dtype: of the iteration; "bfloat16" is enough on accelerators.
      b1: of AdamW's mean gradient.
      b2: of its mean square.
      eps: in its denominator.
      decay: decoupled, scaled by the rate.
      decay_on: pattern of what decays.
      muon_on: pattern of Muon's weights, where they have two axes or more.
      adamw_on: pattern of those of them that AdamW gets all the same.
      shapes: (pattern, axes) pairs tried before `SHAPES`.
      freeze: patterns of the weights that get neither updates nor moments.
      rates: (pattern, multiplier) pairs.

    Raises:
      ConfigError: a number or pattern that is wrong, or (by `init`) a weight whose axes no rule tells.
    """
    check_numbers(momentum=(momentum, 0, 1), b1=(b1, 0, 1), b2=(b2, 0, 1), eps=(eps, 0, None))
    check_numbers(iterations=(iterations, 1, None), **({} if rms is None else {"rms": (rms, 0, None)}))
    check_patterns([muon_on, adamw_on, *(pattern for pattern, _ in shapes)])
    check_shapes(shapes)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"dtype={dtype!r}: give float32, bfloat16 or float16")

    def label(tree: Tree) -> Tree:
        def choose(name: str, leaf: jax.Array) -> str:
            matrix = leaf.ndim >= 2 and matches(muon_on, name) and not matches(adamw_on, name)
            return "muon" if matrix else "adamw"

        return map_with_address(choose, tree)

    shared = {"decay": decay, "decay_on": decay_on, "freeze": freeze, "rates": rates, "strict": False}
    way = orthogonal(momentum, nesterov, iterations, rms, dtype, (*shapes, *SHAPES))
    rest = directions.adam(b1, b2, eps)
    both = partition(
        label,
        {
            "muon": descend(way, rate, **shared),
            "adamw": descend(rest, rate if adamw_rate is None else adamw_rate, **shared),
        },
    )

    def init(tree: Tree) -> Tree:
        must_match(tree, decay_on if matters(decay) else MATRICES, freeze, rates)
        return both.init(tree)

    def report(state: Tree) -> dict[str, jax.Array]:
        said = both.report(state)
        return {"rate": said["rate"]} if adamw_rate is None else said

    return Optimizer(init, both.update, report)


def orthogonal(
    beta: float, nesterov: bool, iterations: int, rms: float | None, dtype: str, shapes: Iterable[tuple[str, str]]
) -> optax.GradientTransformationExtraArgs:
    """The mean gradient with its singular values brought near 1, and scaled by its shape."""
    shapes = tuple(shapes)

    def init(params: Tree) -> Tree:
        map_with_address(lambda name, w: _axes(name, w.ndim, shapes), params)  # refuse before step 0
        return {"mu": jax.tree.map(jnp.zeros_like, params)}

    def update(grads: Tree, state: Tree, params: Tree = None, **extra) -> tuple[Tree, Tree]:
        mu = jax.tree.map(lambda g, m: beta * m + (1 - beta) * g, grads, state["mu"])
        ahead = jax.tree.map(lambda g, m: beta * m + (1 - beta) * g, grads, mu) if nesterov else mu

        def along(name: str, x: jax.Array) -> jax.Array:
            stack, rows, columns = sizes(x.shape, _axes(name, x.ndim, shapes))
            way = newton_schulz(x.reshape(stack, rows, columns).astype(dtype), iterations).astype(x.dtype)
            scale = math.sqrt(max(1, columns / rows)) if rms is None else rms * math.sqrt(max(rows, columns))
            return scale * way.reshape(x.shape)

        return map_with_address(along, ahead), {"mu": mu}

    return optax.GradientTransformationExtraArgs(init, update)


def newton_schulz(x: jax.Array, iterations: int = 5) -> jax.Array:
    """Matrices (..., m, n) with the same singular vectors and all singular values near 1."""
    if x.shape[-2] > x.shape[-1]:
        return newton_schulz(x.mT, iterations).mT
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    a, b, c = _QUINTIC

    def polynomial(_: int, x: jax.Array) -> jax.Array:
        gram = x @ x.mT
        return a * x + (b * gram + c * gram @ gram) @ x

    return jax.lax.fori_loop(0, iterations, polynomial, x)  # a loop compiles twice as fast as its iterations


def _axes(name: str, ndim: int, shapes: tuple[tuple[str, str], ...]) -> tuple[int, int, int]:
    """How many axes of the weight are (stack, in, out).

    Raises:
      ConfigError: no pattern with so many axes matches the address.
    """
    if found := axes_of(name, ndim, shapes):
        return found
    raise ConfigError(
        f"muon cannot tell which of the {ndim} axes of {name} are in and out: add it to shapes, such as "
        f"('{name.rsplit('/', 2)[-2]}/kernel$', 'l,i|o'), or to adamw_on"
    )
