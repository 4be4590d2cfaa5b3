"""Bottleneck adapters: the base at the start, then what the paper's equation says, wherever a layer is called."""

import copy
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.adapters.bottleneck import houlsby, pfeiffer
from fmjax.adapters.intercepted import Intercepted
from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten
from fmjax.models.transformer import Decoder

KEY = jax.random.key(0)
MODEL = Decoder(vocab=11, width=8, depth=2, heads=2, groups=1, use_bias=True, tied=False)
TOKENS = jnp.arange(10).reshape(2, 5)


def drawn(model, x):
    """Random weights, without compiling how the model begins."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, KEY, x)["params"]
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def params():
    return {"model": drawn(MODEL, TOKENS)}


def moved(own):
    """The small tree with random numbers in the place of zeros."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), own)


def says(module, params, **kwargs):
    return jax.jit(lambda p: module.apply({"params": p}, TOKENS, **kwargs))(params)


def test_it_starts_at_the_base_bit_for_bit_and_leaves_it_alone(params):
    adapter = houlsby(size=3)
    own, frozen = adapter.split(params, KEY)
    for name, x in flatten(params).items():
        np.testing.assert_array_equal(flatten(frozen)[name], x, err_msg=name)
    wrapped = adapter.wrap(MODEL)
    both = adapter.merge("model", frozen["model"], own["model"])
    np.testing.assert_array_equal(says(wrapped, both), says(MODEL, params["model"]))
    places = {name.rpartition("/")[0] for name in flatten(own)}
    layers = ("attention/out", "feed_forward/down")
    assert places == {f"model/block_{i}/{layer}/bottleneck" for i in range(2) for layer in layers}
    assert sum(x.size for x in flatten(own).values()) == 4 * (2 * 8 * 3 + 8 + 3)


class ByHand(nn.Module):
    """Two layers and, where there is one, the adapter of the paper between them, written out."""

    size: int = 0

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.Dense(6, name="first")(x)
        if self.size:
            y = y + nn.Dense(6, name="wide")(nn.gelu(nn.Dense(self.size, name="thin")(y)))
        return nn.Dense(2, name="last")(y)


def test_it_computes_what_the_paper_writes():
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    base = {"model": drawn(ByHand(), x)}
    adapter = houlsby(size=5, targets=("first/kernel$",))
    own, frozen = adapter.split(base, KEY)
    own = moved(own)["model"]
    both = adapter.merge("model", frozen["model"], own)
    small = own["first"]["bottleneck"]
    thin, wide = ({"kernel": small[part], "bias": small[f"{part}_bias"]} for part in ("down", "up"))
    written = {**base["model"], "thin": thin, "wide": wide}
    calls = ((adapter.wrap(ByHand()), both), (ByHand(5), written), (ByHand(), base["model"]))
    got, want, without = jax.jit(lambda: [module.apply({"params": weights}, x) for module, weights in calls])()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert not np.allclose(got, without, atol=1e-2)


def test_every_way_to_run_the_blocks_calls_it(params):
    """Unrolled, scanned over stacked blocks, recomputed: one adapted model."""
    adapter = pfeiffer.func(size=3, **pfeiffer.keywords)
    own, frozen = adapter.split(params, KEY)
    both = adapter.merge("model", frozen["model"], moved(own)["model"])
    want = says(adapter.wrap(MODEL), both)
    assert not np.allclose(want, says(MODEL, params["model"]), atol=1e-2)
    for changes in ({"scan": True}, {"remat": "full"}):
        np.testing.assert_allclose(says(adapter.wrap(MODEL).clone(**changes), both), want, rtol=1e-5, atol=1e-5)


def test_a_scan_over_blocks_that_are_not_all_adapted_is_refused(params):
    adapter = houlsby(size=3, targets=("block_0/attention/out/kernel$",))
    own, frozen = adapter.split(params, KEY)
    both = adapter.merge("model", frozen["model"], own["model"])
    with pytest.raises(ConfigError, match="scan needs blocks that are alike, and an adapter"):
        jax.eval_shape(adapter.wrap(MODEL.clone(scan=True)).apply, {"params": both}, TOKENS)


def test_the_wrapped_module_is_the_module_in_all_else():
    wrapped = houlsby().wrap(MODEL)
    assert (wrapped.vocab, wrapped.depth, hasattr(wrapped, "encode")) == (11, 2, False)
    assert wrapped.clone(depth=3) == Intercepted(MODEL.clone(depth=3), wrapped.around)
    assert copy.copy(wrapped) == wrapped
    own = jax.eval_shape(wrapped.init, KEY, TOKENS)
    assert flatten(own).keys() == flatten(jax.eval_shape(MODEL.init, KEY, TOKENS)).keys()


def test_a_config_sees_every_knob():
    node = call(pfeiffer, size=4)
    assert (node.call, node.act, node.targets) == (
        "fmjax.adapters.bottleneck:houlsby", "gelu", ("feed_forward/down/kernel$",),
    )  # fmt: skip
    assert build(node) == partial(pfeiffer, size=4)()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("query/kernel$",)}, r"targets: 'query/kernel\$' matches no layer with one output; nearest"),
        ({"targets": ("attention/ut/kernel$",)}, "nearest: model/block_0/attention/out/kernel"),
        ({"targets": ()}, "targets is empty"),
        ({"size": 0}, "size=0: an adapter needs at least 1"),
        ({"act": "gleu"}, "there is no activation 'gleu'; did you mean 'gelu'"),
    ],
)
def test_what_does_not_fit_is_refused(params, options, message):
    with pytest.raises(ConfigError, match=message):
        houlsby(**options).split(params, KEY)
