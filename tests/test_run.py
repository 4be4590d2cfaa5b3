"""A run from a config: what is asked for is read, written down, built and trained, by the command and by `fit`."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from stand_ins import BASE, GAN, MLP, SMALL, TEACHER, Crash, Distill, Plain, crash, low_rank, records, same, tiny

from fmjax import train
from fmjax.assembly import assemble, complete, prepare
from fmjax.core import configfile
from fmjax.core.config import call
from fmjax.core.errors import CheckpointError, ConfigError, exits
from fmjax.models import mlp
from fmjax.optim import optimizers
from fmjax.run import Run, fit

ROOT = Path(__file__).resolve().parents[1]
SHORT = ["--config.evals.validation.every=0"]


# ---- the config -------------------------------------------------------------------------------------


def test_every_key_left_out_gets_its_default_and_is_on_record():
    config = tiny()
    for key in ("ema", "clip", "accumulation", "checkpoint", "log"):
        del config[key]
    complete(config)
    assert config.checkpoint.every == 1000
    assert config.mesh.to_dict() == {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1, "expert": 1, "stage": 1}
    assert (config.ema, config.early_stop, config.nan.action) == (None, None, "stop")


def test_a_mesh_given_in_part_is_filled_up():
    config = tiny()
    config.mesh = ConfigDict({"fsdp": 2})
    assert complete(config).mesh.to_dict()["data"] == -1


@pytest.mark.parametrize(("change", "said"), [
    ({"optimiser": 1}, "config.optimiser: nothing reads this key; did you mean 'optimizer'?"),
    ({"objective": None}, "the config has no 'objective'"),
    ({"model": None}, "the config must have either 'model' or 'models'"),
    ({"models": ConfigDict()}, "the config must have either 'model' or 'models'"),
    ({"optimizer": None}, "either 'optimizer' or 'optimizers'"),
])  # fmt: skip
def test_a_key_that_nothing_reads_or_that_is_missing_is_an_error(change, said):
    config = tiny()
    for key, value in change.items():
        if value is None:
            del config[key]
        else:
            config[key] = value
    with pytest.raises(ConfigError, match=said):
        complete(config)


def test_overrides_reach_defaults_and_are_returned():
    config, changed = prepare(tiny(), ["--config.nan.limit=3", "--config.ema=None", "--config.steps=2epochs"])
    assert (config.nan.limit, config.ema, config.steps) == (3, None, "2epochs")
    assert changed == {"nan.limit": 3, "ema": "None", "steps": "2epochs"}


@pytest.mark.parametrize(("override", "said"), [
    ("--config.data=fmjax.data.pipeline:one_pass", "training needs data without end: use pipeline.stream"),
    ("--config.dtype=bfloat16", "MLP computes in float32 only"),
    ("--config.evals.validation.predict=embed", "evals.validation"),
    ("--config.accumulation.steps=16", "does not divide into 16 microbatches"),
    ("--config.optimizer.rate.warmup=100", "warmup=100 is more than steps=12"),
])  # fmt: skip
def test_what_can_be_seen_before_step_0_is_said_then(override, said):
    with pytest.raises(ConfigError, match=said):
        assemble(*prepare(tiny(), [override])[:1])


def test_coupled_rows_are_refused_before_a_folder_is_begun(tmp_path):
    with pytest.raises(ConfigError, match="coupled"):
        fit(tiny(), tmp_path / "run", ["--config.model.norm=True"])
    assert not (tmp_path / "run" / "config.json").exists()


# ---- the run ----------------------------------------------------------------------------------------


def test_a_folder_says_what_the_run_is(tmp_path):
    fit(tiny(), tmp_path, ["--config.steps=2", *SHORT])
    assert {p.name for p in tmp_path.iterdir()} >= {
        "config.json", "overrides.json", "environment.json", "metrics.jsonl", "checkpoints", "state", "heartbeat",
    }  # fmt: skip
    assert json.loads((tmp_path / "overrides.json").read_text()) == {"steps": 2, "evals.validation.every": 0}
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["packages"]["jax"] == jax.__version__
    assert {"command", "devices", "git", "platform", "processes", "xla_flags"} <= environment.keys()
    assert configfile.load(tmp_path / "config.json").optimizer.rate.steps == 2
    manifest = json.loads((tmp_path / "checkpoints" / "2" / "manifest.json").read_text())
    assert {"config", "data_fingerprint", "mesh", "code", "data_offset", "seed"} <= manifest.keys()


def test_players_have_nets_and_optimizers_of_their_own(tmp_path):
    def config():
        c = tiny(8)
        c.models = {"gen": call(MLP, out=6), "disc": call(MLP, out=1)}
        c.optimizers = {"d": call(optimizers.sgd, rate=0.1), "g": call(optimizers.adam, rate=1e-3)}
        c.objective = call(GAN)
        c.evals, c.accumulation.steps = ConfigDict(), 1
        del c.model, c.optimizer
        return c

    whole = fit(config(), tmp_path / "a")
    last = records(tmp_path / "a", "train")[-1]
    assert {"d", "d/grad_norm", "d/rate"} <= last.keys()
    assert "g" not in last  # its turn is every second step
    with pytest.raises(Crash):
        fit(config(), tmp_path / "b", hooks=[crash(5)])
    same(fit(config(), tmp_path / "b").state, whole.state)
    broken = config()
    del broken.optimizers["g"]
    with pytest.raises(ConfigError, match=r"player 'g' has no optimizer: write config.optimizers.g"):
        fit(broken)


@pytest.mark.parametrize("kind", ["adapter", "teacher"])
def test_frozen_weights_are_saved_once_and_come_back(tmp_path, kind):
    config = tiny(8)
    if kind == "adapter":
        config.model.dropout = 0.0
        parts = {"frozen": BASE, "merge": {"model": low_rank}, "load": lambda params: {**params, **SMALL}}
    else:
        config.objective = call(Distill)
        config.models = {"model": call(MLP), "teacher": call(MLP)}
        del config.model
        parts = {"frozen": TEACHER}
    overrides = ["--config.checkpoint.every=2", *SHORT]
    whole = fit(config, tmp_path / "a", overrides, **parts)
    with pytest.raises(Crash):
        fit(config, tmp_path / "b", overrides, hooks=[crash(5)], **parts)
    again = fit(config, tmp_path / "b", overrides, **parts)
    same(again.state, whole.state)
    same(again.state.frozen, parts["frozen"])
    assert len(list((tmp_path / "b" / "checkpoints" / "frozen").iterdir())) == 1
    if kind == "adapter":
        assert whole.state.params["model"].keys() == {"down", "up"}


def images_config():
    config = tiny(4)
    config.model = call(mlp.MLP, features=(8,), classes=3, activation="tanh")
    config.objective = call(Plain)
    config.evals = ConfigDict()
    return config


def test_half_precision_computes_in_it_and_keeps_weights_and_losses_in_float32():
    full, half = fit(images_config()), fit(images_config(), overrides=["--config.dtype=bfloat16"])
    assert {x.dtype for x in jax.tree.leaves(half.state.params)} == {np.dtype(np.float32)}
    a, b = (run.nets()["model"](jnp.ones((2, 6))) for run in (full, half))
    assert (a.dtype, b.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(a, b.astype(jnp.float32), atol=0.1)


def test_flops_are_three_forward_passes_where_the_model_can_tell(tmp_path):
    fit(images_config(), tmp_path)
    (start,) = records(tmp_path, "start")
    assert start["flops_per_step"] == 3 * 2 * 8 * (6 * 8 + 8 * 3)


def test_a_run_predicts_evaluates_and_gives_its_nets():
    run = fit(tiny(4))
    x = np.zeros((3, 6), np.float32)
    out = run.predict({"features": x, "label": np.zeros(3, np.int32)})
    assert (out["logits"].shape, out["weights"].tolist()) == ((3, 3), [1, 1, 1])
    np.testing.assert_allclose(out["logits"], run.nets()["model"](x), rtol=1e-6)
    assert run.evaluate(["validation"]) == pytest.approx(run.numbers)
    with pytest.raises(ConfigError, match="there is no evaluator 'valid'; did you mean 'validation'"):
        run.evaluate(["valid"])


def test_a_folder_without_a_run_or_a_checkpoint_is_said_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no run: it has no config.json"):
        Run.load(tmp_path)
    with pytest.raises(Crash):
        fit(tiny(), tmp_path, ["--config.checkpoint.every=100"], hooks=[crash(5)])
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        Run.load(tmp_path)


def test_other_evaluations_may_be_asked_of_a_loaded_run(tmp_path):
    fit(tiny(4), tmp_path, SHORT)
    run = Run.load(tmp_path, overrides=["--config.evals.validation.data.source.n=12", "--config.mesh.data=1"])
    assert run.parts.evaluators["validation"].data.examples == 12
    assert np.isfinite(run.evaluate()["validation/loss"])


# ---- the command ------------------------------------------------------------------------------------


def test_the_command_trains_resumes_from_the_folder_alone_and_says_where_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    np.savez(tmp_path / "x.npz", image=np.zeros((16, 8, 8, 1), np.uint8), label=np.zeros(16, np.int32))
    path = [f"--config{at}.data.source.path={tmp_path / 'x.npz'}" for at in ("", ".evals.validation")]
    run = ["--config=tests/tiny_config.py", *path, f"--workdir={tmp_path / 'run'}", "--quiet"]
    assert train.main(run) == 0
    assert f"finished at step 6: {tmp_path / 'run'}" in capsys.readouterr().out
    (tmp_path / "run" / "state").write_text("interrupted\n")
    assert train.main([f"--workdir={tmp_path / 'run'}", "--quiet"]) == 0
    assert "validation/loss" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        exits(train.main)([])
    assert left.value.code == 2


def test_help_imports_no_jax():
    code = "import sys; from fmjax import train\ntry: train.main(['--help'])\nfinally: assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--workdir" in done.stdout
