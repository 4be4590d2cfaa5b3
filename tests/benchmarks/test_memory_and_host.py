"""A process of one side loads one library, and a process that fails is told of."""

import subprocess
import sys

import host
import memory
import pytest

from fmjax.core.errors import ConfigError

CHECKED = """
import sys
sys.path.insert(0, "benchmarks")
import step_cases, step_torch
from fmjax.bench import own_peak
assert not {"jax", "torch", "transformers"} & sys.modules.keys(), sys.modules.keys()
before = own_peak()
held = bytearray(64 * 2**20)
held[:: 2**12] = b"x" * 2**14  # touched, a page at a time
assert 60 < (own_peak() - before) / 2**20 < 80, (before, own_peak())
"""


def test_neither_library_is_loaded_before_a_side_begins_and_the_peak_is_in_mebibytes():
    subprocess.run([sys.executable, "-c", CHECKED], check=True)


def test_a_process_that_fails_is_told_of():
    with pytest.raises(ConfigError, match="exited with 2: error: there is no 'mlq'"):
        memory.peak("mlq", "fmjax")
    with pytest.raises(ConfigError, match=r"fmjax.bench on nowhere.py exited with 2"):
        host.bench("nowhere.py", 3)
