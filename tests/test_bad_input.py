"""What a person gives wrong ends with exit code 2 and one line that says what and what to do; saved runs stay."""

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stand_ins import events

from fmjax import train
from fmjax.core.errors import exits
from fmjax.run import Run

CONFIG = "--config=tests/tiny_config.py"
ROOT = Path(__file__).resolve().parents[1]


def images(path, n=48, size=8, **change):
    """Write an .npz of random images; `change` maps a row to another label."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 10, n).astype(np.int32)
    for row, value in change.items():
        label[int(row.removeprefix("row"))] = value
    np.savez(path, image=rng.integers(0, 256, (n, size, size, 1)).astype(np.uint8), label=label)
    return str(path)


def over(path, *more):
    """The arguments that train on a file."""
    data, held_out = f"--config.data.source.path={path}", f"--config.evals.validation.data.source.path={path}"
    return [CONFIG, data, held_out, "--quiet", *more]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """(a file of images, the folder of a finished run on it)."""
    base = tmp_path_factory.mktemp("good")
    path = images(base / "images.npz")
    os.chdir(ROOT)
    with pytest.raises(SystemExit) as left:
        exits(train.main)(over(path, f"--workdir={base / 'run'}"))
    assert left.value.code == 0
    return path, base / "run"


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.chdir(ROOT)


def contents(folder):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def refused(capsys):
    """Run the command, which must end with one line, and give the line."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            exits(train.main)([str(a) for a in arguments])
        said = capsys.readouterr().err
        assert left.value.code == 2
        assert said.startswith("error: ")
        assert said.count("\n") == 1, said
        return said

    return run


@pytest.mark.parametrize(("override", "said"), [
    ("--config.optimizer.rte=0.1", "did you mean 'rate'|rte"),
    ("--config.optimiser.rate=0.1", "optimi"),
    ("--config.steps=many", "steps|many|int"),
    ("--config.data.batch_size=1.5", "batch_size|1.5|int"),
    ("--config.optimizer.rate=fast", "rate|fast|float"),
    ("--confg.steps=3", "Unknown command line flag 'confg.steps'"),
    ("--config.model=fmjax.models.mlp:MPL", "has no 'MPL'; did you mean 'MLP'"),
    ("--config.model=fmjax.models.nothing:MLP", "there is no module 'fmjax.models.nothing'"),
    ("--config.data.batch_size=0", "batch_size is 0"),
    ("--config.dtype=float31", "no such dtype"),
    ("--config.sharding=fdsp", "did you mean 'fsdp'"),
    ("--config.mesh.data=3", "data=3 does not make 1 devices"),
    ("--config.accumulation.steps=3", "8 rows does not divide into 3 microbatches"),
    ("--config.accumulation.steps=0", "accumulation.steps must be at least 1"),
    ("--config.checkpoint.every=0", "checkpoint.every must be at least 1"),
    ("--config.log.every=0", "log.every must be at least 1"),
    ("--config.steps=0", "steps must be at least 1"),
    ("--config.steps=10%", "percentage of itself"),
    ("--config.steps=-5", "steps must be at least 1"),
    ("--config.ema=1.5", "ema must be"),
    ("--config.clip=0.0", "clip must be"),
    ("--config.nan.action=hope", "stop, skip or rollback"),
])  # fmt: skip
def test_a_wrong_override_leaves_the_run_alone(good, refused, override, said):
    path, folder = good
    before = contents(folder)
    assert re.search(said, refused(*over(path, f"--workdir={folder}", override)))
    assert contents(folder) == before


@pytest.mark.parametrize(("arguments", "said"), [
    (["--config=tests/tiny_confg.py"], "no config file tests/tiny_confg.py; did you mean 'tests/tiny_config.py'"),
    (["--config=tests/tiny_config.py:tfds"], "has no variant 'tfds'; there is arrays, folder"),
    (["--config=tests/conftest.py"], "defines no get_config"),
    ([], "give --config=FILE"),
    (["--workdir=tests"], "holds no run"),
])  # fmt: skip
def test_a_config_that_is_not_there_is_named(refused, arguments, said):
    assert said in refused(*arguments)


def test_a_dataset_that_is_not_there_is_named(refused, tmp_path):
    said = refused(*over(tmp_path / "nothing.npz", f"--workdir={tmp_path / 'run'}"))
    assert "nothing.npz" in said
    assert not (tmp_path / "run" / "config.json").exists()


def test_an_empty_dataset_is_refused(refused, tmp_path):
    assert "no examples" in refused(*over(images(tmp_path / "empty.npz", n=0), f"--workdir={tmp_path / 'run'}"))


def test_a_label_out_of_range_is_named_before_step_0(refused, tmp_path):
    said = refused(*over(images(tmp_path / "a.npz", row3=12), f"--workdir={tmp_path / 'run'}"))
    assert "label 12 is out of range: the model has 10 classes" in said
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_label_out_of_range_in_a_later_batch_stops_there_and_keeps_what_was_saved(refused, tmp_path):
    held_out = f"--config.evals.validation.data.source.path={images(tmp_path / 'fine.npz')}"
    path = images(tmp_path / "a.npz", row35=12)  # batch 4; after step 2 a checkpoint is saved
    said = refused(*over(path, held_out, f"--workdir={tmp_path / 'run'}"))
    assert "training batch 4: label 12 is out of range" in said
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    assert (tmp_path / "run" / "state").read_text() == "failed\n"
    assert Run.load(tmp_path / "run").step == 2


