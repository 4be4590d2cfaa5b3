"""`python -m fmjax.checkpoint`: list, inspect and verify, without the model and, but for verify, without jax."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from fmjax import checkpoint
from fmjax.core.errors import CheckpointError
from fmjax.training.checkpoint import Checkpoints, Policy


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run")
    with Checkpoints(run / "checkpoints", Policy(best="validation/accuracy")) as checkpoints:
        for k in (10, 20):
            state = {"params": {"model": {"kernel": jnp.full((3, 400), k)}, "other": jnp.ones(())}}
            checkpoints.save(k, state, {"seed": 1, "config": "c0ffee", "mesh": {"data": 8}})
            checkpoints.mark_best(k, k / 100)
        checkpoints.save_frozen({"teacher": jnp.ones(3)})
    return run


@pytest.fixture
def run(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def test_list_gives_a_line_a_checkpoint(run, capsys):
    assert checkpoint.main(["list", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", "saved", "leaves", "bytes", "value"]
    assert [(line.split()[0], line.split()[-1]) for line in lines[1:3]] == [("10", "0.1"), ("20", "0.2")]
    assert re.fullmatch(r"frozen [0-9a-f]{32}", lines[3])


def test_inspect_prints_the_facts_and_every_leaf(run, capsys):
    assert checkpoint.main(["inspect", str(run / "checkpoints"), "--step", "10"]) == 0
    out = capsys.readouterr().out
    assert "step: 10" in out
    assert "config: c0ffee" in out
    assert 'mesh: {"data": 8}' in out
    assert re.search(r"^params/model/kernel +int32 +3x400 +[0-9a-f]{16}$", out, re.M)
    assert "2 leaves, 1,201 numbers, 4.8 kB" in out
    checkpoint.main(["inspect", str(run)])
    assert "step: 20" in capsys.readouterr().out


def test_verify_says_ok_or_names_what_is_damaged(run, capsys):
    assert checkpoint.main(["verify", str(run)]) == 0
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == ["ok"] * 3
    for path in (run / "checkpoints" / "20" / "arrays").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-40] + bytes(40))
    assert checkpoint.main(["verify", str(run)]) == 2
    out = capsys.readouterr().out
    assert "10: ok" in out
    assert "20: damaged" in out
    assert "file arrays/d/" in out
    assert "leaf params/model/kernel is not the one that was saved" in out
    assert checkpoint.main(["verify", str(run), "--step", "10"]) == 0


def test_verify_sees_frozen_weights_and_the_file_of_values(run, capsys):
    teacher = next((run / "checkpoints" / "frozen").iterdir()) / "manifest.json"
    teacher.write_text(teacher.read_text() + " ")
    (run / "checkpoints" / "scores.json").write_text("{}")
    assert checkpoint.main(["verify", str(run)]) == 2
    out = capsys.readouterr().out
    assert re.search(r"^frozen/[0-9a-f]{32}: damaged$", out, re.M)
    assert "scores.json: damaged" in out


def test_one_checkpoint_can_be_named_by_its_folder(run):
    assert checkpoint.find(run / "checkpoints" / "10") == (run / "checkpoints", 10)


@pytest.mark.parametrize("args", [["list", "nowhere"], ["inspect", "{run}", "--step", "11"]])
def test_what_is_not_there_is_one_line(run, args):
    with pytest.raises(CheckpointError, match=r"no checkpoint in nowhere|no step 11; there is 10, 20"):
        checkpoint.main([arg.format(run=run) for arg in args])


def test_listing_and_inspecting_need_no_jax(run):
    code = """
import sys
from fmjax import checkpoint
assert checkpoint.main(["list", sys.argv[1]]) == checkpoint.main(["inspect", sys.argv[1]]) == 0
assert not {"jax", "numpy", "orbax"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code, str(run)], check=True, stdout=subprocess.DEVNULL)


def test_the_command_exits_2_in_one_line(tmp_path):
    done = subprocess.run([sys.executable, "-m", "fmjax.checkpoint", "list", tmp_path], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no checkpoint in")
    assert done.stderr.count("\n") == 1
