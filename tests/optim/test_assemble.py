"""Assembling an optimizer: rates, decay and freezing by address, and any optax transform as a direction."""

import jax
import numpy as np
import optax
import pytest
from optim_lib import FEW, assert_close, first_updates, gradients, run, run_optax, tree

from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten
from fmjax.optim.assemble import check_numbers, descend, frozen, partition
from fmjax.optim.optimizers import adamw, sgd


def test_any_optax_direction_can_be_followed():
    ours = run(descend(optax.scale_by_yogi(), 0.1), tree(0, FEW), gradients(3, FEW))[0]
    assert_close(ours, run_optax(optax.yogi(0.1), tree(0, FEW), gradients(3, FEW)))


def test_multipliers_of_the_rate_are_exact_and_the_first_match_counts():
    weights, grads = tree(), gradients(1)
    plain = first_updates(sgd(0.1), weights, grads[0])
    scaled = sgd(0.1, rates=(("query", 0.25), ("block_0", 0.5), ("head", 0.0)))
    updates = first_updates(scaled, weights, grads[0])
    for name, update in flatten(updates).items():
        times = 0.25 if "query" in name else 0.5 if "block_0" in name else 0.0 if "head" in name else 1.0
        np.testing.assert_array_equal(update, flatten(plain)[name] * times, err_msg=name)


def test_a_multiplier_also_scales_the_decay():
    weights = tree(0, (*FEW, "head/kernel"))
    nothing = jax.tree.map(lambda w: 0 * w, weights)
    after = run(adamw(0.1, decay=0.5, rates=(("head", 0.1),)), weights, [nothing])[0]
    np.testing.assert_allclose(
        flatten(after)["model/head/kernel"], flatten(weights)["model/head/kernel"] * (1 - 0.1 * 0.1 * 0.5), 1e-6
    )


def test_what_decays_can_be_said_by_a_pattern():
    weights = tree(0, FEW)
    nothing = jax.tree.map(lambda w: 0 * w, weights)
    after = flatten(run(adamw(0.1, decay=0.5, decay_on="bias$"), weights, [nothing])[0])
    for name, w in flatten(weights).items():
        assert bool((after[name] == w).all()) != name.endswith("bias")


def test_a_gradient_that_is_not_finite_does_not_reach_a_frozen_weight():
    names = (*FEW, "head/kernel")
    weights, grads = tree(0, names), gradients(1, names)[0]
    grads["model"]["head"]["kernel"] = grads["model"]["head"]["kernel"] * np.nan
    after = run(adamw(0.1, freeze=("head",)), weights, [grads])[0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


def test_the_parts_of_a_partition_move_only_their_own():
    weights, grads = tree(), gradients(2)
    label = lambda t: jax.tree.map(lambda w: "wide" if w.ndim > 1 else "flat", t)  # noqa: E731
    both = run(partition(label, {"wide": sgd(0.1), "flat": frozen()}), weights, grads)[0]
    alone = flatten(run(sgd(0.1), weights, grads)[0])
    for name, w in flatten(both).items():
        np.testing.assert_array_equal(w, alone[name] if w.ndim > 1 else flatten(weights)[name])


def test_a_bound_is_said_with_its_limits():
    with pytest.raises(ConfigError, match=r"x=2: give a number >= 0 and < 1"):
        check_numbers(x=(2, 0, 1))
    check_numbers(x=(np.float32(0.5), 0, 1))
