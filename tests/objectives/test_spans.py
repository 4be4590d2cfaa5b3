"""Spans and tags: losses by hand, padding that counts for nothing, eight microbatches that are one step."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stand_ins import KEY, optimizer, same

from fmjax.core.errors import DataError
from fmjax.core.nets import Net
from fmjax.core.types import KEYS
from fmjax.evals import metrics
from fmjax.objectives.spans import Spans
from fmjax.objectives.tagging import TagTokens
from fmjax.training.state import State
from fmjax.training.step import make_step

RNG = np.random.default_rng(0)
B, T = 16, 7
SIZES = RNG.integers(3, T + 1, B)
SEGMENTS = (np.arange(T) < SIZES[:, None]).astype(np.int32)
WORDS = {
    "tokens": RNG.integers(0, 11, (B, T)).astype(np.int32),
    "segment_ids": SEGMENTS,
    "token_types": ((np.arange(T) > 1) * SEGMENTS).astype(np.int32),
    "valid": (np.arange(B) < 13).astype(np.float32),
}
ENDS = np.sort(RNG.integers(2, SIZES[:, None], (B, 2)), 1) * (RNG.random((B, 1)) < 0.8)
ALLOWED = (np.arange(T) != 1) * SEGMENTS * 1.0
BATCHES = {
    "spans": {**WORDS, "span": ENDS.astype(np.int32), "weights": ALLOWED},
    "tags": {
        **WORDS, "targets": RNG.integers(0, 4, (B, T)).astype(np.int32), "weights": (RNG.random((B, T)) < 0.6) * 1.0,
    },
}  # fmt: skip


class Each(nn.Module):
    """A class for every token, which sees the mean of its row."""

    out: int

    @nn.compact
    def __call__(self, tokens, *, positions=None, segment_ids=None, token_types=None, train=False):
        x = nn.Embed(11, 8)(tokens)
        x = x if token_types is None else x.at[..., 0].add(token_types)
        w = jnp.ones(tokens.shape) if segment_ids is None else (segment_ids > 0) * 1.0
        return nn.Dense(self.out)(x + (x * w[..., None]).sum(1, keepdims=True) / w.sum(1).clip(1)[:, None, None])


CASES = {"spans": (Spans(), Each(2)), "tags": (TagTokens(), Each(4))}
PARAMS = {name: jax.jit(module.init)(KEY, WORDS["tokens"])["params"] for name, (_, module) in CASES.items()}
cases = pytest.mark.parametrize("name", CASES)


def nets(name):
    return {"model": Net(CASES[name][1], PARAMS[name], {}, KEY)}


@functools.partial(jax.jit, static_argnums=0)
def judged(name, batch):
    return CASES[name][0].loss("model", nets(name), batch, {}, KEY)


@cases
def test_accumulation_of_eight_is_one(name):
    objective, module = CASES[name]
    params, txs = {"model": PARAMS[name]}, {"model": optimizer(optax.sgd(0.5))}
    state = State(
        jnp.zeros((), jnp.int32), KEY, params, {"model": txs["model"].init(params)}, {"model": {}}, {}, {}, {}
    )
    one, eight = (jax.jit(make_step({"model": module}, objective, txs, {}, n))(state, BATCHES[name]) for n in (1, 8))
    same(one[0].params, eight[0].params, 1e-6)
    same(one[1], eight[1], 1e-5)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one[0].params, params)
    assert max(jax.tree.leaves(moved)) > 1e-3


@cases
def test_rows_and_tokens_of_padding_change_nothing(name):
    batch = BATCHES[name]
    loss = judged(name, batch)
    spoiled = {k: np.array(v) for k, v in batch.items()}
    for key in spoiled.keys() - {"valid"}:
        spoiled[key][13:] = 0 if key in ("weights", "span") else 2
    spoiled["tokens"][SEGMENTS == 0] = 5
    same(loss, judged(name, spoiled), 1e-6)
    wide = {k: np.pad(v, ((0, 0), (0, 3))) if v.shape == (B, T) else v for k, v in batch.items()}
    same(loss, judged(name, wide), 1e-5)
    assert not np.isclose(loss[0].sum, judged(name, {k: v for k, v in batch.items() if k != "token_types"})[0].sum)


def test_the_loss_of_a_span_is_the_mean_of_two_cross_entropies_over_the_tokens_allowed():
    batch = BATCHES["spans"]
    apply = jax.jit(CASES["spans"][1].apply)
    types = batch["token_types"]
    logits = apply({"params": PARAMS["spans"]}, batch["tokens"], segment_ids=SEGMENTS, token_types=types)
    total, right = 0.0, 0
    for row in range(13):
        allowed = np.flatnonzero(batch["weights"][row])
        x = np.float64(logits[row])[allowed]
        x = x - np.log(np.exp(x).sum(0))
        ends = np.searchsorted(allowed, batch["span"][row])
        total -= (x[ends[0], 0] + x[ends[1], 1]) / 2
        right += (x.argmax(0) == ends).all()
    loss, numbers = judged("spans", batch)
    assert (float(loss.sum), float(loss.weight)) == (pytest.approx(total, rel=1e-5), 13)
    assert float(numbers["accuracy"].sum) == right


@cases
def test_predictions_have_the_words_of_evaluators(name):
    batch = {k: jnp.asarray(v) for k, v in BATCHES[name].items()}
    out = jax.jit(lambda b: CASES[name][0].predict("predict", nets(name), b))(batch)
    _, numbers = judged(name, batch)
    assert metrics.loss(out, batch).value() == pytest.approx(float(numbers["loss"].value()), rel=1e-5)
    assert metrics.accuracy(out, batch).value() == pytest.approx(float(numbers["accuracy"].value()))
    if name == "spans":
        for side in ("start", "end"):
            shares = np.exp(np.asarray(out[side])) * (np.asarray(batch["weights"]) > 0)
            np.testing.assert_allclose(shares[:13].sum(1), 1, rtol=1e-5)
            assert (np.asarray(out[side])[:13][np.asarray(batch["weights"])[:13] == 0] < -1e29).all()
    with pytest.raises(KeyError, match="predicts nothing called 'x'"):
        CASES[name][0].predict("x", nets(name), batch)


def test_a_batch_that_cannot_be_used_is_refused():
    shapes = {"logits": jax.ShapeDtypeStruct((B, T, 4), np.float32)}
    for name, (objective, _) in CASES.items():
        batch = BATCHES[name]
        assert batch.keys() <= KEYS.keys()
        objective.check(batch, shapes)
        with pytest.raises(DataError, match="reads 'weights', and the batch holds"):
            objective.check({k: v for k, v in batch.items() if k != "weights"}, shapes)
    for span in ((1, 3), (3, 2), (3, T), (-1, 3)):
        wrong = {**BATCHES["spans"], "span": BATCHES["spans"]["span"].copy()}
        wrong["span"][2] = span
        with pytest.raises(
            DataError, match=rf"the answer of row 2 is from token {span[0]} to {span[1]}, which are not"
        ):
            Spans().check(wrong, {})
        wrong["valid"] = np.where(np.arange(B) == 2, 0, 1)
        Spans().check(wrong, {})
    with pytest.raises(DataError, match=r"tag 4 is out of range: the model has 4 classes, 0 to 3"):
        TagTokens().check({**BATCHES["tags"], "targets": BATCHES["tags"]["targets"] + 1}, shapes)
