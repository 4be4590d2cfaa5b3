"""Positions: rotations keep lengths, biases depend on distance alone, and equal what the papers' formulas give."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.nn import masks
from fmjax.nn.position import RelativeBias, Rotary, bucket, sine

X = jax.random.normal(jax.random.key(3), (1, 1, 1, 16))
SCALED = [Rotary(), Rotary(5e5), Rotary(scaling="linear", factor=4.0), Rotary(scaling="ntk", factor=4.0),
          Rotary(scaling="yarn", factor=8.0, length=64), Rotary(scaling="llama3", factor=8.0, length=64)]  # fmt: skip


@pytest.mark.parametrize("rotary", SCALED, ids=lambda r: f"{r.scaling}-{r.base:g}")
def test_rotation_makes_scores_depend_on_distance_alone(rotary):
    at = lambda p: rotary(X, jnp.full((1, 1), p))[0, 0, 0]  # noqa: E731
    scale = rotary.frequencies(16)[1]
    np.testing.assert_allclose(jnp.linalg.norm(at(5)), scale * jnp.linalg.norm(X), rtol=1e-6)
    np.testing.assert_allclose(at(3) @ at(7), at(103) @ at(107), rtol=5e-4)
    np.testing.assert_allclose(at(0), scale * X[0, 0, 0], rtol=1e-6)


def test_scaled_frequencies_are_those_of_the_papers():
    plain = Rotary().frequencies(16)[0]
    np.testing.assert_allclose(plain, [10000 ** (-2 * i / 16) for i in range(8)])
    np.testing.assert_allclose(Rotary(scaling="linear", factor=4.0).frequencies(16)[0], plain / 4)
    ntk = Rotary(scaling="ntk", factor=4.0).frequencies(16)[0]
    np.testing.assert_allclose([ntk[0], ntk[-1]], [1.0, plain[-1] / 4])  # the longest wave is stretched by the factor
    for kind, short, long in (("llama3", 4, 1), ("yarn", 32, 1)):
        length, factor = 4096, 8.0
        got, scale = Rotary(scaling=kind, factor=factor, length=length).frequencies(64)
        whole = Rotary().frequencies(64)[0]
        turns = length * whole / (2 * math.pi)
        np.testing.assert_allclose(got[turns > 1.4 * short], whole[turns > 1.4 * short])
        np.testing.assert_allclose(got[turns < 0.7 * long], whole[turns < 0.7 * long] / factor)
        assert (np.diff(got) < 0).all()
        assert scale == pytest.approx(1.0 if kind == "llama3" else 0.1 * math.log(8) + 1)


def test_a_scaling_that_cannot_be_is_refused():
    for kw, says in ((dict(scaling="yarm"), "did you mean 'yarn'"), (dict(scaling="llama3"), "needs rope_length"),
                     (dict(factor=0.5), "at least 1"), (dict(base=1.0), "above 1")):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            Rotary(**kw)


def test_sine_waves_are_the_paper_s_and_shift_by_a_rotation():
    table = sine(jnp.arange(6)[None], 8)[0]
    np.testing.assert_allclose(table[3, 1], math.sin(3 * 10000 ** (-1 / 3)), rtol=1e-5)
    np.testing.assert_allclose(table[3, 4], math.cos(3), rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(table, axis=-1), 2.0, rtol=1e-6)
    assert sine(jnp.arange(6)[None], 7).shape == (1, 6, 7)


def by_the_book(ahead, buckets, farthest, causal):
    """The text of T5's paper and code, one distance at a time."""
    first = 0
    if causal:
        distance = max(-ahead, 0)
    else:
        buckets //= 2
        first, distance = buckets * (ahead > 0), abs(ahead)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    grown = np.float32(np.log(np.float32(distance) / exact)) / math.log(farthest / exact) * (buckets - exact)
    return first + min(exact + int(grown), buckets - 1)


@pytest.mark.parametrize("causal", [False, True])
def test_relative_buckets_are_t5_s(causal):
    ahead = np.arange(-200, 201)
    got = bucket(jnp.asarray(ahead)[None], 32, 128, causal)[0]
    np.testing.assert_array_equal(got, [by_the_book(int(a), 32, 128, causal) for a in ahead])


def test_relative_biases_depend_on_distance_and_go_on_in_a_cache():
    model = RelativeBias(heads=2)
    bias, variables = model.init_with_output(jax.random.key(0), 6, 6)
    np.testing.assert_array_equal(bias[0, :, 1, 0], bias[0, :, 5, 4])
    np.testing.assert_array_equal(model.apply(variables, 2, 6, 4)[0], bias[0, :, 4:])


def test_alibi_slopes_are_the_published_ones():
    np.testing.assert_allclose(masks.alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    np.testing.assert_allclose(masks.alibi_slopes(6), [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])
    bias = masks.alibi(2, 3, 3)
    np.testing.assert_allclose(bias[0, 0], -(2.0**-4) * np.abs(np.subtract.outer(range(3), range(3))))
    np.testing.assert_array_equal(masks.alibi(2, 1, 3, 2)[0], bias[0, :, 2:])


def test_masks_say_who_sees_whom():
    segments = jnp.array([[1, 1, 2, 0]])
    np.testing.assert_array_equal(
        masks.same_document(segments)[0, 0], [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(masks.same_document(segments, jnp.array([[2, 1]]))[0, 0],
                                  [[0, 1], [0, 1], [1, 0], [0, 0]])  # fmt: skip
    np.testing.assert_array_equal(masks.behind(2, 4, 1)[0, 0], [[1, 1, 0, 0], [1, 1, 1, 0]])
    np.testing.assert_array_equal(masks.near(3, 3, 2)[0, 0], [[1, 1, 0], [1, 1, 1], [0, 1, 1]])
    np.testing.assert_array_equal(masks.with_prefix(jnp.array([[1, 1, 0]]))[0, 0], [[1, 1, 0], [1, 1, 0], [1, 1, 1]])
    assert masks.both(None, None) is None
