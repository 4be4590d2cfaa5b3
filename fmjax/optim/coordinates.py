"""The coordinate check: how far activations move in the first steps, over widths (arXiv 2203.03466, appendix D.1).

In a parametrisation that is right for width, every line over widths is flat; one that grows will blow up in a net that
is wide enough, one that falls stops learning.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.trees import flatten
from fmjax.optim.assemble import Optimizer

WATCHED = ("attention", "feed_forward")


def moved(
    module: nn.Module, optimizer: Optimizer, tokens: Any, steps: int = 4, seed: int = 0, watch: Sequence[str] = WATCHED
) -> dict[str, np.ndarray]:
    """{address: (steps,) root mean square of how far what it gives has moved after each step on one batch}.

    Args:
      module: a language model; tokens (B, T) to logits (B, T, V).
      optimizer: how it moves.
      tokens: (B, T + 1) the batch.
      watch: names of the modules inside to look at, besides "logits".
    """
    tokens = jnp.asarray(tokens)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def forward(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, seen = module.apply(
            {"params": params}, inputs, mutable=["intermediates"],
            capture_intermediates=lambda inner, method: inner.name in watch and method == "__call__",
        )  # fmt: skip
        # An attention gives (what it adds, cache): the first of what a call gave is what moves on.
        calls = [(k, v) for k, v in flatten(seen["intermediates"]).items() if "/__call__/" in k]
        inside = {k.partition("/__call__/0")[0]: v for k, v in reversed(calls)}
        logits = logits.astype(jnp.float32)
        nll = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
        return nll.mean(), {**inside, "logits": logits}

    def step(carry: tuple, _: None) -> tuple[tuple, dict[str, jax.Array]]:
        params, state = carry
        (loss, seen), grads = jax.value_and_grad(forward, has_aux=True)(params)
        updates, state = optimizer.update({"model": grads}, state, {"model": params}, value=loss)
        return (jax.tree.map(jnp.add, params, updates["model"]), state), seen

    @jax.jit
    def run(key: jax.Array) -> dict[str, jax.Array]:
        params = module.init(key, inputs)["params"]
        _, seen = jax.lax.scan(step, (params, optimizer.init({"model": params})), None, steps + 1)
        change = jax.tree.map(lambda x: (x[1:] - x[0]).astype(jnp.float32).reshape(steps, -1), seen)
        return jax.tree.map(lambda x: jnp.sqrt(jnp.square(x).mean(1)), change)

    return {name: np.asarray(sizes) for name, sizes in run(jax.random.key(seed)).items()}


def slopes(sizes: Mapping[int, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """{address: slope of log size over log width after the last step}: 0 is flat, 1 grows as the width does.

    Args:
      sizes: {width: what `moved` gave}.
    """
    widths, names = np.log([float(w) for w in sizes]), next(iter(sizes.values()))
    last = {name: np.log([float(s[name][-1]) for s in sizes.values()]) for name in names}
    return {name: float(np.polyfit(widths, last[name], 1)[0]) for name in names}
