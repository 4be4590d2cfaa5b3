"""Tests run on the CPU, compile the same program once a session, and find the stand-ins that lie beside them."""

import os
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
COMPILED = tempfile.TemporaryDirectory(prefix="fmjax-tests-")  # shared with the processes that tests start
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", COMPILED.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
sys.path.insert(0, str(Path(__file__).parent / "core"))
# Most of the tests' time is compiling. `JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` tests the programs that users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# No test asserts an absolute time, and every run of the suite tries the same examples; `nightly` tries others.
quiet = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much]}
settings.register_profile("house", derandomize=True, **quiet)
settings.register_profile("nightly", **quiet)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))
