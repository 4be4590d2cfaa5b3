"""The decoder: causal, packed without leaks, cached as uncached, counted exactly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.core.trees import count
from fmjax.models.transformer import Decoder

TOKENS = jax.random.randint(jax.random.key(0), (2, 12), 0, 50)
VARIANTS = {
    "rotary": {},
    "learned": dict(position="learned", length=16, norm="layer", use_bias=True, tied=False, feed_forward="swiglu"),
    "grouped": dict(groups=2, qk_norm=True, ngrams=(2, 3), buckets=64),
}


@pytest.fixture(scope="module", params=VARIANTS)
def made(request):
    model = Decoder(50, width=16, depth=1, heads=4, **VARIANTS[request.param])
    variables = jax.jit(model.init)(jax.random.key(1), TOKENS)
    return model, jax.jit(partial(model.apply, variables), static_argnames="method")


def test_no_token_sees_the_future(made):
    _model, apply = made
    before = apply(TOKENS)
    after = apply(TOKENS.at[:, 7:].set(3))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert not np.allclose(before[:, 7:], after[:, 7:])


def test_packed_documents_are_as_if_alone(made):
    _model, apply = made
    segments = jnp.array([[1] * 5 + [2] * 7])
    positions = jnp.concatenate([jnp.arange(5), jnp.arange(7)])[None]
    packed = apply(TOKENS[:1], segment_ids=segments, positions=positions)
    np.testing.assert_allclose(packed[:, :5], apply(TOKENS[:1, :5]), atol=2e-6)
    np.testing.assert_allclose(packed[:, 5:], apply(TOKENS[:1, 5:]), atol=2e-6)


def test_cached_logits_equal_uncached_ones(made):
    model, apply = made
    whole = apply(TOKENS)
    logits, cache = apply(TOKENS[:, :6], cache=model.init_cache(2, 12))
    pieces = [logits]
    for i in range(6, 12):
        logits, cache = apply(TOKENS[:, i : i + 1], cache=cache)
        pieces.append(logits)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=2e-6)


def test_hidden_and_head_make_the_logits(made):
    _model, apply = made
    hidden = apply(TOKENS, method="hidden")
    np.testing.assert_array_equal(apply(hidden, method="head"), apply(TOKENS))


def test_recomputing_blocks_changes_no_gradient():
    def gradient(remat):
        model = Decoder(50, width=16, depth=2, heads=4, dropout=0.1, remat=remat)
        variables = jax.jit(model.init)(jax.random.key(1), TOKENS)
        drop = {"dropout": jax.random.key(2)}
        return jax.jit(jax.grad(lambda p: model.apply({"params": p}, TOKENS, train=True, rngs=drop).sum()))(
            variables["params"]
        )

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient(False), gradient(True))


def test_parameters_and_flops_are_those_counted_by_hand():
    model = Decoder(50, width=32, depth=2, heads=4)
    shapes = jax.eval_shape(model.init, jax.random.key(1), TOKENS)["params"]
    assert count(shapes) == 50 * 32 + 2 * (4 * 32 * 32 + 2 * 32 * 128 + 2 * 32) + 32
    matrices = 2 * (4 * 32 * 32 + 2 * 32 * 128) + 50 * 32
    attention = 2 * 2 * 12 * 32  # scores and weighted values of 12 keys, a token and layer
    assert model.flops({"tokens": (2, 13)}) == 2 * 24 * (matrices + attention)
    assert model.flops({"tokens": (2, 13)}, causal=True) == 2 * 24 * (matrices + attention / 2)


def test_gpt2_small_has_its_published_size():
    model = Decoder(50257, width=768, depth=12, heads=12, length=1024, position="learned", norm="layer", use_bias=True)
    assert count(jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]) == 124_439_808


def test_wrong_options_are_one_line():
    for kw, says in (
        (dict(norm="rmss"), "did you mean 'rms'"),
        (dict(position="rotery"), "did you mean 'rotary'"),
        (dict(position="learned", length=4), "do not fit 4 learned positions"),
        (dict(heads=5), "does not divide"),
    ):
        with pytest.raises(ConfigError, match=says):
            jax.eval_shape(Decoder(50, **{"width": 32, "depth": 1, "heads": 4, **kw}).init, jax.random.key(0), TOKENS)
