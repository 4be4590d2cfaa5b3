"""Experts: whichever way tokens travel, the sum is the one written by hand; padding and order change nothing."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten
from fmjax.nn.experts import DISPATCHERS, MixtureOfExperts, StackedLinear, choose
from fmjax.nn.feed_forward import FeedForward

E, D, F = 4, 8, 16
X = jax.random.normal(jax.random.key(0), (2, 6, D))
VALID = jnp.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
DROPLESS = [name for name, able in DISPATCHERS.items() if able.dropless]
KINDS = {"plain": dict(kind="relu"), "gated, biased, shared": dict(kind="swiglu", use_bias=True, shared=8)}


def fresh(model):
    """Weights of some size, drawn without compiling anything."""
    shapes, numbers = jax.eval_shape(model.init, jax.random.key(1), X)["params"], np.random.default_rng(0)
    return jax.tree.map(lambda w: numbers.normal(0, 0.4, w.shape).astype(w.dtype), shapes)


def sown(model, params, x=X, **kw):
    """(outputs, {address: what was sown}), in training."""
    run = jax.jit(partial(model.apply, train=True, mutable=["losses", "intermediates"]))
    out, seen = run({"params": params}, x, **kw)
    return out, {name.removesuffix("/0"): value for name, value in flatten(seen).items()}


def feed_forward(kind, p, x):
    act = {"relu": lambda z: np.maximum(z, 0), "swiglu": lambda z: z / (1 + np.exp(-z))}[kind]
    wide, gate = (x @ p[k]["kernel"] + p[k].get("bias", 0) if k in p else None for k in ("up", "gate"))
    return (act(wide) if gate is None else act(gate) * wide) @ p["down"]["kernel"] + p["down"].get("bias", 0)


def by_hand(model, params, x):
    """The weighted sum in numpy, token by token and expert by expert."""
    x = np.asarray(x)
    chances = np.exp(x @ params["router"]["kernel"])
    chances /= chances.sum(-1, keepdims=True)
    out = np.zeros(x.shape)
    for at in np.ndindex(*x.shape[:-1]):
        best = np.argsort(-chances[at])[: model.top_k]
        total = chances[at][best].sum() if model.normalize else 1.0
        for e in best:
            one = jax.tree.map(lambda w, e=e: w[e], params["experts"])
            out[at] += chances[at][e] / total * feed_forward(model.kind, one, x[at])
    return out + feed_forward(model.kind, params["shared"], x) if model.shared else out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dispatch", DROPLESS)
@pytest.mark.parametrize(("top_k", "normalize"), [(1, False), (2, True), (E, False)])
def test_the_output_is_the_weighted_sum_written_by_hand(dispatch, kind, top_k, normalize):
    model = MixtureOfExperts(E, F, top_k, normalize=normalize, dispatch=dispatch, **KINDS[kind])
    params = fresh(model)
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, X), by_hand(model, params, X), atol=1e-5)


def test_experts_that_are_all_equal_are_one_feed_forward():
    model = MixtureOfExperts(E, F, kind="geglu", use_bias=True)
    params = fresh(model)
    params["experts"] = jax.tree.map(lambda w: jnp.broadcast_to(w[:1], w.shape), params["experts"])
    first = jax.tree.map(lambda w: w[0], params["experts"])
    plain = jax.jit(FeedForward(F, "geglu", True).apply)({"params": first}, X)
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, X), plain, atol=1e-5)


@pytest.fixture(scope="module")
def grads():
    """{(dispatcher, capacity): (outputs, gradients of weights and inputs)} in training, with padding."""

    def of(dispatch, capacity):
        model = MixtureOfExperts(E, F, kind="swiglu", use_bias=True, capacity=capacity, dispatch=dispatch)

        def loss(params, x):
            out, seen = model.apply({"params": params}, x, train=True, valid=VALID, mutable=["losses"])
            return jnp.sum(jnp.sin(out)) + sum(jax.tree.leaves(seen)), out

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(fresh(model), X)

    return {
        (name, c): of(name, c)
        for name, able in DISPATCHERS.items()
        for c in (None, 0.75, float(E))
        if (able.dropless if c is None else able.capacity) and (name, c) != ("dense", float(E))
    }


@pytest.mark.parametrize(("dispatch", "capacity", "like"), [
    ("ragged", None, None), ("buffers", 0.75, 0.75), ("buffers", float(E), None),
])  # fmt: skip
def test_every_dispatcher_has_the_value_and_gradients_of_the_reference(grads, dispatch, capacity, like):
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-5), grads[dispatch, capacity], grads["dense", like])


def test_a_small_capacity_is_not_the_same_and_the_router_learns(grads):
    assert not np.allclose(grads["dense", 0.75][1], grads["dense", None][1])
    for (params, _), _ in grads.values():
        assert np.abs(params["router"]["kernel"]).max() > 1e-3


@pytest.mark.parametrize("dispatch", DROPLESS)
def test_a_permutation_of_the_tokens_permutes_the_outputs(dispatch):
    model = MixtureOfExperts(E, F, dispatch=dispatch)
    apply = jax.jit(partial(model.apply, {"params": fresh(model)}))
    order = jax.random.permutation(jax.random.key(3), 12)
    moved = X.reshape(12, D)[order].reshape(X.shape)
    np.testing.assert_allclose(apply(moved).reshape(12, D), apply(X).reshape(12, D)[order], atol=1e-6)


@pytest.mark.parametrize(("dispatch", "capacity"), [("dense", None), ("ragged", None), ("buffers", 0.75)])
def test_padding_is_not_routed_not_counted_and_takes_no_room(dispatch, capacity):
    model = MixtureOfExperts(E, F, capacity=capacity, dispatch=dispatch)
    params = fresh(model)
    short, seen = sown(model, params, X[:, :4])
    padded = jnp.concatenate([X[:, :2], jnp.full((2, 3, D), jnp.nan), X[:, 2:4]], 1)
    real = jnp.array([True, True, False, False, False, True, True])
    out, also = sown(model, params, padded, valid=jnp.broadcast_to(real, (2, 7)))
    np.testing.assert_allclose(out[:, real], short, atol=1e-6)
    np.testing.assert_array_equal(out[:, ~real], 0.0)
    assert seen.keys() == also.keys()
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), also, seen)


def test_an_expert_takes_the_first_tokens_of_each_row_and_the_rest_pass_it_by():
    model = MixtureOfExperts(E, F, 1, normalize=False, capacity=2.0)  # room for 3 of the 6 tokens of a row
    params = fresh(model)
    x = np.abs(X)
    params["router"]["kernel"] = np.eye(E)[2] * np.ones((D, 1), np.float32)  # all love expert 2
    out, seen = sown(model, params, x)
    whole = jax.jit(model.apply)({"params": params}, x)  # evaluation drops nothing
    np.testing.assert_allclose(out[:, :3], whole[:, :3], atol=1e-6)
    np.testing.assert_array_equal(out[:, 3:], 0.0)
    assert np.abs(whole[:, 3:]).min(axis=-1).max() > 0
    assert seen["intermediates/dropped"] == 0.5
    np.testing.assert_array_equal(seen["intermediates/load"], [0, 0, 1, 0])


def test_no_token_is_dropped_because_of_a_later_one():
    model = MixtureOfExperts(E, F, capacity=0.75)
    apply = partial(sown, model, fresh(model))
    np.testing.assert_array_equal(apply(X)[0][:, :3], apply(X.at[:, 3:].set(X[:, :1]))[0][:, :3])


def test_the_balance_loss_is_one_when_balanced_and_more_when_not():
    model = MixtureOfExperts(E, F, 1, normalize=False, balance=0.5, z_loss=0.25)
    params = fresh(model)
    x = 5.0 * np.eye(E, D, dtype=np.float32)[None]  # token i goes to expert i
    params["router"]["kernel"] = np.eye(D, E, dtype=np.float32)
    _, seen = sown(model, params, x)
    assert seen["losses/balance"] == pytest.approx(0.5)
    assert seen["losses/router_z"] == pytest.approx(0.25 * math.log(math.exp(5) + 3) ** 2)
    _, seen = sown(model, params, np.tile(x[:, :1], (1, E, 1)))
    assert seen["losses/balance"] == pytest.approx(0.5 * E * math.exp(5) / (math.exp(5) + 3))
    assert not sown(MixtureOfExperts(E, F, balance=0.0, z_loss=0.0), params, x)[1].keys() & {"losses/balance"}


def test_nothing_is_sown_in_a_plain_call_and_jitter_is_only_in_training():
    model = MixtureOfExperts(E, F, kind="relu", jitter=0.5)
    variables = {"params": fresh(model)}
    still = jax.jit(model.apply)(variables, X)
    assert isinstance(still, jax.Array)
    np.testing.assert_allclose(still, by_hand(model, variables["params"], X), atol=1e-5)
    noisy, _ = sown(model, variables["params"], rngs={"dropout": jax.random.key(0)})
    assert not np.allclose(noisy, still)


def test_addresses_dtypes_and_flops_are_those_said():
    model = MixtureOfExperts(E, F, kind="swiglu", use_bias=True, shared=12, dtype="bfloat16")
    params = jax.eval_shape(model.init, jax.random.key(0), X)["params"]
    assert {k: v.shape for k, v in flatten(params).items() if "shared" not in k} == {
        "router/kernel": (D, E),
        "experts/up/kernel": (E, D, F), "experts/gate/kernel": (E, D, F), "experts/down/kernel": (E, F, D),
        "experts/up/bias": (E, F), "experts/gate/bias": (E, F), "experts/down/bias": (E, D),
    }  # fmt: skip
    assert {w.dtype for w in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert jax.eval_shape(model.apply, {"params": params}, X).dtype == jnp.bfloat16
    assert model.flops(D) == 2 * (D * E + 3 * D * (2 * F + 12))


def test_each_expert_starts_as_a_feed_forward_of_its_own():
    each = partial(jnp.einsum, "erd,edf->erf")
    init = jax.jit(lambda key, x: StackedLinear(E, 256).init(key, x, each, lambda b: b))
    up = init(jax.random.key(0), jnp.zeros((E, 1, 64)))["params"]["kernel"]
    assert float(up.std()) == pytest.approx(64**-0.5, rel=0.02)
    assert not np.allclose(up[0], up[1])


def test_the_best_dispatcher_is_taken_unless_one_is_named():
    assert choose("auto", True) == "buffers"
    assert (choose("auto", False, "cpu"), choose("auto", False, "gpu")) == ("dense", "ragged")


@pytest.mark.parametrize(("kw", "says"), [
    (dict(top_k=5), "top_k=5 of 4 experts: give 1 to 4"),
    (dict(top_k=0), "give 1 to 4"),
    (dict(top_k=1), "give normalize=False"),
    (dict(capacity=0.0), "give a factor such as 1.25, or None"),
    (dict(jitter=1.0), "jitter=1.0"),
    (dict(kind="swigle"), "there is no activation 'swigle'"),
    (dict(dispatch="rugged"), "did you mean 'ragged'"),
    (dict(dispatch="buffers"), "needs a capacity"),
    (dict(dispatch="ragged", capacity=1.0), "drops nothing, and a capacity is given"),
])  # fmt: skip
def test_wrong_options_are_one_line(kw, says):
    with pytest.raises(ConfigError, match=says):
        jax.eval_shape(MixtureOfExperts(E, F, **kw).init, jax.random.key(0), X)


def test_a_mask_of_another_shape_is_one_line():
    with pytest.raises(ConfigError, match=r"valid has shape \(6,\), and the tokens \(2, 6\)"):
        jax.eval_shape(partial(MixtureOfExperts(E, F).init, valid=VALID[0]), jax.random.key(0), X)
