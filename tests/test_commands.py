"""The commands around a run: what they print, and that they change nothing."""

import json
from pathlib import Path

import jax
import pytest

from fmjax import config, crossval, evaluate, generate, plan
from fmjax.core.errors import UserError
from fmjax.run import fit

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "quick"
    return fit(str(ROOT / "configs/quickstart.py") + ":smoke", workdir=folder, progress=False)


def test_evaluate_gives_the_numbers_the_run_ended_with(run, capsys):
    evaluate.main([f"--workdir={run.folder}", "--json", "--only=validation"])
    numbers = json.loads(capsys.readouterr().out)
    assert numbers.pop("step") == 2
    assert numbers == pytest.approx({k: v for k, v in run.numbers.items() if k.startswith("validation/")}, rel=1e-6)
    with pytest.raises(UserError, match="did you mean 'validation'"):
        evaluate.main([f"--workdir={run.folder}", "--only=validatoin"])


def test_generate_continues_the_prompt_the_same_way_each_time(run, capsys):
    args = [f"--workdir={run.folder}", "--prompt=def f", "--length=12", "--samples=2"]
    texts = []
    for _ in range(2):
        generate.main(args)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[0].count("def f") == 2
    with pytest.raises(UserError, match="vocabulary has"):
        generate.main([*args, "--top_k=100000"])
    with pytest.raises(UserError, match="ask for one"):
        generate.main([*args, "--length=0"])


def test_samples_were_written_while_training(run):
    assert "def " in (run.folder / "samples" / "2.txt").read_text()


def test_config_shows_every_field_and_what_was_overridden(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    config.main(["--config=configs/quickstart.py:smoke", "--config.model.width=48"])
    lines = capsys.readouterr().out.splitlines()
    assert "--config.model.width=48    # overridden, default 128" in lines
    assert any(line.startswith("--config.checkpoint.every=") for line in lines)
    config.main(["--config=configs/quickstart.py:smoke", "--diff=configs/quickstart.py"])
    assert "config.steps: 2  |" in capsys.readouterr().out


def test_plan_counts_what_the_run_holds(run, capsys):
    found = plan.make_plan(run.parts)
    weights = sum(x.size for x in jax.tree.leaves(run.state.params))
    assert sum(found.parameters.values()) == weights
    assert found.memory["weights"] == 4 * weights
    assert found.memory["optimizer"] == sum(x.nbytes for x in jax.tree.leaves(run.state.opt_state))
    assert found.memory["activations (at most)"] > 0
    assert "fits" in plan.text(found)
    tight = plan.make_plan(run.parts, available=1000)
    assert "does NOT fit" in plan.advice(tight)


def test_crossval_trains_every_fold_on_the_others(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    args = ["--config=configs/vision/convnet_digits.py:smoke", f"--workdir={tmp_path}", "--folds=2"]
    crossval.main([*args, "--config.log.progress=False", "--config.log.tensorboard=False"])
    row = json.loads((tmp_path / "crossval.json").read_text())["numbers"]["accuracy"]
    assert len(row["values"]) == 2
    assert row["mean"] == pytest.approx(sum(row["values"]) / 2)
    assert "over 2 folds" in capsys.readouterr().out
    with pytest.raises(UserError, match="needs two or more"):
        crossval.main([*args[:2], "--folds=1"])
