"""Images that a model or an objective cannot use end the command before step 0, with one line that says what to do."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmjax import train
from fmjax.core.errors import exits

ROOT = Path(__file__).resolve().parents[1]
VIT = ("--config.model=fmjax.models.vit:ViT", "--config.model.classes=10", "--config.model.image_size=8",
       "--config.model.width=8", "--config.model.depth=1", "--config.model.heads=2")  # fmt: skip
CONVNET = ("--config.model=fmjax.models.convnet:ConvNet", "--config.model.widths=(4, 4, 4)")


def images(path, size=8, channels=1, dtype=np.uint8, bad=None):
    """An .npz of images; `bad` is a value to hide in row 3."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, size, size, channels)).astype(np.uint8)
    if dtype != np.uint8:
        image = (image / 255).astype(dtype)
    if bad is not None:
        image[3, 5, 1, 0] = bad
    np.savez(path, image=image, label=np.arange(16, dtype=np.int32) % 10)
    return str(path)


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    """Train on a file, and another to evaluate on: the one line that the command must end with."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))

    def run(path, *more, held_out=None, variant=""):
        arguments = [f"--config=tests/tiny_config.py{variant}", f"--config.data.source.path={path}", "--quiet"]
        arguments += [f"--config.evals.validation.data.source.path={held_out or path}", *more]
        with pytest.raises(SystemExit) as left:
            exits(train.main)([*arguments, f"--workdir={tmp_path / 'run'}"])
        said = capsys.readouterr().err
        assert left.value.code == 2, said
        assert said.startswith("error: ")
        assert said.count("\n") == 1, said
        assert not os.path.exists(tmp_path / "run" / "config.json")
        return said

    return run


def test_an_image_smaller_than_the_patch_grid_is_refused(refused, tmp_path):
    said = refused(images(tmp_path / "a.npz"), *VIT, "--config.model.patch=16", "--config.model.image_size=16")
    assert "an image of 8x8 is smaller than a patch of 16x16: give smaller patches" in said
    said = refused(images(tmp_path / "a.npz"), *VIT, "--config.model.patch=3", "--config.model.image_size=9")
    assert "an image of 8x8 does not divide into patches of 3x3" in said
    said = refused(images(tmp_path / "b.npz", size=7), *CONVNET)
    assert "an image of 7x7 cannot be halved 3 times" in said


@pytest.mark.parametrize("model", [(*VIT, "--config.model.patch=4"), CONVNET], ids=["vit", "convnet"])
def test_channels_that_the_weights_were_not_made_for_are_refused(refused, tmp_path, model):
    path, other = images(tmp_path / "a.npz"), images(tmp_path / "b.npz", channels=3)
    said = refused(path, *model, held_out=other)
    assert "config.evals.validation: images have 3 channels, but the weights were made for 1" in said


def test_channels_that_the_mean_does_not_fit_are_refused(refused, tmp_path):
    said = refused(images(tmp_path / "a.npz"), "--config.objective.mean=(0.5, 0.5, 0.5)")
    assert "images have 1 channels, and the objective's mean has 3 numbers: give one a channel" in said
    said = refused(images(tmp_path / "b.npz", channels=4), "--config.objective.std=(0.5, 0.5, 0.5)")
    assert "images have 4 channels, and the objective's std has 3 numbers: give one a channel" in said


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_named(refused, tmp_path, bad):
    path = images(tmp_path / "a.npz", dtype=np.float32, bad=bad)
    assert f"the image in row 3 holds {bad} at (5, 1, 0)" in refused(path)
    fine = images(tmp_path / "fine.npz", dtype=np.float32)
    assert f"config.evals.validation: the image in row 3 holds {bad}" in refused(fine, held_out=path)


def folder(path, classes=("cat", "dog")):
    for c, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(np.full((8, 8, 3), 20 * c + i, np.uint8)).save(path / name / f"{i}.jpg")
    return path


def test_a_class_folder_that_is_empty_is_named(refused, tmp_path):
    path = folder(tmp_path / "images")
    (path / "emu").mkdir()
    assert "emu holds no image: fill it or remove it" in refused(path, variant=":folder")


def test_a_corrupt_jpeg_is_named_or_skipped_and_counted(refused, tmp_path, caplog):
    path = folder(tmp_path / "images")
    broken = path / "cat" / "5.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    said = refused(path, variant=":folder")
    assert f"example 5 of ImageFolder({path}) cannot be read: {broken} cannot be decoded" in said
    assert "corrupt='skip' steps over it" in said
    skip = ("--config.data.corrupt=skip", "--config.evals.validation.data.corrupt=skip", "--config.steps=2")
    with pytest.raises(SystemExit) as left:
        exits(train.main)(
            ["--config=tests/tiny_config.py:folder", f"--config.data.source.path={path}", "--quiet", *skip,
             f"--config.evals.validation.data.source.path={path}", f"--workdir={tmp_path / 'skipped'}"]
        )  # fmt: skip
    assert left.value.code == 0
    assert f"example 5 of ImageFolder({path}) is skipped (1 so far): {broken} cannot be decoded" in caplog.text
