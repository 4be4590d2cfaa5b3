"""Sharding rules: every rule of a recipe matches something, every matrix is matched, on meshes without devices."""

import re

import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, PartitionSpec

from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten
from fmjax.models.transformer import Decoder
from fmjax.nn.experts import MixtureOfExperts
from fmjax.sharding.mesh import AXES
from fmjax.sharding.rules import LARGEST, RECIPES, SMALL, shard_like, shard_params

SHAPE = jax.ShapeDtypeStruct


def mesh_of(**sizes):
    return AbstractMesh(
        tuple(sizes.get(a, 1) for a in AXES), AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES)
    )


MESH = mesh_of(data=2, fsdp=2, tensor=2)
DECODERS = {
    "tied": Decoder(vocab=64, width=32, depth=2, heads=4, groups=2),
    "untied, gated, biased": Decoder(
        vocab=64, width=32, depth=1, heads=4, tied=False, feed_forward="swiglu", use_bias=True, position="learned"
    ),
}


def weights(decoder):
    tokens = SHAPE((1, 8), np.int32)
    return {"model": jax.eval_shape(lambda x: decoder.init(jax.random.key(0), x)["params"], tokens)}


def specs(tree, mesh, recipe):
    return {name: s.spec for name, s in flatten(shard_params(tree, mesh, recipe)).items()}


def mixture():
    model = MixtureOfExperts(4, 64, kind="swiglu", use_bias=True)
    x = SHAPE((1, 8, 32), np.float32)
    return {"model": {"block_0": jax.eval_shape(lambda x: model.init(jax.random.key(0), x)["params"], x)}}


ALL = {k: v for tree in (*map(weights, DECODERS.values()), mixture()) for k, v in flatten(tree).items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_rule_matches_something_in_a_decoder_or_in_experts(recipe):
    for pattern, _ in RECIPES[recipe]:
        assert any(re.search(pattern, name) for name in ALL), pattern


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize(
    ("recipe", "axes"), [("tensor", {"tensor"}), ("fsdp_tensor", {"fsdp", "tensor"}), ("fsdp", {"fsdp"})]
)
def test_every_matrix_is_split_over_every_axis_of_the_recipe(kind, recipe, axes):
    tree = weights(DECODERS[kind])
    for name, spec in specs(tree, MESH, recipe).items():
        leaf = flatten(tree)[name]
        matrix = leaf.ndim >= 2 and name.endswith(("kernel", "embedding")) and leaf.size >= SMALL
        if matrix and "position_embed" not in name:
            assert {a for a in spec if a} == axes, (name, spec)
        elif leaf.ndim < 2:
            assert not any(spec) or recipe != "fsdp", name


def test_what_a_recipe_says_is_where_a_weight_lies():
    seen = specs(weights(DECODERS["tied"]), MESH, "fsdp_tensor")
    assert seen["model/block_0/attention/query/kernel"] == PartitionSpec("fsdp", "tensor", None)
    assert seen["model/block_0/attention/out/kernel"] == PartitionSpec("tensor", None, "fsdp")
    assert seen["model/block_1/feed_forward/down/kernel"] == PartitionSpec("tensor", "fsdp")
    assert seen["model/embed/embedding"] == PartitionSpec("tensor", "fsdp")


@pytest.mark.parametrize(("recipe", "up", "down"), [
    ("expert", ("expert", None, None), ("expert", None, None)),
    ("tensor", ("expert", None, "tensor"), ("expert", "tensor", None)),
    ("fsdp_tensor", ("expert", "fsdp", "tensor"), ("expert", "tensor", "fsdp")),
])  # fmt: skip
def test_experts_are_split_over_their_axis(recipe, up, down):
    seen = specs(mixture(), mesh_of(expert=4, fsdp=2, tensor=2), recipe)
    assert seen["model/block_0/experts/up/kernel"] == PartitionSpec(*up)
    assert seen["model/block_0/experts/gate/kernel"] == PartitionSpec(*up)
    assert seen["model/block_0/experts/gate/bias"] == PartitionSpec("expert", up[-1])
    assert seen["model/block_0/experts/down/kernel"] == PartitionSpec(*down)
    assert seen["model/block_0/experts/down/bias"] == PartitionSpec("expert", None)
    assert not any(seen["model/block_0/router/kernel"])


def test_a_stack_of_layers_keeps_its_first_axis_whole():
    tree = {"model": {"blocks": {"up": {"kernel": SHAPE((3, 32, 64), np.float32)}}}}
    assert specs(tree, MESH, "tensor") == {"model/blocks/up/kernel": PartitionSpec(None, None, "tensor")}


def test_an_axis_that_does_not_divide_is_left_whole():
    tree = {"model": {"up": {"kernel": SHAPE((32, 63), np.float32)}}}
    assert specs(tree, MESH, "fsdp_tensor") == {"model/up/kernel": PartitionSpec("fsdp", None)}


@given(st.lists(st.integers(1, 96), min_size=0, max_size=4), st.sampled_from([1, 2, 3, 4, 8]))
def test_the_largest_axis_that_divides_is_split_and_small_weights_are_not(shape, n):
    (spec,) = specs({"model": {"w": SHAPE(tuple(shape), np.float32)}}, mesh_of(fsdp=n), "fsdp").values()
    fits = [d for d in shape if d % n == 0]
    if n == 1 or np.prod(shape) < SMALL or not fits:
        assert not any(spec)
    else:
        (at,) = [i for i, a in enumerate(spec) if a]
        assert (spec[at], shape[at]) == ("fsdp", max(fits))


def test_rules_of_your_own_are_tried_in_order_and_must_cover():
    tree = {"model": {"a": {"kernel": SHAPE((64, 64), np.float32)}, "b": {"kernel": SHAPE((64, 64), np.float32)}}}
    rules = ((r"a/kernel", ("fsdp", None)), (r"kernel", LARGEST))
    assert specs(tree, MESH, rules)["model/a/kernel"] == PartitionSpec("fsdp", None)
    with pytest.raises(ConfigError, match=r"no rule covers model/b/kernel: end with"):
        shard_params(tree, MESH, rules[:1])
    with pytest.raises(ConfigError, match=r"there is no recipe 'fdsp'; did you mean 'fsdp'"):
        shard_params(tree, MESH, "fdsp")
    with pytest.raises(ConfigError, match=r"there is no axis 'rows'"):
        shard_params(tree, MESH, ((".*", ("rows", None)),))


def test_moments_averages_and_targets_lie_where_their_weights_lie():
    params = weights(DECODERS["tied"])
    places = shard_params(params, MESH, "fsdp_tensor")
    moments = jax.eval_shape(optax.adam(1e-3).init, params)
    tree = {"opt_state": {"model": moments}, "ema": params, "carry": {"target": params["model"]}}
    found = flatten(shard_like(tree, params, places, MESH))
    where = {name: s.spec for name, s in flatten(places).items()}
    for name, sharding in found.items():
        tail = next((k for k in where if name.endswith(k.partition("/")[2])), None)
        assert sharding.spec == (where[tail] if tail else PartitionSpec()), name
    assert sum(any(s.spec) for s in found.values()) == 4 * sum(any(s) for s in where.values())


def test_what_has_a_weights_name_but_another_shape_is_on_every_device():
    params = {"model": {"up": {"kernel": SHAPE((64, 64), np.float32)}}}
    places = shard_params(params, MESH, "fsdp")
    rows = {"moments": {"model": {"up": {"kernel": SHAPE((64,), np.float32)}}}}
    assert [s.spec for s in jax.tree.leaves(shard_like(rows, params, places, MESH))] == [PartitionSpec()]
