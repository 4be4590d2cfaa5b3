"""Embedder: one vector of length 1 a row, in which padding plays no part, over any backbone."""

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.assembly import _in_dtype
from fmjax.core.config import build, call
from fmjax.models import embedder, transformer

TOKENS = jax.random.randint(jax.random.key(0), (3, 6), 0, 20)
SEGMENTS = jnp.array([[1] * 6, [1] * 4 + [0] * 2, [1] + [0] * 5])


def made(pool="mean", kind=transformer.Encoder, **more):
    backbone = call(kind, vocab=20, width=16, depth=1, heads=2, **more)
    return build(call(embedder.Embedder, backbone=backbone, pool=pool))


POOLS = ("mean", "max", "first", "last")


def test_vectors_have_length_1_and_padding_plays_no_part():
    model = made(position="rotary", output="none")
    params = jax.jit(model.init)(jax.random.key(1), TOKENS)["params"]
    assert list(params) == ["backbone"]

    @jax.jit
    def run(tokens, segments):
        pools = (made(pool, position="rotary", output="none") for pool in POOLS)
        return jnp.stack([m.apply({"params": params}, tokens, segment_ids=segments) for m in pools])

    vectors = run(TOKENS, SEGMENTS)
    np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(run(jnp.where(SEGMENTS == 0, 7, TOKENS), SEGMENTS), vectors, atol=1e-6)
    # The four tokens of the second row alone, at the end of a row instead of its beginning.
    moved = run(jnp.roll(TOKENS, 2, axis=1), jnp.roll(SEGMENTS, 2, axis=1))
    np.testing.assert_allclose(moved[[0, 1, 3], 1], vectors[[0, 1, 3], 1], atol=1e-5)
    np.testing.assert_allclose(vectors[0, 2], vectors[3, 2], atol=1e-6)  # one token has one mean and last
    assert len({np.asarray(v).tobytes() for v in vectors[:, 1]}) == 4


def test_a_decoder_with_a_head_is_a_backbone_too_and_a_row_of_padding_is_finite():
    model = made("last", transformer.Decoder)
    variables = jax.jit(model.init)(jax.random.key(1), TOKENS)

    def total(params):
        return model.apply({"params": params}, TOKENS, segment_ids=SEGMENTS.at[0].set(0)).sum()

    value, grads = jax.jit(jax.value_and_grad(total))(variables["params"])
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert model.vocab == 20
    assert model.flops({"tokens": (3, 6), "targets": (3, 6)}) == 2 * model.backbone.block_flops(3, 6, False)


def test_the_dtype_of_a_run_is_that_of_the_backbone():
    model = _in_dtype(made(position="rotary", output="none"), "bfloat16")
    assert model.backbone.dtype == "bfloat16"
    params = jax.eval_shape(model.init, jax.random.key(1), TOKENS)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_flops_leave_out_the_head_that_is_not_used():
    sizes = {"tokens": (3, 6), "targets": (3, 6)}
    assert made(output="masked").flops(sizes) == made(output="none").flops(sizes)
