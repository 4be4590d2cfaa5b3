"""Preference losses: the published formulas by hand, and who gets gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stand_ins import KEY, same
from token_nets import Small, net_of

from fmjax.core.errors import ConfigError, DataError
from fmjax.objectives.preference import DPO, IPO, SimPO, likelihoods

RNG = np.random.default_rng(0)
B, T, R, V = 8, 9, 7, 23
NET = Small(V, causal=True)
PARAMS, OTHER = (jax.jit(NET.init)(jax.random.key(i), jnp.zeros((1, 4), jnp.int32))["params"] for i in (0, 1))


def answer(length):
    first, last = RNG.integers(1, length - 3, (B, 1)), RNG.integers(length - 2, length + 1, (B, 1))
    at = np.arange(length)
    return RNG.integers(0, V, (B, length + 1)), ((at >= first) & (at < last)).astype(np.float32)


TOKENS, WEIGHTS = answer(T)
REJECTED, REJECTED_WEIGHTS = answer(R)
BATCH = {
    "tokens": TOKENS, "weights": WEIGHTS, "rejected": REJECTED, "rejected_weights": REJECTED_WEIGHTS,
    "valid": (np.arange(B) < 6).astype(np.float32),
}  # fmt: skip


@jax.jit
def logits(params, tokens):
    return NET.apply({"params": params}, tokens)


def by_hand(params, tokens, weights):
    """Summed log-likelihoods (B,) in float64, and the tokens counted."""
    x = np.asarray(logits(params, tokens[:, :-1]), np.float64)
    logp = x - np.log(np.exp(x).sum(-1, keepdims=True))
    own = np.take_along_axis(logp, tokens[:, 1:, None], -1)[..., 0]
    return (own * weights).sum(1), weights.sum(1)


def sides(params):
    return by_hand(params, TOKENS, WEIGHTS), by_hand(params, REJECTED, REJECTED_WEIGHTS)


def nets(params, reference, train=False):
    return {"model": net_of(NET, params, train), "reference": net_of(NET, reference, train)}


def lost(objective, params, reference, batch=BATCH):
    return jax.jit(lambda p, r, b: objective.loss("model", nets(p, r), b, {}, KEY))(params, reference, batch)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_is_the_formula_of_the_paper(smoothing):
    (c, _), (r, _) = sides(PARAMS)
    (ref_c, _), (ref_r, _) = sides(OTHER)
    margin = 0.3 * ((c - ref_c) - (r - ref_r))
    wanted = -(1 - smoothing) * np.log(sigmoid(margin)) - smoothing * np.log(sigmoid(-margin))
    loss, found = lost(DPO(beta=0.3, smoothing=smoothing), PARAMS, OTHER)
    np.testing.assert_allclose([loss.sum, loss.weight], [wanted[:6].sum(), 6], rtol=1e-5)
    np.testing.assert_allclose(found["margin"].value(), margin[:6].mean(), rtol=1e-4)
    np.testing.assert_allclose(found["accuracy"].value(), (margin[:6] > 0).mean())
    np.testing.assert_allclose(found["chosen_reward"].value(), 0.3 * (c - ref_c)[:6].mean(), rtol=1e-4)


def test_ipo_and_simpo_are_the_formulas_of_their_papers():
    (c, n), (r, m) = sides(PARAMS)
    (ref_c, _), (ref_r, _) = sides(OTHER)
    ratio = (c - ref_c) - (r - ref_r)
    np.testing.assert_allclose(
        lost(IPO(beta=0.5), PARAMS, OTHER)[0].sum, np.square(ratio - 1 / (2 * 0.5))[:6].sum(), rtol=1e-4
    )
    wanted = -np.log(sigmoid(2.5 * (c / n - r / m) - 0.7))
    found = jax.jit(lambda p: SimPO(2.5, 0.7).loss("model", {"model": net_of(NET, p, False)}, BATCH, {}, KEY)[0])(
        PARAMS
    )
    np.testing.assert_allclose(found.sum, wanted[:6].sum(), rtol=1e-5)


def test_a_model_that_is_its_reference_loses_log_2_and_has_no_margin():
    loss, found = lost(DPO(), PARAMS, PARAMS)
    assert float(loss.value()) == np.float32(np.log(2))
    assert [float(found[k].value()) for k in ("margin", "accuracy", "chosen_reward")] == [0, 0.5, 0]


def test_gradients_move_the_preferred_answer_up_and_never_touch_the_reference():
    def value(params, reference):
        loss, _ = DPO(beta=0.3).loss("model", nets(params, reference, True), BATCH, {}, KEY)
        return loss.sum

    own, theirs = jax.jit(jax.grad(value, (0, 1)))(PARAMS, OTHER)
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(theirs))
    assert any(np.asarray(g).any() for g in jax.tree.leaves(own))
    moved = jax.tree.map(lambda p, g: p - 0.01 * g, PARAMS, own)
    assert (
        lost(DPO(beta=0.3), moved, OTHER)[1]["margin"].value() > lost(DPO(beta=0.3), PARAMS, OTHER)[1]["margin"].value()
    )


def test_padding_and_rows_that_do_not_count_change_nothing():
    whole = lost(DPO(), PARAMS, OTHER)
    strange = dict(BATCH)
    for tokens, weights in (("tokens", "weights"), ("rejected", "rejected_weights")):
        after = np.cumsum(BATCH[weights][:, ::-1], 1)[:, ::-1] == 0  # past the last target
        padded = BATCH[tokens].copy()
        padded[:, 1:][after] = 5
        padded[6:] = 1
        strange[tokens] = padded
    same(whole, lost(DPO(), PARAMS, OTHER, strange), 1e-4)


def test_choice_compares_the_models_own_likelihoods():
    found = jax.jit(lambda p: DPO().predict("choice", {"model": net_of(NET, p, False)}, BATCH))(PARAMS)
    (c, _), (r, _) = sides(PARAMS)
    np.testing.assert_allclose(found["logits"], np.stack([c, r], -1), rtol=1e-5)
    predicted = jax.jit(lambda p, r: DPO().predict("predict", nets(p, r), BATCH))(PARAMS, OTHER)
    assert predicted["nll"].shape == predicted["correct"].shape == (B,)
    one = likelihoods(net_of(NET, PARAMS, False), BATCH)
    np.testing.assert_array_equal(one.rejected_tokens, REJECTED_WEIGHTS.sum(1))


def test_what_is_missing_or_out_of_range_is_said():
    with pytest.raises(ConfigError, match=r"config\.models both"):
        DPO().rewards({"model": net_of(NET, PARAMS)}, BATCH)
    with pytest.raises(ConfigError, match="beta is above 0"):
        SimPO(beta=0.0)
    with pytest.raises(ConfigError, match=r"below 0\.5"):
        DPO(smoothing=0.5)
    with pytest.raises(ConfigError, match="IPO takes no smoothing"):
        IPO(smoothing=0.1)
    with pytest.raises(DataError, match="rejected_weights of their targets"):
        DPO().check({**BATCH, "rejected_weights": REJECTED}, {})
    with pytest.raises(DataError, match="reads 'rejected'"):
        DPO().check({"tokens": TOKENS}, {})
