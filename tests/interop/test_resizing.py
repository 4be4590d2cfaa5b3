"""Weights of other sizes: what a model said it goes on saying, as far as the new sizes allow."""

import jax
import numpy as np
import pytest
from scipy.special import softmax

from fmjax.core.errors import CheckpointError
from fmjax.core.trees import flatten
from fmjax.interop import resizing
from fmjax.models.rnn import LanguageModel
from fmjax.models.transformer import Decoder, Encoder
from fmjax.models.vit import ViT
from fmjax.nn.patches import interpolate_positions

RNG = np.random.default_rng(0)
TOKENS = np.zeros((1, 5), np.int32)


def shapes(model, x=TOKENS):
    return flatten(jax.eval_shape(model.init, jax.random.key(0), x)["params"])


def test_more_tokens_leave_the_old_ones_their_order_and_their_probability():
    """A new logit is the mean of the old ones, so the sum of exponents grows by k/V at most (Hewitt, 2021)."""
    kernel, bias, h = (RNG.normal(size=shape).astype(np.float32) for shape in ((8, 11), (11,), (20, 8)))
    there = {"embed/embedding": kernel.T, "head/kernel": kernel, "head/bias": bias}
    here = {"embed/embedding": np.ones((14, 8)), "head/kernel": np.ones((8, 14)), "head/bias": np.ones(14)}
    new = {name: way(there[name]) for name, way in resizing.ways(there, here).items()}
    assert {name: x.shape for name, x in new.items()} == {name: x.shape for name, x in here.items()}
    p, q = softmax(h @ kernel + bias, axis=1), softmax(h @ new["head/kernel"] + new["head/bias"], axis=1)
    assert (q[:, :11] >= p * 11 / 14 - 1e-6).all()
    np.testing.assert_allclose(q[:, :11] / q[:, :11].sum(1, keepdims=True), p, rtol=1e-4)
    np.testing.assert_allclose(new["embed/embedding"][11:], np.tile(kernel.mean(1), (3, 1)), rtol=1e-5)


def test_fewer_tokens_are_the_first_ones():
    kernel = RNG.normal(size=(8, 11))
    there = {"embed/embedding": kernel.T, "head/kernel": kernel}
    ways = resizing.ways(there, {"embed/embedding": np.ones((6, 8)), "head/kernel": np.ones((8, 6))})
    np.testing.assert_array_equal(ways["embed/embedding"](kernel.T), kernel.T[:6])
    np.testing.assert_array_equal(ways["head/kernel"](kernel), kernel[:, :6])


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (lambda n: Decoder(vocab=10 * n, width=8, depth=1, heads=2, tied=False, length=20 * n, position="learned"), 3),
        (lambda n: Encoder(vocab=10 * n, width=8, depth=1, heads=2, length=20 * n), 3),
        (lambda n: LanguageModel(vocab=10 * n, width=8, depth=1), 1),
    ],
)
def test_every_table_of_a_language_model_is_known(make, changes):
    old, new = shapes(make(1)), shapes(make(2))
    differ = {name for name in old if old[name].shape != new[name].shape}
    assert resizing.ways(old, new).keys() == differ
    assert len(differ) >= changes


def test_output_weights_follow_the_vocabulary_and_a_head_of_classes_does_not():
    there = {"embed/embedding": np.ones((11, 8)), "head/kernel": np.ones((8, 3))}
    assert resizing.ways(there, {"embed/embedding": np.ones((14, 8)), "head/kernel": np.ones((8, 5))}).keys() == {
        "embed/embedding"
    }
    assert not resizing.ways(there, {"embed/embedding": np.ones((11, 9)), "head/kernel": np.ones((8, 5))})


@pytest.mark.parametrize(("size", "first"), [(9, 0), (12, 0), (5, 0), (17, 2)])
def test_positions_that_were_there_stay_and_more_are_copies(size, first):
    table = RNG.normal(size=(7, 3))
    new = resizing.positions(table, size, first)
    assert len(new) == size
    np.testing.assert_array_equal(new[:7], table[:size])
    for i in range(7, size):
        np.testing.assert_array_equal(new[i], table[first + (i - first) % (7 - first)])


@pytest.mark.parametrize(("pool", "kept"), [("token", 1), ("gap", 0)])
def test_another_grid_is_resized_as_a_vit_does_it_by_itself(pool, kept):
    old, new = (
        shapes(ViT(image_size=size, pool=pool, patch=4, width=8, depth=1, heads=2), np.zeros((1, size, size, 3)))
        for size in (16, 24)
    )
    [(name, way)] = resizing.ways(old, new).items()
    table = RNG.normal(size=old[name].shape).astype(np.float32)
    np.testing.assert_allclose(way(table), interpolate_positions(table, (6, 6), (4, 4), kept), rtol=1e-6, atol=1e-6)
    assert way(table).shape == new[name].shape
    np.testing.assert_array_equal(way(table)[:kept], table[:kept])


def test_what_is_no_square_grid_is_refused():
    assert not resizing.ways({"position_table": np.ones((17, 2))}, {"position_table": np.ones((36, 2))})
    with pytest.raises(CheckpointError, match="17 and 36 positions are no square grids with the same tokens"):
        resizing.grid(np.ones((17, 2)), 36)