def test_an_evaluation_of_images_of_another_size_is_refused_before_step_0(refused, good, tmp_path):
    other = f"--config.evals.validation.data.source.path={images(tmp_path / 'b.npz', size=9)}"
    said = refused(*over(good[0], other, f"--workdir={tmp_path / 'run'}"))
    assert "config.evals.validation: image is (9, 9, 1) here and (8, 8, 1) in training" in said


def folder_of(path, sizes):
    for i, size in enumerate(sizes):
        (path / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((size, size, 3), 7 * i, np.uint8)).save(path / f"class{i % 2}" / f"{i:02}.png")
    return path


def test_an_image_of_another_size_is_named(refused, tmp_path):
    path = folder_of(tmp_path / "images", [8, 8, 8, 8, 8, 8, 8, 9])
    said = refused(*over(path, "--config=tests/tiny_config.py:folder", f"--workdir={tmp_path / 'run'}")[1:])
    assert "9" in said
    assert "resize" in said.lower()


def test_a_corrupt_record_is_named(refused, tmp_path):
    path = folder_of(tmp_path / "images", [8] * 16)
    broken = path / "class1" / "05.png"
    broken.write_bytes(broken.read_bytes()[:40])
    said = refused(*over(path, "--config=tests/tiny_config.py:folder", f"--workdir={tmp_path / 'run'}")[1:])
    assert "cannot be read" in said
    assert "05.png" in said or "example" in said


def test_a_truncated_file_of_arrays_is_named(refused, tmp_path):
    path = tmp_path / "a.npz"
    images(path)
    path.write_bytes(path.read_bytes()[:900])
    assert "a.npz" in refused(*over(path, f"--workdir={tmp_path / 'run'}"))


def test_a_folder_of_another_config_is_refused_and_left_alone(refused, good):
    path, folder = good
    before = contents(folder)
    said = refused(*over(path, f"--workdir={folder}", "--config.optimizer.rate=0.2"))
    assert "holds a run of another config (optimizer.rate was 0.1, is 0.2): choose another --workdir" in said
    assert contents(folder) == before


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_built(refused, good, tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(*over(good[0], f"--workdir={tmp_path / 'file' / 'run'}"))
    assert "cannot be written" in said
    assert "choose another --workdir" in said


def test_a_folder_in_use_is_refused(refused, good):
    from fmjax.training.checkpoint import Checkpoints

    path, folder = good
    before = contents(folder)
    with Checkpoints(folder / "checkpoints"):
        said = refused(*over(path, f"--workdir={folder}"))
    assert "is being written by process" in said
    assert {k: v for k, v in contents(folder).items() if k.name != "lock"} == {
        k: v for k, v in before.items() if k.name != "lock"
    }


def damage(checkpoint):
    """Flip one bit in every file that holds numbers."""
    for path in checkpoint.glob("arrays/**/d/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))


def test_a_damaged_checkpoint_falls_back_with_a_warning_and_all_damaged_are_an_error(refused, good, tmp_path, capsys):
    path, folder = good
    shutil.copytree(folder, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints" / "6")
    with pytest.raises(SystemExit) as left:
        exits(train.main)(over(path, f"--workdir={tmp_path / 'run'}"))
    assert left.value.code == 0
    assert "damaged" in events(tmp_path / "run")
    assert Run.load(tmp_path / "run").step == 6
    for kept in (tmp_path / "run" / "checkpoints").glob("[0-9]*"):
        damage(kept)
    before = contents(tmp_path / "run" / "checkpoints")
    said = refused(*over(path, f"--workdir={tmp_path / 'run'}"))
    assert "every checkpoint in" in said
    assert "damaged" in said
    assert {k: v for k, v in contents(tmp_path / "run" / "checkpoints").items() if k.name != "lock"} == {
        k: v for k, v in before.items() if k.name != "lock"
    }
    assert (tmp_path / "run" / "state").read_text() == "finished\n"


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_last_good_checkpoint_stays(good, tmp_path):
    """A limit on the size of a file, set while the run goes, stands for the disk."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "fmjax.train", *over(good[0], f"--workdir={folder}")]
    command += ["--config.model.features=(512,)", "--config.steps=1000", "--config.checkpoint.keep=1000"]
    run = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while run.poll() is None and not (folder / "checkpoints" / "2" / "manifest.json").exists():
        time.sleep(0.01)
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (64 * 1024, 64 * 1024))
    _, said = run.communicate()
    assert run.returncode == 2, said[-3000:]
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said.splitlines()[-1] == errors[0]
    assert "could not save" in errors[0]
    assert "intact" in errors[0]
    assert "Traceback" not in said
    assert (folder / "state").read_text() == "failed\n"
    loaded = Run.load(folder)
    assert loaded.step >= 2
    assert np.isfinite(loaded.evaluate()["validation/loss"])
