"""A run folder of every format that ever was still loads, and gives the numbers it gave."""

import json
from pathlib import Path

import pytest

from fmjax.core import configfile
from fmjax.core.errors import CheckpointError
from fmjax.run import Run
from fmjax.training.folder import RunFolder

OLD = sorted((Path(__file__).parent / "old_runs").glob("format_*"))


def test_there_is_one_of_today():
    assert f"format_{configfile.FORMAT}" in {p.name for p in OLD}


@pytest.mark.parametrize("folder", OLD, ids=lambda p: p.name)
def test_an_old_run_loads_and_gives_its_numbers(folder):
    run = Run.load(folder)
    expected = json.loads((folder / "expected.json").read_text())
    assert run.evaluate() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("folder", OLD, ids=lambda p: p.name)
def test_a_key_of_a_later_version_that_is_off_does_not_keep_an_old_run_from_going_on(folder):
    config = configfile.load(folder / "config.json")
    with config.unlocked():
        config.later = None
    RunFolder(folder).agree(config)
    with config.unlocked():
        config.later = 0.1
    with pytest.raises(CheckpointError, match="later was"):
        RunFolder(folder).agree(config)
