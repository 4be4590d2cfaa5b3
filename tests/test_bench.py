"""The bench command: what it says of a config agrees with itself."""

import json

import pytest

from fmjax import bench
from fmjax.core.errors import ConfigError

DIGITS = "configs/vision/convnet_digits.py"


@pytest.mark.parametrize("resident", [False, True])
def test_a_line_and_its_json_agree(capsys, resident):
    overrides = ["--config.model.widths=(4,)", "--config.model.dense=8", f"--config.data.resident={resident}"]
    assert bench.main([f"--config={DIGITS}", "--steps=7", "--config.log.every=3", *overrides]) == 0
    said, numbers = capsys.readouterr().out.splitlines()
    numbers = json.loads(numbers)
    assert numbers["steps"] == 7 - (not resident)  # a result follows the one before
    assert 0 < numbers["step_p50_seconds"] <= numbers["step_p95_seconds"] < numbers["first_step_seconds"]
    assert numbers["peak_memory_bytes"] > 2**20
    assert (numbers["host_share"] is None) == resident
    assert 0 < numbers["of_matmul_rate"] < 1
    assert numbers["tokens_per_second"] is None
    assert f"{numbers['examples_per_second']:,.0f} examples/s" in said


def test_one_step_makes_no_time_and_a_wrong_key_is_named():
    with pytest.raises(ConfigError, match="at least 2 steps make a time"):
        bench.main([f"--config={DIGITS}", "--steps=1"])
    with pytest.raises(ConfigError, match="stepz"):
        bench.main([f"--config={DIGITS}", "--config.stepz=3"])
