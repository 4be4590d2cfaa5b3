"""InfoNCE: the formula by hand, rows that do not count, and what is the loss of vectors that are all alike."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stand_ins import KEY
from token_nets import net_of

from fmjax.core.errors import ConfigError, DataError
from fmjax.objectives.contrastive import InBatch
from fmjax.training.state import begin
from fmjax.training.step import make_step

RNG = np.random.default_rng(0)
B, V = 16, 11


class Bag(nn.Module):
    """The mean of the embeddings that count."""

    @nn.compact
    def __call__(self, tokens, *, segment_ids=None, positions=None, train: bool = False):
        real = jnp.ones((*tokens.shape, 1)) if segment_ids is None else (segment_ids > 0)[..., None]
        tokens = jnp.asarray(tokens)
        x = (nn.Embed(V, 8)(tokens) * real).sum(1) / jnp.maximum(real.sum(1), 1)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def side(length):
    sizes = RNG.integers(2, length + 1, (B, 1))
    return RNG.integers(0, V, (B, length)), (np.arange(length) < sizes).astype(np.int32)


BATCH = dict(zip(("tokens", "segment_ids"), side(7))) | dict(zip(("targets", "target_segment_ids"), side(5)))
BATCH["valid"] = (np.arange(B) < 13).astype(np.float32)
NET = Bag()
PARAMS = jax.jit(lambda: NET.init(KEY, BATCH["tokens"], segment_ids=BATCH["segment_ids"]))()["params"]


@jax.jit
def vectors(batch):
    return InBatch().predict("predict", {"model": net_of(NET, PARAMS, False)}, batch)


def lost(objective, batch):
    return jax.jit(lambda b: objective.loss("model", {"model": net_of(NET, PARAMS, False)}, b, {}, KEY))(batch)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_loss_is_the_formula_over_the_rows_that_are_there(symmetric):
    found = vectors(BATCH)
    left, right = (np.asarray(found[k], np.float64)[:13] for k in ("vectors", "target_vectors"))
    logits = left @ right.T / 0.2
    there = np.log(np.exp(logits).sum(1)) - np.diag(logits)
    back = np.log(np.exp(logits).sum(0)) - np.diag(logits)
    wanted = (there + back) / 2 if symmetric else there
    loss, metrics = lost(InBatch(0.2, symmetric), BATCH)
    np.testing.assert_allclose([loss.sum, loss.weight], [wanted.sum(), 13], rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"].value(), (logits.argmax(1) == np.arange(13)).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["similarity"].value(), np.diag(logits).mean() * 0.2, rtol=1e-5)


def test_padded_rows_are_no_negatives_and_padded_tokens_no_words():
    strange = {k: v.copy() for k, v in BATCH.items()}
    for tokens, segments in (("tokens", "segment_ids"), ("targets", "target_segment_ids")):
        strange[tokens][strange[segments] == 0] = 3
        strange[tokens][13:] = 5
    np.testing.assert_allclose(lost(InBatch(), BATCH)[0].sum, lost(InBatch(), strange)[0].sum, rtol=1e-5)


def test_vectors_that_are_all_alike_lose_the_logarithm_of_the_rows():
    same = {**BATCH, "tokens": BATCH["tokens"] * 0, "targets": BATCH["targets"] * 0}
    np.testing.assert_allclose(lost(InBatch(), same)[0].value(), np.log(13), rtol=1e-5)


def test_rows_are_coupled_so_accumulation_is_refused():
    tx = {"model": optax.sgd(0.1)}
    state = jax.jit(lambda: begin({"model": NET}, InBatch(), tx, BATCH, KEY))()
    step = make_step({"model": NET}, InBatch(), tx, accumulate=2)
    with pytest.raises(ConfigError, match="rows of a batch are coupled"):
        step(state, BATCH)


def test_what_is_missing_is_said():
    with pytest.raises(DataError, match="reads 'targets'"):
        InBatch().check({"tokens": 1}, {})
    with pytest.raises(ConfigError, match="temperature is above 0"):
        InBatch(temperature=0.0)
