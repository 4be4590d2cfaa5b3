"""Elastic weights: the Fisher information is that of the formula, and an earlier task is forgotten less."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from stand_ins import BATCH, KEY, MLP, Plain
from two_tasks import after, task

from fmjax import fisher, starts
from fmjax.core import trees
from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.core.nets import Net
from fmjax.objectives.elastic import Elastic
from fmjax.run import fit


def test_the_penalty_is_that_of_the_paper_and_falls_on_what_is_named():
    now, was, counts = (MLP().init(jax.random.key(i), BATCH["features"])["params"] for i in range(3))
    nets = {"model": Net(MLP(), now), "before": Net(MLP(), was), "importance": Net(MLP(), counts)}
    alone, _ = Plain().loss("model", nets, BATCH, {}, KEY)
    for on in (".*", "^up/"):
        loss, metrics = Elastic(Plain(), strength=3.0, on=on).loss("model", nets, BATCH, {}, KEY)
        far = jax.tree.map(lambda w, v, f: np.sum(np.asarray(f) * (w - v) ** 2), now, was, counts)
        wanted = 1.5 * sum(x for name, x in trees.flatten(far).items() if on == ".*" or name.startswith("up/"))
        np.testing.assert_allclose(metrics["penalty"].value(), wanted, rtol=1e-4)
        np.testing.assert_allclose(loss.sum, alone.sum + 13 * wanted, rtol=1e-4)
    with pytest.raises(ConfigError, match="matches no weight"):
        Elastic(Plain(), on="^head").loss("model", nets, BATCH, {}, KEY)
    with pytest.raises(ConfigError, match="no net 'before'"):
        Elastic(Plain()).loss("model", {"model": nets["model"]}, BATCH, {}, KEY)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return fit(task(False, 100, (32,)), tmp_path_factory.mktemp("first"), progress=False)


def test_the_fisher_information_of_the_last_layer_is_that_of_the_formula(first, tmp_path):
    assert fisher.main([f"--workdir={first.folder}", "--examples=64"]) == 0
    batches = [first.parts.data.batch(k, seed=0) for k in range(2)]
    image = np.concatenate([batch["image"] for batch in batches]).reshape(64, -1) / 255.0
    label = np.concatenate([batch["label"] for batch in batches])
    params = jax.device_get(first.state.params["model"])
    hidden = np.maximum(image @ params["dense_0"]["kernel"] + params["dense_0"]["bias"], 0)
    slope = softmax(hidden @ params["head"]["kernel"] + params["head"]["bias"], -1) - np.eye(5)[label]
    shapes = {"importance": params}
    found = starts.importance(str(first.folder)).read(shapes)["importance"]
    np.testing.assert_allclose(found["head/bias"], (slope**2).mean(0), rtol=1e-3)
    np.testing.assert_allclose(found["head/kernel"], (hidden**2).T @ slope**2 / 64, rtol=1e-3, atol=1e-7)
    with pytest.raises(CheckpointError, match="is of another model"):
        starts.importance(str(first.folder)).read({"importance": {"head": {"bias": jnp.zeros(5)}}})
    with pytest.raises(CheckpointError, match=r"python -m fmjax.fisher --workdir=.* writes it"):
        starts.importance(str(tmp_path)).read(shapes)


def test_held_weights_and_replay_forget_less(first):
    fisher.save(first)
    runs = {kind: fit(after(str(first.folder), kind, 100, (32,)), None) for kind in ("plain", "held", "replay")}
    kept = {kind: run.numbers["first/accuracy"] for kind, run in runs.items()}
    assert kept["plain"] < 0.7 < min(kept["held"], kept["replay"])
    assert all(run.numbers["second/accuracy"] > 0.8 for run in runs.values())
    assert runs["held"].state.frozen.keys() == {"before", "importance"}


def test_several_starts_say_what_each_is_for():
    with pytest.raises(ConfigError, match="nets="):
        starts.several((starts.importance("a", nets=()),))
    with pytest.raises(ConfigError, match="a net has two of them"):
        starts.several((starts.importance("a"), starts.importance("b")))
