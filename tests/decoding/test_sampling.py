"""Sampling: greedy is argmax, the filters keep what they say, the seed decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.decoding.sampling import Sampler
from fmjax.models.transformer import Decoder

PROMPT = jax.random.randint(jax.random.key(0), (2, 5), 0, 40)
MODEL = Decoder(40, width=16, depth=1, heads=2)
PARAMS = jax.jit(MODEL.init)(jax.random.key(1), PROMPT)["params"]
NETS = {"model": Net(MODEL, PARAMS)}


def test_greedy_is_the_argmax_of_the_whole_forward_pass():
    tokens = Sampler(length=6, temperature=0)(NETS, {"tokens": PROMPT})["tokens"]
    text = PROMPT
    for i in range(6):
        text = jnp.concatenate([text, MODEL.apply({"params": PARAMS}, text)[:, -1:].argmax(-1)], axis=1)
        np.testing.assert_array_equal(tokens[:, i], text[:, -1])


def test_the_seed_decides():
    sample = jax.jit(Sampler(length=8, temperature=1.0))
    draw = lambda seed: np.asarray(sample(NETS_TREE(), {"tokens": PROMPT, "seed": seed})["tokens"])  # noqa: E731
    np.testing.assert_array_equal(draw(3), draw(3))
    assert (draw(3) != draw(4)).any()


def NETS_TREE():
    return _Nets(PARAMS)


class _Nets(dict):
    """Nets that may cross jit."""

    def __init__(self, params):
        super().__init__(model=Net(MODEL, params))


jax.tree_util.register_pytree_node(_Nets, lambda n: ((n["model"].params,), None), lambda _, c: _Nets(c[0]))


def draws(sampler, logits, n=400):
    keys = jax.random.split(jax.random.key(0), n)
    return set(np.asarray(jax.vmap(lambda k: sampler.draw(logits, k)[0])(keys)).tolist())


def test_top_k_and_top_p_draw_only_from_what_they_keep():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    assert draws(Sampler(temperature=1.0), logits) == {0, 1, 2, 3}
    assert draws(Sampler(temperature=1.0, top_k=2), logits) == {0, 1}
    assert draws(Sampler(temperature=1.0, top_p=0.7), logits) == {0, 1}
    assert draws(Sampler(temperature=1.0, top_p=0.4), logits) == {0}
    assert draws(Sampler(temperature=0), logits) == {0}


def test_after_the_end_of_text_nothing_comes():
    tokens = np.asarray(Sampler(length=60, temperature=3.0, eos=7)(NETS, {"tokens": PROMPT})["tokens"])
    for row in tokens:
        ends = np.flatnonzero(row == 7)
        assert ends.size == 0 or (row[ends[0] :] == 7).all()


def test_wrong_options_are_one_line():
    for kw in (dict(length=0), dict(temperature=-1), dict(top_p=0), dict(top_k=-1)):
        with pytest.raises(ConfigError):
            Sampler(**kw)
    with pytest.raises(ConfigError, match="vocabulary has 40"):
        Sampler(top_k=41)(NETS, {"tokens": PROMPT})
