"""Mixtures: a part alone is its objective, mean losses are what is added, and microbatches change nothing."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stand_ins import BATCH, KEY, MLP, Plain, Rows, same, setup, tiny

from fmjax.assembly import assemble, complete
from fmjax.core.config import call
from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.data import pipeline, tasks
from fmjax.evals import evaluators, metrics
from fmjax.models import mlp
from fmjax.objectives.mixture import FACTOR, Mixture, Part
from fmjax.objectives.supervised import Classify

NETS = {"model": MLP()}
OTHER = Classify(inputs_from="features", class_weights=(1.0, 2.0, 5.0))


def test_one_part_alone_is_its_objective():
    alone, step = setup(OTHER, NETS)
    mixed, mixed_step = setup(Mixture({"off": Part(Plain(), 0.0), "on": Part(OTHER)}), NETS)
    for _ in range(2):
        alone, seen = step(alone, BATCH)
        mixed, told = mixed_step(mixed, BATCH)
    same(mixed.params, alone.params, 1e-6)
    np.testing.assert_allclose(told["on/loss"].value(), seen["loss"].value(), rtol=1e-6)
    np.testing.assert_allclose(told["loss"].value(), seen["loss"].value(), rtol=1e-4)


def test_means_are_added_with_weights_and_microbatches_change_nothing():
    mixture = Mixture({"a": Part(Plain(), 0.3), "b": Part(OTHER, lambda step: 0.7 + step)})
    (whole, step), (parts, micro) = (
        setup(mixture, {"model": mlp.MLP(features=(8,), classes=3)}, optax.sgd(0.1), accumulate=n) for n in (1, 4)
    )
    for weight in (0.7, 1.7):
        whole, seen = step(whole, BATCH)
        parts, told = micro(parts, BATCH)
        a, b = seen["a/loss"].value(), seen["b/loss"].value()
        np.testing.assert_allclose(seen["loss"].value(), 0.3 * a + weight * b, rtol=1e-5)
    same(parts.params, whole.params, 1e-5)
    np.testing.assert_allclose(told["loss"].value(), seen["loss"].value(), rtol=1e-5)


class TwoHeads(nn.Module):
    """One layer, and a head that the caller names."""

    @nn.compact
    def __call__(self, x, head: str = "three", train: bool = False):
        x = nn.tanh(nn.Dense(4)(x))
        heads = {"three": nn.Dense(3, name="three")(x), "four": nn.Dense(4, name="four")(x)}
        return heads[head]


def two_tasks():
    config = tiny(2)
    config.model = call(TwoHeads)
    threes = call(Classify, inputs_from="features")
    config.objective = call(
        Mixture,
        parts={
            "three": call(Part, objective=threes, under="a"),
            "four": call(Part, objective=threes.copy_and_resolve_references(), under="b", options={"head": "four"}),
        },
    )
    sources = {"a": call(Rows), "b": call(Rows, n=40, seed=5)}
    config.data = call(pipeline.stream, source=call(tasks.Tasks, sources=sources), batch_size=8)
    one = call(tasks.Tasks, sources={"a": call(Rows, n=10)})
    config.evals = {
        "three": call(
            evaluators.average, data=call(pipeline.one_pass, source=one, batch_size=8), predict="three/predict",
            metrics={"accuracy": metrics.accuracy},
        )
    }  # fmt: skip
    return config


def test_tasks_with_heads_of_their_own_are_wired_by_a_config():
    program = assemble(complete(two_tasks())).program
    assert {"loss", "three/accuracy", "four/accuracy"} <= set(program.metric_names)
    outputs = program._outputs
    assert outputs["three/logits"].shape == (8, 3)
    assert outputs["logits"].shape == outputs["four/logits"].shape == (8, 4)
    config = two_tasks()
    config.evals["three"].predict = "four/predict"
    with pytest.raises(ConfigError, match="the data has nothing under 'b'"):
        assemble(complete(config))


def test_rows_without_a_task_weigh_nothing():
    mixture = Mixture({"a": Part(Plain()), "b": Part(Plain(), under="b")})
    mine = {f"b/{key}": value for key, value in BATCH.items() if key != "valid"}
    batch = {**BATCH, **mine, "b/valid": np.zeros(16, np.float32)}
    nets = {"model": Net(MLP(), MLP().init(KEY, BATCH["features"])["params"])}
    ready, _ = mixture.prepare(nets, batch, {"a": {}, "b": {}}, 0, KEY, True)
    loss, seen = mixture.loss("model", nets, ready, {"a": {}, "b": {}}, KEY)
    alone, _ = Plain().loss("model", nets, BATCH, {}, KEY)
    assert jnp.isfinite(ready[f"b/{FACTOR}"]).all()
    np.testing.assert_allclose(loss.value(), alone.value(), rtol=1e-5)
    np.testing.assert_allclose(seen["loss"].value(), seen["a/loss"].value(), rtol=1e-5)
    assert seen["b/loss"].weight == 0


def test_what_makes_no_mixture_is_one_line():
    with pytest.raises(ConfigError, match="one part or more"):
        Mixture({})
    with pytest.raises(ConfigError, match=r"mixture.Part objects"):
        Mixture({"a": Plain()})
    with pytest.raises(ConfigError, match="0 or more, or a schedule"):
        Part(Plain(), -1.0)
    with pytest.raises(ConfigError, match="did you mean 'model'"):
        Part(Plain(), nets={"model": "modle"}).see({"model": Net(MLP(), {})})
