"""By address: every weight has one optimizer, every pattern a weight, and rates fall towards the input."""

import jax
import numpy as np
import pytest
from optim_lib import FEW, assert_close, first_updates, gradients, run, tree

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten
from fmjax.optim import optimizers
from fmjax.optim.by_address import by_address, layerwise


def test_each_weight_follows_the_first_rule_that_matches():
    rules = (("block_0", optimizers.frozen()), ("kernel$", optimizers.sgd(0.1, 0.9)), (".*", optimizers.adamw(0.2)))
    weights, grads = tree(), gradients(3)
    ours, state = run(by_address(rules), weights, grads)
    slow, fast = (flatten(run(rules[i][1], weights, grads)[0]) for i in (1, 2))
    for name, w in flatten(ours).items():
        expected = flatten(weights) if "block_0" in name else slow if name.endswith("kernel") else fast
        np.testing.assert_allclose(w, expected[name], 1e-6, err_msg=name)
    assert state["0"] == {}
    assert by_address(rules).report(state) == {"rate": np.float32(0.1), "rate_2": np.float32(0.2)}


def test_a_weight_that_no_rule_covers_is_named():
    rules = (("kernel$", optimizers.sgd(0.1)), ("bias$|scale$", optimizers.sgd(0.1)))
    with pytest.raises(ConfigError, match=r"no optimizer covers model/embed/embedding"):
        by_address(rules).init(tree())


def test_a_rule_that_picks_nothing_is_an_error():
    rules = (("kernel$", optimizers.sgd(0.1)), ("head/kernel", optimizers.sgd(0.2)), (".*", optimizers.sgd(0.3)))
    with pytest.raises(ConfigError, match=r"'head/kernel' is the first match of no weight"):
        by_address(rules).init(tree())


@pytest.mark.parametrize(
    ("rules", "said"),
    [((), "no rules"), ((("(", optimizers.sgd(0.1)),), "regular expression"), (((".*", 0.1),), "has no optimizer")],
)
def test_misuse_is_said(rules, said):
    with pytest.raises(ConfigError, match=said):
        by_address(rules)


def test_a_config_writes_rules_down():
    rules = (("bias$", call(optimizers.sgd, rate=0.1)), (".*", call(optimizers.lion, rate=0.01)))
    optimizer = build(call(by_address, rules=rules))
    written = by_address((("bias$", optimizers.sgd(0.1)), (".*", optimizers.lion(0.01))))
    weights, grads = tree(0, FEW), gradients(2, FEW)
    assert_close(run(optimizer, weights, grads)[0], run(written, weights, grads)[0], 0, 0)


def test_layerwise_rates_fall_from_the_head_to_the_embedding():
    weights, grads = tree(), gradients(1)
    optimizer = build(call(optimizers.sgd, rate=0.1, rates=call(layerwise, decay=0.5, depth=2)))
    updates = first_updates(optimizer, weights, grads[0])
    for name, update in flatten(updates).items():
        times = 0.125 if "embed/" in name else 0.25 if "block_0" in name else 0.5 if "block_1" in name else 1.0
        np.testing.assert_array_equal(update, np.float32(-0.1) * times * flatten(grads[0])[name], err_msg=name)


def test_layerwise_refuses_a_depth_that_the_model_does_not_have():
    optimizer = optimizers.sgd(0.1, rates=layerwise(0.5, 3))
    with pytest.raises(ConfigError, match="block_2"):
        optimizer.init(tree())
    for wrong in ({"decay": 0.0}, {"decay": 1.5}, {"depth": 0}, {"block": "block"}):
        with pytest.raises(ConfigError):
            layerwise(**{"decay": 0.5, "depth": 2, **wrong})


def test_block_1_is_not_block_10():
    rates = dict(layerwise(0.5, 11, first=None))
    assert rates[r"(^|/)block_1/"] == 0.5**10
    weights = {"model": {f"block_{i}": {"kernel": jax.numpy.ones((2, 2))} for i in range(11)}}
    optimizer = optimizers.sgd(1.0, rates=layerwise(0.5, 11, first=None))
    updates = first_updates(optimizer, weights, weights)
    for i in range(11):
        assert updates["model"][f"block_{i}"]["kernel"][0, 0] == -(0.5 ** (11 - i))
