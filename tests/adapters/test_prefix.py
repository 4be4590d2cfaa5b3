"""Prefixes: the base at the start, then one more gated attention, the same in one reading as token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.adapters.prefix import prefix
from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten, nested
from fmjax.models.transformer import Decoder
from fmjax.nn.attention import Attention
from fmjax.nn.position import Rotary

KEY, RNG = jax.random.key(0), np.random.default_rng(0)
MODEL = Decoder(vocab=11, width=8, depth=1, heads=4, groups=2, position="rotary", qkv_bias=True)
TOKENS = jnp.arange(6).reshape(2, 3)


def drawn(model, *x):
    """Random weights, without compiling how the model begins."""
    shapes = jax.eval_shape(model.init, KEY, *x)["params"]
    return {"model": jax.tree.map(lambda leaf: RNG.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)}


def adapted(adapter, params):
    """(what a step sees at the start, what it sees when the gates have opened, the small tree then)."""
    own, frozen = adapter.split(params, KEY)
    opened = nested({k: x + 0.7 if k.endswith("gate") else x for k, x in flatten(own["model"]).items()})
    return (
        adapter.merge("model", frozen["model"], own["model"]),
        adapter.merge("model", frozen["model"], opened),
        opened,
    )


def test_the_first_step_sees_the_base_and_every_way_to_read_says_the_same_later():
    adapter, params = prefix(length=3), drawn(MODEL, TOKENS)
    start, later, _ = adapted(adapter, params)
    model = adapter.wrap(MODEL)

    @jax.jit
    def ways(weights):
        """In one reading, and in two calls over a cache."""
        whole = model.apply({"params": weights}, TOKENS)
        first, cache = model.apply({"params": weights}, TOKENS[:, :2], cache=model.init_cache(2, 3))
        last, _ = model.apply({"params": weights}, TOKENS[:, 2:], cache=cache)
        return whole, jnp.concatenate([first, last], 1)

    base = jax.jit(lambda w: MODEL.apply({"params": w}, TOKENS))(params["model"])
    for said in ways(start):
        np.testing.assert_allclose(said, base, rtol=1e-5, atol=2e-6)
    whole, cached = ways(later)
    assert not np.allclose(base, whole, atol=1e-2)
    np.testing.assert_allclose(cached, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rotary", [None, Rotary()])
def test_it_computes_a_gated_softmax_over_the_prefix_alone(rotary):
    """Written out, head by head; the places of tokens do not matter to it."""
    layer = Attention(heads=4, groups=2, causal=True, rotary=rotary, use_bias=True)
    x = RNG.normal(size=(2, 5, 8)).astype(np.float32)
    places = np.tile(np.arange(5), (2, 1))
    params = drawn(layer, x, places)
    adapter = prefix(length=3, targets=("model/key/kernel$",))
    start, later, own = adapted(adapter, params)
    w, own = params["model"], own["prefix"]
    calls = ((layer, w), (adapter.wrap(layer), start), (adapter.wrap(layer), later))
    base, begins, got = jax.jit(lambda: [m.apply({"params": p}, x, places)[0] for m, p in calls])()
    np.testing.assert_array_equal(begins, base)
    more = np.zeros_like(base)
    for head in range(4):
        group = head // 2
        q = x @ w["query"]["kernel"][:, head] + w["query"]["bias"][head]
        scores = np.exp(q @ np.asarray(own["key"])[:, group].T / np.sqrt(2))
        said = scores / scores.sum(-1, keepdims=True) @ np.asarray(own["value"])[:, group]
        more += np.tanh(own["gate"][group]) * said @ w["out"]["kernel"][head]
    np.testing.assert_allclose(got, base + more, rtol=1e-4, atol=1e-5)


def test_its_arrays_lie_beside_the_layers_of_the_attention():
    own, frozen = jax.eval_shape(prefix(length=3).split, drawn(MODEL, TOKENS), KEY)
    places = {name.rpartition("/")[0] for name in flatten(own)}
    assert places == {"model/block_0/attention/prefix"}
    assert sum(x.size for x in flatten(own).values()) == 2 * 3 * 2 * 2 + 2
    assert not flatten(own).keys() & flatten(frozen).keys()


def test_what_opens_the_gate_is_the_first_to_move():
    """With the gate at zero the keys and values have no gradient, and the gate has one."""
    layer = Attention(heads=2, rotary=None)
    x = RNG.normal(size=(1, 3, 4)).astype(np.float32)
    adapter = prefix(length=2, targets=("model/key/kernel$",))
    own, frozen = adapter.split(drawn(layer, x), KEY)

    def loss(own):
        return adapter.wrap(layer).apply({"params": adapter.merge("model", frozen["model"], own)}, x)[0].sum()

    moves = flatten(jax.jit(jax.grad(loss))(own["model"]))
    assert np.all(np.asarray(moves["prefix/gate"]) != 0)
    assert not np.any(moves["prefix/key"])
    assert not np.any(moves["prefix/value"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("attention/kee/kernel$",)}, "matches no kernel of keys; nearest: model/block_0/attention/key"),
        ({"targets": ("query/kernel$",)}, "matches no kernel of keys"),
        ({"targets": ()}, "targets is empty"),
        ({"length": 0}, "length=0: a prefix needs at least 1 key"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(prefix(**options).split, drawn(MODEL, TOKENS), KEY)
