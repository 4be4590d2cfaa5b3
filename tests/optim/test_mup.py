"""Maximal-update parametrisation: activations move as far in a wide net as in a narrow one, and otherwise not."""

import jax
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.core.trees import addresses, matches
from fmjax.models.transformer import Decoder
from fmjax.nn.experts import MixtureOfExperts
from fmjax.optim import mup, optimizers
from fmjax.optim.coordinates import moved, slopes

BASE, WIDTHS = 32, (32, 256)
KEY = jax.random.key(0)
TOKENS = np.random.default_rng(0).integers(0, 64, (8, 17))


def decoder(width, **kw):
    return Decoder(vocab=64, width=width, depth=1, heads=4, **kw)


@pytest.fixture(scope="module")
def checked():
    """{parametrisation: slopes over widths}; at the base width the two are one."""

    def of(width, rates=(), **kw):
        return moved(decoder(width, **kw), optimizers.adam(1e-2, rates=rates), TOKENS)

    base = of(BASE)
    wide = {w: of(w, mup.rates(w, BASE), **mup.multipliers(w, BASE, w // 4, BASE // 4)) for w in WIDTHS if w > BASE}
    return {"mup": slopes({BASE: base, **wide}), "standard": slopes({BASE: base, **{w: of(w) for w in wide}})}


def test_the_coordinate_check_is_flat(checked):
    assert checked["mup"].keys() == {"block_0/attention", "block_0/feed_forward", "logits"}
    assert checked["mup"] == pytest.approx(dict.fromkeys(checked["mup"], 0.0), abs=0.15)


def test_under_the_usual_rules_it_grows(checked):
    assert min(checked["standard"].values()) > 0.4, checked["standard"]


def test_at_the_base_width_nothing_changes():
    assert mup.rates(64, 64) == ((mup.HIDDEN, 1.0),)
    assert mup.multipliers(64, 64) == {"logit_scale": 1.0}
    assert mup.multipliers(64, 64, 16, 16) == {"logit_scale": 1.0, "attention_scale": 16**-0.5}


def test_every_matrix_but_the_head_gets_the_smaller_rate():
    model = decoder(32, tied=False, position="learned", use_bias=True, qk_norm=True, feed_forward="swiglu")
    mixture = MixtureOfExperts(4, 64, kind="swiglu", use_bias=True)
    x = jax.ShapeDtypeStruct((1, 4, 32), np.float32)
    params = {"model": jax.eval_shape(model.init, KEY, TOKENS), "mixture": jax.eval_shape(mixture.init, KEY, x)}
    picked = {name for name in addresses(params) if matches(mup.HIDDEN, name)}
    kernels = {name for name in addresses(params) if name.endswith("/kernel")}
    assert kernels - picked == {"model/params/head/kernel"}  # that one has its logit_scale
    assert picked < kernels
    assert [matches(mup.HIDDEN, name) for name in ("head/kernel", "pair_head/kernel", "head_dense/kernel")] == [0, 1, 1]
    assert mup.rates(256, 64) == ((mup.HIDDEN, 0.25),)


@pytest.mark.parametrize("make", [mup.rates, mup.multipliers])
def test_a_width_below_one_is_one_line(make):
    with pytest.raises(ConfigError, match="base=0: give a number >= 1"):
        make(64, base=0)
    with pytest.raises(ConfigError, match="width=0: give a number >= 1"):
        make(0, base=64)
