"""The one training step: bind, prepare, move every player, finish. Gradients are taken here and nowhere else."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Objective, Player
from fmjax.core.types import Batch, Mean, Tree
from fmjax.training.state import NOTHING, Merge, State, bind

Metrics = dict[str, Mean]


def make_step(
    modules: Mapping[str, nn.Module],
    objective: Objective,
    optimizers: Mapping[str, Any],
    merge: Merge = NOTHING,
    accumulate: int = 1,
    allow_coupled: bool = False,
    clip: float | None = None,
    sam: float | None = None,
    ema: float | None = None,
    skip_nonfinite: bool = False,
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """Return the pure `step(state, batch) -> (state, metrics)`.

    Args:
      modules: {net: module}.
      optimizers: {player: fmjax.optim Optimizer}, or any optax transformation.
      accumulate: microbatches a step; each takes every n-th row, so that a sharded batch stays where it lies.
      allow_coupled: accumulate although rows are coupled (by the objective, batch norm or a router).
      clip: largest global norm of a player's gradient.
      sam: radius of sharpness-aware minimisation (arXiv 2010.01412): the gradient is taken where the weights have
        climbed this far along their gradient, at twice the cost; losses and running statistics are those before.
      ema: decay of the running averages, warmed up as min(ema, (1 + step) / (10 + step)).
      skip_nonfinite: a step in which a loss, gradient or update is not finite changes nothing but the step counter.

    The metrics are the objective's, and per player "grad_norm", "rate", "nonfinite" (prefixed by its name when there
    are several players).
    """
    single = len(objective.players) == 1

    def move(player: Player, state: State, batch: Batch, rng: jax.Array) -> tuple[State, Metrics]:
        own = {n: state.params[n] for n in player.nets}
        grads, weight, total, mutable, metrics = gradients(player, own, state, batch, rng)
        if sam is not None:
            far = sam / (optax.tree.norm(grads) + 1e-12)
            grads = gradients(player, jax.tree.map(lambda p, g: p + far * g, own, grads), state, batch, rng)[0]
        weight = jnp.maximum(weight, 1e-8)
        grads = jax.tree.map(lambda g: g / weight, grads)
        norm = optax.tree.norm(grads)
        if clip is not None:
            scale = jnp.minimum(1.0, clip / (norm + 1e-12))
            grads = jax.tree.map(lambda g: g * scale, grads)
        optimizer, old = optimizers[player.name], state.opt_state[player.name]
        update = (
            optax.with_extra_args_support(optimizer).update if not hasattr(optimizer, "report") else optimizer.update
        )
        updates, opt = update(grads, old, own, value=total / weight)
        new = state.replace(
            params={**state.params, **optax.apply_updates(own, updates)},
            mutable=mutable,
            opt_state={**state.opt_state, player.name: opt},
        )
        # The update too: with finite gradients a wild rate can still write weights that are not, into a checkpoint.
        finite = jnp.isfinite(norm) & jnp.isfinite(total) & jnp.isfinite(optax.tree.norm(updates))
        prefix, one = "" if single else f"{player.name}/", jnp.ones(())
        metrics[prefix + "grad_norm"] = Mean(norm, one)
        metrics[prefix + "nonfinite"] = Mean(1.0 - finite, one)
        if hasattr(optimizer, "report"):
            metrics |= {prefix + k: Mean(v, one) for k, v in optimizer.report(old).items()}
        return new, metrics

    def gradients(player: Player, own: Tree, state: State, batch: Batch, rng: jax.Array):
        def lost(own: Tree, mutable: dict, batch: Batch, rng: jax.Array):
            mine, theirs = jax.random.split(rng)
            now = state.replace(params={**state.params, **own}, mutable=mutable)
            nets = bind(modules, merge, now, mine, True)
            loss, metrics = objective.loss(player.name, nets, batch, state.carry, theirs)
            kept = {n: nets[n].mutable for n in player.nets if n in mutable}
            return loss.sum, (loss.weight, {**mutable, **kept}, metrics)

        value_and_grad = jax.value_and_grad(lost, has_aux=True)
        if accumulate == 1:
            (total, (weight, mutable, metrics)), grads = value_and_grad(own, state.mutable, batch, rng)
            return grads, weight, total, mutable, dict(metrics)

        def micro(c: tuple, x: tuple):
            (total, (weight, mutable, metrics)), grads = value_and_grad(own, c[1], *x)
            return (jax.tree.map(jnp.add, c[0], grads), mutable, c[2] + weight, c[3] + total), metrics

        rows = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
        zero = (jax.tree.map(jnp.zeros_like, own), state.mutable, jnp.zeros(()), jnp.zeros(()))
        keys = jax.random.split(rng, accumulate)
        (grads, mutable, weight, total), metrics = jax.lax.scan(micro, zero, (rows, keys))
        return grads, weight, total, mutable, jax.tree.map(lambda x: x.sum(0), metrics)

    def average(state: State) -> dict:
        if ema is None:
            return {}
        step = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema, (1 + step) / (10 + step))
        return jax.tree.map(lambda a, p: a * decay + p * (1 - decay), state.ema, state.params)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        live = state.params.keys()  # what a teacher remembers couples nothing: it stays in evaluation mode
        coupled = objective.couples_batch or any("batch_stats" in state.mutable.get(net, {}) for net in live)
        coupled = coupled or any(getattr(modules[net], "couples_batch", False) for net in live)
        if accumulate > 1 and coupled and not allow_coupled:
            raise ConfigError(
                "rows of a batch are coupled (by the objective, batch norm or a router's balance): accumulation would "
                "change the loss; "
                "set --config.accumulation.allow_coupled=True to do it all the same"
            )
        key, *keys = jax.random.split(jax.random.fold_in(state.rng, state.step), 1 + len(objective.players))
        before, nets = state, bind(modules, merge, state)
        batch, carry = objective.prepare(nets, batch, state.carry, state.step, key, True)
        state, seen = state.replace(carry=carry), {}
        for player, key in zip(objective.players, keys, strict=True):
            run = partial(move, player)
            if (player.every, player.start) == (1, 0):
                state, metrics = run(state, batch, key)
            else:
                idle = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, state, batch, key)[1])
                due = (state.step >= player.start) & (state.step % player.every == 0)
                state, metrics = jax.lax.cond(due, run, lambda s, *_, idle=idle: (s, idle), state, batch, key)
            seen |= metrics
        state = state.replace(ema=average(state))
        carry = objective.finish(bind(modules, merge, state), batch, state.carry, state.step)
        state = state.replace(carry=carry)
        if skip_nonfinite:
            bad = sum(v.sum for k, v in seen.items() if k.rpartition("/")[2] == "nonfinite")
            state = jax.tree.map(lambda new, old: jnp.where(bad > 0, old, new), state, before)
        return state.replace(step=before.step + 1), seen

    return step
