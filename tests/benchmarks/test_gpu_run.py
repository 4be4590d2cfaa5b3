"""The short list: every tool is there, one that hangs or fails does not stop the others, and rows come back."""

import importlib
import json
import sys

import pytest
import step_cases

from fmjax import results
from fmjax.core.errors import ConfigError, DataError

gpu_run = importlib.import_module("run")


def test_every_tool_and_every_case_of_the_list_is_there():
    for tool in gpu_run.PLAN.values():
        script, *more = tool.arguments
        assert script == "-c" or (gpu_run.ROOT / script).is_file()
        if script == "benchmarks/steps.py":
            assert step_cases.CASES[more[0]].gpu
    with pytest.raises(ConfigError, match="there is no 'stepz'"):
        gpu_run.main(["stepz"])


def test_a_tool_that_fails_or_hangs_does_not_stop_the_others(tmp_path):
    folder = results.results_folder()
    before = sorted(folder.iterdir())
    plan = {
        "fails": gpu_run.Tool(("-c", "import sys; print('oh'); sys.exit(3)"), 30),
        "hangs": gpu_run.Tool(("-c", "import time; print('hm'); time.sleep(60)"), 2),
        "works": gpu_run.Tool(("-c", "print('fine')"), 30),
    }
    told = gpu_run.run(list(plan), 100, tmp_path, plan)
    assert told == {"fails": "exit 3", "hangs": "ended after 2 s", "works": "done"}
    log = (tmp_path / "log.txt").read_text()
    assert all(word in log for word in ("oh", "hm", "fine"))
    assert json.loads((tmp_path / "rows.json").read_text()) == []
    assert sorted(folder.iterdir()) == before
    assert gpu_run.run(["works"], 10, None, plan) == {"works": "left"}


def test_rows_that_come_back_are_checked_and_written(tmp_path):
    for name in ("step_a_gpu", "step_b"):
        results.write_row(name, task="a", metric="seconds", command="b", values=[1.0], repeats=1, folder=tmp_path)
    rows = gpu_run.fresh_rows(0, tmp_path)
    assert [row["name"] for row in rows] == ["step_a_gpu"]
    assert gpu_run.fresh_rows(sys.float_info.max, tmp_path) == []
    packed, there = tmp_path / "rows.json", tmp_path / "there"
    there.mkdir()
    packed.write_text(json.dumps(rows))
    assert gpu_run.unpack(packed, there) == 1
    assert (there / "step_a_gpu.json").read_text() == (tmp_path / "step_a_gpu.json").read_text()
    packed.write_text(json.dumps([{**rows[0], "values": []}]))
    with pytest.raises(DataError, match="step_a_gpu"):
        gpu_run.unpack(packed, there)
