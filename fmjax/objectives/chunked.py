"""Cross-entropy over a vocabulary: of logits, or of hidden states in chunks whose logits never exist all at once."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fmjax.core.types import Mean

Head = Callable[[jax.Array], jax.Array]  # hidden states (..., D) -> logits (..., V)


class Scores(NamedTuple):
    """What is known of every target, float32, each in the shape of the targets.

    Attributes:
      loss: what training lowers: the smoothed cross-entropy, and the z-loss.
      nll: the negative log-likelihood in nats.
      log_z: the log-normaliser of the logits.
      correct: 1 where the greatest logit (the first of equals) is the target's, else 0; NaN where the logits are.
    """

    loss: jax.Array
    nll: jax.Array
    log_z: jax.Array
    correct: jax.Array


def score(
    logits: Float[Array, "*B V"], targets: Int[Array, "*B"], smoothing: float = 0.0, z_loss: float = 0.0
) -> Scores:
    """Score every target by its logits.

    Args:
      smoothing: label smoothing (arXiv 1512.00567): so much of the target's probability is spread over all ids.
      z_loss: weight of the squared log-normaliser (arXiv 2204.02311, section 5).
    """
    logits, targets = logits.astype(jnp.float32), targets[..., None]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    own = jnp.take_along_axis(logits, targets, axis=-1)
    nll = loss = log_z - own[..., 0]
    if smoothing:
        loss = (1 - smoothing) * nll + smoothing * (log_z - logits.mean(-1))
    if z_loss:
        loss = loss + z_loss * jnp.square(log_z)
    fixed, mine = jax.lax.stop_gradient((logits, own))
    # An argmax, in a form that compilers fuse with the sums above.
    ahead = (fixed > mine) | ((fixed == mine) & (jnp.arange(logits.shape[-1]) < targets))
    correct = jnp.where(jnp.isnan(log_z), jnp.nan, 1.0 - ahead.any(-1))
    return Scores(loss, nll, log_z, correct)


def score_chunked(
    head: Head,
    hidden: Float[Array, "*B D"],
    targets: Int[Array, "*B"],
    weights: Float[Array, "*B"],
    chunk: int,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[jax.Array, Scores]:
    """The weighted sum of the losses, and the scores (without gradient), `chunk` tokens at a time.

    The gradients are formed on the way forward, while a chunk's logits are there: recomputing them in a
    backward scan takes half as long again (benchmarks/chunked_loss.py). So it is the sum that has gradients, with
    respect to `hidden` and to whatever weights `head` closes over; `weights` are constants.

    Args:
      head: pure; one that closes over a `Net` must use a silent copy, or it leaks tracers.
      weights: how much each target counts; a target of weight 0 adds nothing.
      chunk: tokens whose logits exist at once; the last chunk is padded.
    """
    shape, size = targets.shape, targets.size
    chunk = min(chunk, size)
    count = -(-size // chunk)

    def cut(x: jax.Array) -> jax.Array:
        flat = x.reshape(size, *x.shape[len(shape) :])
        flat = jnp.pad(flat, ((0, count * chunk - size),) + ((0, 0),) * (flat.ndim - 1))
        # A chunk takes every n-th token, so that each device of a sharded batch has its share of every chunk.
        return flat.reshape(chunk, count, *flat.shape[1:]).swapaxes(0, 1)

    def whole(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:size].reshape(*shape, *x.shape[2:])

    pure, consts = jax.closure_convert(head, jax.ShapeDtypeStruct((chunk, hidden.shape[-1]), hidden.dtype))

    def lost(consts: list, hidden: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, Scores]:
        scores = score(pure(hidden, *consts), targets, smoothing, z_loss)
        return Mean.of(scores.loss, weights).sum, scores

    @jax.custom_vjp
    def total(consts: list, *rows: jax.Array) -> tuple[jax.Array, Scores]:
        sums, scores = jax.lax.map(lambda row: lost(consts, *row), rows)
        return sums.sum(), scores

    def forward(consts: list, *rows: jax.Array):
        def one(sums: tuple, row: tuple):
            (loss, scores), (d_consts, d_hidden) = jax.value_and_grad(lost, (0, 1), has_aux=True)(consts, *row)
            return jax.tree.map(jnp.add, sums, (loss, d_consts)), (scores, d_hidden)

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, consts))
        (loss, d_consts), (scores, d_hidden) = jax.lax.scan(one, zero, rows)
        return (loss, scores), (d_consts, d_hidden)

    def backward(gradients: tuple, cotangents: tuple):
        d_consts, d_hidden = jax.tree.map(lambda g: (g * cotangents[0]).astype(g.dtype), gradients)
        return d_consts, d_hidden, None, None

    total.defvjp(forward, backward)
    loss, scores = total(consts, *map(cut, (hidden, targets, weights)))
    return loss, jax.lax.stop_gradient(jax.tree.map(whole, scores))
