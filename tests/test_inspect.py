"""The inspect command: what a person sees of the data, and nothing else of the config is built."""

import numpy as np
import pytest
from PIL import Image

from fmjax import inspect as command
from fmjax.core.errors import ConfigError
from fmjax.data.source import InMemory

CONFIG = """
from ml_collections import ConfigDict
from fmjax.core.config import call
from fmjax.data import augment, pipeline, sources
from fmjax.objectives import supervised

def evaluator(data, top: int = 1):
    raise AssertionError("the evaluator was built")

def model(width: int = 3):
    raise AssertionError("the model was built")

def get_config(what: str = "digits"):
    config = ConfigDict({"seed": 0, "model": call(model)})
    if what == "augmented":
        config.objective = call(supervised.Classify, augment=(call(augment.padded_crop, pad=2),), mean=(0.5,))
        what = "digits"
    if what == "empty":
        return config
    source = call(sources.Digits) if what == "digits" else call(sources.Counting, vocab=8, length=5)
    config.data = call(pipeline.stream, source=source, batch_size=16)
    config.evals = {"held_out": call(evaluator, data=call(pipeline.one_pass, source=source, batch_size=32))}
    return config
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "inspected_config.py"
    path.write_text(CONFIG)
    return str(path)


def test_images_are_described_counted_and_drawn(config, tmp_path, capsys):
    out = tmp_path / "pictures"
    command.main([f"--config={config}", "--batches=3", f"--out={out}", "--config.data.batch_size=20"])
    text = capsys.readouterr().out
    assert "stream(Digits(train), batch_size=20): 1297 examples, 64 batches a pass" in text
    assert "(20, 8, 8, 1)" in text
    assert "labels of 60 examples" in text
    assert "examples/s" in text
    assert "== evals.held_out" in text
    with Image.open(out / "data.png") as picture:
        assert picture.width > 4 * 64
    assert (out / "evals.held_out.png").is_file()


def test_augmentation_is_drawn_beside_the_images_it_is_of(config, tmp_path, capsys):
    out = tmp_path / "pictures"
    arguments = ["--batches=1", f"--out={out}", "--config.data.batch_size=5"]
    command.main([f"--config={config}:augmented", *arguments])
    assert f"picture of its augmentation: {out / 'data.augmented.png'}" in capsys.readouterr().out
    assert not (out / "evals.held_out.augmented.png").exists()
    with Image.open(out / "data.augmented.png") as picture:
        sheet = np.asarray(picture)[..., 0]
    cells = [[sheet[4 + 68 * j :, 4 + 68 * i + 8 * bool(i) :][:64:8, :64:8] for i in range(8)] for j in range(5)]
    for row in cells:
        windows = {np.pad(row[0], 2)[y : y + 8, x : x + 8].tobytes() for y in range(5) for x in range(5)}
        assert {cell.tobytes() for cell in row} <= windows  # unnormalised, and of this image
        assert len({cell.tobytes() for cell in row}) > 2
    command.main([f"--config={config}:augmented", *arguments, f"--out={out / 'no'}", "--config.objective.augment=()"])
    assert not (out / "no" / "data.augmented.png").exists()


def test_text_is_decoded(config, tmp_path, capsys):
    command.main([f"--config={config}:counting", "--batches=2", f"--out={tmp_path / 'none'}"])
    text = capsys.readouterr().out
    assert "text: '" in text
    assert "'0 1 2 3 4'" in text  # the first example of the pass in order
    assert not (tmp_path / "none").exists()


def test_the_picture_shows_the_pixels(tmp_path):
    images = np.zeros((3, 4, 4, 1), np.uint8)
    images[1] = 200
    batch = {"image": images, "label": np.array([0, 1, 0]), "valid": np.array([1.0, 1.0, 0.0])}
    sheet = np.asarray(command.contact_sheet(batch, ("no", "yes")))
    assert (sheet[10, 10] == 0).all()
    assert (sheet == 200).all(axis=-1)[:, 4:68].sum() in range(
        64 * 64, 64 * 64 + 9
    )  # once (and a grey spot of the label)


def test_numbers_of_the_table_are_those_of_numpy(capsys, tmp_path):
    from fmjax.data import pipeline

    x = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    command.inspect(pipeline.one_pass(InMemory("x", {"features": x, "lable": np.arange(10)}), 4), "data", 9, tmp_path)
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if line.startswith("features")).split()
    np.testing.assert_allclose([float(v) for v in row[-4:]], [x.min(), x.max(), x.mean(), x.std()], rtol=1e-3)
    assert "'lable' is no word of fmjax.core.types.KEYS; did you mean 'label'?" in text


def test_a_config_without_data_is_refused_in_one_line(config):
    with pytest.raises(ConfigError, match="has no data to look at"):
        command.main([f"--config={config}:empty"])
    with pytest.raises(ConfigError, match="batch_siez"):
        command.main([f"--config={config}", "--config.data.batch_siez=3"])
