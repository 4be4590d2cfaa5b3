"""Sources in a config: built from data, overridable by type, and the same after a round trip through JSON."""

import numpy as np
import pytest

from fmjax.core.config import build, call, parse
from fmjax.core.configfile import load, save
from fmjax.data import pipeline, sources, transforms


def config_of(kind, folder):
    counting = call(sources.Counting, vocab=8, length=4)
    np.savez(folder / "a.npz", x=np.zeros((6, 2), np.float32), y=np.arange(6) % 3)
    (folder / "a.csv").write_text("x,y\n1,a\n2,b\n")
    source = {
        "digits": lambda: call(sources.Digits),
        "arrays": lambda: call(sources.Arrays, path=str(folder / "a.npz"), features="x", label="y"),
        "table": lambda: call(sources.Table, path=str(folder / "a.csv"), label="y"),
        "mixture": lambda: call(sources.Mixture, sources=(counting, counting), weights=(0.7, 0.3)),
        "fold": lambda: call(sources.Fold, source=call(sources.Digits), fold=1),
        "split": lambda: call(sources.Split, source=call(sources.Digits), part="validation"),
        "subset": lambda: call(sources.Subset, source=call(sources.Digits), stop=5),
    }[kind]()
    crop = (call(transforms.RandomCrop, size=(6, 6)),) if kind in ("digits", "fold", "split", "subset") else ()
    return call(pipeline.stream, source=source, batch_size=4, transforms=crop)


@pytest.mark.parametrize("kind", ["digits", "arrays", "table", "mixture", "fold", "split", "subset"])
def test_a_source_builds_from_a_config_and_again_from_its_json(kind, tmp_path):
    config = config_of(kind, tmp_path)
    save(config, tmp_path / "config.json")
    first, second = build(config), build(load(tmp_path / "config.json"))
    assert first.fingerprint == second.fingerprint
    a, b = first.batch(3, seed=1), second.batch(3, seed=1)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def test_every_knob_of_the_pipeline_is_an_override(tmp_path):
    config = config_of("fold", tmp_path)
    parse(
        config,
        ["--config.batch_size=8", "--config.threads=2", "--config.source.held_out=true", "--config.corrupt=skip"],
    )
    batches = build(config)
    assert (batches.batch_size, batches.threads, batches.source.held_out, batches.corrupt) == (8, 2, True, "skip")
    parse(config, ["--config.threads=None", "--config.source.source.split=test"])
    assert len(build(config).source) == 60
