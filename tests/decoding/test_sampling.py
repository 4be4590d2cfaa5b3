"""Sampling: greedy is argmax, the filters keep what they say, the seed decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.decoding.choosing import first_of_most
from fmjax.decoding.sampling import Sampler
from fmjax.models.transformer import Decoder

PROMPT = jax.random.randint(jax.random.key(0), (2, 5), 0, 40)
MODEL = Decoder(vocab=40, width=16, depth=1, heads=2)
PARAMS = jax.jit(MODEL.init)(jax.random.key(1), PROMPT)["params"]


def sample(sampler, seed=0):
    """Tokens drawn after the prompt, in one compiled call."""
    nets = {"model": Net(MODEL, PARAMS)}
    return np.asarray(jax.jit(lambda s: sampler(nets, {"tokens": PROMPT, "seed": s})["tokens"])(seed))


def test_greedy_is_the_argmax_of_the_whole_forward_pass():
    tokens = sample(Sampler(length=6, temperature=0))
    text = np.concatenate([PROMPT, tokens], axis=1)
    logits = jax.jit(MODEL.apply)({"params": PARAMS}, text)
    np.testing.assert_array_equal(tokens, logits[:, 4:-1].argmax(-1))


def test_of_several_that_are_largest_the_first_is_taken_as_by_argmax():
    x = jax.random.randint(jax.random.key(0), (50, 7), -2, 2).astype(jnp.float32)
    x = jnp.concatenate([x, jnp.full((1, 7), -jnp.inf), jnp.where(jnp.eye(7)[:1] > 0, jnp.inf, -jnp.inf)])
    np.testing.assert_array_equal(first_of_most(x), x.argmax(-1))


def test_the_seed_decides():
    again = Sampler(length=8, temperature=1.0)
    np.testing.assert_array_equal(sample(again, 3), sample(again, 3))
    assert (sample(again, 3) != sample(again, 4)).any()


def draws(sampler, logits, n=400):
    many = jax.jit(lambda keys: jax.vmap(lambda k: sampler.draw(logits, k)[0])(keys))
    return set(np.asarray(many(jax.random.split(jax.random.key(0), n))).tolist())


def test_top_k_and_top_p_draw_only_from_what_they_keep():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    assert draws(Sampler(temperature=1.0), logits) == {0, 1, 2, 3}
    assert draws(Sampler(temperature=1.0, top_k=2), logits) == {0, 1}
    assert draws(Sampler(temperature=1.0, top_p=0.7), logits) == {0, 1}
    assert draws(Sampler(temperature=1.0, top_p=0.4), logits) == {0}
    assert draws(Sampler(temperature=0), logits) == {0}


def test_after_the_end_of_text_nothing_comes():
    for row in sample(Sampler(length=60, temperature=3.0, eos=7)):
        ends = np.flatnonzero(row == 7)
        assert ends.size == 0 or (row[ends[0] :] == 7).all()


def test_wrong_options_are_one_line():
    for kw in (dict(length=0), dict(temperature=-1), dict(top_p=0), dict(top_k=-1)):
        with pytest.raises(ConfigError):
            Sampler(**kw)
    with pytest.raises(ConfigError, match="vocabulary has 40"):
        sample(Sampler(top_k=41))
