"""Transformers: causal, padded and packed without leaks, cached as uncached, scanned as unrolled, counted exactly.

One generic test runs over every variant of every family; all options of the blocks occur in one of them.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.core.trees import count
from fmjax.models.transformer import Decoder, Encoder, EncoderDecoder

KEY = jax.random.key(0)
TOKENS = jax.random.randint(KEY, (2, 12), 1, 50)
TARGETS = jax.random.randint(jax.random.key(1), (2, 9), 1, 50)
SMALL = dict(vocab=50, width=16, depth=2, heads=4)
DECODERS = {
    "rotary": {},
    "learned": dict(position="learned", length=16, norm="layer", use_bias=True, tied=False, feed_forward="swiglu"),
    "grouped": dict(groups=2, qk_norm=True, ngrams=(2, 3), buckets=64, head_size=8, qkv_bias=True),
    "window": dict(groups=1, window=4, softcap=5.0, logit_softcap=7.0, norm_place="sandwich", embed_scale=4.0),
    "alibi": dict(position="alibi", attention="chunked"),
    "relative": dict(position="relative", attention_scale=1.0, attention="xla"),
    "experts": dict(experts=4, experts_shared=8, feed_forward="swiglu", inner=24),
    "sine": dict(position="sine", rope_scaling="none", logit_scale=0.25, remat="dots"),
}
ENCODERS = {
    "bert": dict(length=16, norm="layer", norm_place="post", use_bias=True, embed_norm=True, token_types=2, pairs=True),
    "rotary": dict(position="rotary", output="tied", window=5, ngrams=(2, 3), buckets=64),
    "relative": dict(position="relative", output="none"),
}
PAIRS = {
    "t5": dict(position="relative", attention_scale=1.0, feed_forward="relu", logit_scale=0.25),
    "learned": dict(
        position="learned",
        length=16,
        tied=False,
        encoder_depth=1,
        norm_place="post",
        use_bias=True,
        ngrams=(2, 3),
        buckets=64,
    ),
}


def make(kind, options, **more):
    model = kind(**{**SMALL, **options, **more})
    inputs = (TOKENS, TARGETS) if kind is EncoderDecoder else (TOKENS,)
    variables = jax.jit(model.init)(jax.random.key(1), *inputs)
    # Fresh weights have equal norms and zero biases: noise makes every one of them count.
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    return model, jax.tree.unflatten(tree, noisy)


def applied(model, variables):
    return jax.jit(partial(model.apply, variables), static_argnames="method")


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request):
    model, variables = make(Decoder, DECODERS[request.param])
    return model, variables, applied(model, variables)


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request):
    model, variables = make(Encoder, ENCODERS[request.param])
    return model, variables, applied(model, variables)


@pytest.fixture(scope="module", params=PAIRS)
def pair(request):
    model, variables = make(EncoderDecoder, PAIRS[request.param])
    return model, variables, applied(model, variables)


def close(a, b, atol=5e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=1e-5), a, b)


# ---- decoders ------------------------------------------------------------------------------------------
def test_no_token_sees_the_future(decoder):
    _, _, apply = decoder
    before = apply(TOKENS)
    after = apply(TOKENS.at[:, 7:].set(3))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert not np.allclose(before[:, 7:], after[:, 7:])


def test_packed_documents_are_as_if_alone_and_padding_changes_nothing(decoder):
    _, _, apply = decoder
    segments = jnp.array([[1] * 5 + [2] * 4 + [0] * 3])
    positions = jnp.array([[*range(5), *range(4), 0, 0, 0]])
    packed = apply(TOKENS[:1], segment_ids=segments, positions=positions)
    close(packed[:, :5], apply(TOKENS[:1, :5]))
    close(packed[:, 5:9], apply(TOKENS[:1, 5:9]))
    other = apply(TOKENS[:1].at[:, 9:].set(7), segment_ids=segments, positions=positions)
    np.testing.assert_array_equal(packed[:, :9], other[:, :9])


def test_cached_logits_equal_uncached_ones(decoder):
    model, _, apply = decoder
    whole = apply(TOKENS)
    logits, cache = apply(TOKENS[:, :6], cache=model.init_cache(2, 12))
    pieces = [logits]
    for i in range(6, 12):
        logits, cache = apply(TOKENS[:, i : i + 1], cache=cache)
        pieces.append(logits)
    close(jnp.concatenate(pieces, 1), whole)


def test_hidden_and_head_make_the_logits(decoder):
    _, _, apply = decoder
    close(apply(apply(TOKENS, method="hidden"), method="head"), apply(TOKENS), 1e-6)


def test_scanned_layers_are_the_unrolled_ones_gradients_included(decoder):
    model, variables, _ = decoder
    scanned = model.clone(scan=True)
    assert jax.tree.structure(jax.eval_shape(scanned.init, KEY, TOKENS)) == jax.tree.structure(variables)

    def gradient(model):
        loss = lambda v: jnp.sin(model.apply(v, TOKENS, segment_ids=jnp.ones_like(TOKENS))).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(variables)

    close(gradient(model), gradient(scanned), 2e-4)


def test_a_prefix_is_seen_by_all_of_its_document_and_nothing_else_is(decoder):
    model, _, apply = decoder
    if model.ngrams or model.window:
        pytest.skip("n-grams and windows look back only so far")
    prefix = jnp.array([[1] * 4 + [0] * 8] * 2)
    before = apply(TOKENS, prefix=prefix)
    changed = apply(TOKENS.at[:, 3].add(1), prefix=prefix)
    assert not np.isclose(before[:, 0], changed[:, 0]).all()  # the first token sees the last of the prefix
    after = apply(TOKENS.at[:, 9].add(1), prefix=prefix)
    np.testing.assert_array_equal(before[:, :9], after[:, :9])
    close(apply(TOKENS, prefix=jnp.zeros_like(TOKENS)), apply(TOKENS))


# ---- encoders ------------------------------------------------------------------------------------------
def test_an_encoder_sees_all_of_its_document_and_no_padding(encoder):
    model, _, apply = encoder
    segments = jnp.array([[1] * 5 + [2] * 4 + [0] * 3])
    positions = jnp.array([[*range(5), *range(4), 0, 0, 0]])
    packed = apply(TOKENS[:1], segment_ids=segments, positions=positions)
    close(packed[:, :5], apply(TOKENS[:1, :5]))
    close(packed[:, 5:9], apply(TOKENS[:1, 5:9]))
    assert not np.allclose(apply(TOKENS)[:, 0], apply(TOKENS.at[:, 4].add(1))[:, 0])
    if model.output == "none":
        assert packed.shape == (1, 12, 16)


def test_a_scanned_encoder_is_the_unrolled_one(encoder):
    model, variables, apply = encoder
    close(applied(model.clone(scan=True), variables)(TOKENS), apply(TOKENS))


def test_pairs_and_sentence_types_have_their_weights():
    model, variables = make(Encoder, ENCODERS["bert"])
    apply = applied(model, variables)
    hidden = apply(TOKENS, method="hidden")
    assert apply(hidden, method="pair").shape == (2, 2)
    types = jnp.zeros_like(TOKENS).at[:, 6:].set(1)
    assert not np.allclose(apply(TOKENS, token_types=types), apply(TOKENS))
    assert {"pooler", "pair_head", "head_dense", "head_bias", "type_embed"} <= variables["params"].keys()


# ---- both ----------------------------------------------------------------------------------------------
def test_an_encoder_decoder_keeps_documents_apart_and_sees_no_future(pair):
    _, _, apply = pair
    segments, targets = jnp.array([[1] * 5 + [2] * 6 + [0]]), jnp.array([[1] * 3 + [2] * 4 + [0] * 2])
    places, target_places = jnp.array([[*range(5), *range(6), 0]]), jnp.array([[*range(3), *range(4), 0, 0]])
    packed = apply(
        TOKENS[:1], TARGETS[:1], positions=places, segment_ids=segments,
        decoder_positions=target_places, decoder_segment_ids=targets,
    )  # fmt: skip
    close(packed[:, :3], apply(TOKENS[:1, :5], TARGETS[:1, :3]))
    close(packed[:, 3:7], apply(TOKENS[:1, 5:11], TARGETS[:1, 3:7]))
    whole = apply(TOKENS, TARGETS)
    np.testing.assert_array_equal(whole[:, :5], apply(TOKENS, TARGETS.at[:, 5:].set(3))[:, :5])
    assert not np.allclose(whole, apply(TOKENS.at[:, 11].add(1), TARGETS))


def test_decoding_step_by_step_equals_reading_all_targets(pair):
    model, _, apply = pair
    segments = jnp.array([[1] * 12, [1] * 8 + [0] * 4])
    whole = apply(TOKENS, TARGETS, segment_ids=segments)
    memory, cache, pieces = apply(TOKENS, segment_ids=segments, method="encode"), model.init_cache(2, 9), []
    for piece in (TARGETS[:, :4], TARGETS[:, 4:5], TARGETS[:, 5:]):
        logits, cache = apply(piece, memory, segments, cache=cache, method="decode")
        pieces.append(logits)
    close(jnp.concatenate(pieces, 1), whole)


def test_a_scanned_encoder_decoder_is_the_unrolled_one(pair):
    model, variables, apply = pair
    close(applied(model.clone(scan=True), variables)(TOKENS, TARGETS), apply(TOKENS, TARGETS))


# ---- all of them ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [dict(remat="full"), dict(remat="dots_no_batch"), dict(remat="full", scan=True)])
def test_recomputing_blocks_changes_no_gradient(options):
    def gradient(**kw):
        model, variables = make(Decoder, {}, **{**kw, "dropout": 0.0 if "scan" in kw else 0.1})
        drop = {"dropout": jax.random.key(2)}
        return jax.jit(jax.grad(lambda p: model.apply({"params": p}, TOKENS, train=True, rngs=drop).sum()))(
            variables["params"]
        )

    plain = {"scan": True} if "scan" in options else {}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), gradient(**plain), gradient(**options)
    )


@pytest.mark.parametrize("scan", [False, True])
def test_dropout_acts_in_training_only_and_differs_between_layers_and_keys(scan):
    model, variables = make(Decoder, {}, dropout=0.2, attention_dropout=0.2, scan=scan, drop_path=0.0 if scan else 0.5)
    run = jax.jit(
        lambda key, train: model.apply(variables, TOKENS, train=train, rngs={"dropout": key}), static_argnums=1
    )
    one, two = jax.random.key(1), jax.random.key(2)
    np.testing.assert_array_equal(run(one, False), run(two, False))
    np.testing.assert_array_equal(run(one, True), run(one, True))
    assert not np.allclose(run(one, True), run(two, True))


def test_a_dropped_path_leaves_the_row_as_it_was():
    model = Decoder(**SMALL, drop_path=0.999, position="none")
    variables = jax.jit(model.init)(jax.random.key(1), TOKENS)
    out = model.apply(variables, TOKENS, train=True, method="hidden", rngs={"dropout": jax.random.key(0)})
    only_first = model.clone(depth=1, drop_path=0.0)
    params = {k: v for k, v in variables["params"].items() if k != "block_1"}
    close(out, only_first.apply({"params": params}, TOKENS, method="hidden"))


def test_parameters_and_flops_are_those_counted_by_hand():
    model = Decoder(vocab=50, width=32, depth=2, heads=4)
    shapes = jax.eval_shape(model.init, jax.random.key(1), TOKENS)["params"]
    assert count(shapes) == 50 * 32 + 2 * (4 * 32 * 32 + 2 * 32 * 128 + 2 * 32) + 32
    matrices = 2 * (4 * 32 * 32 + 2 * 32 * 128) + 50 * 32
    attention = 2 * 2 * 12 * 32  # scores and weighted values of 12 keys, a token and layer
    assert model.flops({"tokens": (2, 13)}) == 2 * 24 * (matrices + attention)
    assert model.flops({"tokens": (2, 13)}, causal=True) == 2 * 24 * (matrices + attention / 2)
    both = EncoderDecoder(vocab=50, width=32, depth=2, heads=4)
    block, seen = 4 * 32 * 32 + 2 * 32 * 128, 2 * 32
    one, other = 2 * 12 * 2 * (block + 12 * seen), 2 * 9 * 2 * (block + 9 * seen + 2 * 32 * 32 + 12 * seen)
    read, head = 2 * 12 * 2 * 2 * 32 * 32, 2 * 9 * 50 * 32
    assert both.flops({"tokens": (2, 12), "targets": (2, 9)}) == 2 * (one + other + read + head)


def test_every_second_block_can_be_a_mixture_and_only_it_counts_as_one():
    model = Decoder(**SMALL, experts=4, experts_every=2, experts_shared=8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    assert "up" in shapes["block_0"]["feed_forward"]
    assert shapes["block_1"]["feed_forward"]["experts"]["up"]["kernel"].shape == (4, 16, 64)
    assert model.couples_batch
    assert not model.clone(balance=0.0).couples_batch
    assert not Decoder(**SMALL).couples_batch
    dense, mixture = 2 * 16 * 2 * 64, 2 * 16 * (4 + 2 * (2 * 64 + 8))
    plain = Decoder(**SMALL).flops({"tokens": (2, 13)})
    assert model.flops({"tokens": (2, 13)}) == plain + 2 * 12 * (mixture - dense)


def test_wrong_options_are_one_line():
    for kw, says in (
        (dict(norm="rmss"), "did you mean 'rms'"),
        (dict(norm_place="after"), "no norm_place 'after'"),
        (dict(position="rotery"), "did you mean 'rotary'"),
        (dict(position="learned", length=4), "do not fit 4 learned positions"),
        (dict(heads=5), "does not divide"),
        (dict(groups=3), "does not divide"),
        (dict(remat="everything"), "no remat 'everything'"),
        (dict(scan=True, drop_path=0.1), "alike"),
        (dict(drop_path=1.5), "drop_path"),
        (dict(scan=True, experts=4, experts_every=2), "experts_every makes them differ"),
        (dict(experts=2, experts_top=3), "top_k=3 of 2 experts"),
        (dict(rope_scaling="yarn"), "needs rope_length"),
        (dict(rope_scaling="linaer"), "did you mean 'linear'"),
        (dict(attention="xla", softcap=3.0), "cannot do softcap"),
    ):
        with pytest.raises(ConfigError, match=says):
            jax.eval_shape(Decoder(**{**SMALL, "width": 32, **kw}).init, jax.random.key(0), TOKENS)
    with pytest.raises(ConfigError, match="no output 'bert'"):
        jax.eval_shape(Encoder(**SMALL, output="bert").init, jax.random.key(0), TOKENS)
