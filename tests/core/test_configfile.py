"""Configs on disk: read, saved, read back, renamed, compared."""

import json

import config_lib as lib
import pytest
from ml_collections import ConfigDict

from fmjax.core import configfile
from fmjax.core.config import build, call, parse
from fmjax.core.errors import ConfigError

CONFIG = """
from typing import Literal
from ml_collections import ConfigDict
from fmjax.core.config import call

def own(size: int = 3):
    return ("own", size)

def get_config(size: Literal["full", "smoke"] = "full"):
    return ConfigDict({"steps": {"full": 9, "smoke": 2}[size], "model": call(own)})
"""


def config():
    node = ConfigDict({"steps": 10, "model": call(lib.Decoder, vocab=64, window=7)})
    node.rate = call(lib.warmup_cosine, peak=1.0, steps=node.get_oneway_ref("steps"))
    return node


def test_json_round_trip_keeps_values_types_and_overridability(tmp_path):
    configfile.save(config(), tmp_path / "config.json")
    back = configfile.load(tmp_path / "config.json")
    assert build(back.model) == build(config().model)
    assert configfile.differences(back, config()) == {}
    parse(back, ["--config.model.scale=0.25", "--config.model.stages=(1,)", "--config.steps=99"])
    assert (back.model.scale, back.model.stages) == (0.25, (1,))
    assert back.rate.steps == 10  # a saved config holds values, not references


def test_a_file_anywhere_is_read_and_names_its_own_callables(tmp_path):
    path = tmp_path / "my_experiment.py"
    path.write_text(CONFIG)
    assert configfile.read(str(path)).steps == 9
    smoke = configfile.read(f"{path}:smoke")
    assert (smoke.steps, build(smoke.model)) == (2, ("own", 3))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("my_experimnt.py", "did you mean"),
        ("my_experiment.py:smokey", "there is full, smoke"),
        ("none/at/all.py", "no config file"),
    ],
)
def test_a_wrong_file_or_variant_is_one_line(tmp_path, spec, says):
    (tmp_path / "my_experiment.py").write_text(CONFIG)
    with pytest.raises(ConfigError, match=says):
        configfile.read(f"{tmp_path}/{spec}")


def test_old_names_are_read_as_new_ones_and_newer_formats_refused(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    old = {"model": {"call": "config_lib:OldDecoder", "vocab": 5, "breadth": 8}}
    path.write_text(json.dumps({"format": 1, "config": old}))
    monkeypatch.setitem(configfile.RENAMED_CALLABLES, "config_lib:OldDecoder", "config_lib:Decoder")
    monkeypatch.setitem(configfile.RENAMED_FIELDS, "config_lib:OldDecoder", {"breadth": "width"})
    assert build(configfile.load(path).model) == lib.Decoder(vocab=5, width=8)
    path.write_text(json.dumps({"format": configfile.FORMAT + 1, "config": {}}))
    with pytest.raises(ConfigError, match="upgrade fmjax"):
        configfile.load(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="no saved config"):
        configfile.load(path)


def test_differences_name_the_path_and_both_values():
    other = config()
    other.model.width = 64
    del other["rate"]
    found = configfile.differences(config(), other)
    assert found["config.model.width"] == (32, 64)
    assert found["config.rate.peak"] == (1.0, "(absent)")
