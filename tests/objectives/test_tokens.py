"""Objectives over tokens: laws that hold for all of them, whatever the net."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stand_ins import KEY, optimizer, same
from token_nets import Small, net_of

from fmjax.core.errors import ConfigError, DataError
from fmjax.core.types import KEYS
from fmjax.evals import metrics
from fmjax.objectives.language import NextToken
from fmjax.objectives.masked import MaskedTokens
from fmjax.objectives.sequence import SequenceToSequence, shifted
from fmjax.training.state import State
from fmjax.training.step import make_step

RNG = np.random.default_rng(0)
B, T, V = 16, 9, 23
MODELS = {"next": Small(V, causal=True), **dict.fromkeys(("masked", "pairs", "sequence"), Small(V))}


def ids(*shape):
    return RNG.integers(0, V, shape).astype(np.int32)


def documents(length):
    """Two documents a row, then padding: (B, length) segment ids and positions."""
    at, first, last = (
        np.arange(length),
        RNG.integers(2, length - 3, (B, 1)),
        RNG.integers(length - 2, length + 1, (B, 1)),
    )
    segments = np.where(at < first, 1, np.where(at < last, 2, 0)).astype(np.int32)
    positions = np.where(segments == 1, at, np.where(segments == 2, at - first, 0)).astype(np.int32)
    return segments, positions


def rows(**keys):
    return {**keys, "valid": (np.arange(B) < 13).astype(np.float32)}


SEGMENTS, POSITIONS = documents(T)
SEGMENTS_1, POSITIONS_1 = documents(T + 1)
HIDDEN = (RNG.random((B, T)) < 0.3).astype(np.float32)
HIDDEN[0] = np.arange(T) < 8
HIDDEN[1] = 0
WORDS = {"tokens": ids(B, T), "targets": ids(B, T), "segment_ids": SEGMENTS, "positions": POSITIONS}
NEXT = rows(
    tokens=ids(B, T + 1), segment_ids=SEGMENTS_1, positions=POSITIONS_1, weights=HIDDEN,
    bytes=RNG.integers(1, 9, B).astype(np.int32), prefix=(POSITIONS_1 < 2).astype(np.int32),
)  # fmt: skip
MASKED = rows(**WORDS, weights=HIDDEN)
PAIRS = {**MASKED, "token_types": ids(B, T) % 2, "label": (np.arange(B) % 2).astype(np.int32)}
TARGET = dict(zip(("target_segment_ids", "target_positions"), (SEGMENTS[:, :7], POSITIONS[:, :7])))
SEQUENCE = rows(**{**WORDS, "targets": ids(B, 7)}, **TARGET, weights=HIDDEN[:, :7])
CASES = {
    "next": (NextToken(), NEXT),
    "masked": (MaskedTokens(), MASKED),
    "pairs": (MaskedTokens(pair_weight=0.7), PAIRS),
    "sequence": (SequenceToSequence(start=3), SEQUENCE),
}
PARAMS = jax.jit(lambda: MODELS["masked"].init(KEY, jnp.zeros((1, 4), jnp.int32)))()["params"]
SETTINGS = {"smoothing": 0.1, "z_loss": 1e-2}
cases = pytest.mark.parametrize("name", CASES)


@functools.partial(jax.jit, static_argnums=0)
def _parts(name, batch):
    """Losses and gradients of the whole batch without chunks, and of its eight microbatches with."""
    objective = dataclasses.replace(CASES[name][0], **SETTINGS)
    batch, _ = objective.prepare({}, batch, {}, 0, KEY, True)

    def lost(params, batch, chunk):
        nets = {"model": net_of(MODELS[name], params)}
        loss, metrics = dataclasses.replace(objective, chunk=chunk).loss("model", nets, batch, {}, KEY)
        return loss.sum, (loss, metrics)

    grads = jax.grad(lost, has_aux=True)
    micro = jax.tree.map(lambda x: x.reshape(-1, 8, *x.shape[1:]).swapaxes(0, 1), batch)
    return grads(PARAMS, batch, 0), jax.vmap(lambda rows: grads(PARAMS, rows, 5))(micro)


@cases
def test_ragged_microbatches_in_chunks_add_up_to_the_batch(name):
    whole, micro = _parts(name, CASES[name][1])
    same(whole, jax.tree.map(lambda x: x.sum(0), micro), 2e-5)


def test_accumulation_of_eight_is_one_with_losses_of_tokens_and_of_rows():
    objective, txs = dataclasses.replace(CASES["pairs"][0], chunk=5, **SETTINGS), {"model": optimizer(optax.sgd(0.5))}
    params = {"model": PARAMS}
    state = State(
        jnp.zeros((), jnp.int32), KEY, params, {"model": txs["model"].init(params)}, {"model": {}}, {}, {}, {}
    )
    state, metrics = jax.jit(make_step({"model": MODELS["pairs"]}, objective, txs, {}, 8))(state, PAIRS)
    (grads, (loss, wanted)), _ = _parts("pairs", PAIRS)
    same(state.params["model"], jax.tree.map(lambda p, g: p - 0.5 * g / loss.weight, PARAMS, grads), 2e-5)
    same({key: metrics[key] for key in wanted}, wanted, 2e-5)


def judged(name, batch, **settings):
    objective = dataclasses.replace(CASES[name][0], **settings)
    return _judge(objective, MODELS[name], batch)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _judge(objective, module, batch):
    nets = {"model": net_of(module, PARAMS)}
    batch, _ = objective.prepare(nets, batch, {}, 0, KEY, True)
    return objective.loss("model", nets, batch, {}, KEY)


@cases
def test_rows_and_tokens_of_padding_change_nothing(name):
    batch = CASES[name][1]
    loss, numbers = judged(name, batch)
    assert loss.weight > 0
    spoiled = {k: np.array(v) for k, v in batch.items()}
    for key in spoiled.keys() - {"valid"}:
        spoiled[key][13:] = 1 if key != "weights" else 5
    for key, segments in (("tokens", "segment_ids"), ("targets", "target_segment_ids" if name == "sequence" else "")):
        if segments and key in spoiled:
            spoiled[key][spoiled[segments] == 0] = 7
    same((loss, numbers), judged(name, spoiled), 1e-6)
    wider = {
        k: np.pad(v, ((0, 0), (0, 4)), constant_values=1 if k in ("tokens", "targets", "weights") else 0)
        if v.ndim == 2
        else v
        for k, v in batch.items()
    }
    same((loss, numbers), judged(name, wider), 1e-5)


@pytest.mark.parametrize("name", ["next", "masked", "sequence"])
def test_packed_documents_give_what_they_give_alone(name):
    batch = CASES[name][1]
    loss, _ = judged(name, batch)
    keys = {"tokens": "segment_ids", "positions": "segment_ids", "prefix": "segment_ids", "segment_ids": "segment_ids"}
    other = "target_segment_ids" if name == "sequence" else "segment_ids"
    keys |= {"targets": other, "weights": other, "target_positions": other, "target_segment_ids": other}
    parts = []
    for document in (1, 2):
        alone = {"valid": batch["valid"]}
        for key in keys.keys() & batch.keys():
            segments = batch[keys[key]]
            if name == "next" and key == "weights":
                segments = segments[:, 1:]
            mine = segments == document
            start = mine.argmax(1)[:, None] + np.arange(mine.shape[1])
            kept = np.take_along_axis(np.where(mine, batch[key], 0), start % mine.shape[1], 1)
            alone[key] = np.where(np.arange(mine.shape[1]) < mine.sum(1)[:, None], kept, 0).astype(batch[key].dtype)
        if name == "next":  # the weight of the first target inside: that of a document's second token
            first = batch["segment_ids"] == document
            at = first.argmax(1)[:, None] + np.arange(T)
            alone["weights"] = np.take_along_axis(np.pad(batch["weights"], ((0, 0), (0, T))), at, 1)
        parts.append(judged(name, alone)[0])
    np.testing.assert_allclose(loss.weight, parts[0].weight + parts[1].weight)
    np.testing.assert_allclose(loss.sum, parts[0].sum + parts[1].sum, rtol=1e-5)


def test_a_decoder_reads_each_document_from_its_own_start():
    targets, segments = np.array([[5, 6, 7, 8, 9, 0]]), np.array([[1, 1, 1, 2, 2, 0]])
    np.testing.assert_array_equal(shifted(jnp.asarray(targets), 3, jnp.asarray(segments)), [[3, 5, 6, 3, 8, 3]])
    np.testing.assert_array_equal(shifted(jnp.asarray(targets), 3), [[3, 5, 6, 7, 8, 9]])


def test_no_target_of_a_prefix_or_of_another_document_counts():
    reading = NextToken().read({k: jnp.asarray(v) for k, v in NEXT.items()} | {"weights": jnp.ones((B, T))})
    inside = (SEGMENTS_1[:, 1:] == SEGMENTS_1[:, :-1]) & (SEGMENTS_1[:, 1:] > 0) & (POSITIONS_1[:, 1:] >= 2)
    np.testing.assert_array_equal(reading.weights, inside * NEXT["valid"][:, None])
    np.testing.assert_array_equal(reading.context["prefix"], NEXT["prefix"][:, :-1])


def test_the_pair_loss_is_a_mean_over_rows_beside_the_mean_over_tokens():
    loss, numbers = judged("pairs", PAIRS)
    tokens, _ = judged("masked", {**MASKED, "token_types": PAIRS["token_types"]})
    wanted = float(tokens.value()) + 0.7 * float(numbers["pair_loss"].value())
    assert float(loss.value()) == pytest.approx(wanted, rel=1e-5)
    assert numbers["pair_loss"].weight == 13


@pytest.mark.parametrize("name", ["masked", "pairs"])
def test_only_hidden_tokens_need_the_head(name):
    same(judged(name, CASES[name][1]), judged(name, CASES[name][1], most=8), 1e-5)
    same(judged(name, CASES[name][1]), judged(name, CASES[name][1], most=8, chunk=7), 1e-5)


@pytest.mark.parametrize(("name", "chunk"), [("next", 0), ("masked", 10), ("pairs", 0), ("sequence", 10)])
def test_predictions_have_the_words_of_evaluators(name, chunk):
    objective, batch = CASES[name]
    objective = dataclasses.replace(objective, chunk=chunk, smoothing=0.1)
    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    out = jax.jit(lambda b: objective.predict("predict", {"model": net_of(MODELS[name], PARAMS, train=False)}, b))(
        batch
    )
    _, numbers = judged(name, batch)
    assert metrics.loss(out, batch).value() == pytest.approx(float(numbers["loss"].value()), rel=1e-5)
    slow = {k: v for k, v in out.items() if k not in ("correct", "nll")}
    for metric in (metrics.loss, metrics.accuracy):
        np.testing.assert_allclose(metric(out, batch), metric(slow, batch), rtol=2e-5)
    assert metrics.accuracy(out, batch).value() == pytest.approx(float(numbers["accuracy"].value()))
    with pytest.raises(KeyError, match="predicts nothing called 'x'"):
        objective.predict("x", {}, batch)


def test_logits_that_no_metric_reads_are_never_made():
    def compiled(chunk, *words):
        nets = {"model": net_of(MODELS["masked"], PARAMS, train=False)}
        fn = jax.jit(lambda b: [MaskedTokens(chunk=chunk).predict("predict", nets, b)[word] for word in words])
        return fn.lower(MASKED).compile().as_text()

    assert f"f32[{B},{T},{V}]" in compiled(10, "logits", "nll")
    assert f"f32[{B},{T},{V}]" not in compiled(10, "nll", "correct", "weights")


def test_pairs_are_predicted_by_name():
    batch = {k: jnp.asarray(v) for k, v in PAIRS.items()}
    out = MaskedTokens().predict("pair", {"model": net_of(MODELS["pairs"], PARAMS, train=False)}, batch)
    assert out["logits"].shape == (B, 2)
    _, numbers = judged("pairs", PAIRS)
    assert metrics.accuracy(out, batch).value() == pytest.approx(float(numbers["pair_accuracy"].value()))


def test_nothing_that_a_net_remembers_is_lost_or_leaks():
    net = net_of(MODELS["sequence"], PARAMS)
    with jax.checking_leaks():
        jax.eval_shape(lambda b: _counted(SequenceToSequence(chunk=10), net, b), SEQUENCE)


def _counted(objective, net, batch):
    bound = dataclasses.replace(net, losses=[])
    objective.loss("model", {"model": bound}, batch, {}, KEY)
    assert len(bound.losses) == 1
    return jax.grad(lambda p: objective.loss("model", {"model": net_of(net.module, p)}, batch, {}, KEY)[0].sum)(PARAMS)


SHAPES = {"logits": jax.ShapeDtypeStruct((B, T, V), np.float32)}


@cases
def test_a_batch_that_cannot_be_used_is_refused(name):
    objective, batch = CASES[name]
    assert batch.keys() <= KEYS.keys()
    objective.check(batch, SHAPES)
    with pytest.raises(DataError, match=r"token 24 is out of range: the model has 23; set --config.model.vocab"):
        objective.check({**batch, "tokens": np.full_like(batch["tokens"], 24)}, SHAPES)
    for key in ("tokens",) if name == "next" else ("tokens", "targets"):
        with pytest.raises(DataError, match=f"reads '{key}', and the batch holds"):
            objective.check({k: v for k, v in batch.items() if k != key}, {})
    if name != "next":
        with pytest.raises(
            DataError, match=r"target -100 is out of range: targets are 0 or more; padding has weight 0"
        ):
            objective.check({**batch, "targets": batch["targets"] - 100 - batch["targets"]}, SHAPES)


def test_labels_and_counts_of_masked_batches_are_checked():
    with pytest.raises(DataError, match="label 2 of a pair is neither 0"):
        MaskedTokens().check({**PAIRS, "label": PAIRS["label"] * 2}, SHAPES)
    with pytest.raises(DataError, match=r"a row hides 8 tokens, more than --config.objective.most=7"):
        MaskedTokens(most=7).check(MASKED, SHAPES)
    with pytest.raises(DataError, match="reads 'label'"):
        MaskedTokens().predict("pair", {"model": net_of(MODELS["pairs"], PARAMS, False)}, MASKED)
    with pytest.raises(ConfigError, match="smoothing is from 0 to below 1"):
        NextToken(smoothing=1.0)
