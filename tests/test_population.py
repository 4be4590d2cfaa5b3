"""Populations: every member is its solo run, in batches, numbers and weights, and fails or resumes like one."""

import copy
import json
import shutil

import jax
import numpy as np
import pytest
import tiny_study
from stand_ins import MLP, Distill, course, events, records, same, tiny

from fmjax import pretrained
from fmjax.adapters import parts
from fmjax.assembly import assemble, prepare
from fmjax.core.config import call
from fmjax.core.errors import ConfigError
from fmjax.models import mlp
from fmjax.objectives import supervised
from fmjax.optim import optimizers
from fmjax.population import fit_members, fit_population
from fmjax.population_program import Stacked, numbers, skeleton, traced
from fmjax.run import Run, fit
from fmjax.training.checkpoint import Policy


def short(*flags):
    config = tiny_study.get_config()
    config.checkpoint = call(Policy, every=2)
    return prepare(config, list(flags))[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three members of a run with dropout, host noise, microbatches, averages and clipping: 100 steps."""
    folder = tmp_path_factory.mktemp("population")
    config = tiny(100)
    config.checkpoint.every = config.evals.validation.every = 50
    members = [(0, 1e-2, 0.01), (3, 1e-2, 0.01), (3, 3e-3, 0.1)]
    made = [(s, [f"--config.optimizer.rate.peak={r}", f"--config.optimizer.decay={d}"]) for s, r, d in members]
    flags = [[*more, f"--config.seed={seed}"] for seed, more in made]
    configs = [prepare(copy.deepcopy(config), own)[0] for own in flags]
    return config, flags, fit_members(configs, [folder / str(m) for m in range(3)])


def test_a_member_is_its_solo_run(trained, tmp_path):
    config, flags, runs = trained
    m = 2  # neither its seed nor its numbers are the first member's
    solo = fit(copy.deepcopy(config), tmp_path, flags[m], progress=False)
    same(runs[m].state.params, solo.state.params, 1e-5)
    same(runs[m].state.ema, solo.state.ema, 1e-5)
    mine, alone = course(runs[m].folder), course(tmp_path)
    assert [(step, batch) for step, *_, batch in mine] == [(step, batch) for step, *_, batch in alone]
    assert len(mine) == 100
    np.testing.assert_allclose([r[1:-1] for r in mine], [r[1:-1] for r in alone], rtol=1e-4, atol=1e-5)
    assert runs[m].numbers == pytest.approx(solo.numbers, rel=1e-4, abs=1e-5)
    assert [r["step"] for r in records(runs[m].folder, "eval")] == [r["step"] for r in records(tmp_path, "eval")]


def test_a_members_folder_is_that_of_a_run(trained):
    _, _, runs = trained
    loaded = Run.load(runs[0].folder)
    assert (loaded.step, loaded.word) == (100, "finished")
    assert loaded.evaluate() == pytest.approx(runs[0].numbers, rel=1e-5)
    same(loaded.state.params, runs[0].state.params)
    assert json.loads((runs[1].folder / "config.json").read_text())["config"]["seed"] == 3


def test_a_member_that_diverges_fails_alone(tmp_path):
    runs = fit_population(short(), seeds=(0,), over={"optimizer.rate": (0.1, 1e38)}, workdir=tmp_path)
    assert [run.word for run in runs] == ["finished", "failed"]
    assert "not finite at step" in runs[1].error
    assert (runs[1].folder / "state").read_text() == "failed\n"
    assert "finished" not in events(runs[1].folder)
    assert len(records(runs[1].folder, "train")) < len(records(runs[0].folder, "train")) == 4
    assert runs[0].folder == tmp_path / "optimizer.rate=0.1" / "seed_0"


def test_a_population_goes_on_from_what_all_members_saved(tmp_path):
    args = {"seeds": (0, 1), "workdir": tmp_path}
    whole = fit_population(short(), **args)
    shutil.rmtree(whole[0].folder / "checkpoints" / "4")
    (whole[0].folder / "state").write_text("running\n")
    again = fit_population(short(), **args)
    assert "resumed" in events(again[0].folder)
    assert len(records(again[1].folder, "train")) == 4
    for before, after in zip(whole, again, strict=True):
        same(after.state.params, before.state.params)
        assert after.numbers == pytest.approx(before.numbers)


# ---- what can vary ------------------------------------------------------------------------------------


def stacked(key, values, config=None):
    configs = [prepare(copy.deepcopy(config or tiny_study.get_config()), [f"--config.{key}={v}"])[0] for v in values]
    return Stacked(assemble(configs[0]), configs)


@pytest.mark.parametrize(("key", "values"), [
    ("optimizer.rate", (0.1, 0.2)), ("optimizer.l2", (0.1, 0.2)), ("optimizer.momentum", (0.5, 0.9)),
    ("clip", (1.0, 2.0)), ("ema", (0.9, 0.99)), ("sam", (0.1, 0.2)), ("objective.router", (0.1, 0.2)),
])  # fmt: skip
def test_numbers_of_the_step_can_be_inputs_of_the_program(key, values):
    found = stacked(key, values).values
    assert list(found) == [f"config.{key}"]
    np.testing.assert_allclose(found[f"config.{key}"], values)


def test_smoothing_can_be_an_input_too():
    traced_loss = jax.jit(lambda s: supervised.Classify(smoothing=s).losses(np.eye(3), {"label": np.arange(3)}))
    np.testing.assert_allclose(
        traced_loss(0.1), supervised.Classify(smoothing=0.1).losses(np.eye(3), {"label": np.arange(3)})
    )


@pytest.mark.parametrize(("key", "values"), [("optimizer.b2", (0.9, 0.99)), ("objective.noise", (0.1, 0.2))])
def test_a_number_that_python_must_know_is_named(key, values):
    config = tiny_study.get_config()
    config.optimizer = call(optimizers.adam, rate=0.1)
    with pytest.raises(ConfigError, match=rf"^--config.{key} is used where Python must know its value"):
        stacked(key, values, config)


@pytest.mark.parametrize(("over", "flags", "said"), [
    ({"steps": (2, 3)}, [], "--config.steps cannot vary inside one program"),
    ({"model.dropout": (0.1, 0.2)}, [], "--config.model.dropout cannot vary inside one program"),
    ({"optimizer.rat": (0.1,)}, [], "did you mean 'rate'"),
    ({"optimizer.rate": (0.1, -1.0)}, [], "rate=-1.0: give a number >= 0"),
    ({}, ["--config.nan.action=rollback"], "do not go back"),
    ({}, ["--config.mesh.fsdp=2"], "lies on one device"),
])  # fmt: skip
def test_what_cannot_vary_or_happen_in_a_population_is_one_line(over, flags, said):
    with pytest.raises(ConfigError, match=said):
        fit_population(tiny_study.get_config(), seeds=(0, 1), over=over, overrides=flags)


def test_members_start_from_weights_and_running_statistics_and_adapters_are_refused(tmp_path):
    config = tiny(2)
    config.model = call(MLP, norm=True)
    del config.accumulation  # batch norm wants whole batches
    fit(copy.deepcopy(config), tmp_path / "start")
    config.init = call(pretrained.weights, path=str(tmp_path / "start"))
    members = fit_population(copy.deepcopy(config), seeds=(0, 1))
    for seed, member in enumerate(members):
        solo = fit(copy.deepcopy(config), None, [f"--config.seed={seed}"])
        same(member.state.mutable, solo.state.mutable, 1e-5)
        same(member.state.params, solo.state.params, 1e-5)
    config.adapt = call(parts.bias_only)
    with pytest.raises(ConfigError, match=r"--config.adapt: a population trains whole weights"):
        fit_population(config, seeds=(0, 1))


def test_members_share_a_teacher_that_was_loaded_and_a_fresh_one_is_refused(tmp_path):
    fit(tiny(2), tmp_path / "start")
    config = tiny(2)
    config.evals = {}
    config.objective = call(Distill)
    config.models = {"model": call(MLP), "teacher": call(MLP)}
    del config.model
    with pytest.raises(ConfigError, match="not give all weights of the net 'teacher'"):
        fit_population(copy.deepcopy(config), seeds=(0, 1))
    config.init = call(pretrained.weights, path=str(tmp_path / "start"), nets=("teacher",))
    first, second = fit_population(copy.deepcopy(config), seeds=(0, 1), workdir=tmp_path)
    same(first.state.frozen, second.state.frozen)
    again, _ = fit_population(copy.deepcopy(config), seeds=(0, 1), workdir=tmp_path)
    same(again.state, first.state)


def test_a_number_of_zero_makes_a_program_of_its_own():
    a, b, c = (short(f"--config.optimizer.momentum={m}") for m in (0.0, 0.5, 0.9))
    assert skeleton(a) != skeleton(b) == skeleton(c)
    assert "config.optimizer.momentum" in numbers(a)
    with pytest.raises(ConfigError, match=r"config.optimizer.momentum cannot vary"):
        traced([a, b])
    b.model = call(mlp.MLP, features=(3,), classes=3)
    with pytest.raises(ConfigError, match=r"config.model"):
        traced([b, c])
