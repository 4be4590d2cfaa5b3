"""Tests run on the CPU, compile the same program once a session, and find the stand-ins that lie beside them."""

import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
COMPILED = tempfile.TemporaryDirectory(prefix="fmjax-tests-")  # shared with the processes that tests start
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", COMPILED.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
sys.path.insert(0, str(Path(__file__).parent / "core"))
# No test asserts an absolute time.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture(scope="module")
def quick_to_compile():
    """For files whose tests mostly compile: programs that run more slowly, and say the same."""
    import jax  # after the environment above

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
