"""Optimizers: each is its published rule, on the weights it is meant for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from optim_lib import FEW, assert_close, compiled, gradients, run, run_optax, tree

from fmjax.core.config import build, call, parse
from fmjax.core.errors import ConfigError
from fmjax.core.trees import addresses, flatten
from fmjax.optim import optimizers, schedules

LINE = schedules.linear(1.0, 1000)


def times(rate):
    return lambda step: rate * LINE(step)


ALL = {
    "sgd": lambda **kw: optimizers.sgd(times(0.1), **kw),
    "nesterov": lambda **kw: optimizers.sgd(times(0.05), momentum=0.9, nesterov=True, **kw),
    "adam": lambda **kw: optimizers.adam(times(0.1), **kw),
    "adamw": lambda **kw: optimizers.adamw(times(0.1), **kw),
    "lion": lambda **kw: optimizers.lion(times(0.05), **kw),
    "adafactor": lambda **kw: optimizers.adafactor(times(0.3), factor_from=4, **kw),
    "muon": lambda **kw: optimizers.muon(times(0.2), **kw),
    "plateau": lambda **kw: optimizers.plateau(optimizers.adamw(times(0.1), **kw), window=5, patience=50),
    "by_address": lambda **kw: optimizers.by_address(
        (("kernel$", optimizers.sgd(times(0.1), 0.9)), (".*", optimizers.sgd(times(0.1), **kw)))
    ),
}
PLAIN = {name: make() for name, make in ALL.items()}
COSINE = schedules.warmup_cosine(0.1, 20, 3, start=0.02)
THEIRS = optax.warmup_cosine_decay_schedule(0.02, 0.1, 3, 20)
MASK = {"mask": lambda w: jax.tree.map_with_path(lambda p, _: p[-1].key in ("kernel", "embedding"), w)}
L2 = optax.add_decayed_weights(0.3, **MASK)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optimizers.sgd(COSINE), optax.sgd(THEIRS)),
        (optimizers.sgd(COSINE, 0.9, True), optax.sgd(THEIRS, 0.9, True)),
        (optimizers.sgd(0.1, 0.9, l2=0.3), optax.chain(L2, optax.sgd(0.1, 0.9))),
        (
            optimizers.adam(COSINE, 0.8, l2=0.3),
            optax.chain(L2, optax.adam(THEIRS, 0.8)),
        ),
        (optimizers.adamw(COSINE, decay=0.3), optax.adamw(THEIRS, weight_decay=0.3, **MASK)),
        (optimizers.lion(COSINE, decay=0.3), optax.lion(THEIRS, weight_decay=0.3, **MASK)),
        (optimizers.adafactor(COSINE, factor_from=4), optax.adafactor(THEIRS, min_dim_size_to_factor=4)),
        (
            optimizers.adafactor(0.1, clip=None, momentum=0.9, relative=False),
            optax.adafactor(0.1, clipping_threshold=None, momentum=0.9, multiply_by_parameter_scale=False),
        ),
        (
            optimizers.adam(0.1, moment_dtype="bfloat16"),
            optax.adam(0.1, mu_dtype="bfloat16"),
        ),
    ],
    ids=["sgd", "nesterov", "sgd_l2", "adam_l2", "adamw", "lion", "adafactor", "plain", "bf16"],
)
def test_it_takes_the_steps_of_its_optax_reference(ours, theirs):
    weights, grads = tree(0, FEW), gradients(5, FEW)
    assert_close(run(ours, weights, grads)[0], run_optax(theirs, weights, grads), rtol=1e-4, atol=2e-5)


def test_adamw_by_hand():
    weights, grads = tree(0, FEW), gradients(4, FEW)
    ours = flatten(run(optimizers.adamw(COSINE, 0.9, 0.999, 1e-8, decay=0.1), weights, grads)[0])
    for name, w in flatten(weights).items():
        w, mu, nu = np.float64(w), 0.0, 0.0
        for t, g in enumerate((np.float64(flatten(g)[name]) for g in grads), start=1):
            mu, nu = 0.9 * mu + 0.1 * g, 0.999 * nu + 0.001 * g**2
            way = mu / (1 - 0.9**t) / (np.sqrt(nu / (1 - 0.999**t)) + 1e-8)
            decay = 0.1 * w if name.endswith(("kernel", "embedding")) else 0.0
            w = w - float(COSINE(t - 1)) * (way + decay)
        np.testing.assert_allclose(ours[name], w, 1e-6, 1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["sgd", "adamw", "adafactor", "muon", "plateau"])
def test_decay_spares_vectors_and_frozen_weights_stay_bit_identical_without_moments(name):
    weights = tree()
    weights["model"]["block_0"]["norm"]["scale"] *= -0.0  # the sign of a zero counts too
    optimizer = ALL[name](decay=0.5, freeze=("embed/", "block_0"))
    rate = float(optimizer.report(optimizer.init(weights))["rate"])
    decayed = flatten(run(optimizer, weights, [jax.tree.map(jnp.zeros_like, weights)])[0])
    moved, state = run(optimizer, weights, gradients(3))
    for address, w in flatten(weights).items():
        stays = "embed/" in address or "block_0" in address
        same = np.array_equal(np.asarray(w).view(np.int32), np.asarray(flatten(moved)[address]).view(np.int32))
        assert same == stays, address
        assert any(a.endswith(address) for a in addresses(state)) == (not stays and name != "sgd")
        shrinks = address.endswith(("kernel", "embedding")) and not stays
        np.testing.assert_allclose(decayed[address], w * (1 - rate * 0.5) if shrinks else w, 1e-5 * shrinks)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_l2_reaches_the_moments_and_only_matrices(name):
    weights = tree(0, FEW)
    nothing = jax.tree.map(jnp.zeros_like, weights)
    after = flatten(run(ALL[name](l2=0.5), weights, [nothing])[0])
    for address, w in flatten(weights).items():
        assert address.endswith(("kernel", "embedding")) != bool((after[address] == w).all())


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_loss_falls_on_a_quadratic_with_one_trace_and_a_state_of_arrays(name):
    names = (*FEW, "block_0/attention/query/kernel")
    weights, goal, optimizer = tree(0, names), tree(1, names), PLAIN[name]
    update, traces = compiled(optimizer)
    state, structure, losses, rates = optimizer.init(weights), None, [], []
    for _ in range(50):
        grads = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), weights, goal)
        losses.append(sum((g**2).sum() for g in jax.tree.leaves(grads)) / 2)
        rates.append(optimizer.report(state)["rate"])
        leaves, now = jax.tree.flatten(state)
        assert structure is None or structure == now
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)
        updates, new = update(grads, jax.tree.unflatten(now, leaves), weights, value=jnp.float32(losses[-1]))
        assert [(x.shape, x.dtype) for x in jax.tree.leaves(new)] == [(x.shape, x.dtype) for x in leaves]
        assert all(u.dtype == jnp.float32 for u in jax.tree.leaves(updates))
        weights = jax.tree.map(lambda w, u: np.asarray(w) + np.asarray(u), weights, updates)
        state, structure = new, now
    assert losses[-1] < losses[0] / 4
    np.testing.assert_allclose(rates, rates[0] * (1 - np.arange(50) / 1000), 1e-5)
    assert len(traces) == 1
    assert jax.tree.structure(jax.eval_shape(optimizer.init, weights)) == structure


def test_report_gives_the_rate_that_the_next_update_uses():
    weights = tree(0, FEW)
    optimizer = optimizers.sgd(schedules.piecewise(0.1, (1, 2), 0.5))
    state = optimizer.init(weights)
    for expected in (0.1, 0.05, 0.025):
        assert optimizer.report(state) == {"rate": np.float32(expected)}
        updates, state = compiled(optimizer)[0](weights, state, weights)
        assert_close(updates, jax.tree.map(lambda w, r=expected: -r * w, weights))


def test_a_config_names_them_and_overrides_every_knob():
    config = call(optimizers.adamw, rate=call(schedules.linear, peak=1e-3, steps=10), freeze=("embed",))
    parse(config, ["--config.rate.peak=0.1", "--config.decay=0", "--config.b2=0.5", "--config.freeze=('head',)"])
    names = (*FEW, "head/kernel")
    ours = run(build(config), tree(0, names), gradients(2, names))[0]
    theirs = optimizers.adamw(schedules.linear(0.1, 10), b2=0.5, decay=0.0, freeze=("head",))
    assert_close(ours, run(theirs, tree(0, names), gradients(2, names))[0], 0, 0)
    assert build(call(optimizers.sgd, rate=1)).report({"count": 0}) == {"rate": 1.0}


@pytest.mark.parametrize("name", ["sgd", "adam", "lion", "adafactor", "muon"])
def test_an_optimizer_replaced_on_the_command_line_keeps_its_schedule(name):
    config = ConfigDict({"optimizer": call(optimizers.adamw, rate=call(schedules.linear, peak=0.1, steps=10))})
    parse(config, [f"--config.optimizer=fmjax.optim.optimizers:{name}", "--config.optimizer.rate.peak=0.2"])
    made = build(config.optimizer)
    assert made.report(made.init(tree(0, FEW))) == {"rate": np.float32(0.2)}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: optimizers.sgd(-0.1), "rate=-0.1"),
        (lambda: optimizers.sgd("fast"), "rate='fast'"),
        (lambda: optimizers.sgd(0.1, 1.0), "momentum=1.0"),
        (lambda: optimizers.sgd(0.1, nesterov=True), "momentum > 0"),
        (lambda: optimizers.adam(0.1, b1=-0.1), "b1=-0.1"),
        (lambda: optimizers.adam(0.1, b2=1), "b2=1"),
        (lambda: optimizers.adam(0.1, moment_dtype="int8"), "moment_dtype='int8'"),
        (lambda: optimizers.adamw(0.1, decay=float("nan")), "decay=nan"),
        (lambda: optimizers.adamw(0.1, freeze=("(",)), "'(' is no regular expression"),
        (lambda: optimizers.adamw(0.1, rates=(("head", -1.0),)), "rates[head]=-1.0"),
        (lambda: optimizers.adafactor(0.1, power=1.5), "power=1.5"),
        (lambda: optimizers.muon(0.1, iterations=0), "iterations=0"),
        (lambda: optimizers.muon(0.1, dtype="float8"), "dtype='float8'"),
        (lambda: optimizers.adamw(0.1, freeze=("emebd",)).init(tree()), "freeze 'emebd' matches no weight"),
        (lambda: optimizers.adamw(0.1, decay_on="W$").init(tree()), "decay_on 'W$' matches no weight"),
        (lambda: optimizers.adamw(0.1, rates=(("x/", 0.1),)).init(tree()), "the multiplier of rates 'x/'"),
        (lambda: optimizers.muon(0.1, freeze=("emebd",)).init(tree()), "freeze 'emebd' matches no weight"),
        (lambda: optimizers.adamw(0.1, freeze=(".*",)).init(tree()), "leaves nothing to train"),
    ],
)
def test_misuse_is_one_line_that_names_the_option(make, said):
    with pytest.raises(ConfigError) as error:
        make()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
