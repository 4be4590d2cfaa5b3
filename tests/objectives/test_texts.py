"""Texts: the class and the number of a row, whatever pads it; eight microbatches are one step."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import log_loss
from stand_ins import KEY, optimizer, same

from fmjax.core.errors import DataError
from fmjax.core.nets import Net
from fmjax.core.types import KEYS
from fmjax.objectives.distillation import DistillText
from fmjax.objectives.texts import ClassifyText, RegressText
from fmjax.training.state import State
from fmjax.training.step import make_step

RNG = np.random.default_rng(0)
B, T, C = 16, 6, 3
SIZES = RNG.integers(1, T + 1, B)
BATCH = {
    "tokens": RNG.integers(0, 11, (B, T)).astype(np.int32),
    "segment_ids": (np.arange(T) < SIZES[:, None]).astype(np.int32),
    "token_types": (np.arange(T) > 2).astype(np.int32) * np.ones((B, 1), np.int32),
    "label": RNG.integers(0, C, B).astype(np.int32),
    "targets": RNG.normal(size=B).astype(np.float32),
    "valid": (np.arange(B) < 13).astype(np.float32),
}


class Bag(nn.Module):
    """The mean of the embedded tokens, with sentence types beside them."""

    out: int

    @nn.compact
    def __call__(self, tokens, *, positions=None, segment_ids=None, token_types=None, train=False):
        x = nn.Embed(11, 8)(tokens)
        x = x if token_types is None else x.at[..., 0].add(token_types)
        w = jnp.ones(tokens.shape) if segment_ids is None else (segment_ids > 0) * 1.0
        return nn.Dense(self.out)((x * w[..., None]).sum(1) / w.sum(1, keepdims=True).clip(1))


CASES = {"classify": (ClassifyText(), Bag(C)), "regress": (RegressText(), Bag(1))}
PARAMS = {name: jax.jit(module.init)(KEY, BATCH["tokens"])["params"] for name, (_, module) in CASES.items()}
cases = pytest.mark.parametrize("name", CASES)


def net(name):
    return {"model": Net(CASES[name][1], PARAMS[name], {}, KEY)}


@functools.partial(jax.jit, static_argnums=0)
def predicted(name, batch):
    return CASES[name][0].predict("predict", net(name), batch)


@functools.partial(jax.jit, static_argnums=0)
def judged(name, batch):
    objective = CASES[name][0]
    batch, _ = objective.prepare({}, batch, {}, 0, KEY, True)
    return objective.loss("model", net(name), batch, {}, KEY)


@cases
def test_accumulation_of_eight_is_one(name):
    objective, module = CASES[name]
    params, txs = {"model": PARAMS[name]}, {"model": optimizer(optax.sgd(0.5))}
    state = State(
        jnp.zeros((), jnp.int32), KEY, params, {"model": txs["model"].init(params)}, {"model": {}}, {}, {}, {}
    )
    one, eight = (jax.jit(make_step({"model": module}, objective, txs, {}, n))(state, BATCH) for n in (1, 8))
    same(one[0].params, eight[0].params, 1e-6)
    same(one[1], eight[1], 1e-5)
    assert float(jnp.abs(jax.tree.leaves(one[0].params)[0] - jax.tree.leaves(params)[0]).max()) > 1e-4


@cases
def test_rows_and_tokens_of_padding_change_nothing(name):
    loss = judged(name, BATCH)
    spoiled = {k: np.array(v) for k, v in BATCH.items()}
    for key in spoiled.keys() - {"valid"}:
        spoiled[key][13:] = 2
    spoiled["tokens"][BATCH["segment_ids"] == 0] = 5
    same(loss, judged(name, spoiled), 1e-6)
    wide = {k: np.pad(v, ((0, 0), (0, 3))) if v.ndim == 2 else v for k, v in BATCH.items()}
    same(loss, judged(name, wide), 1e-5)
    plain = judged(name, {k: v for k, v in BATCH.items() if k != "token_types"})
    assert not np.isclose(plain[0].sum, loss[0].sum)


def test_losses_are_scikit_learns():
    logits = predicted("classify", BATCH)["logits"]
    p = np.asarray(jax.nn.softmax(logits), np.float64)[:13]
    loss, numbers = judged("classify", BATCH)
    assert float(loss.value()) == pytest.approx(
        log_loss(BATCH["label"][:13], p / p.sum(1, keepdims=True), labels=range(C)), rel=1e-5
    )
    assert float(numbers["accuracy"].value()) == pytest.approx((p.argmax(1) == BATCH["label"][:13]).mean())
    values = predicted("regress", BATCH)["values"]
    wanted = np.square(np.asarray(values)[:13, 0] - BATCH["targets"][:13]).mean()
    assert float(judged("regress", BATCH)[0].value()) == pytest.approx(float(wanted), rel=1e-5)


def test_a_batch_that_cannot_be_used_is_refused():
    assert BATCH.keys() <= KEYS.keys()
    outputs = {"logits": jax.ShapeDtypeStruct((B, C), np.float32), "values": jax.ShapeDtypeStruct((B, 1), np.float32)}
    for objective, _ in CASES.values():
        objective.check(BATCH, outputs)
        with pytest.raises(DataError, match="reads 'tokens', and the batch holds label"):
            objective.check({"label": BATCH["label"], "valid": BATCH["valid"]}, outputs)
    with pytest.raises(DataError, match="label 3 is out of range: the model has 3 classes"):
        ClassifyText().check({**BATCH, "label": BATCH["label"] + 1}, outputs)
    with pytest.raises(DataError, match="reads 'targets'"):
        RegressText().check({k: v for k, v in BATCH.items() if k != "targets"}, outputs)


def test_a_teacher_reads_a_text_as_the_student_does():
    @jax.jit
    def run():
        teacher = Net(Bag(C), Bag(C).init(jax.random.key(5), BATCH["tokens"])["params"])
        ready, _ = DistillText().prepare({**net("classify"), "teacher": teacher}, BATCH, {}, 0, KEY, True)
        return ready, ClassifyText().predict("predict", {"model": teacher}, BATCH)["logits"]

    ready, wanted = run()
    np.testing.assert_array_equal(ready["tokens"], BATCH["tokens"])
    np.testing.assert_allclose(ready["teacher_logits"], wanted, rtol=1e-5)
    assert DistillText().inputs(BATCH).keys() == {"model", "teacher"}
