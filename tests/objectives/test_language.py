"""Next-token prediction: who counts, against scikit-learn; packed rows equal their documents alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from fmjax.core.errors import DataError
from fmjax.core.nets import Net
from fmjax.models.transformer import Decoder
from fmjax.objectives.language import NextToken

KEY = jax.random.key(0)
TOKENS = np.random.default_rng(0).integers(0, 5, (3, 7)).astype(np.int32)
BATCH = {"tokens": TOKENS, "valid": np.array([1, 1, 0], np.float32)}


class Table(nn.Module):
    """Logits looked up by token: a bigram model."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        return self.param("table", nn.initializers.normal(), (5, 5))[x]


TABLE = np.random.default_rng(1).normal(size=(5, 5)).astype(np.float32)


def nets(train=True, table=TABLE):
    return {"model": Net(Table(), {"table": jnp.asarray(table)}, {}, KEY, train)}


def loss_of(batch, **kw):
    return NextToken(**kw).loss("model", nets(), batch, {}, KEY)


def probabilities(tokens):
    e = np.exp(TABLE[tokens])
    return e / e.sum(-1, keepdims=True)


def test_every_target_is_predicted_from_the_token_before_it():
    loss, metrics = loss_of(BATCH)
    wanted = log_loss(TOKENS[:2, 1:].ravel(), probabilities(TOKENS[:2, :-1]).reshape(-1, 5), labels=range(5))
    assert float(loss.value()) == pytest.approx(wanted, rel=1e-5)
    assert loss.weight == 12
    assert metrics["loss"] == loss


def test_weights_and_padding_count_for_nothing():
    weights = np.ones((3, 6), np.float32)
    weights[0, 2:] = 0
    loss, _ = loss_of({**BATCH, "weights": weights})
    other = TOKENS.copy()
    other[2], other[0, 4:] = 0, 1
    same, _ = loss_of({**BATCH, "tokens": other, "weights": weights})
    assert loss.weight == 2 + 6
    assert same == loss


def test_a_target_counts_only_inside_its_own_document():
    segments = np.array([[1, 1, 1, 2, 2, 2, 0]] * 3, np.int32)

    class Packed(Table):
        @nn.compact
        def __call__(self, x, segment_ids, train: bool = False):
            return self.param("table", nn.initializers.normal(), (5, 5))[x]

    packed = {"model": Net(Packed(), {"table": jnp.asarray(TABLE)}, {}, KEY, True)}
    loss, _ = NextToken().loss("model", packed, {**BATCH, "segment_ids": segments}, {}, KEY)
    assert loss.weight == 2 * 4  # of 6 targets one crosses, and one is padding
    rows = np.concatenate([TOKENS[:2, :3], TOKENS[:2, 3:6]])
    alone, _ = loss_of({"tokens": rows, "valid": np.ones(4, np.float32)})
    np.testing.assert_allclose(loss, alone, rtol=1e-6)


def test_a_packed_decoder_gives_what_its_documents_give_alone():
    model = Decoder(vocab=5, width=16, depth=1, heads=2)
    params = model.init(KEY, TOKENS[:1, :-1])["params"]
    bound = {"model": Net(model, params, {}, KEY, False)}
    packed = {
        "tokens": np.concatenate([TOKENS[:1], TOKENS[1:2]], 1),
        "segment_ids": np.repeat(np.array([[1, 2]], np.int32), 7, 1),
        "positions": np.tile(np.arange(7, dtype=np.int32), 2)[None],
        "valid": np.ones(1, np.float32),
    }
    loss, _ = jax.jit(lambda b: NextToken().loss("model", bound, b, {}, KEY))(packed)
    alone, _ = jax.jit(lambda b: NextToken().loss("model", bound, b, {}, KEY))(BATCH)
    np.testing.assert_allclose(loss, alone, rtol=1e-5)


def test_the_squared_normaliser_is_added_and_not_reported():
    plain, _ = loss_of(BATCH)
    more, metrics = loss_of(BATCH, z_loss=0.1)
    log_z = np.log(np.exp(TABLE[TOKENS[:2, :-1]]).sum(-1))
    assert float(more.value()) == pytest.approx(float(plain.value()) + 0.1 * (log_z**2).mean(), rel=1e-5)
    assert metrics["loss"].sum == plain.sum


def test_bits_a_byte_divide_by_the_bytes_of_real_rows():
    loss, metrics = loss_of({**BATCH, "bytes": np.array([6, 9, 100], np.float32)})
    assert float(metrics["bits_per_byte"].value()) == pytest.approx(float(loss.sum) / np.log(2) / 15, rel=1e-5)


def test_predictions_have_the_words_of_evaluators():
    out = NextToken().predict("predict", nets(train=False), BATCH)
    assert out["logits"].shape == (3, 6, 5)
    np.testing.assert_array_equal(out["targets"], TOKENS[:, 1:])
    np.testing.assert_array_equal(out["weights"].sum(-1), [6, 6, 0])
    loss, _ = loss_of(BATCH)
    assert float((out["nll"] * out["weights"]).sum()) == pytest.approx(float(loss.sum), rel=1e-5)
    with pytest.raises(KeyError, match="predicts nothing called 'hidden'"):
        NextToken().predict("hidden", nets(), BATCH)


def test_tokens_may_be_of_any_integer_type():
    assert loss_of({**BATCH, "tokens": TOKENS.astype(np.uint16)}) == loss_of(BATCH)


def test_a_batch_that_cannot_be_used_is_refused():
    outputs = {"logits": jax.ShapeDtypeStruct((3, 6, 5), np.float32)}
    NextToken().check(BATCH, outputs)
    with pytest.raises(DataError, match=r"token 5 is out of range: the model has 5; set --config.model.vocab"):
        NextToken().check({**BATCH, "tokens": TOKENS + 1}, outputs)
    with pytest.raises(DataError, match="reads 'tokens', and the batch holds image, valid"):
        NextToken().check({"image": 0, "valid": 0}, outputs)
    with pytest.raises(DataError, match="token -1 is out of range"):
        NextToken().check({**BATCH, "tokens": TOKENS - 1}, outputs)
