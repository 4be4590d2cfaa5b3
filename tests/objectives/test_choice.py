"""Multiple choice: scores are sums of log-likelihoods by hand, divided by what is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stand_ins import KEY
from token_nets import Small, net_of

from fmjax.core.errors import ConfigError, DataError
from fmjax.core.nets import Net
from fmjax.evals import metrics
from fmjax.models import transformer
from fmjax.objectives.choice import NEVER, Chooser, MultipleChoice
from fmjax.objectives.preference import SimPO

RNG = np.random.default_rng(0)
B, C, T, V = 6, 3, 9, 23
NET = Small(V, causal=True)
PARAMS = jax.jit(NET.init)(KEY, jnp.zeros((1, 4), jnp.int32))["params"]
FIRST, LAST = RNG.integers(1, 5, (B, C, 1)), RNG.integers(6, T + 1, (B, C, 1))
WEIGHTS = ((np.arange(T) >= FIRST) & (np.arange(T) < LAST)).astype(np.float32)
WEIGHTS[2, 2] = 0  # a question with two answers
BATCH = {
    "choices": RNG.integers(0, V, (B, C, T + 1)), "choice_weights": WEIGHTS, "label": np.array([0, 1, 1, 2, 0, 1]),
    "choice_characters": RNG.integers(1, 9, (B, C)), "choice_bytes": RNG.integers(1, 9, (B, C)),
    "valid": (np.arange(B) < 5).astype(np.float32),
}  # fmt: skip


def by_hand():
    """Summed log-likelihoods (B, C), in float64, answer by answer."""
    found = np.zeros((B, C))
    tokens = BATCH["choices"].reshape(B * C, T + 1)
    logits = np.asarray(jax.jit(NET.apply)({"params": PARAMS}, tokens[:, :-1]), np.float64).reshape(B, C, T, V)
    for b, c, t in np.ndindex(B, C, T):
        if WEIGHTS[b, c, t]:
            x = logits[b, c, t]
            found[b, c] += x[BATCH["choices"][b, c, t + 1]] - np.log(np.exp(x).sum())
    return found


SUMS = by_hand()
DIVISORS = {
    "answer": np.ones((B, C)), "token": WEIGHTS.sum(-1), "character": BATCH["choice_characters"],
    "byte": BATCH["choice_bytes"],
}  # fmt: skip


@pytest.mark.parametrize("per", DIVISORS)
def test_scores_are_summed_log_likelihoods_per_what_is_asked(per):
    with np.errstate(invalid="ignore"):
        wanted = np.where(WEIGHTS.sum(-1) == 0, NEVER, SUMS / DIVISORS[per])
    found = jax.jit(lambda p: Chooser(per)({"model": net_of(NET, p, False)}, BATCH))(PARAMS)
    np.testing.assert_allclose(found["logits"], wanted, rtol=1e-5)
    accuracy = metrics.accuracy(found, BATCH).value()
    assert accuracy == pytest.approx((wanted.argmax(1) == BATCH["label"])[:5].mean())


def test_of_equal_answers_the_first_is_chosen():
    same = {**BATCH, "choices": BATCH["choices"][:, :1].repeat(C, 1), "choice_weights": WEIGHTS[:, :1].repeat(C, 1)}
    found = jax.jit(lambda p: Chooser()({"model": net_of(NET, p, False)}, same))(PARAMS)
    assert metrics.accuracy(found, same).value() == pytest.approx((BATCH["label"] == 0)[:5].mean())


def test_the_loss_is_a_softmax_over_the_answers():
    objective = MultipleChoice()
    run = jax.jit(lambda p: objective.loss("model", {"model": net_of(NET, p, False)}, BATCH, {}, KEY))
    loss, found = run(PARAMS)
    scores = np.where(WEIGHTS.sum(-1) == 0, -np.inf, SUMS)
    nll = np.log(np.exp(scores).sum(-1)) - scores[np.arange(B), BATCH["label"]]
    np.testing.assert_allclose([loss.sum, loss.weight], [nll[:5].sum(), 5], rtol=1e-5)
    assert float(found["accuracy"].value()) == pytest.approx((scores.argmax(1) == BATCH["label"])[:5].mean())
    grads = jax.jit(jax.grad(lambda p: run(p)[0].sum))(PARAMS)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_what_is_missing_is_said():
    with pytest.raises(ConfigError, match=r"no per='bytes'; did you mean 'byte'\?"):
        MultipleChoice(per="bytes")
    with pytest.raises(ConfigError, match="choosing needs 'choices'"):
        Chooser()({"model": net_of(NET, PARAMS)}, {"label": BATCH["label"], "valid": BATCH["valid"]})
    with pytest.raises(DataError, match="reads 'choice_weights'"):
        MultipleChoice().check({"choices": BATCH["choices"]}, {})
    with pytest.raises(DataError, match="one fewer a row"):
        MultipleChoice().check({**BATCH, "choice_weights": BATCH["choices"]}, {})


@pytest.mark.parametrize("kind", [transformer.Encoder, transformer.EncoderDecoder])
def test_what_sees_the_answer_ahead_is_not_asked_how_likely_it_is(kind):
    nets = {"model": Net(kind(vocab=V, width=8, depth=1, heads=2), {})}
    for judge in (Chooser(), lambda nets, batch: SimPO().rewards(nets, {**batch, "tokens": 0, "rejected": 0})):
        with pytest.raises(ConfigError, match=f"reads from left to right, and this is a {kind.__name__}"):
            judge(nets, BATCH)
