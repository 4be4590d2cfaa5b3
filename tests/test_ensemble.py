"""Ensembles: one run or twice the same is that run, and several have the mean of their probabilities."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax
from stand_ins import tiny

from fmjax import evaluate
from fmjax.core.errors import ConfigError
from fmjax.ensemble import Ensemble, mean
from fmjax.run import fit

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home, found = tmp_path_factory.mktemp("runs"), []
    for seed in (0, 1):
        config = tiny(4)
        config.accumulation.steps = 1
        found.append(fit(config, home / str(seed), [f"--config.seed={seed}"], progress=False))
    return found


def test_one_run_or_twice_the_same_is_that_run(runs):
    alone = runs[0].evaluate()
    assert Ensemble(runs[:1]).evaluate() == alone
    assert Ensemble([runs[0], runs[0]]).evaluate() == pytest.approx(alone, rel=1e-5)


def test_the_command_gives_the_mean_of_the_probabilities(runs, capsys):
    evaluate.main([f"--workdir={runs[0].folder}", f"--ensemble={runs[1].folder}", "--json"])
    numbers = json.loads(capsys.readouterr().out)
    data = runs[0].parts.evaluators["validation"].data
    batches = [data.batch(k) for k in range(len(data))]
    said = [np.concatenate([run.predict(b)["logits"][b["valid"] > 0] for b in batches]) for run in runs]
    label = np.concatenate([b["label"][b["valid"] > 0] for b in batches])
    p = np.mean([softmax(x, -1) for x in said], 0)
    assert numbers["validation/loss"] == pytest.approx(-np.log(p[np.arange(len(label)), label]).mean(), rel=1e-4)
    assert numbers["validation/accuracy"] == pytest.approx((p.argmax(-1) == label).mean())
    with pytest.raises(ConfigError, match="did you mean 'validation'"):
        Ensemble(runs).evaluate(["validatoin"])


def test_tokens_yes_or_no_and_numbers_have_their_means():
    logits = RNG.normal(size=(3, 2, 4, 5)).astype(np.float32) * 2
    targets = RNG.integers(0, 5, (2, 4))
    nll = -np.take_along_axis(log_softmax(logits, -1), targets[None, ..., None], -1)[..., 0]
    found = mean([{"logits": jnp.asarray(x), "targets": targets, "nll": n, "correct": n} for x, n in zip(logits, nll)])
    p = softmax(logits, -1).mean(0)
    np.testing.assert_allclose(jax.nn.softmax(found["logits"]), p, rtol=1e-4)
    np.testing.assert_allclose(found["nll"], -np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0]), rtol=1e-4)
    np.testing.assert_array_equal(found["correct"], p.argmax(-1) == targets)
    yes = mean([{"logits": jnp.asarray(x[0]), "targets": np.ones((4, 5))} for x in logits])
    np.testing.assert_allclose(expit(yes["logits"]), expit(logits[:, 0]).mean(0), rtol=1e-4)
    values = mean([{"values": jnp.asarray(x)} for x in logits])
    np.testing.assert_allclose(values["values"], logits.mean(0), rtol=1e-5)
    with pytest.raises(ConfigError, match="different shapes"):
        mean([{"values": jnp.zeros(3)}, {"values": jnp.zeros(4)}])
    with pytest.raises(ConfigError, match="mean of logits or values"):
        mean([{"tokens": jnp.zeros(3)}, {"tokens": jnp.zeros(3)}])
