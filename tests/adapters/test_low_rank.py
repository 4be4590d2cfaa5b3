"""LoRA and DoRA: the base at the start, merged = unmerged, each kernel by its own axes, and what is refused."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.adapters.low_rank import LINEAR, dora, lora
from fmjax.core.axes import axes_of
from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten
from fmjax.models.transformer import Decoder
from fmjax.nn.linear import Linear

KEY = jax.random.key(0)
MODEL = Decoder(
    vocab=11, width=8, depth=1, heads=2, groups=1, head_size=6, feed_forward="swiglu", use_bias=True, tied=False
)
TOKENS = jnp.arange(10).reshape(2, 5)
MIXED = Decoder(vocab=11, width=8, depth=1, heads=2, experts=2)


@pytest.fixture(scope="module")
def params():
    return {"model": jax.jit(MODEL.init)(KEY, TOKENS)["params"]}


def moved(own):
    """The small tree with random numbers in the place of zeros."""
    leaves, tree = jax.tree.flatten(own)
    keys = jax.random.split(KEY, len(leaves))
    return jax.tree.unflatten(tree, [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)])


def test_lora_starts_at_the_base_bit_for_bit_and_leaves_it_alone(params):
    adapter = lora(rank=2)
    own, frozen = jax.jit(adapter.split)(params, KEY)
    assert flatten(frozen).keys() == flatten(params).keys()
    merged = jax.jit(partial(adapter.merge, "model"))(frozen["model"], own["model"])
    for name, x in flatten(params["model"]).items():
        np.testing.assert_array_equal(flatten(merged)[name], x, err_msg=name)
    assert {name.rpartition("/")[2] for name in flatten(own)} == {"down", "up"}
    assert len(flatten(own)) == 2 * 7  # query key value out gate up down


def test_dora_starts_at_the_base(params):
    adapter = dora(rank=2)
    own, frozen = jax.jit(adapter.split)(params, KEY)
    merged = flatten(jax.jit(partial(adapter.merge, "model"))(frozen["model"], own["model"]))
    for name, x in flatten(params["model"]).items():
        np.testing.assert_allclose(merged[name], x, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(("factory", "stable"), [(lora, False), (lora, True), (dora, False)])
def test_merged_weights_say_what_side_paths_say(params, factory, stable):
    """The oracle is the form of the papers: x W + scale * (x down) up at every Linear, no weight merged."""
    adapter = factory(rank=2, alpha=6.0, rank_stable=stable)
    scale = 6.0 / 2**0.5 if stable else 3.0
    own, frozen = jax.jit(lambda p: (lambda own, base: (moved(own), base))(*adapter.split(p, KEY)))(params)
    own = own["model"]
    merged = jax.jit(partial(adapter.merge, "model"))(frozen["model"], own)

    def beside(call, args, kwargs, context):
        if not isinstance(context.module, Linear) or context.method_name != "__call__":
            return call(*args, **kwargs)
        path, (x,), parts = context.module.path, args, own
        for word in (*path, "kernel"):
            parts = parts.get(word, {})
        y = call(*args, **kwargs)
        if not parts:
            return y
        n = context.module.contract
        side = scale * jnp.tensordot(jnp.tensordot(x, parts["down"], n), parts["up"], 1)
        if "magnitude" not in parts:
            return y + side
        variables = context.module.variables["params"]
        bias, w = variables.get("bias", 0), variables["kernel"]
        delta = scale * jnp.tensordot(parts["down"], parts["up"], 1)
        lengths = jnp.linalg.norm((w + delta).reshape(-1, *w.shape[n:]), axis=0)
        return parts["magnitude"] / lengths * (y - bias + side) + bias

    with nn.intercept_methods(beside):
        want = jax.jit(lambda p: MODEL.apply({"params": p}, TOKENS))(frozen["model"])
    apply = jax.jit(lambda p: MODEL.apply({"params": p}, TOKENS))
    got = apply(merged)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    assert not np.allclose(got, apply(params["model"]), atol=1e-2)


def test_the_axes_that_are_summed_over_are_those_of_the_modules():
    seen = {}

    def note(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if isinstance(context.module, Linear):
            name = "/".join(("model", *context.module.path, "kernel"))
            kernel = context.module.variables["params"]["kernel"]
            seen[name] = (context.module.contract, kernel.ndim)
        return out

    with nn.intercept_methods(note):
        jax.eval_shape(MODEL.init, KEY, TOKENS)
    assert len(seen) == 8
    for name, (contract, ndim) in seen.items():
        assert axes_of(name, ndim) == (0, contract, ndim - contract), name


def test_a_stack_of_experts_gets_a_product_each():
    params = {"model": jax.eval_shape(MIXED.init, KEY, TOKENS)["params"]}
    own, _ = jax.eval_shape(lora(rank=2, targets=("experts/up/kernel$",)).split, params, KEY)
    assert {x.shape for x in flatten(own).values()} == {(2, 8, 2), (2, 2, 32)}


def test_a_convolution_is_a_matrix_of_patches():
    params = {"model": {"conv_1": {"kernel": jax.random.normal(KEY, (3, 3, 4, 4))}}}
    adapter = lora(rank=2, targets=("conv_1/kernel$",))
    own, frozen = adapter.split(params, KEY)
    kernel = params["model"]["conv_1"]["kernel"]
    down, up = flatten(own).values()
    assert (down.shape, up.shape) == ((*kernel.shape[:-1], 2), (2, 4))
    merged = adapter.merge("model", frozen["model"], moved(own)["model"])
    delta = (merged["conv_1"]["kernel"] - kernel).reshape(-1, 4)
    assert np.linalg.matrix_rank(delta, tol=1e-5) == 2


def test_another_target_leaves_the_start_of_the_others(params):
    one, both = (
        flatten(jax.jit(lora(rank=2, targets=targets).split)(params, KEY)[0])
        for targets in (("query/kernel$",), ("query/kernel$", "value/kernel$"))
    )
    assert one.keys() < both.keys()
    for name, x in one.items():
        np.testing.assert_array_equal(both[name], x)


def test_what_is_named_besides_moves_whole_and_is_not_frozen(params):
    adapter = lora(rank=2, also=("/head/", "norm/scale$"))
    own, frozen = jax.eval_shape(adapter.split, params, KEY)
    assert "model/head/kernel" in flatten(own)
    assert not flatten(own).keys() & flatten(frozen).keys()
    merged = jax.eval_shape(partial(adapter.merge, "model"), frozen["model"], own["model"])
    assert flatten(merged).keys() == flatten(params["model"]).keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("qurey/kernel$",)}, r"targets: 'qurey/kernel\$' matches no matrix; nearest: .*query/kernel"),
        ({"targets": ("bias$",)}, "matches no matrix"),
        ({"targets": ("(",)}, "is no regular expression"),
        ({"targets": ()}, "targets is empty"),
        ({"rank": 9}, "rank=9 is above that of model/block_0/attention/key/kernel, a matrix of 8 x 6"),
        ({"rank": 0}, "the rank must be at least 1"),
        ({"alpha": 0.0}, "alpha above 0"),
        ({"nets": ("modle",)}, "there is no net 'modle' that learns; did you mean 'model'"),
        ({"also": ("hed/",)}, "also: 'hed/' matches no weight; nearest: model/head/kernel"),
        ({"shapes": (("x", "d-k"),)}, "is not of the form"),
    ],
)
def test_what_does_not_fit_is_refused(params, options, message):
    with pytest.raises(ConfigError, match=message):
        lora(**options).split(params, KEY)


def test_a_net_of_which_nothing_moves_is_named(params):
    with pytest.raises(ConfigError, match="nothing of the net 'other' would move"):
        lora(rank=2, targets=LINEAR).split({**params, "other": {"bias": jnp.ones(3)}}, KEY)
