"""Convolution: every way to compute it is the same function, with the same gradients."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmjax.core.errors import ConfigError
from fmjax.nn import conv_folded
from fmjax.nn.convolution import Conv, choose, conv_flops, convolve

CLOSE = {"rtol": 2e-4, "atol": 2e-4}
LAW = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def cases(draw: st.DrawFn) -> tuple:
    """(image shape, kernel shape, strides, padding) that fit each other."""
    h, w = draw(st.sampled_from([(1, 1), (2, 2), (3, 3), (3, 3), (5, 5), (1, 3), (4, 2)]))
    size = (draw(st.integers(h, 11)), draw(st.integers(w, 11)))
    few, many = draw(st.integers(1, 4)), draw(st.integers(10, 17))
    channels = draw(st.sampled_from([1, 3, few, many]))
    pads = st.integers(0, 6)
    padding = draw(st.one_of(st.sampled_from(["SAME", "VALID"]), pads, st.tuples(*[st.tuples(pads, pads)] * 2)))
    strides = draw(st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 1)]))
    return (draw(st.integers(1, 7)), *size, channels), (h, w, channels, draw(st.integers(1, 9))), strides, padding


def draws(*shapes: tuple[int, ...]) -> list[jax.Array]:
    return [jnp.asarray(np.random.default_rng(i).normal(size=shape), jnp.float32) for i, shape in enumerate(shapes)]


def loss(backend: str, strides: tuple = (1, 1), padding: object = "SAME"):
    """A scalar of a convolution that is curved in both arguments."""
    return lambda x, kernel: jnp.sin(convolve(x, kernel, strides, padding, backend=backend)).sum()


def same(a: object, b: object, **close: float) -> None:
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(one, other, **(close or CLOSE))


@LAW
@given(cases())
def test_folded_is_the_reference_in_values_and_gradients(case):
    image, kernel, strides, padding = case
    args = draws(image, kernel)

    @partial(jax.jit, static_argnums=2)
    def everything(x: jax.Array, kernel: jax.Array, backend: str) -> tuple:
        out, back = jax.vjp(lambda x, kernel: convolve(x, kernel, strides, padding, backend=backend), x, kernel)
        return out, back(jnp.cos(out))

    same(everything(*args, "folded"), everything(*args, "xla"))


@pytest.mark.parametrize("channels", [3, 12])  # the two forms of the forward pass
@pytest.mark.parametrize("batch", [7, 8])  # a prime number leaves an incomplete part
def test_working_through_the_batch_in_parts_changes_nothing(monkeypatch, channels, batch):
    monkeypatch.setattr(conv_folded, "CHUNK_BYTES", 3 * 4 * 6 * 5 * 9 * channels)
    args = draws((batch, 6, 5, channels), (3, 3, channels, 4))
    same(*(jax.jit(jax.value_and_grad(loss(b), (0, 1)))(*args) for b in ("folded", "xla")))


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_gradients_of_gradients_are_the_reference_s(strides):
    args = draws((2, 6, 5, 9), (3, 3, 9, 4))

    def penalty(backend: str):
        def norm(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return (jax.grad(loss(backend, strides))(x, kernel) ** 2).sum()

        return jax.jit(jax.grad(norm, (0, 1)))

    same(penalty("folded")(*args), penalty("xla")(*args), rtol=1e-3, atol=1e-3)


def test_gradients_of_single_examples_by_vmap_are_those_of_a_loop():
    images, kernel = draws((3, 6, 5, 9), (3, 3, 9, 4))
    one = jax.grad(lambda kernel, x: loss("folded")(x[None], kernel))
    many = jax.jit(jax.vmap(one, (None, 0)))(kernel, images)
    alone = jax.jit(jax.grad(loss("xla"), 1))
    same(many, jnp.stack([alone(x[None], kernel) for x in images]))


def test_gradients_inside_a_scan_are_those_outside():
    images, kernel = draws((2, 3, 6, 5, 9), (3, 3, 9, 4))
    grad = jax.grad(loss("folded"), 1)
    total, _ = jax.lax.scan(lambda sum, x: (sum + grad(x, kernel), None), jnp.zeros_like(kernel), images)
    alone = jax.jit(jax.grad(loss("xla"), 1))
    same(total, sum(alone(x, kernel) for x in images))


def test_half_precision_is_rounded_once():
    x, kernel = (a.astype(jnp.bfloat16) for a in draws((2, 9, 8, 12), (3, 3, 12, 4)))
    exact = convolve(x.astype(jnp.float32), kernel.astype(jnp.float32), 2, backend="xla")
    np.testing.assert_allclose(
        convolve(x, kernel, 2, backend="folded").astype(jnp.float32), exact, rtol=2**-8, atol=1e-5
    )


def test_sums_of_half_precision_are_in_single():
    ones = jnp.ones((64, 8, 8, 9), jnp.bfloat16)
    kernel = jnp.ones((1, 2, 9, 2), jnp.bfloat16)
    out, grad = jax.jit(
        jax.value_and_grad(lambda k: convolve(ones, k, padding=0, backend="folded").astype(jnp.float32).sum())
    )(kernel)
    assert convolve(ones[:1], kernel).dtype == jnp.bfloat16
    assert out == 64 * 8 * 7 * 2 * 18
    # 64 * 8 * 7 = 3584 ones: a sum in bfloat16 would stop growing at 256.
    np.testing.assert_array_equal(grad, jnp.full(kernel.shape, 3584, jnp.bfloat16))


@pytest.mark.parametrize("channels", [3, 12])
def test_the_first_layer_pays_for_no_gradient_of_its_input(channels):
    args = draws((4, 6, 5, channels), (3, 3, channels, 4))

    def work(which: tuple[int, ...]) -> int:
        text = jax.jit(jax.grad(loss("folded"), which)).lower(*args).as_text()
        return text.count("stablehlo.convolution") + text.count("stablehlo.dot_general")

    assert work((1,)) == work((0, 1)) - 1


def test_auto_takes_the_forms_for_cpu_only_where_they_were_made_for():
    x, kernel, deep = jnp.zeros((1, 8, 8, 4)), (3, 3, 4, 4), (3, 3, 1, 4)
    assert choose("auto", x, kernel, platform="cpu", devices=1) == "folded"
    assert choose("auto", x, kernel, platform="gpu", devices=1) == "xla"
    assert choose("auto", x, kernel, platform="cpu", devices=8) == "xla"
    assert choose("auto", x, (3, 3, 2, 4), groups=2, platform="cpu", devices=1) == "xla"
    assert choose("auto", x, kernel, dilation=(2, 2), platform="cpu", devices=1) == "xla"
    assert choose("auto", x.astype(jnp.int8), kernel, platform="cpu", devices=1) == "xla"
    assert choose("auto", x, deep, groups=4, platform="cpu", devices=1) == "shifted"
    assert choose("auto", x, deep, groups=4, dilation=(2, 2), platform="cpu", devices=1) == "shifted"
    assert choose("auto", x, (3, 3, 1, 8), groups=4, platform="cpu", devices=1) == "xla"
    assert choose("auto", x, (8, 8, 1, 4), groups=4, platform="cpu", devices=1) == "xla"
    assert choose("auto", x, deep, groups=4, platform="cpu", devices=8) == "xla"
    assert choose("auto", x, deep, groups=4, platform="tpu", devices=1) == "xla"


@LAW
@given(cases(), st.sampled_from([(1, 1), (2, 1), (2, 3)]))
def test_shifted_is_the_reference_in_values_and_gradients(case, dilation):
    (batch, *_, channels), (h, w, *_), strides, padding = case
    size = ((h - 1) * dilation[0] + 4, (w - 1) * dilation[1] + 3)
    x, kernel = draws((batch, *size, channels), (h, w, 1, channels))

    @partial(jax.jit, static_argnums=0)
    def everything(backend: str) -> tuple:
        def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return convolve(x, kernel, strides, padding, dilation, groups=channels, backend=backend)

        out, back = jax.vjp(convolved, x, kernel)
        return out, back(jnp.cos(out))

    same(everything("shifted"), everything("xla"))


@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
def test_shifted_has_the_reference_s_gradients_of_gradients_and_half_precision(strides):
    args = draws((2, 6, 5, 3), (3, 3, 1, 3))

    def penalty(backend: str):
        def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.sin(convolve(x, kernel, strides, groups=3, backend=backend)).sum()

        return jax.jit(jax.grad(lambda *args: (jax.grad(loss)(*args) ** 2).sum(), (0, 1)))

    same(penalty("shifted")(*args), penalty("xla")(*args), rtol=1e-3, atol=1e-3)
    half = convolve(args[0].astype(jnp.bfloat16), args[1], strides, groups=3, backend="shifted")
    assert half.dtype == jnp.bfloat16
    same(half.astype(jnp.float32), convolve(*args, strides, groups=3, backend="xla"), rtol=2**-6, atol=0.05)


def test_a_model_exports_with_a_batch_size_left_open():
    kernel = jnp.ones((3, 3, 2, 4))
    shape = jax.export.symbolic_shape("b, 8, 8, 2")
    exported = jax.export.export(jax.jit(lambda x: convolve(x, kernel)))(jax.ShapeDtypeStruct(shape, jnp.float32))
    x = jnp.ones((3, 8, 8, 2))
    same(exported.call(x), convolve(x, kernel))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"backend": "winograd"}, "no convolution backend 'winograd'"),
        ({"backend": "folded", "groups": 2}, "'folded' cannot do groups=2: use 'xla'"),
        ({"backend": "folded", "dilation": 2}, "cannot do dilation"),
        (
            {"backend": "shifted"},
            "'shifted' cannot do groups=1 of 4 channels and 6 features .only depthwise.: use 'xla'",
        ),
        ({"groups": 3}, "4 channels in and 6 out do not fit 3 groups of 2"),
        ({"padding": "SMAE"}, "did you mean 'SAME'"),
        ({"padding": -1}, "padding -1 is not"),
        ({"padding": ((1, 1),)}, "is not SAME, VALID"),
        ({"padding": "VALID", "dilation": 4}, "image of 8x8 is smaller than the kernel"),
        ({"strides": 0}, "positive"),
        ({"strides": (1, 2, 3)}, "one or two positive numbers"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(wrong, says):
    kernel = jnp.zeros((3, 3, 2 if "groups" in wrong else 4, 6))
    with pytest.raises(ConfigError, match=says) as error:
        convolve(jnp.zeros((1, 8, 8, 4)), kernel, **wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"kernel_size": (3, 3)},
        {"kernel_size": (5, 3), "strides": (2, 1), "padding": "VALID"},
        {"kernel_size": (3, 3), "groups": 4},
        {"kernel_size": (3, 3), "groups": 8, "use_bias": False},
        {"kernel_size": (3, 3), "dilation": (2, 2), "padding": 2},
    ],
)
def test_the_module_is_linen_s_with_the_same_weights(fields):
    names = {"groups": "feature_group_count", "dilation": "kernel_dilation"}
    linen = nn.Conv(16, **{names.get(k, k): v for k, v in fields.items()})
    x, key = draws((2, 9, 8, 8))[0], jax.random.key(0)
    ours = Conv(16, **fields)
    variables = jax.jit(ours.init)(key, x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, jax.eval_shape(linen.init, key, x))
    same(*jax.jit(lambda v: (ours.apply(v, x), linen.apply(v, x)))(variables))


def test_weights_stay_single_whatever_is_computed_in():
    module, x = Conv(4, dtype="bfloat16"), draws((2, 6, 6, 12))[0]
    variables = jax.jit(module.init)(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert module.apply(variables, x).dtype == jnp.bfloat16


def test_channels_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(ConfigError, match="6 channels in, 8 out do not divide into 4 groups"):
        Conv(8, groups=4).init(jax.random.key(0), jnp.zeros((1, 4, 4, 6)))


def test_flops_are_two_for_each_multiply_add():
    # 10 x 10, stride 2, no padding: 4 x 4 places of 6 features, 3 x 3 x (8 / 2) products each.
    cost, shape = conv_flops((5, 10, 10, 8), 6, 3, 2, "VALID", groups=2)
    assert (cost, shape) == (2 * 5 * 4 * 4 * 6 * 3 * 3 * 4, (5, 4, 4, 6))


@LAW
@given(cases())
def test_the_shape_of_the_flops_is_the_shape_that_comes_out(case):
    image, kernel, strides, padding = case
    out = jax.eval_shape(
        lambda x, k: convolve(x, k, strides, padding),
        *(jax.ShapeDtypeStruct(s, jnp.float32) for s in (image, kernel)),
    )
    assert conv_flops(image, kernel[3], kernel[:2], strides, padding)[1] == out.shape
