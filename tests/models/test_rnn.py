"""Recurrent models: causal, packed without leaks, cached as uncached, sampled as a transformer is, counted exactly."""

from functools import partial

import jax
import numpy as np
import pytest

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.core.trees import count
from fmjax.decoding.sampling import Sampler
from fmjax.models import rnn
from fmjax.models.rnn import LanguageModel, SequenceToSequence

TOKENS = np.random.default_rng(0).integers(0, 40, (2, 9), np.int32)  # numpy: nothing to compile
SOURCE = np.random.default_rng(1).integers(0, 40, (2, 7), np.int32)
VARIANTS = {
    "lstm": dict(tied=False, norm="layer"),
    "gru": dict(residual=False, ngrams=(2, 3), buckets=64),
    "linear": dict(ngrams=(3,), buckets=64, inner=32, feed_forward="geglu"),
}


def changed(tokens, at, value):
    """A copy with the columns `at` set to a value."""
    out = tokens.copy()
    out[:, at] = value
    return out


close = partial(np.testing.assert_allclose, atol=3e-6, rtol=1e-5)


def on_host(apply):
    """The compiled function with its results in numpy, so that slices of them compile nothing."""
    return lambda *args, **kw: jax.device_get(apply(*args, **kw))


@pytest.fixture(scope="module", params=VARIANTS)
def made(request):
    model = LanguageModel(40, width=16, depth=1, cell=request.param, **VARIANTS[request.param])
    variables = jax.jit(model.init)(jax.random.key(1), TOKENS)
    return model, variables, on_host(jax.jit(partial(model.apply, variables), static_argnames="method"))


def test_no_token_sees_the_future(made):
    _model, _variables, apply = made
    before, after = apply(TOKENS), apply(changed(TOKENS, slice(5, None), 3))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert not np.allclose(before[:, 5:], after[:, 5:])


def test_packed_documents_are_as_if_alone_and_padding_changes_nothing(made):
    _model, _variables, apply = made
    segments = np.array([[1] * 3 + [2] * 3 + [3] * 3, [1] * 3 + [2] * 3 + [0] * 3])
    positions = np.tile(np.arange(3), (2, 3))
    packed = apply(TOKENS, segment_ids=segments, positions=positions)
    close(packed.reshape(6, 3, 40)[:5], apply(TOKENS.reshape(6, 3))[:5])
    padded = apply(changed(TOKENS, slice(6, None), 7), segment_ids=segments, positions=positions)
    np.testing.assert_array_equal(packed[1, :6], padded[1, :6])


@pytest.mark.parametrize("packed", [False, True])
def test_cached_logits_equal_uncached_ones(made, packed):
    model, _variables, apply = made
    segments = np.array([[0, 1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 2, 3, 3]])
    positions = np.tile(np.arange(3), (2, 3))
    part = lambda i, j: {"segment_ids": segments[:, i:j], "positions": positions[:, i:j]} if packed else {}  # noqa: E731
    pieces, cache = [], model.init_cache(2, 9)
    for i in (0, 3, 6):
        logits, cache = apply(TOKENS[:, i : i + 3], cache=cache, **part(i, i + 3))
        pieces.append(logits)
    real = np.asarray(segments > 0) if packed else np.ones((2, 9), bool)
    close(np.concatenate(pieces, 1)[real], apply(TOKENS, **part(0, 9))[real])
    assert cache["start"] == 9


def test_prompts_of_unequal_length_go_on_as_if_alone(made):
    model, _variables, apply = made
    ragged = {"segment_ids": np.array([[1, 1, 1], [1, 0, 0]]), "positions": np.tile(np.arange(3), (2, 1))}
    _, cache = apply(TOKENS[:, :3], cache=model.init_cache(2, 9), **ragged)
    logits, _ = apply(TOKENS[:, 3:6], cache=cache)
    without = np.concatenate([TOKENS[1:, :1], TOKENS[1:, 3:], TOKENS[1:, :2]], 1)
    whole = apply(np.concatenate([TOKENS[:1], without]))
    close(logits[0], whole[0, 3:6])
    close(logits[1], whole[1, 1:4])


def test_hidden_and_head_make_the_logits(made):
    _model, _variables, apply = made
    np.testing.assert_array_equal(apply(apply(TOKENS, method="hidden"), method="head"), apply(TOKENS))


def test_the_sampler_takes_the_most_likely_token_of_the_whole_pass(made):
    model, variables, apply = made
    nets = {"model": Net(model, variables["params"])}
    prompt = TOKENS[:, :5]
    drawn = jax.jit(lambda tokens: Sampler(length=4, temperature=0)(nets, {"tokens": tokens})["tokens"])(prompt)
    np.testing.assert_array_equal(drawn, apply(np.concatenate([prompt, drawn], 1))[:, 4:-1].argmax(-1))


