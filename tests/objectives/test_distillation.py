"""Distillation: the loss is the paper's, the teacher stays where it was, and a resumed run needs its folder no more."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax
from stand_ins import BATCH as CASE
from stand_ins import MLP, Crash, course, crash, same, setup, tiny

from fmjax import pretrained
from fmjax.core.config import call
from fmjax.core.errors import ConfigError
from fmjax.models import mlp
from fmjax.objectives import supervised
from fmjax.objectives.distillation import Distill
from fmjax.run import Run, fit
from fmjax.training.checkpoint import Checkpoints
from fmjax.training.checkpoint_folder import read_manifest

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (RNG.normal(size=(5, 3)).astype(np.float32) * 2 for _ in range(2))
LABEL = np.array([0, 1, 2, 2, 0], np.int32)
BATCH = {"label": LABEL, "valid": np.ones(5, np.float32), "teacher_logits": TEACHER}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_the_loss_is_that_of_the_paper(temperature, share):
    objective = Distill(inputs_from="features", temperature=temperature, share=share)
    p, q = log_softmax(TEACHER / temperature, -1), log_softmax(STUDENT / temperature, -1)
    apart = temperature**2 * (np.exp(p) * (p - q)).sum(-1)
    own = -log_softmax(STUDENT, -1)[np.arange(5), LABEL]
    np.testing.assert_allclose(
        objective.losses(jnp.asarray(STUDENT), BATCH), (1 - share) * own + share * apart, rtol=1e-4, atol=1e-5
    )


def test_a_student_that_agrees_has_nothing_to_learn_from_the_teacher():
    objective = Distill(inputs_from="features", share=1.0)
    value, slope = jax.value_and_grad(lambda x: objective.losses(x, BATCH).sum())(jnp.asarray(TEACHER))
    assert abs(value) < 1e-5
    np.testing.assert_allclose(slope, 0, atol=1e-5)


def test_the_running_average_of_the_student_can_teach():
    objective = Distill(inputs_from="features", share=1.0, average=0.5)
    state, step = setup(objective, {"model": MLP()})
    first, seen = step(state, CASE)
    np.testing.assert_allclose(seen["loss"].value(), 0, atol=1e-6)  # it begins as the student
    moved = first.replace(params=jax.tree.map(lambda p: p + 0.1, first.params))
    after, seen = step(moved, CASE)
    assert seen["loss"].value() > 1e-6
    wanted = jax.tree.map(lambda a, p: a * 2 / 11 + p * 9 / 11, first.carry["teacher"], after.params["model"])
    same(after.carry["teacher"], wanted, 1e-5)


def student(start: str):
    config = tiny(6)
    config.models = {
        "model": call(mlp.MLP, features=(4,), classes=3),
        "teacher": call(mlp.MLP, features=(8,), classes=3),
    }
    del config.model
    config.objective = call(Distill, inputs_from="features")
    config.init = call(pretrained.weights, path=start, nets=("teacher",))
    return config


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the run of a teacher, and that of a student as "whole"."""
    folder = tmp_path_factory.mktemp("runs")
    config = tiny(4)
    config.model = call(mlp.MLP, features=(8,), classes=3)
    config.objective = call(supervised.Classify, inputs_from="features")
    fit(config, folder / "teacher")
    fit(student(str(folder / "teacher")), folder / "whole")
    return folder


def test_the_teacher_stays_and_a_resumed_run_does_not_need_its_folder(home, tmp_path):
    config = student(str(home / "teacher"))
    with pytest.raises(Crash):
        fit(config.copy_and_resolve_references(), tmp_path, hooks=[crash(5)])
    run = Run.load(home / "whole")
    same(run.state.frozen["teacher"], pretrained.run_weights(home / "teacher")[0])
    assert "teacher" not in str(jax.tree.structure(run.state.opt_state))
    shutil.move(home / "teacher", home / "elsewhere")
    try:
        again = fit(config, tmp_path)
    finally:
        shutil.move(home / "elsewhere", home / "teacher")
    same(again.state, run.state)
    assert course(tmp_path) == course(home / "whole")
    checkpoints = tmp_path / "checkpoints"
    assert len(list((checkpoints / "frozen").iterdir())) == 1
    assert not any("teacher" in name for name in read_manifest(checkpoints / "6")["leaves"])
    same(pretrained.run_weights(tmp_path, net="teacher")[0], run.state.frozen["teacher"])


def test_a_run_that_has_its_teacher_in_every_checkpoint_still_loads_and_goes_on(home, tmp_path):
    state, old = Run.load(home / "whole").state, tmp_path / "old"
    among = state.replace(params={**state.params, **state.frozen}, ema={**state.ema, **state.frozen}, frozen={})
    shutil.copytree(home / "whole", old)
    shutil.rmtree(old / "checkpoints")
    facts = read_manifest(home / "whole" / "checkpoints" / "6")
    with Checkpoints(old / "checkpoints") as checkpoints:
        checkpoints.save(6, among, {"data_fingerprint": facts["data_fingerprint"]}, wait=True)
    same(Run.load(old).state, state)
    same(pretrained.run_weights(old, net="teacher")[0], state.frozen["teacher"])
    same(fit(student(str(home / "teacher")), old).state, state)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="temperature is above 0"):
        Distill(temperature=0.0)
    with pytest.raises(ConfigError, match="share from 0 to 1"):
        Distill(share=1.5)
