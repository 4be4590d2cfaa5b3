"""The tests of eight_devices.py, in a process that has eight of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stand_ins import tiny

from fmjax.run import fit

TESTS = Path(__file__).parent / "eight_devices.py"


class Stop(Exception):
    pass


def stop(step, state, metrics):
    if step == 6:  # step 4 is on disk
        raise Stop


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eight_devices_give_what_one_gives(tmp_path):
    fit(tiny(8), tmp_path / "whole", ["--config.accumulation.steps=1"])
    with pytest.raises(Stop):
        fit(tiny(8), tmp_path / "half", ["--config.accumulation.steps=1"], hooks=[stop])
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(TESTS), "-q", "-n0", "-p", "no:cacheprovider"],
        env={**os.environ, "XLA_FLAGS": flags, "ONE_DEVICE_RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
