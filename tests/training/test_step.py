"""The step: accumulation, clipping, averages and skipping do what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stand_ins import BATCH, DQN, GAN, MLP, Plain, same, setup

from fmjax.core.errors import ConfigError

NAN = {**BATCH, "label": np.where(np.arange(16) == 5, -1, BATCH["label"]).astype(np.int32)}
WILD = optax.stateless(lambda updates, _: jax.tree.map(lambda x: x * jnp.inf, updates))


def test_accumulation_of_eight_is_one_on_ragged_weights():
    one, a = setup(Plain(), {"model": MLP()})
    eight, b = setup(Plain(), {"model": MLP()}, accumulate=8)  # rows i, i + 8: weights 2 2 2 2 2 1 1 1
    for _ in range(5):
        (one, m), (eight, n) = a(one, BATCH), b(eight, BATCH)
    same((one.params, m), (eight.params, n), 1e-5)
    assert n["loss"].weight == 13


def test_a_microbatch_without_weight_changes_nothing():
    valid = {**BATCH, "valid": (np.arange(16) % 8 < 3).astype(np.float32)}
    one, a = setup(Plain(), {"model": MLP()}, tx=optax.sgd(0.1))
    eight, b = setup(Plain(), {"model": MLP()}, tx=optax.sgd(0.1), accumulate=8)
    same(a(one, valid)[0].params, b(eight, valid)[0].params, 1e-6)


@pytest.mark.parametrize(("objective", "modules"), [
    (Plain(), {"model": MLP(norm=True)}),
    (type("Coupled", (Plain,), {"couples_batch": True})(), {"model": MLP()}),
    (Plain(), {"model": type("Balanced", (MLP,), {"couples_batch": True})()}),
], ids=["batch norm", "objective", "model"])  # fmt: skip
def test_accumulation_is_refused_when_rows_are_coupled_unless_allowed(objective, modules):
    state, step = setup(objective, modules, accumulate=2)
    with pytest.raises(ConfigError, match=r"coupled.*allow_coupled=True"):
        jax.eval_shape(step, state, BATCH)
    state, step = setup(objective, modules, accumulate=2, coupled=True)
    jax.eval_shape(step, state, BATCH)


def test_clipping_is_by_global_norm_as_optax_does():
    sgd, clip = optax.sgd(1.0), 0.05
    state, step = setup(Plain(), {"model": MLP()}, tx=sgd, clip=clip)
    chained, other = setup(Plain(), {"model": MLP()}, tx=optax.chain(optax.clip_by_global_norm(clip), sgd))
    new, metrics = step(state, BATCH)
    same(new.params, other(chained, BATCH)[0].params, 1e-6)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, new.params, state.params))
    assert metrics["grad_norm"].value() > clip  # what is reported is the norm before
    assert np.isclose(moved, clip, rtol=1e-4)


@pytest.mark.parametrize("accumulate", [1, 8])
def test_sharpness_aware_gradients_are_those_a_radius_uphill(accumulate):
    sgd, radius = optax.sgd(1.0), 0.3
    state, plain = setup(Plain(), {"model": MLP()}, tx=sgd)
    _, step = setup(Plain(), {"model": MLP()}, tx=sgd, sam=radius, accumulate=accumulate)
    there, metrics = plain(state, BATCH)
    gradient = jax.tree.map(jnp.subtract, state.params, there.params)
    norm = optax.tree.norm(gradient)
    uphill = state.replace(params=jax.tree.map(lambda p, g: p + radius * g / norm, state.params, gradient))
    want = jax.tree.map(jnp.subtract, uphill.params, plain(uphill, BATCH)[0].params)
    new, said = step(state, BATCH)
    same(jax.tree.map(jnp.subtract, state.params, new.params), want, 1e-5)
    assert np.isclose(said["loss"].value(), metrics["loss"].value(), rtol=1e-5)
    assert abs(optax.tree.norm(want) - norm) > 1e-3


def test_averages_follow_their_formula():
    state, step = setup(Plain(), {"model": MLP()}, ema=0.3)
    average = state.ema
    same(average, state.params)
    for k in range(6):
        state, _ = step(state, BATCH)
        decay = min(0.3, (1 + k) / (10 + k))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, state.params)
        same(state.ema, average, 1e-6)
    assert decay == 0.3


@pytest.mark.parametrize("modules", [{"model": MLP(norm=True, dropout=0.1)}], ids=["batch norm"])
def test_a_skipped_step_changes_nothing_but_the_counter(modules):
    state, step = setup(Plain(), modules, ema=0.9, skip_nonfinite=True)
    state, _ = step(state, BATCH)
    state, _ = step(state, BATCH)
    after, metrics = step(state, NAN)
    assert metrics["nonfinite"].value() == 1
    assert after.step == 3
    same(after.replace(step=state.step), state)
    _, metrics = step(after, BATCH)
    assert metrics["nonfinite"].value() == 0
    assert np.isfinite(metrics["loss"].value())


def test_an_update_that_is_not_finite_is_noticed_in_its_own_step():
    state, step = setup(Plain(), {"model": MLP()}, tx=WILD, skip_nonfinite=True)
    after, metrics = step(state, BATCH)
    assert np.isfinite(metrics["grad_norm"].value())
    assert metrics["nonfinite"].value() == 1
    same(after.params, state.params)


def test_a_carry_with_keys_is_left_alone_by_a_skipped_step():
    state, step = setup(DQN(), {"model": MLP(2)}, tx=WILD, skip_nonfinite=True)
    for _ in range(3):  # the player starts at step 2
        last, (state, metrics) = state, step(state, BATCH)
    assert metrics["nonfinite"].value() == 1
    same(state.carry, last.carry)


def test_one_bad_player_makes_all_of_them_stay():
    state, step = setup(GAN(), {"gen": MLP(6), "disc": MLP(1)}, skip_nonfinite=True)
    after, metrics = step(state, {**BATCH, "features": np.full_like(BATCH["features"], np.nan)})
    assert metrics["d/nonfinite"].value() == 1
    same(after.replace(step=state.step), state)


def test_weightless_batches_move_nothing_under_gradient_descent():
    state, step = setup(Plain(), {"model": MLP()}, tx=optax.sgd(0.1))
    after, metrics = step(state, {**NAN, "valid": np.zeros(16, np.float32)})
    same(after.params, state.params)
    assert metrics["loss"].weight == 0
    assert metrics["nonfinite"].value() == 0


def test_dropout_differs_from_step_to_step_and_repeats_with_the_seed():
    model = {"model": MLP(dropout=0.5)}
    state, step = setup(Plain(), model, tx=optax.sgd(0.0))
    first, a = step(state, BATCH)
    _, b = step(first, BATCH)
    _, again = step(state, BATCH)
    assert a["loss"].sum != b["loss"].sum
    assert a["loss"].sum == again["loss"].sum
