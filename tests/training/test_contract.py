"""The contract holds for five kinds of objective: gradients, mutables, carry, turns, adapters, saving."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stand_ins import BATCH, CASES, GAN, KEY, MLP, TEACHER, Plain, leaves, net_of, optimizer, same, setup, xent

from fmjax.core.errors import ConfigError
from fmjax.sharding.mesh import make_mesh
from fmjax.training.checkpoint import Checkpoints
from fmjax.training.program import Program
from fmjax.training.state import begin, bind


@functools.cache
def case(name):
    return setup(**CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_every_objective_compiles_once_and_goes_on_bit_for_bit_from_a_copy(name):
    state, step = case(name)
    for _ in range(3):
        state, _ = step(state, BATCH)
    again = jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.asarray(np.array(x)), state
    )
    for _ in range(4):
        state, _ = step(state, BATCH)
        again, _ = step(again, BATCH)
    same(state, again)
    assert step._cache_size() == 1
    assert state.step == 7


def test_supervised_gradient_and_batch_statistics_are_those_written_by_hand():
    model = MLP(norm=True)
    state, step = setup(Plain(router=0.1), {"model": model}, tx=optax.sgd(0.1))
    new, metrics = step(state, BATCH)

    def by_hand(p):
        v = {"params": p, **state.mutable["model"]}
        logits, kept = model.apply(v, BATCH["features"], train=True, mutable=["batch_stats", "losses"])
        loss = (xent(logits, BATCH["label"]) * BATCH["valid"]).sum() / 13
        return loss + 0.1 * kept.pop("losses")["size"][0], (loss, kept)

    (_, (loss, kept)), g = jax.jit(jax.value_and_grad(by_hand, has_aux=True))(state.params["model"])
    same(new.params["model"], jax.tree.map(lambda p, g: p - 0.1 * g, state.params["model"], g), 1e-6)
    same(new.mutable["model"], kept, 1e-6)
    assert metrics["loss"].weight == 13
    assert np.isclose(metrics["loss"].value(), loss)
    assert np.isclose(metrics["grad_norm"].value(), optax.tree.norm(g), rtol=1e-5)
    assert metrics["rate"].value() == 0.5
    assert metrics["nonfinite"].value() == 0


def test_gan_players_move_only_their_nets_and_statistics_on_their_turn():
    state, step = case("gan")
    first, m = step(state, BATCH)  # step 0: both
    second, n = step(first, BATCH)  # step 1: the discriminator alone
    same(first.params["gen"], second.params["gen"])
    same(first.mutable["gen"], second.mutable["gen"])
    same(first.opt_state["g"], second.opt_state["g"])
    assert (m["g"].weight, n["g"].weight, n["d"].weight) == (16, 0, 16)
    assert (n["g/grad_norm"].weight, n["d/grad_norm"].weight) == (0, 1)
    for field in ("params", "mutable"):
        a, b = leaves(getattr(first, field)["disc"]), leaves(getattr(second, field)["disc"])
        assert all(not np.array_equal(x, y) for x, y in zip(a, b) if x.size > 1)


def test_gan_discriminator_gradient_is_that_written_by_hand():
    gen, disc, x = MLP(6, norm=True), MLP(1, norm=True), BATCH["features"]
    state, step = setup(GAN(), {"gen": gen, "disc": disc}, tx=optax.sgd(0.1))
    # The key of the loss: of the step, the first player's, the second half (the first goes to dropout).
    key = jax.random.split(jax.random.split(jax.random.fold_in(KEY, 0), 3)[1])[1]
    z = jax.random.normal(key, (16, 4))
    v_gen = {"params": state.params["gen"], **state.mutable["gen"]}

    def by_hand(p):
        fake, _ = gen.apply(v_gen, z, train=True, mutable=["batch_stats"])
        v = {"params": p, **state.mutable["disc"]}
        both, _ = disc.apply(v, jnp.concatenate([x, fake]), train=True, mutable=["batch_stats"])
        return (jax.nn.softplus(-both[:16]) + jax.nn.softplus(both[16:])).mean()

    g = jax.jit(jax.grad(by_hand))(state.params["disc"])
    same(step(state, BATCH)[0].params["disc"], jax.tree.map(lambda p, g: p - 0.1 * g, state.params["disc"], g), 1e-6)


def test_teacher_is_used_never_moved_and_has_no_moments():
    state, step = case("distill")
    first = step(state, BATCH)[1]["loss"]
    for _ in range(300):
        state, m = step(state, BATCH)
    same(state.frozen, TEACHER)
    assert state.params.keys() == {"model"}
    assert not [
        x for x in leaves(state.opt_state) if x.size > 1 and x.shape not in [p.shape for p in leaves(state.params)]
    ]
    assert m["loss"].sum < first.sum
    nets = bind(CASES["distill"]["modules"], {}, state)
    agree = nets["model"](BATCH["features"]).argmax(-1) == nets["teacher"](BATCH["features"]).argmax(-1)
    assert agree[:13].mean() > 0.9


def test_dqn_learns_the_ring_through_its_carry_alone():
    state, step = case("dqn")
    for _ in range(600):
        state, m = step(state, BATCH)
    best = MLP(2).apply({"params": state.params["model"]}, jnp.eye(4)).argmax(-1)
    assert best.tolist() == [1, 1, 1, 0]
    assert m["td"].value() < 0.05


def test_a_player_does_not_move_before_its_start():
    state, step = case("dqn")
    one, m = step(state, BATCH)
    two, _ = step(one, BATCH)
    three, n = step(two, BATCH)
    same(state.params, two.params)
    assert m["td"].weight == 0
    assert n["td"].weight == 32
    assert not np.array_equal(leaves(two.params)[1], leaves(three.params)[1])


def test_an_adapter_changes_no_objective_and_moves_nothing_of_its_base():
    state, step = case("adapter")
    base = CASES["adapter"]["frozen"]
    plain, full = setup(Plain(), {"model": MLP()}, load=lambda params: base)
    first = step(state, BATCH)[1]["loss"].sum
    same(first, full(plain, BATCH)[1]["loss"].sum)
    for _ in range(50):
        state, m = step(state, BATCH)
    same(state.frozen, base)
    assert state.params["model"].keys() == {"down", "up"}
    assert m["loss"].sum < first


def test_sown_losses_reach_the_objective_in_training_only():
    net = net_of(MLP(), BATCH["features"])
    net(BATCH["features"])
    assert len(net.losses) == 1
    assert net.mutable == {}
    quiet = net.fixed()
    quiet(BATCH["features"])
    assert quiet.losses == []


# ---- through Program: compiled, donated, saved ------------------------------------------------------


def program(name, **kw):
    objective = CASES[name]["objective"]
    optimizers = {p.name: optimizer(optax.adam(1e-2)) for p in objective.players}
    mesh = make_mesh({"data": -1}, jax.devices()[:1])
    return Program(**CASES[name], optimizers=optimizers, mesh=mesh, example=BATCH, ema=0.9, **kw)


@pytest.mark.parametrize("name", CASES)
def test_a_program_saves_and_goes_on_bit_for_bit_with_averages(name, tmp_path):
    p = program(name)
    state, batch, compiled = p.begin(), p.put(BATCH), p.compile()
    for _ in range(3):
        state, packed = compiled(state, batch)
    with Checkpoints(tmp_path) as checkpoints:
        digest = checkpoints.save_frozen(state.frozen) if state.frozen else None
        checkpoints.save(3, state.replace(frozen={}), {}, wait=True)
        for _ in range(3):
            state, packed = compiled(state, batch)
        again, _ = checkpoints.restore(p.abstract.replace(frozen={}))
        if digest:
            again = again.replace(frozen=checkpoints.restore_frozen(p.abstract.frozen, digest))
    for _ in range(3):
        again, packed_again = compiled(again, batch)
    same(state, again)
    np.testing.assert_array_equal(packed, packed_again)
    assert state.ema.keys() == state.params.keys()


def test_predictions_see_the_averages_and_keep_one_function_object():
    p = program("supervised")
    state, batch = p.begin(), p.put(BATCH)
    compiled = p.compile()
    for _ in range(5):
        state, _ = compiled(state, batch)
    assert p.predictor("predict") is p.predictor("predict")
    seen = jax.jit(p.predictor("predict"))(state, batch)["logits"]
    model = CASES["supervised"]["modules"]["model"]
    by_hand = jax.jit(model.apply)({"params": state.ema["model"], **state.mutable["model"]}, BATCH["features"])
    np.testing.assert_allclose(seen, by_hand, rtol=1e-5, atol=1e-6)
    now = jax.jit(p.predictor("predict", averaged=False))(state, batch)["logits"]
    assert not np.allclose(now, by_hand, atol=1e-4)


def test_a_player_without_optimizer_or_weights_is_named():
    with pytest.raises(ConfigError, match=r"player .d. has no optimizer: write config.optimizers.d"):
        begin(CASES["gan"]["modules"], GAN(), {"g": optax.sgd(0.1)}, BATCH, KEY)
    with pytest.raises(ConfigError, match="knows no net 'other'; it speaks of model"):
        begin({"other": MLP()}, Plain(), {"model": optax.sgd(0.1)}, BATCH, KEY)
    with pytest.raises(ConfigError, match="player 'model' moves model, which has no weights of its own"):
        begin({"model": MLP()}, Plain(), {"model": optax.sgd(0.1)}, BATCH, KEY, frozen=CASES["adapter"]["frozen"])
