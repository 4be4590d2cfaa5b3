"""A run folder of every format that ever was still loads, and gives the numbers it gave."""

import json
from pathlib import Path

import pytest

from fmjax.core import configfile
from fmjax.run import Run

OLD = sorted((Path(__file__).parent / "old_runs").glob("format_*"))


def test_there_is_one_of_today():
    assert f"format_{configfile.FORMAT}" in {p.name for p in OLD}


@pytest.mark.parametrize("folder", OLD, ids=lambda p: p.name)
def test_an_old_run_loads_and_gives_its_numbers(folder):
    run = Run.load(folder)
    expected = json.loads((folder / "expected.json").read_text())
    assert run.evaluate() == pytest.approx(expected, rel=1e-4)