def test_parameters_and_flops_are_those_counted_by_hand():
    sizes = {
        "lstm": (4 * (2 * 32 * 32 + 32), 4 * 2 * 32 * 32),
        "gru": (3 * (2 * 32 * 32 + 32) + 32, 3 * 2 * 32 * 32),
        "elman": (2 * 32 * 32 + 32, 2 * 32 * 32),
        "linear": (5 * 32 * 32 + 2 * 32 + 5 * 32 + 32, 5 * 32 * 32 + 4 * 32),
    }
    for cell, (weights, products) in sizes.items():
        model = LanguageModel(50, width=32, depth=2, cell=cell)
        shapes = jax.eval_shape(model.init, jax.random.key(1), TOKENS)["params"]
        assert count(shapes) == 50 * 32 + 2 * (weights + 32) + 32, cell
        assert model.flops({"tokens": (2, 13)}) == 2 * 24 * (2 * products + 50 * 32), cell
    wide = LanguageModel(50, width=32, depth=2, inner=64, feed_forward="geglu")
    extra = wide.flops({"tokens": (2, 13)}) - LanguageModel(50, width=32, depth=2).flops({"tokens": (2, 13)})
    assert extra == 2 * 24 * 2 * 3 * 32 * 64


def test_a_config_can_name_every_variant_and_override_it():
    for name in rnn.CELLS:
        node = call(getattr(rnn, name), vocab=40, width=16)
        assert (node.cell, node.width, build(node).cell) == (name, 16, name)


@pytest.fixture(scope="module")
def pair():
    model = SequenceToSequence(40, width=16, cell="gru", tied=False)
    variables = jax.jit(model.init)(jax.random.key(1), SOURCE, TOKENS)
    return model, on_host(jax.jit(partial(model.apply, variables), static_argnames="method"))


def test_the_decoder_sees_all_of_the_source_and_no_later_target(pair):
    _model, apply = pair
    before, after = apply(SOURCE, TOKENS), apply(SOURCE, changed(TOKENS, slice(5, None), 3))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert not np.allclose(before[:, 5:], after[:, 5:])
    for place in (0, 6):
        assert not np.allclose(before[:, 0], apply(changed(SOURCE, place, 39), TOKENS)[:, 0], atol=1e-7)


def test_packed_pairs_are_as_if_alone_and_padding_changes_nothing(pair):
    _model, apply = pair
    sources = np.array([[1, 1, 1, 2, 2, 2, 0]] * 2)
    targets = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 0]] * 2)
    junk = changed(SOURCE, 6, 11), changed(TOKENS, 8, 12)
    first, second = apply(SOURCE[:, :3], TOKENS[:, :4]), apply(SOURCE[:, 3:6], TOKENS[:, 4:8])
    for source, target in ((SOURCE, TOKENS), junk):
        packed = apply(source, target, segment_ids=sources, decoder_segment_ids=targets)
        close(packed[:, :4], first)
        close(packed[:, 4:8], second)
    ragged = apply(SOURCE, TOKENS, segment_ids=sources, decoder_segment_ids=np.minimum(targets, 1))
    close(ragged[:, :8], apply(*junk, segment_ids=sources % 2, decoder_segment_ids=np.minimum(targets, 1))[:, :8])


def test_decoding_step_by_step_equals_teacher_forcing(pair):
    model, apply = pair
    sources = np.array([[1] * 7, [1] * 5 + [0] * 2])
    memory, cache = apply(SOURCE, segment_ids=sources, method="encode"), model.init_cache(2, 9)
    pieces = []
    for i in range(9):
        logits, cache = apply(TOKENS[:, i : i + 1], memory, segment_ids=sources, cache=cache, method="decode")
        pieces.append(logits)
    whole = apply(SOURCE, TOKENS, segment_ids=sources)
    close(np.concatenate(pieces, 1), whole)
    np.testing.assert_array_equal(apply(TOKENS, memory, segment_ids=sources, method="decode"), whole)
    close(apply(apply(SOURCE, TOKENS, segment_ids=sources, method="hidden"), method="head"), whole)


def test_sequence_to_sequence_is_counted_by_hand():
    model = SequenceToSequence(50, width=32)
    shapes = jax.eval_shape(model.init, jax.random.key(1), SOURCE, TOKENS)["params"]
    encoder, decoder = 2 * 4 * (32 * 16 + 16 * 16 + 16), 4 * (2 * 32 * 32 + 32)
    assert count(shapes) == 50 * 32 + encoder + decoder + 4 * 32 + 3 * 32 * 32
    products = 2 * 7 * 2 * 4 * (32 * 16 + 16 * 16) + 2 * 9 * (8 * 32 * 32 + 3 * 32 * 32 + 2 * 7 * 32 + 50 * 32)
    assert model.flops({"tokens": (2, 7), "targets": (2, 9)}) == 2 * products


def test_wrong_options_are_one_line():
    for kw, says in (
        (dict(cell="lsmt"), "did you mean 'lstm'"),
        (dict(norm="rmss"), "did you mean 'rms'"),
        (dict(feed_forward="gelo", inner=8), "did you mean 'gelu'"),
    ):
        with pytest.raises(ConfigError, match=says):
            jax.eval_shape(LanguageModel(40, width=16, **kw).init, jax.random.key(0), TOKENS)
    with pytest.raises(ConfigError, match="use a Decoder"):
        jax.eval_shape(partial(LanguageModel(40, width=16).init, prefix=TOKENS), jax.random.key(0), TOKENS)
    for kw, says in ((dict(cell="linear"), "both directions"), (dict(width=15), "even number")):
        with pytest.raises(ConfigError, match=says):
            jax.eval_shape(SequenceToSequence(40, **kw).init, jax.random.key(0), SOURCE, TOKENS)
